"""Heads: the logit, and the posterior of the SIE and source position in latent space, one Gaussian or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lensscan.nets.blocks import Outcome
from lensscan.nets.flow import Flow, whiten
from lensscan.nets.latent import N_COV, N_LATENT, PARAMETERS, TRIANGLE

__all__ = ["FlowHead", "LogitHead", "PosteriorHead", "covariance", "pack_triangle", "to_latent"]

MAX_ELLIPTICITY = 1.0 - 1e-6
MIN_SPREAD = 0.01
APART, NARROW = 0.5, -1.0
PATIENCE = 0.1
"""Of the weights of a mixture, which learn slower than its means: else the component that is the best at first takes
all before the others have found their place."""


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
    """Means, Cholesky factors of the covariances and weights of a mixture of Gaussians in latent space.

    With one component a Gaussian of full covariance; with several a mixture density network (Bishop 1994).

    Parameters
    ----------
    n_features, hidden : int
    centre, scale : sequence of 7 floats
        Typical mean and spread of the latent parameters: the head's own units.
    components : int
    """

    def __init__(
        self, n_features: int, hidden: int, centre: Sequence[float], scale: Sequence[float], components: int = 1
    ) -> None:
        super().__init__()
        self.components = components
        self.hidden = nn.Linear(n_features, hidden)
        self.output = nn.Linear(hidden, components * (N_LATENT + N_COV) + (components if components > 1 else 0))
        nn.init.normal_(self.output.weight, std=0.3 / hidden**0.5)
        nn.init.zeros_(self.output.bias)
        if components > 1:
            self._part()
        self.centre: Tensor
        self.scale: Tensor
        self.register_buffer("centre", torch.tensor(centre, dtype=torch.float32), persistent=False)
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32), persistent=False)

    @torch.no_grad()
    def _part(self) -> None:
        """Start with components that are narrow and apart: wide ones over one another would never part."""
        each = self.output.bias[: self.components * (N_LATENT + N_COV)].view(self.components, -1)
        each[:, :N_LATENT].normal_(std=APART)
        each[:, [N_LATENT + TRIANGLE.index((i, i)) for i in range(N_LATENT)]] = NARROW

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Map features (n, f) to means (n, K, 7), lower Cholesky factors (n, K, 7, 7) and log weights (n, K)."""
        return self.gaussians(F.relu(self.hidden(features)))

    def gaussians(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map hidden units (n, hidden) to what `forward` returns."""
        raw = self.output(hidden)
        n_gaussian = self.components * (N_LATENT + N_COV)
        if self.components > 1:
            log_weight = F.log_softmax(PATIENCE * raw[:, n_gaussian:], dim=1)
        else:
            log_weight = torch.zeros_like(raw[:, :1])
        raw = raw[:, :n_gaussian].reshape(len(raw), self.components, N_LATENT + N_COV)
        mean = self.centre + self.scale * raw[..., :N_LATENT]
        rows = []
        for i in range(N_LATENT):
            start = N_LATENT + i * (i + 1) // 2
            diagonal = F.softplus(raw[..., start + i : start + i + 1]) + MIN_SPREAD
            rows.append(F.pad(torch.cat([raw[..., start : start + i], diagonal], dim=-1), (0, N_LATENT - 1 - i)))
        return mean, torch.stack(rows, dim=-2) * self.scale[:, None], log_weight


class FlowHead(PosteriorHead):
    """A Gaussian of full covariance, and a normalising flow that bends it (`lensscan.nets.flow`).

    Parameters
    ----------
    n_features, hidden, centre, scale
        As of `PosteriorHead`.
    layers, condition, width : int
        Of the flow: couplings, length of the condition that steers them, hidden units of each.

    Raises
    ------
    ModelError
        If zuko is not installed.
    """

    def __init__(
        self,
        n_features: int,
        hidden: int,
        centre: Sequence[float],
        scale: Sequence[float],
        layers: int,
        condition: int,
        width: int,
    ) -> None:
        super().__init__(n_features, hidden, centre, scale)
        self.n_condition = condition
        self.condition = nn.Linear(hidden, condition)
        self.flow = Flow(layers, condition, width)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Map features (n, f) to what `PosteriorHead` gives, K = 1, and the flow's condition (n, condition)."""
        hidden = F.relu(self.hidden(features))
        return *self.gaussians(hidden), F.relu(self.condition(hidden))

    def log_density(self, points: Tensor, outcome: Outcome) -> Tensor:
        """Return the log density (n, S), nats, of latent points (n, S, 7) under the posteriors of n stamps."""
        factor = outcome.factor[:, 0]
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        white = whiten(points, outcome.mean[:, 0], factor)
        return self.flow.log_density(white, outcome.condition) - log_det[:, None]

    def sample(self, base: Tensor, outcome: Outcome) -> Tensor:
        """Return latent points (n, S, 7) of the posteriors of n stamps, from standard normal points (S, 7)."""
        white = self.flow.bend(base, outcome.condition)
        return outcome.mean + (outcome.factor * white[:, :, None]).sum(dim=-1)


def covariance(factor: Tensor) -> Tensor:
    """Return L L^T (..., 7, 7) by elementwise products, the same bits for a row in any batch."""
    return (factor[..., :, None, :] * factor[..., None, :, :]).sum(dim=-1)


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
