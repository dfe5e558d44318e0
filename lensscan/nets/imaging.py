"""Modules from image to image: one takes the noise off a stamp, one the light of all but the lensed source.

Both map normalised stamps to normalised stamps (`lensscan.nets.normalise`).  The denoiser predicts what is to be taken
off, as DnCNN does (Zhang+2017, arXiv:1608.03981); the deblender predicts what is to be left, since most of that is
nothing.  Like all our networks they know no batch statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lensscan.nets.blocks import Downsample, ResidualBlock, StandardConv2d

__all__ = ["Deblender", "Denoiser"]

FIRST = 0.01
"""Spread of the last layer's weights: the denoiser begins as nearly the identity, the deblender with little."""


class Denoiser(nn.Module):
    """Residual blocks at full size.

    Parameters
    ----------
    n_bands, width, depth : int
        Channels of the stamp, channels inside, and residual blocks.
    """

    def __init__(self, n_bands: int, width: int, depth: int) -> None:
        super().__init__()
        self.stem = StandardConv2d(n_bands, width, 3)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(depth)))
        self.output = _output(width, n_bands)

    def forward(self, images: Tensor) -> Tensor:
        """Map (n, C, S, S) to the same shape."""
        return images - self.output(F.relu(self.blocks(self.stem(images))))


class Deblender(nn.Module):
    """A small U-Net (Ronneberger+2015, arXiv:1505.04597): what is the galaxy's shows only from afar.

    Parameters
    ----------
    n_bands : int
    widths : sequence of int
        Channels at each size; every size is half of the one before.
    """

    def __init__(self, n_bands: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = StandardConv2d(n_bands, widths[0], 3)
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(Downsample(fine, coarse) for fine, coarse in pairs)
        self.lateral = nn.ModuleList(StandardConv2d(coarse, fine, 1) for fine, coarse in pairs)
        self.merge = nn.ModuleList(ResidualBlock(fine) for fine, _ in pairs)
        self.output = _output(widths[0], n_bands)

    def forward(self, images: Tensor) -> Tensor:
        """Map (n, C, S, S) to the same shape."""
        levels = [self.stem(images)]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for lateral, merge in zip(reversed(self.lateral), reversed(self.merge), strict=True):
            fine = levels.pop()
            wider = F.interpolate(lateral(F.relu(x)), size=fine.shape[-2:], mode="nearest")
            x = merge(fine + wider)
        return self.output(F.relu(x))


def _output(width: int, n_bands: int) -> nn.Conv2d:
    """Return the last convolution: plain, since what it sums up need not have a mean of zero."""
    layer = nn.Conv2d(width, n_bands, 3, padding=1)
    nn.init.normal_(layer.weight, std=FIRST)
    nn.init.zeros_(torch.as_tensor(layer.bias))
    return layer
