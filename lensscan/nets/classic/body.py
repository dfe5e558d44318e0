"""What every published network is: images in the scaling of its paper, a few numbers out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from lensscan.errors import ModelError
from lensscan.nets.classic.losses import sign_free_error
from lensscan.nets.classic.parameters import Convention

__all__ = ["Body", "Regressor", "conv_side", "glorot"]


class Body(nn.Module, ABC):
    """A published network without its pre-processing.

    Parameters
    ----------
    n_bands, size : int
        Channels and side of the input; any number of bands, any side from `smallest` on.

    Attributes
    ----------
    task : str
        ``classify`` or ``regress``.
    n_outputs : int
        One logit, two logits (other, lens), or the regressed parameters.
    smallest : int
        Smallest side that leaves a pixel at the last layer.
    batch_statistics : bool
        Whether training uses batch normalisation, so that training and evaluation differ.

    Raises
    ------
    ModelError
        If the side is too small.
    """

    task: ClassVar[str] = "classify"
    n_outputs: ClassVar[int] = 1
    smallest: ClassVar[int] = 8
    batch_statistics: ClassVar[bool] = False

    def __init__(self, n_bands: int, size: int) -> None:
        super().__init__()
        if size < self.smallest or n_bands < 1:
            name = type(self).__name__
            raise ModelError(
                f"{name} takes one band or more of {self.smallest} pixels or more, not {n_bands} of {size}"
            )

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, C, S, S) to (n, n_outputs)."""


class Regressor(Body):
    """A published network that regresses the SIE: theta_E, e_x, e_y, x, y first, in its paper's convention.

    Attributes
    ----------
    convention : str
        See `lensscan.nets.classic.parameters`.
    """

    task: ClassVar[str] = "regress"
    n_outputs: ClassVar[int] = 5
    convention: ClassVar[Convention] = "hezaveh2017"

    def row_loss(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return the paper's loss (n,) of outputs (n, n_outputs) against the truth (n, 5): Hezaveh+2017's."""
        return sign_free_error(outputs, truth)


def conv_side(side: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """Return the side of what a convolution or pooling makes of a square of `side` pixels."""
    return (side + 2 * padding - kernel) // stride + 1


def glorot(module: nn.Module) -> None:
    """Give convolutions and linear layers uniform Glorot weights and zero biases, the default of Keras."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
