"""Mocks for training: simulated chunk by chunk in a thread beside the training, drawn from a sliding window."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from typing import Any, Protocol

import torch

from lensscan.errors import ConfigError
from lensscan.mocks.recipes import Recipe
from lensscan.mocks.simulate import simulate
from lensscan.nets.heads import to_latent
from lensscan.train.augment import Sample, step_generator
from lensscan.train.settings import Stream

__all__ = ["MockStream", "Source", "simulate_sample"]

STORED_UNIT = 16.0
"""nJy per unit of the float16 pixels kept in memory: 1e6 nJy fits, and a sky of 8 nJy keeps 11 bits."""
LARGEST = 65504.0
"""Of float16; brighter pixels (the cores of stars) are clipped to it."""
PIXELS = ("images", "blend", "arcs")


class Source(Protocol):
    """Anything that makes the mocks [start, start + n) of a training."""

    def __call__(self, start: int, n: int) -> Sample:
        """Return the mocks; a pure function."""


def simulate_sample(
    recipe: Recipe, seed: int, start: int, n: int, device: torch.device | str = "cpu", layers: bool = False
) -> Sample:
    """Simulate mocks and express their truth in latent space; with `layers` also what lies below their noise."""
    mocks = simulate(recipe, seed=seed, start=start, n=n, device=device, layers=layers)
    images = mocks.images
    return Sample(
        images=images,
        present=mocks.present.to(images.device),
        fwhm=mocks.fwhm.float().to(images.device),
        is_lens=mocks.truth["is_lens"].bool().to(images.device),
        latent=to_latent(mocks.truth).to(images.device),
        mask=mocks.missing,
        blend=mocks.blend,
        arcs=mocks.arcs,
    )


def _join(parts: list[Sample]) -> Sample:
    """Join samples; what one of them lacks, the whole lacks."""
    if len(parts) == 1:
        return parts[0]
    columns: dict[str, Any] = {}
    for item in fields(Sample):
        values = [getattr(part, item.name) for part in parts]
        columns[item.name] = None if any(value is None for value in values) else torch.cat(values)
    return Sample(**columns)


def _scale(sample: Sample, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change the images of a sample, and its layers, in place."""
    for name in PIXELS:
        if (value := getattr(sample, name)) is not None:
            setattr(sample, name, change(value))


