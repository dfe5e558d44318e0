"""The trained combination of several regressors of Hezaveh+2017 (arXiv:1708.08842), as one network of the product.

Read in the project's public code: one weight per network and parameter and no mixing of parameters, initial weights
1/n, ellipticities brought to the sign of the first network's, the networks' own loss.  The networks are trained before
and stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn

from lensscan.config import late
from lensscan.errors import ConfigError
from lensscan.nets.classic.classifier import PublishedConfig
from lensscan.nets.classic.losses import other_sign, sign_free_error
from lensscan.nets.classic.parameters import Convention
from lensscan.nets.classic.pointregressor import PointNetwork, PointRegressor
from lensscan.nets.classic.registry import REGRESSORS

__all__ = ["CONVENTION", "Combination", "CombinationConfig", "WeightedSum", "align_signs"]

CONVENTION: Convention = "hezaveh2017"
"""Of all members: the signs of other papers' ellipticities mean something."""
ELLIPTICITY = slice(1, 3)
MEMBERS = tuple(sorted(name for name, body in REGRESSORS.items() if body.convention == CONVENTION))


@dataclass(frozen=True, slots=True)
class CombinationConfig:
    """Which regressors are combined: a training file names their files, a card holds what they are.

    Attributes
    ----------
    members : tuple of str
        Model files, shipped name or path each.
    networks : tuple of PublishedConfig
        What they hold; filled from the files.
    hashes : tuple of str
        SHA-256 of the files; filled from them.
    """

    members: tuple[str, ...] = late(())
    networks: tuple[PublishedConfig, ...] = late(())
    hashes: tuple[str, ...] = late(())

    def checked(self, where: str) -> Self:
        """Return self, or raise a one-line `ConfigError` for too few networks, or one that is no member of any."""
        if max(len(self.members), len(self.networks)) < 2:
            raise ConfigError(f"{where}: members must name the model files of two networks or more")
        for network in self.networks:
            if network.kind not in MEMBERS:
                known = ", ".join(MEMBERS)
                raise ConfigError(f"{where}: a combination is of {known}, not of {network.kind!r}")
        return self


def align_signs(predictions: Tensor) -> Tensor:
    """Return predictions (m, n, 5) of m networks with the sign of (e_x, e_y) nearest to the first network's."""
    first = predictions[:1, :, ELLIPTICITY]
    opposed = (predictions[:, :, ELLIPTICITY] * first).sum(dim=-1, keepdim=True) < 0
    return torch.where(opposed, other_sign(predictions), predictions)


class WeightedSum(nn.Module):
    """Weighted sum of m networks' parameters, with weights of its own for each of the five."""

    def __init__(self, n_networks: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((n_networks, 1, 5), 1.0 / n_networks))

    def forward(self, predictions: Tensor) -> Tensor:
        """Map predictions (m, n, 5) to (n, 5)."""
        return (self.weight * align_signs(predictions)).sum(dim=0)


class Combination(PointNetwork):
    """Published regressors, held fixed, and the trained weights of their parameters.

    The members have no gradients and are in evaluation mode at any time: without drop-out, with the batch statistics of
    their own training.  Each sees the stamp in its own scaling.

    Parameters
    ----------
    n_bands, size : int
    config : CombinationConfig
        With its `networks`.

    Raises
    ------
    ModelError
        As of `PointRegressor`.
    """

    convention = CONVENTION

    def __init__(self, n_bands: int, size: int, config: CombinationConfig) -> None:
        super().__init__()
        members = [PointRegressor(n_bands, size, network) for network in config.networks]
        self.normalised = members[0].normalised
        self.members = nn.ModuleList(members).requires_grad_(False).eval()
        self.combine = WeightedSum(len(members))

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but the members."""
        super().train(mode)
        self.members.eval()
        return self

    def outputs(self, images: Tensor) -> Tensor:
        """Return the weighted parameters (n, 5) of images (n, C, S, S)."""
        found = [cast(PointRegressor, member).outputs(images) for member in self.members]
        combined: Tensor = self.combine(torch.stack(found))
        return combined

    def row_loss(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return the loss (n,) of outputs (n, 5) against the truth (n, 5): that of the members."""
        return sign_free_error(outputs, truth)
