"""One worker thread: blocks in, durable shards out.

The thread knows neither MPI nor signals; it takes messages from `inbox` and leaves messages in `outbox`,
which the rank's main thread carries.  Reader threads fill the ring, the network scores constant-shape
batches, and a writer thread makes the shards durable while the next block is scored.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lensscan import faults
from lensscan.errors import ExitCode, LensscanError
from lensscan.process import peak_memory
from lensscan.scan.pipeline import ReaderRing, Reading, ReadTask
from lensscan.scan.plan import Plan
from lensscan.scan.protocol import REASONS, Kind, Message
from lensscan.scan.shards import write_shard
from lensscan.schema import Status

if TYPE_CHECKING:
    from lensscan.nets.scorer import Pending, Scorer
    from lensscan.scan.regression import Regression
    from lensscan.survey.stamps import Batch, Rows

__all__ = ["Engine", "Worker"]

log = logging.getLogger(__name__)
CAPACITY = 2
LEAVE_SECONDS = 5.0
PER_ROW = ("status", "flags", "present", "fwhm", "wcs")


@dataclass(slots=True)
class Engine:
    """What a worker scores with: built in its own thread, after the plan stands.

    Attributes
    ----------
    plan : Plan
    ring : ReaderRing
    scorer : Scorer
    run_dir : Path
    device_key : str
        Names everything that decides the bits of a score: GPU model and library versions, or CPU
        instruction set.
    suspects : callable
        Takes (block, rows); returns the rows that must not be touched because they crash or stop the process, by
        index, with the status each gets.
    finished : callable
        Told the number of each block whose shard stands.
    regression : Regression, optional
        Gives the posteriors in place of the scorer.
    gpu : int
        Number of the GPU, see `gpu_number`; 0 on a CPU.
    """

    plan: Plan
    ring: ReaderRing
    scorer: Scorer
    run_dir: Any
    device_key: str
    suspects: Callable[[int, Rows], dict[int, Status]] = lambda block, rows: {}
    finished: Callable[[int], None] = lambda block: None
    regression: Regression | None = None
    gpu: int = 0


@dataclass(slots=True, eq=False)
class BlockJob:
    """One block being scored."""

    block: int
    start: int
    stop: int
    rows: Rows
    next: int = 0
    scored: int = 0
    begun: float = field(default_factory=time.perf_counter)
    seconds_read: float = 0.0
    seconds_network: float = 0.0
    broken: bool = False
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)

    def store(self, at: int, n: int, batch: Batch, result: dict[str, NDArray[Any]]) -> None:
        """Copy the first `n` rows of a scored batch into the block's columns at `at`."""
        values = {name: getattr(batch, name) for name in PER_ROW} | result
        values["flags"] = batch.flags | result["flags"] if "flags" in result else batch.flags
        fine = batch.status[:n] == Status.PENDING
        finite = np.isfinite(result["logit"][:n]).all(axis=1)
        values["status"] = batch.status.copy()
        values["status"][:n][fine & finite] = Status.SCORED
        values["status"][:n][fine & ~finite] = Status.OUTPUT_NOT_FINITE
        for name, array in values.items():
            if name not in self.columns:
                self.columns[name] = np.zeros((self.stop - self.start, *array.shape[1:]), array.dtype)
            self.columns[name][at : at + n] = array[:n]
        origin = batch.origin[:n, None, :]
        mean = self.columns["post_mean"][at : at + n]
        mean[..., 3:5] += origin
        mean[..., 5:7] += origin
        failed = values["status"][:n] != Status.SCORED
        for name in {"logit", "post_mean", "post_cov", "post_weight", "sigma", "snr", "ood"} & set(self.columns):
            self.columns[name][at : at + n][failed] = np.nan


