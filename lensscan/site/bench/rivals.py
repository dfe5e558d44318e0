"""What a user would write instead: astropy reading, a torch DataLoader, one process; the same stamps and network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lensscan.nets.model import Model

__all__ = ["LooseStamps", "PackedStamps", "score_all"]


class LooseStamps(Dataset[Any]):
    """One FITS file per stamp, read by astropy."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.fits"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        from astropy.io import fits

        return torch.from_numpy(fits.getdata(self.paths[index]).astype(np.float32))


class PackedStamps(Dataset[Any]):
    """Rows of packs, read one by one by astropy from the memory-mapped table."""

    def __init__(self, folder: Path) -> None:
        from astropy.io import fits

        self.tables = [fits.open(path, memmap=True)["STAMPS"].data for path in sorted(folder.glob("*.fits"))]
        self.first = np.cumsum([0, *[len(table) for table in self.tables]])

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, index: int) -> torch.Tensor:
        k = int(np.searchsorted(self.first, index, side="right")) - 1
        row = self.tables[k][index - self.first[k]]
        return torch.from_numpy(row["IMAGE"].astype(np.float32))


def score_all(stamps: Dataset[Any], model: Model, batch: int, limit: int) -> Callable[[], int]:
    """Return a task that scores the first `limit` stamps with `model` through a plain DataLoader."""
    subset = torch.utils.data.Subset(stamps, range(limit))

    def task() -> int:
        logits = []
        for images in DataLoader(subset, batch_size=batch):
            logits.append(np.asarray(model.score(images.numpy(), batch=batch)["logit"]))
        return len(np.concatenate(logits))

    return task
