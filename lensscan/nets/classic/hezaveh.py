"""Three of the four networks of Hezaveh, Perreault Levasseur & Marshall 2017 (arXiv:1708.08842), Table 1.

Read in the project's public code: kernels, widths, strides, borders, rectifiers and initial weights of
AlexNet (its number 9), OverFeat (5) and the authors' own network (8), for one band of 192 pixels.  Departures,
our own: any number of bands; below 128 pixels the first convolution moves one pixel at a time, so that later
layers see maps as large as the paper's; the first fully connected layer spans whatever map is left.

All regress (theta_E, e_x, e_y, x, y), theta_E and the centre in arcsec, the ellipticity (1 - q) (cos t, sin t)
of the paper, which is defined up to a common sign (`lensscan.lens.conventions`).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from lensscan.nets.classic.body import Regressor, conv_side, glorot
from lensscan.nets.classic.layers import SameConv2d, truncated

__all__ = ["AlexNet", "Ensai", "OverFeat", "first_stride"]

FULL_SIZE = 128


def first_stride(size: int, published: int) -> int:
    """Return the stride of the first convolution: the paper's, or 1 for stamps below 128 pixels."""
    return published if size >= FULL_SIZE else 1


class AlexNet(Regressor):
    """AlexNet (Krizhevsky 2014, arXiv:1404.5997) as the paper has it: the calibrator of its Table 1."""

    smallest: ClassVar[int] = 25

    def __init__(self, n_bands: int, size: int) -> None:
        super().__init__(n_bands, size)
        stride = first_stride(size, 4)
        self.convolutions = nn.Sequential(
            nn.Conv2d(n_bands, 64, 11, stride),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        side = conv_side(size, 11, stride)
        for _ in range(3):
            side = conv_side(side, 3, 2)
        glorot(self.convolutions)
        self.dense = nn.Sequential(
            nn.Flatten(),
            truncated(nn.Linear(256 * side * side, 4096), 0.005, 0.1),
            nn.ReLU(),
            truncated(nn.Linear(4096, 4096), 0.005, 0.1),
            nn.ReLU(),
            truncated(nn.Linear(4096, 5), 0.005, 0.0),
        )
        for layer in self.convolutions:
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.constant_(layer.bias, 0.1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, C, S, S) to (n, 5)."""
        parameters: Tensor = self.dense(self.convolutions(images))
        return parameters


class OverFeat(Regressor):
    """OverFeat (Sermanet+2013, arXiv:1312.6229) as the paper has it; its head is convolved, then joined."""

    smallest: ClassVar[int] = 34

    def __init__(self, n_bands: int, size: int) -> None:
        super().__init__(n_bands, size)
        stride = first_stride(size, 4)
        self.convolutions = nn.Sequential(
            nn.Conv2d(n_bands, 64, 11, stride),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 256, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(256, 512, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(512, 1024, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(1024, 1024, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        glorot(self.convolutions)
        self.head = nn.Sequential(
            truncated(nn.Conv2d(1024, 3072, 2), 0.005, 0.1),
            nn.ReLU(),
            truncated(nn.Conv2d(3072, 4096, 1), 0.005, 0.1),
            nn.ReLU(),
            truncated(nn.Conv2d(4096, 5, 1), 0.005, 0.0),
            nn.Flatten(),
        )
        side = (conv_side(conv_side(size, 11, stride) // 2, 5) // 2) // 2 - 1
        self.output = nn.Linear(5 * side * side, 5)
        glorot(self.output)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, C, S, S) to (n, 5)."""
        parameters: Tensor = self.output(self.head(self.convolutions(images)))
        return parameters


class Ensai(Regressor):
    """The authors' own network: pairs of a wide and a 1 x 1 convolution, strides instead of pooling.

    The first pair and the wide ones are linear, the 1 x 1 ones from the second pair on are rectified.
    """

    smallest: ClassVar[int] = 16
    PAIRS: ClassVar[tuple[tuple[int, int, int], ...]] = (
        (32, 3, 1),
        (32, 5, 1),
        (32, 10, 2),
        (32, 10, 1),
        (64, 10, 2),
        (64, 10, 1),
        (128, 10, 2),
        (256, 3, 1),
    )
    """Width, kernel and stride of each pair."""

    def __init__(self, n_bands: int, size: int) -> None:
        super().__init__(n_bands, size)
        layers: list[nn.Module] = []
        n_in, side = n_bands, size
        for number, (width, kernel, stride) in enumerate(self.PAIRS):
            layers += [SameConv2d(n_in, width, kernel, stride), nn.Conv2d(width, width, 1)]
            layers += [nn.ReLU()] if number else []
            n_in, side = width, -(-side // stride)
        self.convolutions = nn.Sequential(*layers)
        self.dense = nn.Sequential(nn.Flatten(), nn.Linear(n_in * side * side, 512), nn.ReLU(), nn.Linear(512, 5))
        glorot(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, C, S, S) to (n, 5)."""
        parameters: Tensor = self.dense(self.convolutions(images))
        return parameters
