"""ResNet-50 (He+2015, arXiv:1512.03385) as Madireddy+2019 (arXiv:1911.03867) took it: the baseline of their classifier.

Read in the public code (deepstronglens/SLpipe, ``ResNet101_Keras_tfp.py``): the ResNet50 of Keras without its top and
without weights of another task, the mean over the last map, two outputs under a softmax.  Remembered of Keras: its
23,534,592 weights without the top, the stride of a stage in its first 1 x 1 convolution, shortcuts by convolutions of
1 x 1 at the head of every stage, batch normalisation with 1.001e-5 under the root and 0.99 of its running values kept
at each step, Glorot's weights.  Left out: the 26,560 biases of its convolutions, which batch normalisation takes out
again.  Their regressors are other networks (ResNet101 with a variational layer) and not here.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from lensscan.nets.classic.body import Body, glorot

__all__ = ["ResNet50"]

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Maps inside a block, of which four times as many leave it; blocks of the stage."""
WIDENING = 4
STEM = 64


def _normed(n_in: int, n_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the size but for its stride, and batch normalisation."""
    convolution = nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(n_out, eps=1.001e-5, momentum=0.01))


class _Bottleneck(nn.Module):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1 with a shortcut; the rectifier comes after the sum."""

    def __init__(self, n_in: int, inner: int, stride: int, first: bool) -> None:
        super().__init__()
        n_out = WIDENING * inner
        self.reduce = _normed(n_in, inner, 1, stride)
        self.spread = _normed(inner, inner, 3)
        self.widen = _normed(inner, n_out, 1)
        self.shortcut = _normed(n_in, n_out, 1, stride) if first else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, n_in, h, w) to (n, 4 inner, h / stride, w / stride)."""
        y = self.widen(F.relu(self.spread(F.relu(self.reduce(x)))))
        return F.relu(self.shortcut(x) + y)


class ResNet50(Body):
    """Sixteen bottleneck blocks behind a 7 x 7 convolution and pooling; two outputs."""

    n_outputs: ClassVar[int] = 2
    smallest: ClassVar[int] = 32
    batch_statistics: ClassVar[bool] = True

    def __init__(self, n_bands: int, size: int) -> None:
        super().__init__(n_bands, size)
        self.stem = nn.Sequential(_normed(n_bands, STEM, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))
        blocks: list[nn.Module] = []
        n_in = STEM
        for stage, (inner, depth) in enumerate(STAGES):
            for number in range(depth):
                stride = 2 if stage and not number else 1
                blocks.append(_Bottleneck(n_in, inner, stride, first=not number))
                n_in = WIDENING * inner
        self.blocks = nn.Sequential(*blocks)
        self.output = nn.Linear(n_in, 2)
        glorot(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, C, S, S) to the scores (n, 2) of non-lens and lens."""
        scores: Tensor = self.output(self.blocks(self.stem(images)).mean(dim=(2, 3)))
        return scores