class Worker(threading.Thread):
    """Scores blocks until drained.

    Parameters
    ----------
    rank : int
        Rank it speaks for.
    build : callable
        Returns the `Engine`; called in the thread, once START has come.
    """

    def __init__(self, rank: int, build: Callable[[], Engine]) -> None:
        super().__init__(name="worker", daemon=True)
        self.rank = rank
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.outbox: deque[Message] = deque()
        self.notes: deque[str] = deque()
        self.rows_now = 0
        self._build = build
        self._waiting: deque[Message] = deque()
        self._jobs: deque[BlockJob] = deque()
        self._drain: int | None = None
        self._writing: deque[Future[None]] = deque()

    def run(self) -> None:
        """Build the engine, score what comes, say BYE."""
        try:
            engine = self._build()
        except Exception as error:
            self._give_up(error)
            return
        self._say(Kind.READY, code=CAPACITY, rows=engine.gpu)
        writer = ThreadPoolExecutor(1, thread_name_prefix="writer")
        try:
            self._loop(engine, writer)
        except Exception as error:
            self._give_up(error)
        finally:
            writer.shutdown(wait=True)
            engine.ring.close()
        self._say(Kind.BYE, rows=peak_memory())

    def hangs(self) -> bool:
        """Return whether the thread still runs although nothing is asked of it any more: something it reads hangs."""
        self.join(LEAVE_SECONDS)
        return self.is_alive()

    def _give_up(self, error: Exception) -> None:
        """Tell root that this worker cannot go on: a user's error ends the run, any other only this worker."""
        if isinstance(error, LensscanError):
            self.notes.append(str(error))
            self._say(Kind.STOP, code=error.exit_code)
        else:
            self.notes.append("".join(traceback.format_exception(error)).rstrip())
        self._say(Kind.READY, code=1)
        self._say(Kind.BYE, code=ExitCode.ERROR)

    def _say(self, kind: Kind, **fields: Any) -> None:
        self.outbox.append(Message(kind, self.rank, **fields))

    def _loop(self, engine: Engine, writer: ThreadPoolExecutor) -> None:
        """Keep the ring full and the network busy; scoring runs one batch behind submission."""
        behind: tuple[BlockJob, Reading, Pending] | None = None
        while self._drain is None:
            idle = engine.ring.empty and behind is None and not self._waiting
            self._take_messages(block=idle)
            while engine.ring.room and (task := self._next_task(engine)) is not None:
                engine.ring.submit(task)
            if not engine.ring.empty:
                behind = self._advance(engine, writer, engine.ring.next(), behind)
            else:
                behind = self._finish(engine, writer, behind, None)
        if behind is not None:
            self._finish(engine, writer, behind, None)
        engine.ring.abandon()

    def _take_messages(self, block: bool) -> None:
        while True:
            try:
                message = self.inbox.get(timeout=0.5) if block else self.inbox.get_nowait()
            except queue.Empty:
                return
            block = False
            if message.kind == Kind.DRAIN:
                self._drain = message.code
            elif message.kind == Kind.BLOCK:
                self._waiting.append(message)

    def _next_task(self, engine: Engine) -> ReadTask | None:
        """Return what is to be read next: the rest of the last block begun, else the start of the next block."""
        job = self._jobs[-1] if self._jobs else None
        while job is None or job.broken or job.next >= len(job.rows):
            if not self._waiting:
                return None
            message = self._waiting.popleft()
            try:
                job = self._open(engine, message)
                self._jobs.append(job)
            except LensscanError:
                raise
            except Exception:
                self._block_failed(message.block, ExitCode.ERROR)
        start = job.next
        job.next = min(start + engine.plan.batch, len(job.rows))
        return ReadTask(job, job.rows, start, job.next)

    def _open(self, engine: Engine, message: Message) -> BlockJob:
        faults.reach("worker:block")
        place = engine.plan.blocks[message.block]
        start, stop = int(place["start"]), int(place["stop"])
        rows = engine.plan.rows(start, stop)
        for row, status in engine.suspects(message.block, rows).items():
            rows.status[row] = status
        return BlockJob(message.block, start, stop, rows)

    def _advance(
        self,
        engine: Engine,
        writer: ThreadPoolExecutor,
        reading: Reading,
        behind: tuple[BlockJob, Reading, Pending] | None,
    ) -> tuple[BlockJob, Reading, Pending] | None:
        """Submit one read batch to the network, then finish the one before it."""
        job = reading.task.key
        assert isinstance(job, BlockJob)
        if job.broken:
            reading.future.exception()
            engine.ring.give_back(reading.batch)
            self._drop_broken()
            return behind
        try:
            job.seconds_read += reading.future.result()
            begin = time.perf_counter()
            pending = engine.scorer.submit(reading.batch)
            job.seconds_network += time.perf_counter() - begin
        except LensscanError:
            raise
        except Exception:
            engine.ring.give_back(reading.batch)
            self._break(job)
            return behind
        return self._finish(engine, writer, behind, (job, reading, pending))

    def _finish(
        self,
        engine: Engine,
        writer: ThreadPoolExecutor,
        behind: tuple[BlockJob, Reading, Pending] | None,
        ahead: tuple[BlockJob, Reading, Pending] | None,
    ) -> tuple[BlockJob, Reading, Pending] | None:
        """Collect the results of `behind`; return `ahead`, which becomes the next to be finished."""
        if behind is None:
            return ahead
        job, reading, pending = behind
        begin = time.perf_counter()
        result = pending.result()
        if engine.regression is not None:
            result = engine.regression.blank(result)
        n = reading.task.stop - reading.task.start
        job.store(reading.task.start, n, reading.batch, result)
        if engine.regression is not None and not job.broken:
            self._regress(engine.regression, job, reading)
        job.seconds_network += time.perf_counter() - begin
        engine.ring.give_back(reading.batch)
        job.scored += n
        self.rows_now = job.scored
        if job.scored == len(job.rows) and not job.broken:
            self._jobs.remove(job)
            self._write(engine, writer, job)
        return ahead

    def _regress(self, regression: Regression, job: BlockJob, reading: Reading) -> None:
        """Hand a scored batch to the regressor; after the last one the block has its posteriors."""
        try:
            start, stop = reading.task.start, reading.task.stop
            regression.add(job.columns, start, stop - start, reading.batch)
            if stop == len(job.rows):
                regression.finish(job.columns)
        except LensscanError:
            raise
        except Exception:
            self._break(job)

    def _break(self, job: BlockJob) -> None:
        """Give up a block after an exception."""
        job.broken = True
        self._block_failed(job.block, ExitCode.ERROR)
        self._drop_broken()

    def _write(self, engine: Engine, writer: ThreadPoolExecutor, job: BlockJob) -> None:
        """Hand the block to the writer thread; never more than two wait there."""
        while self._writing and (self._writing[0].done() or len(self._writing) > 1):
            self._writing.popleft().result()
        self._writing.append(writer.submit(self._durable, engine, job))

    def _durable(self, engine: Engine, job: BlockJob) -> None:
        seconds = time.perf_counter() - job.begun
        notes: dict[str, str | float] = {
            "device_key": engine.device_key,
            "seconds": seconds,
            "seconds_read": job.seconds_read,
            "seconds_network": job.seconds_network,
            "rank": float(self.rank),
        }
        try:
            write_shard(engine.run_dir, engine.plan.plan_hash, job.block, job.start, job.stop, job.columns, notes)
        except LensscanError as error:
            self.notes.append(str(error))
            self._block_failed(job.block, error.exit_code, trace=False)
            return
        except Exception:
            self._block_failed(job.block, ExitCode.ERROR)
            return
        try:
            engine.finished(job.block)
        except OSError as error:  # marks that stay cost a closer look at most; a block never told as done, the run
            self.notes.append(f"block {job.block}: cannot remove its marks: {error}")
        counts = np.bincount(job.columns["status"], minlength=Status.MISSING_FILE + REASONS)[Status.MISSING_FILE :]
        reasons = tuple(int(n) for n in counts[:REASONS])
        rows = len(job.rows)
        self._say(Kind.DONE, block=job.block, rows=rows, failed=sum(reasons), seconds=seconds, reasons=reasons)

    def _drop_broken(self) -> None:
        """Forget blocks that failed and of which nothing more is to be read."""
        for job in [job for job in self._jobs if job.broken]:
            self._jobs.remove(job)

    def _block_failed(self, block: int, code: int, trace: bool = True) -> None:
        if trace:
            self.notes.append(f"block {block} failed: {traceback.format_exc().rstrip()}")
        self._say(Kind.FAIL, block=block, code=int(code))
