"""The trivial network: the logit is a pixel.  For benchmarks bound by reading, and for fast tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lensscan.nets.blocks import Network, Outcome

__all__ = ["Trivial"]


class Trivial(Network):
    """Logit = flux of the central pixel in the first band times `weight`; no normalisation, no regression."""

    normalised = False
    regresses = False

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor, scalars: Tensor) -> Outcome:
        """Map images (n, C, S, S) in nJy to logit (n,), without a posterior."""
        middle = images.shape[-1] // 2
        return Outcome.unregressed(images[:, 0, middle, middle] * self.weight)
