"""Published classifiers as networks of the product: selectable in a training, stored with a card, scanned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lensscan.errors import ModelError
from lensscan.nets.blocks import Network
from lensscan.nets.classic.argonne import Argonne
from lensscan.nets.classic.body import Body
from lensscan.nets.latent import N_LATENT

__all__ = ["CLASSIFIERS", "Classifier", "ClassifierConfig"]

CLASSIFIERS: Mapping[str, type[Body]] = {"argonne": Argonne}


@dataclass(frozen=True, slots=True)
class ClassifierConfig:
    """Which published classifier, and how its input is scaled.

    Attributes
    ----------
    kind : str
        A key of `CLASSIFIERS`.
    linear : bool
        Linear flux, shifted and scaled per band by one mean and one spread over the whole training set, as
        these papers do; else the product's normalisation.
    mean, std : tuple of float
        nJy, per band, for `linear`; a training fills them from training mocks alone.
    """

    kind: str
    linear: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


class Classifier(Network):
    """A published classifier behind the interface of all networks; it has no posterior head.

    Parameters
    ----------
    n_bands, size : int
    config : ClassifierConfig

    Raises
    ------
    ModelError
        If mean and spread do not fit the bands, or the side is too small for the network.
    """

    regresses = False

    def __init__(self, n_bands: int, size: int, config: ClassifierConfig) -> None:
        super().__init__()
        self.normalised = not config.linear
        self.body = CLASSIFIERS[config.kind](n_bands, size)
        mean, std = config.mean or (0.0,) * n_bands, config.std or (1.0,) * n_bands
        if len(mean) != n_bands or len(std) != n_bands or min(std) <= 0:
            raise ModelError(f"{config.kind}: mean and std need {n_bands} values each, one per band, std positive")
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, images: Tensor, scalars: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map images (n, C, S, S) to logit (n,), and NaN for mean (n, 7) and factor (n, 7, 7)."""
        scores = self.body(images if self.normalised else (images - self.mean) / self.std).float()
        logit = scores[:, 1] - scores[:, 0] if self.body.n_outputs == 2 else scores[:, 0]
        nothing = scores.new_full((len(scores), N_LATENT, N_LATENT), float("nan"))
        return logit, nothing[:, 0], nothing
