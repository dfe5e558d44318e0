"""Posteriors by a normalising flow as such: exact densities and samples, beside the Gaussians that a catalog has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensscan.nets.blocks import Bender, Outcome
from lensscan.nets.dihedral import transform_latent, undo
from lensscan.nets.latent import N_LATENT

__all__ = ["FlowPosteriors", "pack_outcome", "packed_width"]

Floats = NDArray[np.float64]
HEAD = N_LATENT + N_LATENT**2


def packed_width(flow: Bender) -> int:
    """Return the number of columns of `pack_outcome`."""
    return HEAD + flow.n_condition


def pack_outcome(outcome: Outcome) -> Tensor:
    """Return what a flow's posteriors follow from, (n, 56 + c): mean, Cholesky factor and condition."""
    return torch.cat([outcome.mean.flatten(1), outcome.factor.flatten(1), outcome.condition], dim=1)


@dataclass(frozen=True, slots=True)
class FlowPosteriors:
    """Posteriors of n rows by one flow: the equal mixture over its dihedral views, not recalibrated.

    Attributes
    ----------
    flow : Bender
    packed : (n, V, 56 + c) float32
        From `pack_outcome`, view by view.
    shift : (n, 7)
        From the frame of the network to that of the stamp, latent.
    """

    flow: Bender
    packed: NDArray[np.float32]
    shift: Floats

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, rows: Any) -> FlowPosteriors:
        """Return some rows."""
        return FlowPosteriors(self.flow, self.packed[rows], self.shift[rows])

    def _outcomes(self) -> list[Outcome]:
        """Return the outcome of each view."""
        found = []
        for view in torch.from_numpy(self.packed).unbind(dim=1):
            mean, factor = view[:, None, :N_LATENT], view[:, N_LATENT:HEAD].unflatten(1, (1, N_LATENT, N_LATENT))
            nothing = torch.zeros_like(view[:, :1])
            found.append(Outcome(nothing[:, 0], mean, factor, nothing, view[:, HEAD:]))
        return found

    @torch.no_grad()
    def log_density(self, points: Floats) -> Floats:
        """Return log densities (n, S), nats, at latent points (n, S, 7)."""
        own = torch.from_numpy(np.asarray(points - self.shift[:, None], np.float32))
        outcomes = self._outcomes()
        parts = [
            self.flow.log_density(transform_latent(own, view), outcome).double()
            for view, outcome in enumerate(outcomes)
        ]
        return np.asarray(torch.logsumexp(torch.stack(parts), dim=0).numpy() - np.log(len(outcomes)))

    @torch.no_grad()
    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """Return `count` draws (n, count, 7), latent, as many of each view."""
        each = -(-count // self.packed.shape[1])
        parts = []
        for view, outcome in enumerate(self._outcomes()):
            base = torch.from_numpy(rng.standard_normal((len(self), each, N_LATENT), np.float32))
            parts.append(undo(self.flow.sample(base, outcome), view))
        drawn = torch.cat(parts, dim=1).double().numpy()
        return np.asarray(drawn[:, rng.permutation(drawn.shape[1])[:count]] + self.shift[:, None])
