"""CMU DeepLens (Lanusse+2018, arXiv:1703.02642): 46 layers of pre-activated bottleneck blocks.

Read in the public code: 7 x 7 convolution to 32 maps with batch normalisation, five stages of three blocks with
16 to 256 maps inside and 32 to 512 outside, the last four stages halving the map, exponential linear units,
mean over 3 x 3 pixels at the end (all that is left of 45), one output under a sigmoid.  Assumed, for the block
itself is not in the code that we could read: the order of He+2016 (arXiv:1603.05027), the stride in the first
1 x 1 convolution, and a 1 x 1 convolution as shortcut where the size or the width changes.  Our own: the mean
over whatever map is left, for other sizes.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from lensscan.nets.classic.body import Body

__all__ = ["DeepLens"]

STAGES = ((16, 32), (32, 64), (64, 128), (128, 256), (256, 512))
BLOCKS = 3


class _Bottleneck(nn.Module):
    """Pre-activated 1 x 1, 3 x 3, 1 x 1 with a shortcut; `activated` if the input already is."""

    def __init__(self, n_in: int, inner: int, n_out: int, stride: int, activated: bool) -> None:
        super().__init__()
        self.norm = nn.Identity() if activated else nn.BatchNorm2d(n_in)
        self.activated = activated
        self.reduce = nn.Conv2d(n_in, inner, 1, stride, bias=False)
        self.norm_reduced = nn.BatchNorm2d(inner)
        self.spread = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.norm_spread = nn.BatchNorm2d(inner)
        self.widen = nn.Conv2d(inner, n_out, 1)
        plain = n_in == n_out and stride == 1
        self.shortcut = nn.Identity() if plain else nn.Conv2d(n_in, n_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, n_in, h, w) to (n, n_out, h / stride, w / stride)."""
        active = x if self.activated else F.elu(self.norm(x))
        y = F.elu(self.norm_reduced(self.reduce(active)))
        y = self.widen(F.elu(self.norm_spread(self.spread(y))))
        skipped: Tensor = self.shortcut(active if not isinstance(self.shortcut, nn.Identity) else x)
        return skipped + y


class DeepLens(Body):
    """The residual classifier of CMU DeepLens; one logit."""

    smallest: ClassVar[int] = 16
    batch_statistics: ClassVar[bool] = True

    def __init__(self, n_bands: int, size: int) -> None:
        super().__init__(n_bands, size)
        self.stem = nn.Sequential(nn.Conv2d(n_bands, 32, 7, padding=3, bias=False), nn.BatchNorm2d(32), nn.ELU())
        blocks: list[nn.Module] = []
        n_in = 32
        for stage, (inner, n_out) in enumerate(STAGES):
            for number in range(BLOCKS):
                stride = 2 if stage and not number else 1
                blocks.append(_Bottleneck(n_in, inner, n_out, stride, activated=not stage and not number))
                n_in = n_out
        self.blocks = nn.Sequential(*blocks)
        self.output = nn.Linear(n_in, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight, nn.init.calculate_gain("relu"))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, C, S, S) to logits (n, 1)."""
        logit: Tensor = self.output(self.blocks(self.stem(images)).mean(dim=(2, 3)))
        return logit
