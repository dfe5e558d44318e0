"""Reader threads filling a ring of constant-shape batches, in order and across block borders."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from lensscan import faults
from lensscan.survey.stamps import Batch, Frame, Rows, StampReader, allocate

__all__ = ["ReadTask", "ReaderRing", "Reading"]


@dataclass(frozen=True, slots=True)
class ReadTask:
    """Rows [start, stop) of a block's rows, to be read into one batch.

    Attributes
    ----------
    key : object
        Whatever the caller needs to find its block again.
    """

    key: object
    rows: Rows
    start: int
    stop: int


@dataclass(slots=True)
class Reading:
    """A batch on its way: the task, its slot, and the future that is done when the slot is filled."""

    task: ReadTask
    batch: Batch
    future: Future[float]


@dataclass(slots=True)
class ReaderRing:
    """A bounded ring of batches filled by reader threads, each with its own file handles.

    Memory is ``slots * batch * bands * size^2 * 5`` bytes (float32 image and boolean mask), whatever the
    size of the catalog.

    Parameters
    ----------
    open_reader : callable
        Returns a `StampReader`; called once in each reader thread.
    frame : Frame
    batch : int
        Rows per slot.
    readers : int
        Threads; with 0 a batch is read when it is asked for, in the caller's thread: the best on a single core
        where reading waits for nothing.
    pinned : bool
        Page-locked slots, for asynchronous copies to a GPU.
    """

    open_reader: Callable[[], StampReader]
    frame: Frame
    batch: int
    readers: int
    pinned: bool = False
    seconds: float = 0.0
    _free: deque[Batch] = field(default_factory=deque)
    _flight: deque[Reading] = field(default_factory=deque)
    _pool: ThreadPoolExecutor = field(init=False)
    _local: threading.local = field(default_factory=threading.local)
    _opened: list[StampReader] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._free.extend(allocate(self.batch, self.frame, self.pinned) for _ in range(self.readers + 2))
        self._pool = ThreadPoolExecutor(max(1, self.readers), thread_name_prefix="reader")

    @property
    def room(self) -> bool:
        """A slot is free."""
        return bool(self._free)

    @property
    def empty(self) -> bool:
        """Nothing is being read."""
        return not self._flight

    def submit(self, task: ReadTask) -> None:
        """Start reading into a free slot (there must be `room`)."""
        batch = self._free.popleft()
        future = self._pool.submit(self._read, task, batch) if self.readers else Future[float]()
        self._flight.append(Reading(task, batch, future))

    def next(self) -> Reading:
        """Return the oldest batch; its future may still be running."""
        reading = self._flight.popleft()
        if not self.readers:
            try:
                reading.future.set_result(self._read(reading.task, reading.batch))
            except Exception as error:
                reading.future.set_exception(error)
        return reading

    def give_back(self, batch: Batch) -> None:
        """Return a slot to the ring."""
        self._free.append(batch)

    def abandon(self) -> None:
        """Wait for the readings in flight and free their slots, without looking at the result."""
        while self._flight:
            reading = self._flight.popleft()
            if not reading.future.cancel():
                reading.future.exception()
            self._free.append(reading.batch)

    def close(self) -> None:
        """Stop the threads and close their files."""
        self.abandon()
        self._pool.shutdown(wait=True)
        for reader in self._opened:
            reader.close()

    def _read(self, task: ReadTask, batch: Batch) -> float:
        begin = time.perf_counter()
        faults.reach("read:batch")
        reader = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = self.open_reader()
            self._opened.append(reader)
        batch.clear()
        reader.read(task.rows, task.start, task.stop, batch)
        return time.perf_counter() - begin
