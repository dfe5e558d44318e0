"""One rank of the training benchmark: a process that trains for some steps, times them, and writes what it found.

Started by `lensscan.site.bench.training` as ``python -m lensscan.site.bench.trainrank``, plain or under mpiexec.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lensscan import mpi
from lensscan.config import find, override, read_toml
from lensscan.mocks.recipes import Recipe, load_recipe
from lensscan.process import tune_allocator
from lensscan.train.augment import Sample
from lensscan.train.distributed import Engine, Serial, start_engine
from lensscan.train.run import Mocks, make_trainer, set_precision
from lensscan.train.settings import TrainSettings
from lensscan.train.stream import simulate_sample

__all__ = ["Case", "Timed", "TimedEngine", "TimedMocks", "shorten", "time_steps"]

PERIOD = 9
"""Steps on a CPU between two chunks of mocks: their cost is the same a mock, but a short run then sees all of it."""


@dataclass(frozen=True, slots=True)
class Case:
    """What one rank does.

    Attributes
    ----------
    training : str
        Training file: shipped name or path.
    backend : str
        See `lensscan.train.distributed.BACKENDS`.
    device : str
    stored : bool
        Every chunk is the first one, made once: a training whose mocks cost nothing.
    periods : int
        Measured steps, in periods of the stream of mocks (see `shorten`); one more warms up.
    cores : tuple of int
        Rank k works on the k-th of them, with all its threads; empty: anywhere.
    assignments : tuple of str
        Changes of the training file, ``KEY=VALUE``.
    """

    training: str
    backend: str = "none"
    device: str = "cpu"
    stored: bool = False
    periods: int = 2
    cores: tuple[int, ...] = ()
    assignments: tuple[str, ...] = ()

    def settings(self) -> TrainSettings:
        """Read the training file."""
        path = find("training", self.training)
        return TrainSettings.from_mapping(override(read_toml(path), self.assignments), str(path))


@dataclass(frozen=True, slots=True)
class Timed:
    """What one rank measured.

    Attributes
    ----------
    stamps : int
        Of the global batches of the measured steps.
    seconds : float
        From the first of them to the end of the last.
    reducing : float
        Seconds of them in the average over the ranks, waiting for the slowest included.
    simulating : float
        Seconds of processor time that the thread which makes mocks took meanwhile.
    working : float
        Seconds of processor time that the whole process took, those in the average left out: some engines
        spin while they wait.  On a busy machine this says more than `seconds`.
    """

    stamps: int
    seconds: float
    reducing: float
    simulating: float
    working: float


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class TimedEngine:
    """An engine that adds up the seconds of its averages, and the processor time of the process in them.

    Parameters
    ----------
    engine : Engine
    device : torch.device
        Whose work is waited for before and after.
    """

    def __init__(self, engine: Engine, device: torch.device) -> None:
        self.name, self.rank, self.size = engine.name, engine.rank, engine.size
        self.seconds = self.processor = 0.0
        self._engine, self._device = engine, device

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite, in place, every rank's tensors by those of rank 0."""
        self._engine.broadcast(tensors)

    def average(self, flat: Tensor) -> None:
        """Replace, in place, a flat tensor by its mean over the ranks."""
        synchronise(self._device)
        begin, spent = time.perf_counter(), time.process_time()
        self._engine.average(flat)
        synchronise(self._device)
        self.seconds += time.perf_counter() - begin
        self.processor += time.process_time() - spent

    def any(self, flag: int) -> int:
        """Return the largest flag over the ranks."""
        return self._engine.any(flag)

    def close(self) -> None:
        """Leave in order."""
        self._engine.close()


class TimedMocks:
    """Makes mocks and adds up the processor time of the thread that does; or makes them once.

    Parameters
    ----------
    mocks : callable
        See `lensscan.train.run.Mocks`.
    stored : bool
        Hand out the first mocks again and again.
    """

    def __init__(self, mocks: Mocks, stored: bool) -> None:
        self.seconds = 0.0
        self._mocks, self._stored = mocks, stored
        self._first: Sample | None = None

    def __call__(self, recipe: Recipe, seed: int, start: int, n: int, device: torch.device) -> Sample:
        """Return the mocks [start, start + n) of a recipe and seed."""
        if self._stored and self._first is not None:
            return dataclasses.replace(self._first)
        begin = time.thread_time()
        sample = self._mocks(recipe, seed, start, n, device)
        self.seconds += time.thread_time() - begin
        if self._stored:
            self._first = dataclasses.replace(sample)
        return sample


def shorten(settings: TrainSettings, device: str) -> tuple[TrainSettings, int]:
    """Return settings whose stream a short run goes through, and the steps of one period of that stream.

    On a CPU the chunks are made smaller, so that a new one is due every `PERIOD` steps.  A GPU needs the large
    ones to be fast, and does the steps of a whole chunk in little time.  Fixed sets (``epochs``) become streams:
    their mocks are made once and cost nothing after; so do folders.
    """
    stream = dataclasses.replace(settings.stream, epochs=False, chunks=0, folder="", content="")
    if stream.window == 1 and stream.reuse == 1.0:
        return dataclasses.replace(settings, stream=stream), PERIOD
    if device == "cpu":
        stream = dataclasses.replace(stream, chunk=max(1, round(PERIOD * settings.batch / stream.reuse)))
    period = max(1, round(stream.reuse * stream.chunk / settings.batch))
    return dataclasses.replace(settings, stream=stream), period


def time_steps(case: Case, settings: TrainSettings, mocks: Mocks = simulate_sample) -> Timed:
    """Train for one period to warm up, then time the steps of the next.

    Parameters
    ----------
    case : Case
    settings : TrainSettings
        Of the case's training file; learning rate and units do not matter for the time.
    mocks : callable
    """
    settings, period = shorten(settings, case.device)
    device = torch.device(case.device)
    set_precision(device, settings.precision)
    own = Serial() if case.backend == "none" else start_engine(case.backend, device)  # alone, under mpiexec too
    engine = TimedEngine(own, device)
    made = TimedMocks(mocks, case.stored)
    with tempfile.TemporaryDirectory() as temp:
        trainer = make_trainer(settings, load_recipe(settings.recipe), engine, Path(temp), device, made)
        try:
            for _ in range(period):
                trainer.train_step()
            synchronise(device)
            engine.any(0)  # every rank begins when the last one is ready
            before = time.perf_counter(), engine.seconds, made.seconds, time.process_time() - engine.processor
            for _ in range(case.periods * period):
                trainer.train_step()
            synchronise(device)
            after = time.perf_counter(), engine.seconds, made.seconds, time.process_time() - engine.processor
        finally:
            trainer.stream.close()
    engine.close()
    return Timed(case.periods * period * settings.batch, *(b - a for a, b in zip(before, after, strict=True)))


def main(arguments: list[str]) -> None:
    """Do the case (JSON) of the first argument; write ``<rank>.json`` into the folder of the second."""
    values = json.loads(arguments[0])
    case = Case(**values | {name: tuple(values[name]) for name in ("cores", "assignments")})
    if case.cores:
        os.sched_setaffinity(0, {case.cores[mpi.local_rank() % len(case.cores)]})
    mpi.pin_device()
    tune_allocator()
    torch.set_num_threads(1)
    found = time_steps(case, case.settings())
    name = f"{mpi.local_rank()}.json"
    Path(arguments[1], name).write_text(json.dumps(dataclasses.asdict(found)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
