"""A logit head behind a variational information bottleneck: what it says of a stamp is a distribution.

The features are encoded as a Gaussian in few dimensions, and the logit is a linear function of a point drawn from it
(Alemi, Fischer, Dillon & Murphy 2017, arXiv:1612.00410).  A term of the loss, beta times the information that the
Gaussian carries beyond the standard normal (their eq. 17), makes the head forget what it does not need.

In training one point is drawn.  In evaluation the points are fixed and quasi-random, the same for every stamp, and
kept with the weights: a score depends on its stamp alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lensscan.metrics.quasirandom import mirrored_normals

__all__ = ["Belief", "BottleneckHead", "log_odds", "rate"]

SMALLEST = 1e-3
"""Of the standard deviations."""


class Belief(NamedTuple):
    """What the bottleneck lets through of n stamps.

    Attributes
    ----------
    mean, spread : (n, d)
        Of the Gaussian in the latent space.
    logits : (n, s)
        Of the points drawn from it: one in training, the fixed ones in evaluation.
    """

    mean: Tensor
    spread: Tensor
    logits: Tensor


def rate(belief: Belief) -> Tensor:
    """Return the information beyond the standard normal, nats, (n,): KL(N(mean, spread^2) || N(0, 1))."""
    square = belief.spread.square()
    return 0.5 * (belief.mean.square() + square - 1.0 - torch.log(square)).sum(dim=1)


def log_odds(logits: Tensor) -> Tensor:
    """Return the logit (n,) of the mean probability of logits (n, s)."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    return torch.logsumexp(F.logsigmoid(logits), dim=1) - torch.logsumexp(F.logsigmoid(-logits), dim=1)


class BottleneckHead(nn.Module):
    """Encoder of features to a Gaussian, and a linear decoder of its points to a logit.

    Parameters
    ----------
    n_features, hidden : int
    latent : int
        Dimensions of the Gaussian.
    samples : int
        Points in evaluation; even, since they are mirrored.

    Attributes
    ----------
    draw : callable
        Gives the points of a training, as many and of the kind of the means (n, d) that it takes.
    """

    def __init__(self, n_features: int, hidden: int, latent: int, samples: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_features, hidden)
        self.encode = nn.Linear(hidden, 2 * latent)
        self.weight = nn.Parameter(torch.randn(latent) / latent**0.5)
        self.bias = nn.Parameter(torch.zeros(()))
        self.draw: Callable[[Tensor], Tensor] = torch.randn_like
        self.points: Tensor
        self.register_buffer("points", torch.from_numpy(mirrored_normals(samples, latent, seed=1)).float())

    def forward(self, features: Tensor) -> Belief:
        """Map features (n, f) to what is believed of them."""
        mean, raw = self.encode(F.relu(self.hidden(features))).chunk(2, dim=1)
        spread = F.softplus(raw) + SMALLEST
        points = self.draw(mean)[:, None] if self.training else self.points
        drawn = mean[:, None] + spread[:, None] * points
        return Belief(mean, spread, (drawn * self.weight).sum(dim=-1) + self.bias)
