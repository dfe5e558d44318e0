"""Building blocks: standardised convolutions, residual blocks and modulation by scalar inputs.

No block uses batch statistics: convolution weights are standardised instead (Brock, De & Smith 2021,
arXiv:2101.08692, sec. 3), so training and evaluation agree, the result of a stamp does not depend on its
neighbours, and for inference the weights are computed once and for all (`fold`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lensscan.nets.latent import N_LATENT

__all__ = [
    "Bender",
    "Downsample",
    "Modulation",
    "Network",
    "Outcome",
    "ResidualBlock",
    "StableLinear",
    "StandardConv2d",
    "fold",
]

AnyModule = TypeVar("AnyModule", bound=nn.Module)
RELU_GAIN = 1.7139588594436646
BRANCH_GAIN = 0.25


class Outcome(NamedTuple):
    """What a network says of n stamps: the logit, and a mixture of K Gaussians in latent space.

    Attributes
    ----------
    logit : (n,)
    mean : (n, K, 7)
    factor : (n, K, 7, 7)
        Lower Cholesky factors of the covariances.
    log_weight : (n, K)
        Logarithms of the weights, which sum to 1; 0 where K = 1.
    condition : (n, c)
        What steers the normalising flow that bends the Gaussian, or what a published regressor gives in its paper's
        convention; c = 0 where there is neither.
    """

    logit: Tensor
    mean: Tensor
    factor: Tensor
    log_weight: Tensor
    condition: Tensor

    @classmethod
    def mixture(cls, logit: Tensor, mean: Tensor, factor: Tensor, log_weight: Tensor) -> Outcome:
        """Return the outcome of a network whose posterior are Gaussians alone."""
        return cls(logit, mean, factor, log_weight, mean.new_zeros(len(mean), 0))

    @classmethod
    def unregressed(cls, logit: Tensor) -> Outcome:
        """Return the outcome of a network without a posterior: one component of NaN."""
        nothing = logit.new_full((len(logit), 1, N_LATENT, N_LATENT), float("nan"))
        return cls.mixture(logit, nothing[..., 0], nothing, logit.new_zeros(len(logit), 1))


class Bender(Protocol):
    """A normalising flow over the Gaussians of outcomes, see `lensscan.nets.heads.FlowHead`."""

    n_condition: int
    scale: Tensor

    def log_density(self, points: Tensor, outcome: Outcome) -> Tensor:
        """Return the log density (n, S), nats, of latent points (n, S, 7)."""

    def sample(self, base: Tensor, outcome: Outcome) -> Tensor:
        """Return latent points (n, S, 7) of standard normal points (S, 7)."""


class Network(nn.Module, ABC):
    """What every network is: normalised images and scalars in, logit and latent posterior out.

    Attributes
    ----------
    normalised : bool
        Whether images are to be normalised first; else they come in nJy.
    regresses : bool
        Whether the posterior means anything; else it is one component of NaN.
    scores : bool
        Whether the logit means anything; else it is NaN.
    """

    normalised: bool = True
    regresses: bool = True
    scores: bool = True

    @property
    def flow(self) -> Bender | None:
        """What bends the Gaussian of an outcome, where a normalising flow does."""
        return None

    def own_loss(self, outcome: Outcome, target: Tensor, is_lens: Tensor) -> Tensor | None:
        """Return the loss () that it is trained by in place of its posterior's likelihood; None where it has none.

        Parameters
        ----------
        outcome : Outcome
        target : Tensor, (n, 7)
            Latent; may be NaN where `is_lens` (n,) is false.
        """
        return None

    @abstractmethod
    def forward(self, images: Tensor, scalars: Tensor) -> Outcome:
        """Map images (n, C, S, S) and scalars (n, 4C + 1) to the outcome."""


class StandardConv2d(nn.Conv2d):
    """Convolution whose filters have zero mean and unit norm times a learned gain per output channel.

    Parameters
    ----------
    n_in, n_out, kernel : int
        Channels and side of the kernel; padding keeps the size (times 1 / stride).
    stride : int
    gain : float
        Initial gain; small at the end of a residual branch.
    """

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int = 1, gain: float = 1.0) -> None:
        super().__init__(n_in, n_out, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.shift = nn.Parameter(torch.zeros(n_out))
        self.gain = nn.Parameter(torch.full((n_out, 1, 1, 1), gain))
        nn.init.normal_(self.weight)

    def standard_weight(self) -> Tensor:
        """Return the standardised weights, (n_out, n_in, k, k)."""
        weight = self.weight
        centred = weight - weight.mean(dim=(1, 2, 3), keepdim=True)
        norm = torch.sqrt(centred.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8)
        return centred * (self.gain * RELU_GAIN / norm)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (n, n_in, h, w)."""
        return F.conv2d(x, self.standard_weight(), self.shift, self.stride, self.padding)

    def plain(self) -> nn.Conv2d:
        """Return the ordinary convolution with the same output."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        conv = nn.Conv2d(self.in_channels, self.out_channels, kernel, stride, kernel // 2)
        conv.weight = nn.Parameter(self.standard_weight().detach())
        conv.bias = nn.Parameter(self.shift.detach())
        return conv


class ResidualBlock(nn.Module):
    """Pre-activation block ``x + conv(relu(conv(relu(x))))`` at constant size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = StandardConv2d(width, width, 3)
        self.second = StandardConv2d(width, width, 3, gain=BRANCH_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, width, h, w) to the same shape."""
        return x + self.second(F.relu(self.first(F.relu(x)), inplace=True))


class Downsample(nn.Module):
    """Residual block that halves the size and widens; the shortcut is an average and a 1 x 1 convolution."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.shortcut = StandardConv2d(n_in, n_out, 1)
        self.first = StandardConv2d(n_in, n_out, 3, stride=2)
        self.second = StandardConv2d(n_out, n_out, 3, gain=BRANCH_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, n_in, h, w) to (n, n_out, ceil(h/2), ceil(w/2))."""
        active = F.relu(x)
        pooled = F.avg_pool2d(active, 2, ceil_mode=True, count_include_pad=False)
        return self.shortcut(pooled) + self.second(F.relu(self.first(active), inplace=True))


class Modulation(nn.Module):
    """Channel-wise ``(1 + scale) x + shift`` from a condition vector (FiLM, Perez+2018, arXiv:1709.07871)."""

    def __init__(self, n_condition: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_condition, 2 * width)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Modulate x (n, width, h, w) by condition (n, n_condition)."""
        scale, shift = self.linear(condition)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, x, 1.0 + scale)


class StableLinear(nn.Module):
    """Linear layer whose result for a row has the same bits for any neighbours and number of threads.

    Matrix products by MKL split rows and columns by the number of threads, and their last digits with them; a
    1 x 1 convolution over a multiple of `ROWS` rows does not (measured from 1 to 64 threads).
    """

    ROWS = 16

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach()[:, :, None, None])
        self.bias = nn.Parameter(linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n_in) to (..., n_out)."""
        rows = x.reshape(-1, x.shape[-1])
        n = len(rows)
        padded = F.pad(rows, (0, 0, 0, -n % self.ROWS))
        return F.conv2d(padded[:, :, None, None], self.weight, self.bias)[:n, :, 0, 0].unflatten(0, x.shape[:-1])


def fold(module: AnyModule) -> AnyModule:
    """Make a network ready for inference, in place.

    Standardised convolutions become ordinary ones, linear layers become `StableLinear`.
    """
    for name, child in module.named_children():
        if isinstance(child, StandardConv2d):
            setattr(module, name, child.plain())
        elif isinstance(child, nn.Linear):
            setattr(module, name, StableLinear(child))
        else:
            fold(child)
    return module
