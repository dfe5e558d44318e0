"""Published networks as networks of the product: selectable in a training, stored with a card; classifiers scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lensscan.errors import ModelError
from lensscan.nets.blocks import Network, Outcome
from lensscan.nets.classic.registry import CLASSIFIERS

__all__ = ["Classifier", "Published", "PublishedConfig", "at_least_float32", "scaled"]

SOFTENING = 3.0  # standard deviations of the sky below which a picture is linear


@dataclass(frozen=True, slots=True)
class PublishedConfig:
    """Which published network, and how its input is scaled.

    Attributes
    ----------
    kind : str
        A key of `lensscan.nets.classic.registry.PUBLISHED`.
    scaling : str
        ``noise``: the product's normalisation.  ``linear``: flux, shifted and scaled per band by one mean and
        one spread over the whole training set.  ``picture``: 256 steps of an inverse hyperbolic sine from each
        stamp's faintest to its brightest pixel in a band, ``peak``: units of the stamp's brightest pixel, both
        shifted and scaled in the same way.
    mean, std : tuple of float
        Per band, for all but ``noise`` (nJy for ``linear``); where none are given, a training fills them from training
        mocks alone.
    """

    kind: str
    scaling: Literal["noise", "linear", "picture", "peak"] = "noise"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def scaled(images: Tensor, scaling: str) -> Tensor:
    """Return stamps (n, C, S, S) in nJy as a `scaling` of `PublishedConfig` shows them, before mean and spread."""
    if scaling == "peak":
        return images / images.amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(images.dtype).tiny)
    if scaling != "picture":
        return images
    level, below = (images.flatten(2).quantile(share, dim=2)[..., None, None] for share in (0.5, 0.16))
    stretched = torch.asinh((images - level) / (SOFTENING * (level - below)).clamp(min=torch.finfo(images.dtype).tiny))
    low, high = stretched.amin(dim=(2, 3), keepdim=True), stretched.amax(dim=(2, 3), keepdim=True)
    span = torch.where(high > low, high - low, torch.ones_like(high))
    return ((stretched - low) * (255.0 / span)).round() / 255.0


def at_least_float32(values: Tensor) -> Tensor:
    """Return values in float32, or as they are where they have more."""
    return values if values.dtype == torch.float64 else values.float()


class Published(Network):
    """A published network behind the interface of all networks: what it sees.

    Parameters
    ----------
    n_bands, size : int
    config : PublishedConfig

    Raises
    ------
    ModelError
        If mean and spread do not fit the bands, or the side is too small for the network.
    """

    def __init__(self, n_bands: int, size: int, config: PublishedConfig) -> None:
        super().__init__()
        self.normalised, self.scaling = config.scaling == "noise", config.scaling
        mean, std = config.mean or (0.0,) * n_bands, config.std or (1.0,) * n_bands
        if len(mean) != n_bands or len(std) != n_bands or min(std) <= 0:
            raise ModelError(f"{config.kind}: mean and std need {n_bands} values each, one per band, std positive")
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def shown(self, images: Tensor) -> Tensor:
        """Return images (n, C, S, S) in the network's own scaling."""
        return images if self.normalised else (scaled(images, self.scaling) - self.mean) / self.std


class Classifier(Published):
    """A published classifier; it has no posterior head.

    Parameters and errors as of `Published`.
    """

    regresses = False

    def __init__(self, n_bands: int, size: int, config: PublishedConfig) -> None:
        super().__init__(n_bands, size, config)
        self.body = CLASSIFIERS[config.kind](n_bands, size)

    def forward(self, images: Tensor, scalars: Tensor) -> Outcome:
        """Map images (n, C, S, S) to logit (n,), without a posterior."""
        scores = at_least_float32(self.body(self.shown(images)))
        logit = scores[:, 1] - scores[:, 0] if self.body.n_outputs == 2 else scores[:, 0]
        return Outcome.unregressed(logit)