class MockStream:
    """Batches of mocks as a pure function of the step.

    At step s the newest chunk is number ``floor(s batch / (reuse chunk))``; the batch is drawn, with
    replacement, from the newest `window` chunks.  With ``window = 1`` and ``reuse = 1`` the batch is instead
    the rows ``[s batch, (s + 1) batch)`` themselves, and every rank makes only its own.  With ``epochs`` the
    first `window` chunks are a fixed set, which every epoch goes through once in an order of its own.  With
    ``split`` every row of the batch draws from its own part of each chunk, and a rank makes the parts of its rows.

    Parameters
    ----------
    source : Source
    settings : Stream
    batch : int
        Rows of the global batch.
    seed : int
        Of the draws.
    rank, size : int
        This rank's share of the batch is the rows ``[rank * batch / size, ...)``.

    Attributes
    ----------
    weight : float
        This rank's rows over their mean over the ranks: means over the rows, times it, have the global batch's mean
        as their mean over the ranks.  Exactly 1 where all have as many.

    Raises
    ------
    ConfigError
        If there are more ranks than rows.
    """

    def __init__(self, source: Source, settings: Stream, batch: int, seed: int, rank: int = 0, size: int = 1) -> None:
        if size > batch:
            raise ConfigError(
                f"batch = {batch} gives {size} ranks less than a stamp each; raise batch or start fewer ranks"
            )
        self.source = source
        self.settings = settings
        self.batch = batch
        self.seed = seed
        self.first = rank * batch // size
        self.last = (rank + 1) * batch // size
        self.weight = (self.last - self.first) * size / batch
        self.fresh = settings.window == 1 and settings.reuse == 1.0
        self.low = settings.chunk * self.first // batch if settings.split else 0
        self.high = settings.chunk * self.last // batch if settings.split else settings.chunk
        self.chunks: dict[int, Sample] = {}
        self.ahead: dict[int, Future[Sample]] = {}
        self.pool = ThreadPoolExecutor(1, "mocks", initializer=torch.set_num_threads, initargs=(1,))

    def close(self) -> None:
        """Stop the simulating thread after the chunk in hand."""
        self.pool.shutdown(wait=True, cancel_futures=True)

    def __call__(self, step: int) -> Sample:
        """Return this rank's rows of the batch of one step."""
        if self.fresh:
            sample = self._wait(step)
            self._prefetch([step + 1], keep=step)
            return sample
        newest = self.settings.window - 1 if self.settings.epochs else self.newest(step)
        wanted = list(range(max(0, newest - self.settings.window + 1), newest + 1))
        for number in wanted:
            if number not in self.chunks:
                self.chunks[number] = self._wait(number)
        for number in [n for n in self.chunks if n < wanted[0]]:
            del self.chunks[number]
        if self.settings.epochs:
            draw = self._in_turn(step)
        else:
            self._prefetch([newest + 1], keep=wanted[0])
            draw = self._at_random(step, len(wanted))
        return self._draw(draw[self.first : self.last], wanted)

    def _at_random(self, step: int, n_chunks: int) -> torch.Tensor:
        """Return the rows of `n_chunks` chunks that one step draws; with ``split``, of this rank's part of them."""
        generator, chunk = step_generator(self.seed, step, 2), self.settings.chunk
        draw = torch.randint(n_chunks * chunk, (self.batch,), generator=generator)
        if not self.settings.split:
            return draw
        edges = torch.arange(self.batch + 1) * chunk // self.batch
        within = edges[:-1] + draw % chunk % edges.diff()
        return draw // chunk * chunk + within - self.low

    def _in_turn(self, step: int) -> torch.Tensor:
        """Return the rows of the fixed set that one step draws: every epoch is a permutation of its own.

        A batch may begin in one epoch and end in the next.
        """
        total = self.settings.window * self.settings.chunk
        places = torch.arange(step * self.batch, (step + 1) * self.batch)
        epochs = range(int(places[0]) // total, int(places[-1]) // total + 1)
        orders = [torch.randperm(total, generator=step_generator(self.seed, epoch, 4)) for epoch in epochs]
        return torch.cat(orders)[places - epochs[0] * total]

    def newest(self, step: int) -> int:
        """Return the number of the newest chunk at a step."""
        return int(step * self.batch / (self.settings.reuse * self.settings.chunk))

    def _draw(self, draw: torch.Tensor, wanted: list[int]) -> Sample:
        order = torch.argsort(draw // self.settings.chunk, stable=True)
        parts = []
        for place, number in enumerate(wanted):
            rows = draw[draw // self.settings.chunk == place] % self.settings.chunk
            if len(rows):
                parts.append(self.chunks[number].rows(rows.to(self.chunks[number].is_lens.device)))
        sample = _join(parts).rows(torch.argsort(order).to(parts[0].is_lens.device))
        _scale(sample, lambda pixels: pixels.float() * STORED_UNIT)
        return sample

    def _make(self, number: int) -> Sample:
        """Simulate a chunk (or, if `fresh`, this rank's rows of a step)."""
        if self.settings.chunks:
            number %= self.settings.chunks
        if self.fresh:
            return self.source(number * self.batch + self.first, self.last - self.first)
        sample = self.source(number * self.settings.chunk + self.low, self.high - self.low)
        _scale(sample, lambda pixels: (pixels / STORED_UNIT).clamp(-LARGEST, LARGEST).half())
        return sample

    def _wait(self, number: int) -> Sample:
        if number not in self.ahead:
            self.ahead[number] = self.pool.submit(self._make, number)
        return self.ahead.pop(number).result()

    def _prefetch(self, numbers: list[int], keep: int) -> None:
        for number in numbers:
            if number not in self.ahead and number not in self.chunks:
                self.ahead[number] = self.pool.submit(self._make, number)
