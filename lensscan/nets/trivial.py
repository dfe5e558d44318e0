"""The trivial network: the logit is a pixel.  For benchmarks bound by reading, and for fast tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lensscan.nets.blocks import Network
from lensscan.nets.latent import N_LATENT

__all__ = ["Trivial"]


class Trivial(Network):
    """Logit = flux of the central pixel in the first band times `weight`; no normalisation, no regression."""

    normalised = False
    regresses = False

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor, scalars: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map images (n, C, S, S) in nJy to logit (n,), and NaN for mean (n, 7) and factor (n, 7, 7)."""
        n, _, _, size = images.shape
        logit = images[:, 0, size // 2, size // 2] * self.weight
        nothing = images.new_full((n, N_LATENT, N_LATENT), float("nan"))
        return logit, nothing[:, 0], nothing
