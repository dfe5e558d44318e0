"""The main loop of a rank that is not root: carries messages between MPI and its worker thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from lensscan import faults
from lensscan.errors import ExitCode
from lensscan.mpi import World, abort, orphan_watch
from lensscan.scan.protocol import Kind, Message
from lensscan.scan.signals import StopRequest
from lensscan.scan.worker import Engine, Worker

__all__ = ["BEAT_SECONDS", "LONG_NAP", "NAP", "SILENCE_SECONDS", "serve"]

log = logging.getLogger(__name__)
NAP = 1e-3
LONG_NAP = 8e-3  # a poll costs about 0.1 ms of a core; with nothing to do the naps grow up to this
BEAT_SECONDS = 5.0
SILENCE_SECONDS = 120.0
ROOT = 0


def serve(world: World, build: Callable[[], Engine], stop: StopRequest) -> tuple[int, bool]:
    """Serve root until it says EXIT; return the exit code, and whether the worker hangs.

    The rank leaves by itself, non-zero, when root is dead or silent for two minutes, or when the process
    that launched it is gone.
    """
    worker: Worker | None = None
    orphaned = orphan_watch()
    heard = beaten = time.monotonic()
    told = False
    nap = NAP
    world.send(ROOT, Message(Kind.HELLO, world.rank).pack())
    faults.reach("rank:up")
    while True:
        now = time.monotonic()
        received = world.receive()
        if received is not None:
            heard = now
            message = Message.unpack(received[1])
            if message.kind == Kind.EXIT:
                return message.code, worker is not None and worker.hangs()
            if message.kind == Kind.START:
                worker = Worker(world.rank, build)
                worker.start()
            elif worker is not None and message.kind in (Kind.BLOCK, Kind.DRAIN):
                worker.inbox.put(message)
        busy = worker is not None and _carry(world, worker)
        if ROOT in world.dead():
            abort(
                world,
                ExitCode.INCOMPLETE,
                f"lensscan scan: rank {world.rank}: root is dead; run the same command again",
            )
        if orphaned() or now - heard > SILENCE_SECONDS:
            abort(
                world,
                ExitCode.INCOMPLETE,
                f"lensscan scan: rank {world.rank}: root or launcher is gone; leaving",
            )
        if not told and stop.check() is not None:
            told = True
            world.send(ROOT, Message(Kind.STOP, world.rank, code=stop.check() or 0).pack())
        if now - beaten > BEAT_SECONDS:
            beaten = now
            rows = worker.rows_now if worker is not None else 0
            world.send(ROOT, Message(Kind.BEAT, world.rank, rows=rows).pack())
        nap = NAP if received is not None or busy else min(2 * nap, LONG_NAP)
        if received is None:
            time.sleep(nap)


def _carry(world: World, worker: Worker) -> bool:
    """Send what the worker thread left, log lines first, then messages; True if there was anything."""
    busy = bool(worker.notes or worker.outbox)
    while worker.notes:
        world.send(ROOT, worker.notes.popleft().encode()[:4000], text=True)
    while worker.outbox:
        world.send(ROOT, worker.outbox.popleft().pack())
    return busy
