"""Mocks for training, made or read in a thread beside it: a sliding window of simulated chunks, or a set on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from typing import Any, Protocol, runtime_checkable

import torch

from lensscan.errors import ConfigError
from lensscan.mocks.labels import UNDETECTABLE
from lensscan.mocks.recipes import Recipe
from lensscan.mocks.simulate import simulate
from lensscan.nets.heads import to_latent
from lensscan.train.augment import Sample, step_generator
from lensscan.train.order import EpochOrder
from lensscan.train.settings import Stream

__all__ = ["MockStream", "Share", "Source", "Stored", "StoredStream", "open_stream", "simulate_sample"]

STORED_UNIT = 16.0
"""nJy per unit of the float16 pixels kept in memory: 1e6 nJy fits, and a sky of 8 nJy keeps 11 bits."""
LARGEST = 65504.0
"""Of float16; brighter pixels (the cores of stars) are clipped to it."""
PIXELS = ("images", "blend", "arcs")


class Source(Protocol):
    """Anything that makes the mocks [start, start + n) of a training."""

    def __call__(self, start: int, n: int) -> Sample:
        """Return the mocks; a pure function."""


@runtime_checkable
class Stored(Protocol):
    """Mocks that stand somewhere, such as on disk.

    Attributes
    ----------
    n : int
    """

    n: int

    def take(self, rows: torch.Tensor) -> Sample:
        """Return some mocks, in the order given."""

    def close(self) -> None:
        """Close the files."""


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
        vague=(mocks.truth["klass"] == UNDETECTABLE).to(images.device),
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


class Share:
    """Of every global batch the share of one rank.

    Parameters
    ----------
    batch : int
        Rows of the global batch.
    rank, size : int
        The share is the rows ``[rank * batch / size, ...)``.

    Attributes
    ----------
    first, last : int
        The rows.
    weight : float
        Their number over its mean over the ranks: means over the rows, times it, have the global batch's mean
        as their mean over the ranks.  Exactly 1 where all have as many.

    Raises
    ------
    ConfigError
        If there are more ranks than rows.
    """

    def __init__(self, batch: int, rank: int, size: int) -> None:
        if size > batch:
            raise ConfigError(
                f"batch = {batch} gives {size} ranks less than a stamp each; raise batch or start fewer ranks"
            )
        self.batch = batch
        self.first = rank * batch // size
        self.last = (rank + 1) * batch // size
        self.weight = (self.last - self.first) * size / batch

    def fill(self, step: int) -> Iterator[None]:
        """Make what a step draws from, piece by piece; yields between two pieces, on all ranks alike."""
        yield from ()


class StoredStream(Share):
    """Batches of stored mocks as a pure function of the step: epochs, each in an order of its own.

    The order knows neither ranks nor their number; a rank reads its own rows only, the next step's while this one's
    are trained on.

    Parameters
    ----------
    mocks : Stored
    batch, rank, size
        As of `Share`.
    seed : int
        Of the order.
    """

    def __init__(self, mocks: Stored, batch: int, seed: int, rank: int = 0, size: int = 1) -> None:
        super().__init__(batch, rank, size)
        self.mocks = mocks
        self.order = EpochOrder(mocks.n, batch, seed)
        self.ahead: dict[int, Future[Sample]] = {}
        self.pool = ThreadPoolExecutor(1, "mocks", initializer=torch.set_num_threads, initargs=(1,))

    def close(self) -> None:
        """Stop the reading thread after the batch in hand."""
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.mocks.close()

    def __call__(self, step: int) -> Sample:
        """Return this rank's rows of the batch of one step."""
        found = self.ahead.pop(step, None) or self._read(step)
        self.ahead = {step + 1: self._read(step + 1)}
        return found.result()

    def mocks_of(self, steps: int) -> int:
        """Return the number of different mocks, over all ranks, that so many steps draw."""
        return self.order.drawn(steps)

    def _read(self, step: int) -> Future[Sample]:
        return self.pool.submit(self.mocks.take, self.order(step)[self.first : self.last])


