"""The regressors of HOLISMOKES: the small network of IV (Schuldt+2021) and a residual one after IX (Schuldt+2023).

IV (arXiv:2010.00602): from its abstract, the five parameters of the SIE, griz stamps of 64 pixels.  Remembered,
not verified: two 5 x 5 convolutions with pooling and three fully connected layers, in the manner of LeNet, the
square error with five times the weight on theta_E.  Assumed: the widths.

IX (arXiv:2206.11279): from its abstract, a residual network that adds the external shear and an uncertainty
for each parameter.  Everything else is assumed; it stands here as a stronger yardstick of the same kind.

The ellipticity is theirs, (1 - q^2) / (1 + q^2) (cos 2 phi, sin 2 phi), remembered, not verified.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lensscan.nets.classic.body import Regressor, conv_side, glorot
from lensscan.nets.classic.layers import ConvNorm
from lensscan.nets.classic.losses import weighted_error
from lensscan.nets.classic.parameters import Convention

__all__ = ["HolismokesCnn", "HolismokesResNet"]


class HolismokesCnn(Regressor):
    """Two convolutions, three fully connected layers: theta_E, e_x, e_y, x, y."""

    smallest: ClassVar[int] = 16
    convention: ClassVar[Convention] = "holismokes4"
    WEIGHTS: ClassVar[tuple[float, ...]] = (5.0, 1.0, 1.0, 1.0, 1.0)

    def __init__(self, n_bands: int, size: int) -> None:
        super().__init__(n_bands, size)
        side = conv_side(conv_side(size, 5) // 2, 5) // 2
        self.layers = nn.Sequential(
            nn.Conv2d(n_bands, 32, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * side * side, 512),
            nn.ReLU(),
            nn.Linear(512, 128),
            nn.ReLU(),
            nn.Linear(128, 5),
        )
        glorot(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, C, S, S) to (n, 5)."""
        parameters: Tensor = self.layers(images)
        return parameters

    def row_loss(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return the square error (n,) with the weights of the paper, relative to their mean."""
        return weighted_error(outputs, truth, self.WEIGHTS)


class _Residual(nn.Module):
    """Two 3 x 3 convolutions with batch normalisation beside a shortcut (He+2015, arXiv:1512.03385)."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(n_in, n_out, 3, stride)
        self.second = nn.Sequential(nn.Conv2d(n_out, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out))
        self.shortcut = nn.Identity() if n_in == n_out and stride == 1 else nn.Conv2d(n_in, n_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, n_in, h, w) to (n, n_out, ceil(h / stride), ceil(w / stride))."""
        return F.relu(self.shortcut(x) + self.second(self.first(x)))


class HolismokesResNet(Regressor):
    """Four stages of two residual blocks: seven parameters (SIE, shear) and seven logarithms of their sigma."""

    n_outputs: ClassVar[int] = 14
    smallest: ClassVar[int] = 16
    batch_statistics: ClassVar[bool] = True
    convention: ClassVar[Convention] = "holismokes4"
    WIDTHS: ClassVar[tuple[int, ...]] = (32, 64, 128, 256)

    def __init__(self, n_bands: int, size: int) -> None:
        super().__init__(n_bands, size)
        layers: list[nn.Module] = [ConvNorm(n_bands, self.WIDTHS[0], 3)]
        n_in, side = self.WIDTHS[0], size
        for width in self.WIDTHS:
            layers += [_Residual(n_in, width, 2), _Residual(width, width, 1)]
            n_in, side = width, -(-side // 2)
        self.convolutions = nn.Sequential(*layers)
        self.dense = nn.Sequential(nn.Flatten(), nn.Linear(n_in * side * side, 256), nn.ReLU(), nn.Linear(256, 14))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, C, S, S) to (n, 14): theta_E, e_x, e_y, x, y, gamma_1, gamma_2, and ln sigma of each."""
        parameters: Tensor = self.dense(self.convolutions(images))
        return parameters

    def row_loss(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return the negative log likelihood (n,), but for a constant, of the five parameters of the SIE.

        The shear and its sigma stay untrained: no truth of them reaches a training.
        """
        k, n = truth.shape[1], outputs.shape[1] // 2
        log_sigma = outputs[:, n : n + k]
        return (0.5 * ((outputs[:, :k] - truth) * torch.exp(-log_sigma)).square() + log_sigma).sum(dim=1)
