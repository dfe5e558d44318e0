"""The two networks of the DES searches by Jacobs+2019 (arXiv:1811.03786, arXiv:1905.10522).

From the abstracts: two networks, one trained on simulations alone, one on real galaxies with simulated
sources.  Read in the report of the lens finding challenge (Metcalf+2019, arXiv:1802.03609), of the same team's
entry: kernels of 11, 5 and 3 pixels, two fully connected layers of 1024.  Remembered, not verified: a fourth
convolution in the DES networks, stamps of 100 pixels in griz.  Assumed: the widths, pooling after each of the
first three convolutions, drop-out of 0.5 between the fully connected layers, and that the two networks differ
in depth (`Jacobs3`, `Jacobs4`) beside their training sets.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from lensscan.nets.classic.body import Body, glorot

__all__ = ["Jacobs3", "Jacobs4"]

DENSE = 1024


class _Jacobs(Body):
    """Convolutions, two layers of 1024 units, one logit."""

    smallest: ClassVar[int] = 16
    CONVOLUTIONS: ClassVar[tuple[tuple[int, int, bool], ...]]
    """Width, kernel, and whether pooling by two follows."""

    def __init__(self, n_bands: int, size: int) -> None:
        super().__init__(n_bands, size)
        layers: list[nn.Module] = []
        n_in, side = n_bands, size
        for width, kernel, pooled in self.CONVOLUTIONS:
            layers += [nn.Conv2d(n_in, width, kernel, padding=kernel // 2), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if pooled else []
            n_in, side = width, side // 2 if pooled else side
        self.layers = nn.Sequential(
            *layers,
            nn.Flatten(),
            nn.Linear(n_in * side * side, DENSE),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(DENSE, DENSE),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(DENSE, 1),
        )
        glorot(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, C, S, S) to logits (n, 1)."""
        logit: Tensor = self.layers(images)
        return logit


class Jacobs3(_Jacobs):
    """Three convolutions, as in the team's entry to the lens finding challenge."""

    CONVOLUTIONS: ClassVar[tuple[tuple[int, int, bool], ...]] = ((96, 11, True), (128, 5, True), (256, 3, True))


class Jacobs4(_Jacobs):
    """Four convolutions, as remembered of the DES searches."""

    CONVOLUTIONS: ClassVar[tuple[tuple[int, int, bool], ...]] = (
        (96, 11, True),
        (128, 5, True),
        (256, 3, True),
        (256, 3, False),
    )
