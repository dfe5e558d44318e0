"""Independent component analysis, batched: FastICA on the pixels of many stamps at once, in float64.

Hyvarinen 1999, IEEE Trans. Neural Netw. 10, 626 (the algorithm); Hyvarinen & Oja 2000, Neural Netw. 13, 411,
section 6 (symmetric decorrelation, log cosh contrast).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ITERATIONS", "TOLERANCE", "Unmixed", "White", "fast_ica", "whiten"]

ITERATIONS = 200
TOLERANCE = 1e-7
ANGLES = 8
GAUSSIAN = 0.37456720749  # mean of log cosh of a unit normal
FLOOR = 1e-12


@dataclass(slots=True)
class White:
    """Whitened pixels.

    Attributes
    ----------
    pixels : Tensor, shape (n, K, P)
        Uncorrelated, of zero mean and unit variance over the pixels of weight; 0 elsewhere.
    forward : Tensor, shape (n, K, C)
    back : Tensor, shape (n, C, K)
    mean : Tensor, shape (n, C)
    """

    pixels: Tensor
    forward: Tensor
    back: Tensor
    mean: Tensor


@dataclass(slots=True)
class Unmixed:
    """What FastICA found.

    Attributes
    ----------
    rotation : Tensor, shape (n, K, K)
        Rows give the components from whitened pixels.
    converged : Tensor of bool, shape (n,)
    iterations : Tensor of int, shape (n,)
    """

    rotation: Tensor
    converged: Tensor
    iterations: Tensor


def whiten(pixels: Tensor, weight: Tensor, components: int) -> White:
    """Project pixels on their `components` strongest principal axes, scaled to unit variance.

    Parameters
    ----------
    pixels : Tensor, shape (n, C, P), float64
        Bands in units of their noise.
    weight : Tensor, shape (n, P), float64
        0 leaves a pixel out.
    """
    total = weight.sum(dim=1).clamp_min(1.0)
    mean = (pixels * weight[:, None]).sum(dim=2) / total[:, None]
    centred = (pixels - mean[..., None]) * weight[:, None]
    covariance = centred @ centred.transpose(1, 2) / total[:, None, None]
    values, axes = torch.linalg.eigh(covariance)
    values, axes = values.flip(-1)[:, :components], axes.flip(-1)[..., :components]
    largest = axes.abs().argmax(dim=1, keepdim=True)
    axes = axes * axes.gather(1, largest).sign()  # eigenvectors have no sign of their own
    spread = values.clamp_min(FLOOR * values[:, :1].clamp_min(FLOOR)).sqrt()
    forward, back = (axes / spread[:, None]).transpose(1, 2), axes * spread[:, None]
    return White(forward @ centred, forward, back, mean)


def _decorrelate(rotation: Tensor) -> Tensor:
    """Return (W W^T)^(-1/2) W, the orthogonal matrix nearest to W."""
    left, _, right = torch.linalg.svd(rotation)
    return left @ right


def _contrast(signals: Tensor, weight: Tensor) -> Tensor:
    """Return the sum over components of (E log cosh y - E log cosh of a normal)^2, (n,)."""
    size = signals.abs()
    value = size + torch.log1p(torch.exp(-2 * size)) - math.log(2)
    mean = (value * weight[:, None]).sum(dim=2) / weight.sum(dim=1, keepdim=True).clamp_min(1.0)
    return (mean - GAUSSIAN).square().sum(dim=1)


def start(white: Tensor, weight: Tensor) -> Tensor:
    """Return the best of a few fixed rotations of the two strongest axes, (n, K, K).

    The fixed point from the identity may be a saddle of the contrast; a start near its maximum is not.
    """
    n, count = white.shape[:2]
    best = torch.eye(count, dtype=white.dtype, device=white.device).repeat(n, 1, 1)
    if count < 2:
        return best
    top = _contrast(white, weight)
    for step in range(1, ANGLES):
        angle = 0.5 * math.pi * step / ANGLES
        turned = torch.eye(count, dtype=white.dtype, device=white.device)
        turned[0, 0] = turned[1, 1] = math.cos(angle)
        turned[0, 1], turned[1, 0] = math.sin(angle), -math.sin(angle)
        value = _contrast(turned @ white, weight)
        better = value > top
        best = torch.where(better[:, None, None], turned, best)
        top = torch.where(better, value, top)
    return best


def fast_ica(
    white: Tensor,
    weight: Tensor,
    *,
    first: Tensor | None = None,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> Unmixed:
    """Find the rotation that makes the components least Gaussian.

    Symmetric FastICA with the log cosh contrast; nothing is random.  A stamp that has converged is not
    touched again, so that the result does not depend on its neighbours in the batch.

    Parameters
    ----------
    white : Tensor, shape (n, K, P)
        From `whiten`.
    weight : Tensor, shape (n, P)
    first : Tensor, shape (n, K, K), optional
        Where to begin; default the best of a few fixed rotations.
    """
    rotation = _decorrelate(start(white, weight) if first is None else first)
    n = len(white)
    total = weight.sum(dim=1).clamp_min(1.0)
    converged = torch.zeros(n, dtype=torch.bool, device=white.device)
    used = torch.zeros(n, dtype=torch.int64, device=white.device)
    active = torch.arange(n, device=white.device)
    for _ in range(iterations):
        if not len(active):
            break
        pixels, w = white[active], rotation[active]
        bent = torch.tanh(w @ pixels) * weight[active, None]
        slope = (weight[active, None] - bent * bent).sum(dim=2) / total[active, None]
        update = bent @ pixels.transpose(1, 2) / total[active, None, None] - slope[..., None] * w
        new = _decorrelate(update)
        change = ((new * w).sum(dim=2).abs() - 1).abs().amax(dim=1)
        rotation[active] = new
        used[active] += 1
        done = change < tolerance
        converged[active[done]] = True
        active = active[~done]
    return Unmixed(rotation, converged, used)
