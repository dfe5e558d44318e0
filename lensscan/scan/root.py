"""Root of a scan: plans, hands out blocks, keeps the ledger, merges, and decides the exit code.

The main thread alone calls MPI, handles signals and refreshes the lock; all else that may take long (planning,
verifying shards, merging) runs in a helper thread, scoring in the worker thread, so that heartbeats never stop.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lensscan.errors import ExitCode, LensscanError, OutputError, disk_error
from lensscan.files import sweep_temporary
from lensscan.mpi import World, orphan_watch
from lensscan.process import peak_memory
from lensscan.scan import shards
from lensscan.scan.lock import RunLock
from lensscan.scan.plan import Plan
from lensscan.scan.progress import Progress, RunLog
from lensscan.scan.protocol import Kind, Message
from lensscan.scan.rank import BEAT_SECONDS, LONG_NAP, NAP
from lensscan.scan.scheduler import Action, Scheduler, Send, Warn
from lensscan.scan.settings import ScanSettings
from lensscan.scan.signals import StopRequest
from lensscan.scan.worker import Engine, Worker
from lensscan.schema import Status

__all__ = ["Root"]

T = TypeVar("T")
DRAIN_SECONDS = 60.0


@dataclass(slots=True)
class Root:
    """State of the root rank during one run.

    Parameters
    ----------
    world : World
    settings : ScanSettings
    stop : StopRequest
    build : callable
        Returns the `Engine` of the local worker.
    """

    world: World
    settings: ScanSettings
    stop: StopRequest
    build: Callable[[], Engine]
    lock: RunLock = field(init=False)
    runlog: RunLog = field(init=False)
    worker: Worker | None = None
    ready: list[Message] = field(default_factory=list)
    fatal_code: int | None = None
    abandoned: bool = False
    lost: set[int] = field(default_factory=set)  # ranks that died before there was a scheduler
    gpus: dict[int, list[int]] = field(default_factory=dict)  # ranks on each GPU, by its number
    _scheduler: Scheduler | None = None
    _progress: Progress | None = None
    _beaten: float = 0.0
    _orphaned: Callable[[], bool] = field(default_factory=orphan_watch)
    _started: bool = False

    def __post_init__(self) -> None:
        self.lock = RunLock(self.settings.run_dir / "lock")
        self.runlog = RunLog(self.settings.run_dir / "log.jsonl")

    def enter(self) -> None:
        """Make the run folder and take its lock."""
        run_dir = self.settings.run_dir
        try:
            for folder in (run_dir, run_dir / "shards", run_dir / "attempts"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"cannot create {run_dir}: {error.strerror}; choose another output"
            raise disk_error(error, run_dir) or OutputError(reason) from None
        note = self.lock.acquire()
        if note:
            self.warn(note)

    def leave(self, code: int, remove: bool = False) -> None:
        """Release the lock and tell every rank to leave.

        The run folder is removed if asked for (after a verified merge), or if no plan was made.
        """
        self.note("exit", code=int(code), peak_memory=peak_memory())
        self.runlog.close()
        held = self.lock.held
        if held and (remove or not (self.settings.run_dir / "plan.h5").exists()):
            self._remove_folder()
        self.lock.release()
        self.dismiss(code)

    def _remove_folder(self) -> None:
        """Remove the run folder, plan and lock last; thousands of shards may take minutes, and ranks must hear us."""
        for folder in self.settings.run_dir.glob("shards/*"):
            shutil.rmtree(folder, ignore_errors=True)
            self._beat()
        shutil.rmtree(self.settings.run_dir, ignore_errors=True)

    def dismiss(self, code: int) -> None:
        """Tell every other rank to leave with this exit code."""
        for rank in range(1, self.world.size):
            self.world.send(rank, Message(Kind.EXIT, rank, code=int(code)).pack())

    def say(self, text: str) -> None:
        """Tell the user how far the run is; on standard error, never more often than the caller means."""
        sys.stderr.write(f"scan: {text}\n")
        sys.stderr.flush()
        self.note("say", text=text)

    def warn(self, text: str) -> None:
        """Say something on standard error and in the log."""
        sys.stderr.write(f"scan: warning: {text}\n")
        sys.stderr.flush()
        self.note("warning", text=text)

    def during(self, task: Callable[[], T]) -> T | None:
        """Run `task` in a helper thread while the main loop keeps ranks, lock and signals alive.

        Returns None if a stop was asked for before the task was done (`abandoned` then tells); the thread is left
        behind, and the process must end by `os._exit`, since a thread inside HDF5 can hang the interpreter's own end.
        """
        result: list[T] = []
        failure: list[BaseException] = []

        def body() -> None:
            try:
                result.append(task())
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=body, name="helper", daemon=True)
        thread.start()
        nap = NAP
        while thread.is_alive():
            nap = NAP if self.pump() else min(2 * nap, LONG_NAP)
            if self.stop.check() is not None:
                self.abandoned = True
                return None
            thread.join(nap)
        if failure:
            raise failure[0]
        return result[0]

    def score(self, plan: Plan, done: set[int], local: bool) -> Scheduler:
        """Hand out all blocks that are not done; return the scheduler when every worker has left."""
        self._progress = Progress(plan.n_rows, sum(int(plan.blocks[b]["stop"] - plan.blocks[b]["start"]) for b in done))
        scheduler = self._scheduler = Scheduler(
            plan.blocks["cost"].tolist(), done, self.world.size - (not local), self.settings.stall_seconds
        )
        if scheduler.complete:
            return scheduler
        self.note("scoring_begins", rows=self._progress.done, peak_memory=peak_memory())
        self._start_workers(local)
        for rank in self.lost:
            self.act(scheduler.on_dead(rank, time.monotonic()))
        drained_at: float | None = None
        nap = NAP
        while not scheduler.finished:
            busy = self.pump()
            now = time.monotonic()
            code = self.stop.check() or self.fatal_code
            if code is not None and scheduler.draining is None:
                self.warn(f"stopping: {self.stop.reason or 'a rank failed'}; finished blocks are kept")
                self.act(scheduler.drain(code))
            if scheduler.draining is not None:
                drained_at = drained_at or now
                if now - drained_at > DRAIN_SECONDS or (not scheduler.workers and self.fatal_code is not None):
                    self.warn(f"ranks {scheduler.alive} do not answer; leaving without them")
                    break
            self.act(scheduler.on_tick(now))
            self._progress.show(sum(w.rows_now for w in scheduler.workers.values() if not w.gone))
            nap = NAP if busy else min(2 * nap, LONG_NAP)
            if not busy:
                time.sleep(nap)
        self._progress.show(last=True)
        self.note(
            "scoring_ends", rows=self._progress.done, peak_memory=peak_memory(), cpu=round(time.process_time(), 3)
        )
        return scheduler

    def _start_workers(self, local: bool) -> None:
        self._started = True
        if local:
            self.worker = Worker(0, self.build)
            self.worker.start()
        for rank in range(1, self.world.size):
            self.world.send(rank, Message(Kind.START, rank).pack())

    def pump(self) -> bool:
        """Carry waiting messages, note dead ranks, beat, refresh the lock; True if anything came."""
        busy = False
        for _ in range(256):
            received = self.world.receive()
            if received is None:
                break
            busy = True
            source, payload, text = received
            if text:
                self.warn(f"rank {source}: {payload.decode(errors='replace')}")
            else:
                self._on_message(Message.unpack(payload))
        if self.worker is not None:
            busy = self._pump_local(self.worker) or busy
        for rank in self.world.dead():
            if self._scheduler is not None:
                self.act(self._scheduler.on_dead(rank, time.monotonic()))
            else:
                self.lost.add(rank)
                self.warn(f"rank {rank} died")
        self._beat()
        return busy

    def _pump_local(self, worker: Worker) -> bool:
        busy = bool(worker.outbox)
        while worker.notes:
            self.warn(f"rank 0: {worker.notes.popleft()}")
        while worker.outbox:
            self._on_message(worker.outbox.popleft())
        if self._scheduler is not None and 0 in self._scheduler.workers:
            rows = worker.rows_now
            self._scheduler.on_message(Message(Kind.BEAT, 0, rows=rows), time.monotonic())
        return busy

    def _on_message(self, message: Message) -> None:
        if message.kind == Kind.HELLO:
            if self._started:
                self.world.send(message.rank, Message(Kind.START, message.rank).pack())
            return
        if message.kind == Kind.STOP and self._scheduler is None:
            self.stop.code = self.stop.code or ExitCode(message.code)
            return
        if self._scheduler is None or (message.kind == Kind.BEAT and message.rank not in self._scheduler.workers):
            return
        if message.kind == Kind.STOP and message.code not in (ExitCode.INCOMPLETE, ExitCode.INTERRUPTED):
            self.fatal_code = self.fatal_code or message.code
        if message.kind == Kind.BYE:
            self.note("left", rank=message.rank, code=message.code, peak_memory=message.rows)
        if message.kind == Kind.READY:
            self._ready(message)
        new = message.kind == Kind.DONE and message.block not in self._scheduler.done
        self.act(self._scheduler.on_message(message, time.monotonic()))
        if new:
            self._count(message)

    def _ready(self, message: Message) -> None:
        """Note the rank's GPU; the second rank on one is a mistake of the launch, told once."""
        gpu = message.rows
        device = {"gpu": f"{gpu:016x}"} if gpu else {}
        self.note("ready", rank=message.rank, cpu=round(time.process_time(), 3), **device)
        if not gpu or message.rank in self.gpus.get(gpu, []):
            return
        ranks = self.gpus.setdefault(gpu, [])
        ranks.append(message.rank)
        if len(ranks) == 2 and sum(len(others) > 1 for others in self.gpus.values()) == 1:
            self.warn(
                f"ranks {ranks[0]} and {ranks[1]} share a GPU, perhaps others too (log.jsonl: ready); they only hinder "
                f"each other: start as many ranks on a node as it has GPUs"
            )

    def _count(self, message: Message) -> None:
        assert self._progress is not None
        self._progress.done += message.rows
        for k, n in enumerate(message.reasons):
            if n:
                self._progress.failures[Status(Status.MISSING_FILE + k).name.lower()] += n
        self.note(
            "block", block=message.block, rank=message.rank, rows=message.rows, failed=message.failed,
            seconds=round(message.seconds, 3), line=self._progress.line(),
        )  # fmt: skip

    def act(self, actions: list[Action]) -> None:
        """Carry out what the scheduler decided."""
        for action in actions:
            if isinstance(action, Warn):
                self.warn(action.text)
            elif isinstance(action, Send):
                if action.rank == 0 and self.worker is not None:
                    self.worker.inbox.put(action.message)
                else:
                    self.world.send(action.rank, action.message.pack())

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._beaten < BEAT_SECONDS:
            return
        self._beaten = now
        for rank in range(1, self.world.size):
            self.world.send(rank, Message(Kind.BEAT, rank).pack())
        if not self.lock.refresh():
            raise LensscanError(f"the lock {self.lock.path} was taken by another scan; this one stops, nothing is lost")
        if self.world.size > 1 and self._orphaned():
            self.stop.code, self.stop.reason = self.stop.code or ExitCode.INCOMPLETE, "the launcher is gone"

    def sweep(self) -> None:
        """Remove temporary files of dead attempts."""
        sweep_temporary(self.settings.run_dir.rglob("*.tmp"))

    def ledger(self, plan: Plan) -> set[int] | None:
        """Return the blocks that are done, after verifying their shards; None if a stop came first, see `during`."""
        found = self.during(lambda: shards.done_blocks(self.settings.run_dir, plan.plan_hash, plan.block_rows()))
        if found is None:
            return None
        done, bad = found
        for line in bad:
            self.warn(line)
        return done

    @property
    def log_path(self) -> Path:
        """The JSON-lines log."""
        return self.runlog.path

    def note(self, event: str, **values: Any) -> None:
        """Write one event to the log, if the run folder is ours."""
        if self.lock.held:
            self.runlog.write(event, **values)
