"""The 17-layer network of Argonne (2017), which sorts lensed from unlensed LSST stamps of 45 pixels.

Read in the project's public code (``basic_model``): every layer, kernel, width and drop-out rate, borders
(`same` in the first convolution, `valid` in the others), 2 outputs under a softmax, and with them the
327,330 weights of a 45-pixel, one-band input.  The initial weights are the defaults of its library.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from lensscan.nets.classic.body import Body, conv_side, glorot

__all__ = ["Argonne"]


class Argonne(Body):
    """Two pairs of 3 x 3 convolutions with pooling and drop-out, 64 hidden units, two outputs."""

    n_outputs: ClassVar[int] = 2
    smallest: ClassVar[int] = 16

    def __init__(self, n_bands: int, size: int) -> None:
        super().__init__(n_bands, size)
        side = conv_side(size, 3) // 2
        side = conv_side(conv_side(side, 3), 3) // 2
        self.layers = nn.Sequential(
            nn.Conv2d(n_bands, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
            nn.Flatten(),
            nn.Linear(64 * side * side, 64),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(64, 2),
        )
        glorot(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, C, S, S) to the scores (n, 2) of non-lens and lens."""
        scores: Tensor = self.layers(images)
        return scores
