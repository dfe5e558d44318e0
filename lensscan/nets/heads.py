"""Heads: the logit, and the Gaussian posterior of the SIE and source position in latent space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lensscan.nets.latent import N_COV, N_LATENT, PARAMETERS, TRIANGLE

__all__ = ["LogitHead", "PosteriorHead", "covariance", "pack_triangle", "to_latent"]

MAX_ELLIPTICITY = 1.0 - 1e-6
MIN_SPREAD = 0.01


class LogitHead(nn.Module):
    """Two linear layers to one number per stamp."""

    def __init__(self, n_features: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_features, hidden)
        self.output = nn.Linear(hidden, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (n, f) to logits (n,)."""
        return self.output(F.relu(self.hidden(features)))[:, 0]


class PosteriorHead(nn.Module):
    """Mean and Cholesky factor of the covariance in latent space.

    Parameters
    ----------
    n_features, hidden : int
    centre, scale : sequence of 7 floats
        Typical mean and spread of the latent parameters: the head's own units.
    """

    def __init__(self, n_features: int, hidden: int, centre: Sequence[float], scale: Sequence[float]) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_features, hidden)
        self.output = nn.Linear(hidden, N_LATENT + N_COV)
        nn.init.normal_(self.output.weight, std=0.3 / hidden**0.5)
        nn.init.zeros_(self.output.bias)
        self.centre: Tensor
        self.scale: Tensor
        self.register_buffer("centre", torch.tensor(centre, dtype=torch.float32), persistent=False)
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32), persistent=False)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map features (n, f) to the mean (n, 7) and the lower Cholesky factor (n, 7, 7), latent units."""
        raw = self.output(F.relu(self.hidden(features)))
        mean = self.centre + self.scale * raw[:, :N_LATENT]
        rows = []
        for i in range(N_LATENT):
            start = N_LATENT + i * (i + 1) // 2
            diagonal = F.softplus(raw[:, start + i : start + i + 1]) + MIN_SPREAD
            rows.append(F.pad(torch.cat([raw[:, start : start + i], diagonal], dim=1), (0, N_LATENT - 1 - i)))
        return mean, torch.stack(rows, dim=1) * self.scale[:, None]


def covariance(factor: Tensor) -> Tensor:
    """Return L L^T (n, 7, 7) by elementwise products, the same bits for a row in any batch."""
    return (factor[:, :, None, :] * factor[:, None, :, :]).sum(dim=-1)


def pack_triangle(matrix: Tensor) -> Tensor:
    """Return the lower triangle (..., 28), row by row, of symmetric matrices (..., 7, 7)."""
    rows, columns = zip(*TRIANGLE, strict=True)
    return matrix[..., list(rows), list(columns)]


def to_latent(truth: Mapping[str, Tensor]) -> Tensor:
    """Return the latent vectors of lenses; the inverse of `lensscan.nets.latent.from_latent`.

    Parameters
    ----------
    truth : mapping of Tensor, each (n,)
        `PARAMETERS`: theta_E in arcsec, e1 and e2 (DESIGN section 2), positions in arcsec.  NaN stays NaN.

    Returns
    -------
    Tensor, (n, 7), float32
    """
    theta_E, e1, e2 = (truth[name].double() for name in PARAMETERS[:3])
    size = torch.sqrt(e1 * e1 + e2 * e2).clamp(max=MAX_ELLIPTICITY)
    stretch = torch.where(size > 1e-6, torch.atanh(size) / size.clamp(min=1e-6), torch.ones_like(size))
    positions = [truth[name].double() for name in PARAMETERS[3:]]
    return torch.stack([torch.log(theta_E), e1 * stretch, e2 * stretch, *positions], dim=-1).float()
