"""Layers that published networks share: borders as TensorFlow cuts them, and convolutions with batch statistics."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ConvNorm", "SameConv2d", "truncated"]

AnyLayer = TypeVar("AnyLayer", nn.Conv2d, nn.Linear)


class SameConv2d(nn.Conv2d):
    """Convolution whose output has ceil(side / stride) pixels, padded as TensorFlow pads.

    Where the padding is odd, the extra row and column stand at the end, which matters for even kernels.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (n, n_in, h, w)."""
        pads: list[int] = []
        for side, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max(0, (-(-side // stride) - 1) * stride + kernel - side)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride)


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch normalisation, rectifier.

    Parameters
    ----------
    n_in, n_out : int
    kernel : int or (int, int)
    stride : int
    same : bool
        Borders padded to keep the size; else none are.
    """

    def __init__(
        self, n_in: int, n_out: int, kernel: int | tuple[int, int], stride: int = 1, same: bool = True
    ) -> None:
        layer = SameConv2d if same else nn.Conv2d
        convolution = layer(n_in, n_out, kernel, stride, bias=False)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        super().__init__(convolution, nn.BatchNorm2d(n_out, 1e-3), nn.ReLU())


def truncated(layer: AnyLayer, spread: float, bias: float) -> AnyLayer:
    """Give a layer normal weights cut at two standard deviations, and a constant bias; return it."""
    nn.init.trunc_normal_(layer.weight, std=spread, a=-2 * spread, b=2 * spread)
    if layer.bias is not None:
        nn.init.constant_(layer.bias, bias)
    return layer
