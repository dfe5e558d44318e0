"""The eight dihedral views of a square stamp, and what they do to latent parameters.

View g = flip * 4 + k is k rotations by +90 degrees after, for g >= 4, a flip of x.  A flip takes x -> -x and
e2 -> -e2; a rotation (x, y) -> (-y, x) and (e1, e2) -> (-e1, -e2).  In the latent space every view is a
permutation with signs, so views are undone without rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lensscan.nets.latent import N_LATENT, TRIANGLE

__all__ = ["N_VIEWS", "combine_views", "transform_covariance", "transform_images", "transform_latent", "undo"]

N_VIEWS = 8
POSITIONS = ((3, 4), (5, 6))


def _flip(vector: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Flip: x -> -x, e2 -> -e2, on (source index, sign) pairs."""
    result = list(vector)
    for index in (2, 3, 5):
        source, sign = vector[index]
        result[index] = (source, -sign)
    return result


def _rotate(vector: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Rotate: (x, y) -> (-y, x), (e1, e2) -> (-e1, -e2)."""
    result = list(vector)
    for index in (1, 2):
        source, sign = vector[index]
        result[index] = (source, -sign)
    for x, y in POSITIONS:
        source, sign = vector[y]
        result[x], result[y] = (source, -sign), vector[x]
    return result


def _table() -> list[list[tuple[int, int]]]:
    views = []
    for view in range(N_VIEWS):
        vector = [(index, 1) for index in range(N_LATENT)]
        if view >= 4:
            vector = _flip(vector)
        for _ in range(view % 4):
            vector = _rotate(vector)
        views.append(vector)
    return views


FORWARD = _table()


def _inverse(vector: list[tuple[int, int]]) -> list[tuple[int, int]]:
    result = [(0, 1)] * N_LATENT
    for index, (source, sign) in enumerate(vector):
        result[source] = (index, sign)
    return result


BACKWARD = [_inverse(vector) for vector in FORWARD]


def transform_images(images: Tensor, view: int) -> Tensor:
    """Return the view of images (..., S, S); rows are y, columns x."""
    if view >= 4:
        images = images.flip(-1)
    return torch.rot90(images, view % 4, (-1, -2)) if view % 4 else images


def _apply(values: Tensor, vector: list[tuple[int, int]]) -> Tensor:
    index = [source for source, _ in vector]
    sign = torch.tensor([sign for _, sign in vector], dtype=values.dtype, device=values.device)
    return values[..., index] * sign


def transform_latent(values: Tensor, view: int) -> Tensor:
    """Return latent vectors (..., 7) as they are in the view; also right for physical parameters."""
    return _apply(values, FORWARD[view])


def undo(values: Tensor, view: int) -> Tensor:
    """Return latent vectors (..., 7) of a view as they are in the original frame."""
    return _apply(values, BACKWARD[view])


def transform_covariance(packed: Tensor, view: int, backward: bool = False) -> Tensor:
    """Return packed covariances (..., 28) as they are in the view, or brought `backward` from it."""
    vector = (BACKWARD if backward else FORWARD)[view]
    place = {pair: index for index, pair in enumerate(TRIANGLE)}
    index, signs = [], []
    for i, j in TRIANGLE:
        (si, pi), (sj, pj) = vector[i], vector[j]
        index.append(place[max(si, sj), min(si, sj)])
        signs.append(pi * pj)
    return packed[..., index] * torch.tensor(signs, dtype=packed.dtype, device=packed.device)


def combine_views(means: list[Tensor], covariances: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean (..., 7) and packed covariance (..., 28) of an equal mixture of Gaussians in one frame."""
    count = len(means)
    mean = sum(means[1:], means[0]) / count
    total = sum(covariances[1:], covariances[0])
    rows, columns = (list(axis) for axis in zip(*TRIANGLE, strict=True))
    for each in means:
        offset = each - mean
        total = total + offset[..., rows] * offset[..., columns]
    return mean, total / count
