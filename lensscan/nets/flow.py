"""A normalising flow for the shape of a posterior: neural spline couplings on what a Gaussian has whitened.

The head's Gaussian says where and how wide; the flow, given a vector of features, bends it.  At the start of a training
it is nearly the identity, and beyond `BOUND` standard deviations it always is.  The maps are those of zuko
(Rozet et al., https://github.com/probabilists/zuko), the extra ``flow``; the layers that steer them are ours, so that
model files do not depend on its version.
"""

from __future__ import annotations

import math
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lensscan.errors import ModelError
from lensscan.metrics.quasirandom import mirrored_normals, to_unit_covariance
from lensscan.nets.latent import N_LATENT

__all__ = ["SAMPLES", "Flow", "base_points", "whiten"]

SAMPLES = 512
"""Of a row, over all its views, that the catalog's columns follow from."""
BINS = 8
BOUND = 5.0
START = 0.02
"""Initial weights of the layers that give the splines, over the usual: at zero they would be the identity."""


class Coupling(nn.Module):
    """Monotone rational-quadratic splines of one half of the parameters, given the other half and a condition.

    Durkan et al. 2019 (arXiv:1906.04032), section 3.1.

    Parameters
    ----------
    kept : sequence of bool
        Parameters that pass unchanged, and steer the rest.
    n_condition, hidden : int
        Length of the condition; width of the two hidden layers.
    """

    def __init__(self, kept: list[bool], n_condition: int, hidden: int) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", torch.tensor(kept), persistent=False)
        moved = len(kept) - sum(kept)
        self.first = nn.Linear(sum(kept) + n_condition, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.output = nn.Linear(hidden, moved * (3 * BINS - 1))
        with torch.no_grad():
            self.output.weight.mul_(START)
            self.output.bias.zero_()

    def transform(self, condition: Tensor) -> Any:
        """Return zuko's transform, from the truth to the base, for conditions (..., n_condition)."""
        return _zuko().CouplingTransform(lambda kept: self._splines(condition, kept), self.mask)

    def _splines(self, condition: Tensor, kept: Tensor) -> Any:
        inputs = torch.cat([kept, condition.expand(*kept.shape[:-1], -1)], dim=-1)
        raw = self.output(F.relu(self.second(F.relu(self.first(inputs)))))
        widths, heights, slopes = raw.unflatten(-1, (-1, 3 * BINS - 1)).split([BINS, BINS, BINS - 1], dim=-1)
        splines = _zuko().MonotonicRQSTransform(widths, heights, slopes, bound=BOUND)
        return _zuko().DependentTransform(splines, 1)


class Flow(nn.Module):
    """Couplings in turn over even and odd parameters; its base is the standard normal.

    Parameters
    ----------
    layers, n_condition, hidden : int

    Raises
    ------
    ModelError
        If zuko is not installed.
    """

    def __init__(self, layers: int, n_condition: int, hidden: int) -> None:
        super().__init__()
        _zuko()
        halves = [[index % 2 == layer % 2 for index in range(N_LATENT)] for layer in range(layers)]
        self.couplings = nn.ModuleList(Coupling(kept, n_condition, hidden) for kept in halves)

    def log_density(self, white: Tensor, condition: Tensor) -> Tensor:
        """Return the log density (n, S), nats, at whitened points (n, S, 7), of conditions (n, n_condition)."""
        total = torch.zeros_like(white[..., 0])
        for coupling in self._couplings():
            white, slope = coupling.transform(condition[:, None]).call_and_ladj(white)
            total = total + slope
        return total - 0.5 * white.square().sum(dim=-1) - 0.5 * N_LATENT * math.log(2 * math.pi)

    def bend(self, base: Tensor, condition: Tensor) -> Tensor:
        """Return the whitened points (n, S, 7) that base points (S, 7) or (n, S, 7) become."""
        points = base.expand(len(condition), *base.shape[-2:])
        for coupling in reversed(self._couplings()):
            points = coupling.transform(condition[:, None]).inv(points)
        return points

    def _couplings(self) -> list[Coupling]:
        return [layer for layer in self.couplings if isinstance(layer, Coupling)]


def whiten(points: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """Return points (n, S, 7) in standard deviations of Gaussians: means (n, 7), lower Cholesky factors (n, 7, 7)."""
    columns: list[Tensor] = []
    rest = points - mean[:, None]
    for i in range(N_LATENT):
        known = sum((factor[:, i, j, None] * columns[j] for j in range(i)), torch.zeros_like(rest[..., 0]))
        columns.append((rest[..., i] - known) / factor[:, i, i, None])
    return torch.stack(columns, dim=-1)


@cache
def base_points(count: int) -> Tensor:
    """Return quasi-random, standard normal points (count, 7), float32: the same for every row of every run."""
    return torch.from_numpy(to_unit_covariance(mirrored_normals(count, N_LATENT))).float().contiguous()


@cache
def _zuko() -> ModuleType:
    """Return zuko's transforms."""
    try:
        import zuko.transforms
    except ImportError:
        raise ModelError(
            'a network with head = "flow" needs zuko, which is not installed; run: pip install "lensscan[flow]"'
        ) from None
    return zuko.transforms