def open_stream(
    source: Source | Stored, settings: Stream, batch: int, seed: int, rank: int = 0, size: int = 1
) -> MockStream | StoredStream:
    """Return the stream of mocks that a source makes, or that stand somewhere."""
    if isinstance(source, Stored):
        return StoredStream(source, batch, seed, rank, size)
    return MockStream(source, settings, batch, seed, rank, size)


class MockStream(Share):
    """Batches of mocks as a pure function of the step.

    At step s the newest chunk is number ``floor(s batch / (reuse chunk))``; the batch is drawn, with
    replacement, from the newest `window` chunks.  With ``window = 1`` and ``reuse = 1`` the batch is instead
    the rows ``[s batch, (s + 1) batch)`` themselves, and every rank makes only its own.  With ``epochs``, whatever
    `reuse`, the first `window` chunks are a fixed set, which every epoch goes through once in an order of its own.
    With ``split`` every row of the batch draws from its own part of each chunk, and a rank makes the parts of its rows.

    Parameters
    ----------
    source : Source
    settings : Stream
    batch, rank, size
        As of `Share`.
    seed : int
        Of the draws.
    """

    def __init__(self, source: Source, settings: Stream, batch: int, seed: int, rank: int = 0, size: int = 1) -> None:
        super().__init__(batch, rank, size)
        self.source = source
        self.settings = settings
        self.seed = seed
        self.order = EpochOrder(settings.window * settings.chunk, batch, seed)
        self.fresh = settings.window == 1 and settings.reuse == 1.0 and not settings.epochs
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
            self._prefetch(step + 1)
            return sample
        for _ in self.fill(step):
            pass
        wanted = list(self._window(step))
        for number in [n for n in self.chunks if n < wanted[0]]:
            del self.chunks[number]
        for number in [n for n in self.ahead if n < wanted[0]]:  # more than one chunk went by in a step
            self.ahead.pop(number).cancel()
        if self.settings.epochs:
            draw = self.order(step)
        else:
            self._prefetch(wanted[-1] + 1)
            draw = self._at_random(step, len(wanted))
        return self._draw(draw[self.first : self.last], wanted)

    def fill(self, step: int) -> Iterator[None]:
        """Make the chunks that a step draws from, one by one; yields between two: a window takes minutes or hours."""
        if self.fresh:
            return
        lacking = [number for number in self._window(step) if number not in self.chunks]
        for place, number in enumerate(lacking):
            if place:
                yield
            self.chunks[number] = self._wait(number)

    def _window(self, step: int) -> range:
        """Return the numbers of the chunks that a step draws from."""
        newest = self.settings.window - 1 if self.settings.epochs else self.newest(step)
        return range(max(0, newest - self.settings.window + 1), newest + 1)

    def _at_random(self, step: int, n_chunks: int) -> torch.Tensor:
        """Return the rows of `n_chunks` chunks that one step draws; with ``split``, of this rank's part of them."""
        generator, chunk = step_generator(self.seed, step, 2), self.settings.chunk
        draw = torch.randint(n_chunks * chunk, (self.batch,), generator=generator)
        if not self.settings.split:
            return draw
        edges = torch.arange(self.batch + 1) * chunk // self.batch
        within = edges[:-1] + draw % chunk % edges.diff()
        return draw // chunk * chunk + within - self.low

    def newest(self, step: int) -> int:
        """Return the number of the newest chunk at a step."""
        return int(step * self.batch / (self.settings.reuse * self.settings.chunk))

    def mocks_of(self, steps: int) -> int:
        """Return the number of different mocks, over all ranks, that so many steps draw from."""
        if self.settings.epochs:
            return self.order.drawn(steps)
        each, made = (self.batch, steps) if self.fresh else (self.settings.chunk, self.newest(steps - 1) + 1)
        return (min(made, self.settings.chunks) if self.settings.chunks else made) * each

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

    def _prefetch(self, number: int) -> None:
        if number not in self.ahead and number not in self.chunks:
            self.ahead[number] = self.pool.submit(self._make, number)
