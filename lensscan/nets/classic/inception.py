"""Inception-v4 (Szegedy+2016, arXiv:1602.07261) as a regressor of the SIE, the fourth network of Hezaveh+2017.

Read in the paper of the network (its figures 3 to 9): every branch, kernel and width; borders `valid` in the
stem and the reductions.  Read in the code of Hezaveh+2017: a single band is shown three times, batch
normalisation with 0.001 in the denominator.  Assumed: drop-out of 0.2 before the output, as in the network's
own paper.  Our own: any number of bands; below 128 pixels the first convolution does not stride.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from lensscan.nets.classic.body import Regressor
from lensscan.nets.classic.hezaveh import first_stride
from lensscan.nets.classic.layers import ConvNorm

__all__ = ["InceptionV4"]


class _Branches(nn.Module):
    """Branches side by side, joined along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, n_in, h, w) to (n, sum of the branches' widths, h', w')."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def _pool(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), ConvNorm(n_in, n_out, 1))


def _stem(n_in: int, stride: int) -> nn.Sequential:
    """Figure 3; 384 channels."""
    short = nn.Sequential(ConvNorm(160, 64, 1), ConvNorm(64, 96, 3, same=False))
    long = nn.Sequential(
        ConvNorm(160, 64, 1), ConvNorm(64, 64, (1, 7)), ConvNorm(64, 64, (7, 1)), ConvNorm(64, 96, 3, same=False)
    )
    return nn.Sequential(
        ConvNorm(n_in, 32, 3, stride, same=False),
        ConvNorm(32, 32, 3, same=False),
        ConvNorm(32, 64, 3),
        _Branches(nn.MaxPool2d(3, 2), ConvNorm(64, 96, 3, 2, same=False)),
        _Branches(short, long),
        _Branches(ConvNorm(192, 192, 3, 2, same=False), nn.MaxPool2d(3, 2)),
    )


def _block_a() -> _Branches:
    """Figure 4; 384 channels."""
    return _Branches(
        ConvNorm(384, 96, 1),
        nn.Sequential(ConvNorm(384, 64, 1), ConvNorm(64, 96, 3)),
        nn.Sequential(ConvNorm(384, 64, 1), ConvNorm(64, 96, 3), ConvNorm(96, 96, 3)),
        _pool(384, 96),
    )


def _reduction_a() -> _Branches:
    """Figure 7; 384 to 1024 channels."""
    return _Branches(
        ConvNorm(384, 384, 3, 2, same=False),
        nn.Sequential(ConvNorm(384, 192, 1), ConvNorm(192, 224, 3), ConvNorm(224, 256, 3, 2, same=False)),
        nn.MaxPool2d(3, 2),
    )


def _block_b() -> _Branches:
    """Figure 5; 1024 channels."""
    return _Branches(
        ConvNorm(1024, 384, 1),
        nn.Sequential(ConvNorm(1024, 192, 1), ConvNorm(192, 224, (1, 7)), ConvNorm(224, 256, (7, 1))),
        nn.Sequential(
            ConvNorm(1024, 192, 1),
            ConvNorm(192, 192, (7, 1)),
            ConvNorm(192, 224, (1, 7)),
            ConvNorm(224, 224, (7, 1)),
            ConvNorm(224, 256, (1, 7)),
        ),
        _pool(1024, 128),
    )


def _reduction_b() -> _Branches:
    """Figure 8; 1024 to 1536 channels."""
    return _Branches(
        nn.Sequential(ConvNorm(1024, 192, 1), ConvNorm(192, 192, 3, 2, same=False)),
        nn.Sequential(
            ConvNorm(1024, 256, 1),
            ConvNorm(256, 256, (1, 7)),
            ConvNorm(256, 320, (7, 1)),
            ConvNorm(320, 320, 3, 2, same=False),
        ),
        nn.MaxPool2d(3, 2),
    )


def _fork(n_in: int) -> _Branches:
    return _Branches(ConvNorm(n_in, 256, (1, 3)), ConvNorm(n_in, 256, (3, 1)))


def _block_c() -> _Branches:
    """Figure 6; 1536 channels."""
    return _Branches(
        ConvNorm(1536, 256, 1),
        nn.Sequential(ConvNorm(1536, 384, 1), _fork(384)),
        nn.Sequential(ConvNorm(1536, 384, 1), ConvNorm(384, 448, (3, 1)), ConvNorm(448, 512, (1, 3)), _fork(512)),
        _pool(1536, 256),
    )


class InceptionV4(Regressor):
    """Stem, four blocks A, seven B and three C with reductions between, mean over the map, five outputs."""

    smallest: ClassVar[int] = 39
    batch_statistics: ClassVar[bool] = True

    def __init__(self, n_bands: int, size: int) -> None:
        super().__init__(n_bands, size)
        self.repeats = 3 if n_bands == 1 else 1
        self.layers = nn.Sequential(
            _stem(n_bands * self.repeats, first_stride(size, 2)),
            *(_block_a() for _ in range(4)),
            _reduction_a(),
            *(_block_b() for _ in range(7)),
            _reduction_b(),
            *(_block_c() for _ in range(3)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(1536, 5),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, C, S, S) to (n, 5)."""
        parameters: Tensor = self.layers(images.repeat(1, self.repeats, 1, 1))
        return parameters
