"""Who scores which block next: a pure state machine, without MPI, clock or files.

Blocks are handed out on demand, the dearest first, with one prefetched per worker until few are left.  `on_message`,
`on_dead`, `on_tick` and `drain` return the actions to take; the caller owns transport and clock, so the
whole protocol can be tested with a randomly interleaved transport.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from lensscan.errors import ExitCode
from lensscan.scan.protocol import Kind, Message

__all__ = ["Scheduler", "Send", "Warn", "WorkerState"]

MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Send:
    """Send `message` to the worker `rank`."""

    rank: int
    message: Message


@dataclass(frozen=True, slots=True)
class Warn:
    """Something the log should say."""

    text: str


Action = Send | Warn


@dataclass(slots=True)
class WorkerState:
    """What root knows of one worker."""

    capacity: int = 2
    blocks: dict[int, float] = field(default_factory=dict)  # block -> time handed out
    rows_now: int = 0
    progress_at: float = 0.0
    gone: bool = False


@dataclass(slots=True)
class Scheduler:
    """Hand-out of the blocks of one run.

    Parameters
    ----------
    cost : sequence of float
        Cost of each block, by block number; only orders the hand-out.
    done : set of int
        Blocks whose shard already stands.
    expected : int
        Ranks that will score: the run is not over before each of them has come and gone.
    stall_seconds : float
        A worker that finishes no row for so long has its blocks handed to others too; the first valid
        shard wins, and both are the same bytes.
    """

    cost: Sequence[float]
    done: set[int] = field(default_factory=set)
    expected: int = 1
    stall_seconds: float = 900.0
    workers: dict[int, WorkerState] = field(default_factory=dict)
    draining: int | None = None
    abandoned: set[int] = field(default_factory=set)
    rows_done: int = 0
    _queue: list[tuple[float, int]] = field(default_factory=list)
    _attempts: dict[int, int] = field(default_factory=dict)
    _held: dict[int, int] = field(default_factory=dict)  # block -> live workers that hold it

    def __post_init__(self) -> None:
        self.done = set(self.done)
        self._queue = [(-c, b) for b, c in enumerate(self.cost) if b not in self.done]
        heapq.heapify(self._queue)

    @property
    def complete(self) -> bool:
        """Every block is done."""
        return len(self.done) == len(self.cost)

    @property
    def alive(self) -> list[int]:
        """Workers that have not left."""
        return [rank for rank, worker in self.workers.items() if not worker.gone]

    @property
    def finished(self) -> bool:
        """Nothing more will come: every worker has come and gone."""
        return len(self.workers) >= self.expected and not self.alive

    def on_message(self, message: Message, now: float) -> list[Action]:
        """React to one message of a worker."""
        worker = self.workers.get(message.rank)
        if message.kind == Kind.READY:
            worker = self.workers.setdefault(message.rank, WorkerState())
            worker.capacity = max(1, message.code)
            worker.progress_at = now
            if self.draining is not None or self.complete:
                return [self._drain_one(message.rank)]
            return self._feed(message.rank, worker, now)
        if message.kind == Kind.STOP:
            return self.drain(message.code)
        if worker is None:
            return [Warn(f"rank {message.rank}: {message.kind.name} before READY ignored")]
        if message.kind == Kind.DONE:
            return self._on_done(message, worker, now)
        if message.kind == Kind.FAIL:
            return self._on_fail(message, worker, now)
        if message.kind == Kind.BEAT:
            if message.rows != worker.rows_now:
                worker.rows_now, worker.progress_at = message.rows, now
        elif message.kind == Kind.BYE:
            return self._requeue(worker, now)
        return []

    def on_dead(self, rank: int, now: float) -> list[Action]:
        """React to the death of a worker: its blocks go back to the queue.

        A death is no attempt of its blocks (one of them was only prefetched); a stamp that kills processes
        is found through the marks of `lensscan.scan.poison`.
        """
        worker = self.workers.setdefault(rank, WorkerState())
        if worker.gone:
            return []
        held = sorted(worker.blocks)
        text = f"rank {rank} died" + (f" holding blocks {held}; handed out again" if held else "")
        return [Warn(text), *self._requeue(worker, now)]

    def on_tick(self, now: float) -> list[Action]:
        """Hand the blocks of stalled workers to others."""
        actions: list[Action] = []
        if self.draining is not None:
            return actions
        for rank, worker in self.workers.items():
            if worker.gone or not worker.blocks or now - worker.progress_at <= self.stall_seconds:
                continue
            queued = {block for _, block in self._queue}
            again = [b for b in worker.blocks if b not in self.done and b not in queued]
            if not again:
                continue
            worker.progress_at = now
            for block in again:
                heapq.heappush(self._queue, (-self.cost[block], block))
            actions.append(
                Warn(f"rank {rank} finished no row for {self.stall_seconds:.0f} s; blocks {again} handed out again")
            )
        return actions + (self._feed_all(now) if actions else [])

    def drain(self, code: int) -> list[Action]:
        """Stop handing out; every worker finishes its batch, abandons the rest and says BYE."""
        if self.draining is not None:
            return []
        self.draining = int(code)
        return [self._drain_one(rank) for rank in self.alive]

    def _on_done(self, message: Message, worker: WorkerState, now: float) -> list[Action]:
        self._release(worker, message.block)
        worker.rows_now, worker.progress_at = 0, now
        if message.block not in self.done:
            self.done.add(message.block)
            self.abandoned.discard(message.block)
            self.rows_done += message.rows
        if self.complete and self.draining is None:
            return self.drain(ExitCode.OK)
        return self._feed(message.rank, worker, now)

    def _on_fail(self, message: Message, worker: WorkerState, now: float) -> list[Action]:
        self._release(worker, message.block)
        worker.progress_at = now
        if message.code == ExitCode.DISK:
            return [Warn(f"rank {message.rank}: disk full at block {message.block}"), *self.drain(ExitCode.DISK)]
        attempts = self._attempts[message.block] = self._attempts.get(message.block, 0) + 1
        text = f"rank {message.rank}: block {message.block} failed, attempt {attempts} of {MAX_ATTEMPTS}"
        if message.block not in self.done:
            self._offer(message.block)
        return [Warn(text), *self._feed_all(now)]

    def _requeue(self, worker: WorkerState, now: float) -> list[Action]:
        """Note that a worker is gone and offer its blocks to the others."""
        worker.gone = True
        for block in list(worker.blocks):
            self._release(worker, block)
            if block not in self.done:
                self._offer(block)
        return self._feed_all(now)

    def _release(self, worker: WorkerState, block: int) -> None:
        if worker.blocks.pop(block, None) is not None:
            self._held[block] -= 1
            if not self._held[block]:
                del self._held[block]

    def _offer(self, block: int) -> None:
        if self._attempts.get(block, 0) >= MAX_ATTEMPTS:
            self.abandoned.add(block)
        elif block not in self._held:
            heapq.heappush(self._queue, (-self.cost[block], block))

    def _feed_all(self, now: float) -> list[Action]:
        """Feed every worker, those without a block first."""
        actions: list[Action] = []
        for rank, worker in sorted(self.workers.items(), key=lambda item: len(item[1].blocks)):
            actions += self._feed(rank, worker, now)
        return actions

    def _feed(self, rank: int, worker: WorkerState, now: float) -> list[Action]:
        """Fill one worker's hands; near the end nothing is prefetched, so that nobody waits behind another."""
        actions: list[Action] = []
        if self.draining is not None:
            return actions
        while not worker.gone and len(worker.blocks) < worker.capacity:
            if worker.blocks and len(self._queue) < self.expected:
                break
            block = self._next(worker)
            if block is None:
                break
            if not worker.blocks:
                worker.progress_at = now
            worker.blocks[block] = now
            self._held[block] = self._held.get(block, 0) + 1
            actions.append(Send(rank, Message(Kind.BLOCK, rank, block, code=self._attempts.get(block, 0))))
        if not self._queue and not self._held and not self.complete:
            actions += self.drain(ExitCode.INCOMPLETE)
        return actions

    def _next(self, worker: WorkerState) -> int | None:
        """Take the dearest block that is neither done nor already with this worker."""
        own: list[tuple[float, int]] = []
        found = None
        while self._queue and found is None:
            entry = heapq.heappop(self._queue)
            if entry[1] in worker.blocks:
                own.append(entry)
            elif entry[1] not in self.done:
                found = entry[1]
        for entry in own:
            heapq.heappush(self._queue, entry)
        return found

    def _drain_one(self, rank: int) -> Send:
        return Send(rank, Message(Kind.DRAIN, rank, code=self.draining or 0))
