"""Several ranks of a toy training as threads of one process."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from toy_mocks import TRAINING, toy_source, toy_trainer

from lensscan.train.distributed import Serial
from lensscan.train.loop import Trainer

MAPPING = {
    **TRAINING,
    "steps": 10,
    "validate_every": 5,
    "checkpoint_seconds": 1e9,
    "network": {"widths": [8], "depths": [1], "hidden": 8, "squeeze": 4, "condition": 4},
    "optimiser": {"warmup": 2, "ema": 0.9, "lr": 3e-3},
}


class Meeting:
    """Where the threads meet: hands every one what all of them brought, in the order of their ranks."""

    def __init__(self, size: int) -> None:
        self.brought = [torch.zeros(0)] * size
        self.barrier = threading.Barrier(size, timeout=60)

    def exchange(self, rank: int, value: torch.Tensor) -> list[torch.Tensor]:
        self.brought[rank] = value
        self.barrier.wait()
        found = [each.clone() for each in self.brought]
        self.barrier.wait()
        return found


class Thread(Serial):
    """The engine of one thread; weights need no broadcast, they come from the same seed."""

    name = "threads"

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.size, self.meeting = rank, len(meeting.brought), meeting

    def average(self, flat: torch.Tensor) -> None:
        flat.copy_(torch.stack(self.meeting.exchange(self.rank, flat)).mean(dim=0))

    def any(self, flag: int) -> int:
        return max(int(value) for value in self.meeting.exchange(self.rank, torch.tensor(flag)))


def on_threads(trainers: list[Trainer], work: Callable[[Trainer], object]) -> list[object]:
    """Do the work of all ranks at once; returns what each gave or raised."""
    found: list[object] = [None] * len(trainers)

    def one(trainer: Trainer) -> None:
        try:
            found[trainer.engine.rank] = work(trainer)
        except Exception as error:
            found[trainer.engine.rank] = error

    threads = [threading.Thread(target=one, args=(trainer,)) for trainer in trainers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def ranks_of(folder: Path, size: int, **changes) -> list[Trainer]:
    meeting = Meeting(size)
    made = [toy_trainer(folder, {**MAPPING, **changes}, Thread(rank, meeting)) for rank in range(size)]
    for trainer in made:
        trainer.stream.source = double_source
        trainer._make_validation = lambda: double_source(10_000, 64)
    return made


def double_source(start, n):
    sample = toy_source(start, n)
    return dataclasses.replace(sample, images=sample.images.double(), latent=sample.latent.double())
