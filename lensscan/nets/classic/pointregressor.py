"""Published regressors as networks of the product: a point for the five parameters, and one width for all stamps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from lensscan.nets.blocks import Network, Outcome
from lensscan.nets.classic.classifier import Published, PublishedConfig, at_least_float32
from lensscan.nets.classic.parameters import N_PARAMETERS, Convention, latent_of, parameters_of
from lensscan.nets.classic.registry import REGRESSORS
from lensscan.nets.latent import N_LATENT

__all__ = ["PointNetwork", "PointRegressor"]

GROUP = (0, 1, 1, 2, 2, 3, 3)
"""Of each latent parameter: both components of a vector have one width, so that the dihedral rules hold."""
MEMORY = 0.01
"""Share of a batch in the running mean square of the errors."""


class PointNetwork(Network):
    """A network that gives a point of its paper's parameters, one width for all stamps, and no score.

    The posterior's mean is the network's output, brought from its paper's convention into our latent space; of the
    source position, which the papers do not regress, it is 0.  The covariance is one constant diagonal, which is what
    a network trained by the square error states: the running mean square of the errors in training, as batch
    statistics are kept.  The finish of a training scales it anew on mocks of its own.

    Attributes
    ----------
    convention : str
        See `lensscan.nets.classic.parameters`.
    pool : callable, or None
        Gives the mean of a tensor over the ranks of a training, where there are several.
    """

    scores = False
    convention: Convention
    pool: Callable[[Tensor], Tensor] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.square: Tensor
        self.register_buffer("square", torch.ones(max(GROUP) + 1))

    @abstractmethod
    def outputs(self, images: Tensor) -> Tensor:
        """Return what the network gives of images (n, C, S, S): (n, n_outputs), theta_E, e_x, e_y, x, y first."""

    @abstractmethod
    def row_loss(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return the paper's loss (n,) of outputs (n, n_outputs) against the truth (n, 5)."""

    def forward(self, images: Tensor, scalars: Tensor) -> Outcome:
        """Map images (n, C, S, S) to the posterior; the condition (n, n_outputs) is what the network gives itself."""
        outputs = self.outputs(images)
        latent = latent_of(outputs[:, :N_PARAMETERS], self.convention)
        mean = F.pad(latent, (0, N_LATENT - N_PARAMETERS))[:, None]
        factor = torch.diag(self.square[list(GROUP)].sqrt()).expand(len(mean), 1, -1, -1)
        nothing = outputs.new_full((len(outputs),), float("nan"))
        return Outcome(nothing, mean, factor, torch.zeros_like(mean[:, :, 0]), outputs)

    def own_loss(self, outcome: Outcome, target: Tensor, is_lens: Tensor) -> Tensor:
        """Return the loss of the paper, in its parameters, summed over the lenses and divided by all rows.

        In training mode the errors also enter the running width, which no gradient passes.
        """
        outputs, lens = outcome.condition, is_lens[:, None]
        truth = parameters_of(target, self.convention)
        truth = torch.where(lens, truth, outputs[:, :N_PARAMETERS].detach())
        if self.training:
            self._watch(torch.where(lens, target - outcome.mean[:, 0].detach(), 0.0), is_lens)
        rows = self.row_loss(outputs, truth)
        return torch.where(is_lens, rows, torch.zeros_like(rows)).mean()

    @torch.no_grad()
    def _watch(self, error: Tensor, is_lens: Tensor) -> None:
        """Let the errors (n, 7), 0 for non-lenses, enter the running mean squares."""
        sums = torch.cat([error.square().sum(dim=0), is_lens.sum()[None].to(error.dtype)])
        sums = sums if self.pool is None else self.pool(sums)
        seen, group = sums[-1] > 0, torch.tensor(GROUP, device=error.device)
        mean = (sums[:-1] / torch.where(seen, sums[-1], 1.0)).to(self.square.dtype)
        joined = torch.zeros_like(self.square).index_add_(0, group, mean) / torch.bincount(group)
        self.square.lerp_(torch.where(seen, joined, self.square), MEMORY)


class PointRegressor(Published, PointNetwork):
    """A published regressor behind the interface of all networks.

    Parameters and errors as of `Published`.
    """

    def __init__(self, n_bands: int, size: int, config: PublishedConfig) -> None:
        super().__init__(n_bands, size, config)
        self.body = REGRESSORS[config.kind](n_bands, size)
        self.convention = self.body.convention

    def outputs(self, images: Tensor) -> Tensor:
        """Return what the body gives of images (n, C, S, S), (n, n_outputs), in float32 or better."""
        return at_least_float32(self.body(self.shown(images)))

    def row_loss(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return the loss of the body's paper (n,) of outputs (n, n_outputs) against the truth (n, 5)."""
        return self.body.row_loss(outputs, truth)
