"""Batch normalisation over the batch of all ranks, through the engine's one average, whatever the engine is.

torch's own ``SyncBatchNorm`` needs GPUs and ``torch.distributed``, Horovod's needs GPUs; this one needs neither, and
gives the statistics of the global batch also where the ranks' shares differ in size.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from lensscan.nets.classic.pointregressor import PointNetwork
from lensscan.train.distributed import Engine

__all__ = ["RankedBatchNorm", "synchronise"]


class _Average(torch.autograd.Function):
    """The mean over the ranks; so is, backwards, that of the gradients: every rank's value moves every rank's loss."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, engine: Engine) -> Tensor:
        ctx.engine = engine
        return _averaged(values, engine)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _averaged(gradient, ctx.engine), None


def _averaged(values: Tensor, engine: Engine) -> Tensor:
    found = values.clone(memory_format=torch.contiguous_format)
    engine.average(found)
    return found


class RankedBatchNorm(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` with the mean and variance of the global batch (Ioffe & Szegedy 2015, algorithm 1).

    Two averages over the ranks forwards, two backwards; the variance is that of the centred values, so that float32
    keeps it.  In evaluation mode nothing is exchanged.
    """

    engine: Engine

    @classmethod
    def of(cls, layer: nn.BatchNorm2d, engine: Engine) -> RankedBatchNorm:
        """Return a layer that shares parameters and running statistics with an ordinary one."""
        made = cls(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        made.weight, made.bias = layer.weight, layer.bias
        made.running_mean, made.running_var = layer.running_mean, layer.running_var
        made.num_batches_tracked = layer.num_batches_tracked
        made.engine = engine
        return made.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (n, C, H, W) by the statistics of all ranks' rows."""
        if not self.training:
            return super().forward(input)
        values = input if input.dtype == torch.float64 else input.float()
        count = values.new_full((1,), values.numel() / values.shape[1])
        sums = _Average.apply(torch.cat([values.sum(dim=(0, 2, 3)), count]), self.engine)
        count = sums[-1].detach()
        centred = values - (sums[:-1] / count)[:, None, None]
        variance = _Average.apply(centred.square().sum(dim=(0, 2, 3)), self.engine) / count
        self._remember(sums[:-1].detach() / count, variance.detach(), float(count) * self.engine.size)
        shown = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        if self.affine:
            shown = shown * self.weight[:, None, None] + self.bias[:, None, None]
        return shown.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: float) -> None:
        """Move the running statistics, as torch does: the variance without bias."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        step = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), step)
        self.running_var.lerp_((variance * count / max(1.0, count - 1)).to(self.running_var.dtype), step)


def synchronise(network: nn.Module, engine: Engine) -> None:
    """Let whatever a network remembers of its batches be that of all ranks' rows; nothing changes on one rank.

    These are the statistics of batch normalisations, and the running width of a published regressor.
    Names of parameters and buffers stay, so that a checkpoint serves any number of ranks.
    """
    if engine.size == 1:
        return
    for parent in list(network.modules()):
        if isinstance(parent, PointNetwork):
            parent.pool = functools.partial(_averaged, engine=engine)
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and not isinstance(child, RankedBatchNorm):
                setattr(parent, name, RankedBatchNorm.of(child, engine))
