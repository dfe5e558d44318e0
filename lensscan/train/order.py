"""The order in which a fixed set of mocks is drawn: every epoch a permutation of its own, keyed by seed and epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from lensscan.train.augment import step_generator

__all__ = ["EpochOrder"]

PURPOSE = 4


class EpochOrder:
    """Rows of a fixed set that each step draws, a pure function of seed and step.

    Every epoch goes through the set once; a batch may begin in one epoch and end in the next.

    Parameters
    ----------
    total : int
        Rows of the set.
    batch : int
        Rows of the global batch.
    seed : int
    """

    def __init__(self, total: int, batch: int, seed: int) -> None:
        self.total, self.batch, self.seed = total, batch, seed
        self._orders: dict[int, Tensor] = {}

    def __call__(self, step: int) -> Tensor:
        """Return the rows (batch,) of one step, of all ranks."""
        first, last = step * self.batch, (step + 1) * self.batch
        epochs = range(first // self.total, (last - 1) // self.total + 1)
        self._orders = {epoch: self._order(epoch) for epoch in epochs}
        return torch.cat(list(self._orders.values()))[first - epochs[0] * self.total : last - epochs[0] * self.total]

    def drawn(self, steps: int) -> int:
        """Return the number of different rows that so many steps draw: all of them from a whole epoch on."""
        return min(self.total, steps * self.batch)

    def _order(self, epoch: int) -> Tensor:
        known = self._orders.get(epoch)
        if known is not None:
            return known
        return torch.randperm(self.total, generator=step_generator(self.seed, epoch, PURPOSE))
