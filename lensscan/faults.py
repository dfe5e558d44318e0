"""Named fault points: places where the tests make a process die, stall or raise.

``LENSSCAN_FAULT="point=shard:before_rename,do=SIGKILL,rank=2,hit=5"`` fires the fifth time that rank 2
reaches the point ``shard:before_rename``; without `rank` any rank fires, without `hit` the first time, with
``hit=0`` every time.  ``point=shard#3`` fires at the third labelled point whose name begins with ``shard:``.
Several faults are separated by ``;``.  Actions: any signal name, ``raise`` (RuntimeError), ``exit``
(os._exit(9)), ``nap`` (half a second), ``hang`` (for ever), ``enospc`` (OSError "No space left on device"), and
``meet``, with ``ranks=3``: wait until that many ranks of this host are there (two minutes at most; they meet in a
folder of the temporary one, so every run needs its own).  Without the variable `reach` costs next to nothing.
"""

from __future__ import annotations

import errno
import os
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass

__all__ = ["Fault", "reach", "set_rank"]

VARIABLE = "LENSSCAN_FAULT"
MEET_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One injected fault, as parsed from the environment."""

    point: str
    action: str
    rank: int | None
    hit: int
    ranks: int = 0

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ``key=value`` pairs separated by commas."""
        fields = dict(part.split("=", 1) for part in text.split(","))
        rank = fields.get("rank")
        number = None if rank is None else int(rank)
        return cls(fields["point"], fields["do"], number, int(fields.get("hit", 1)), int(fields.get("ranks", 0)))


_faults: list[Fault] | None = None
_hits: Counter[str] = Counter()
_rank = 0


def set_rank(rank: int) -> None:
    """Tell the fault points which rank this process is."""
    global _rank
    _rank = rank


def reach(point: str) -> None:
    """Mark that the labelled `point` was reached; fires the faults that name it."""
    global _faults
    if _faults is None:
        text = os.environ.get(VARIABLE, "")
        _faults = [Fault.parse(part) for part in text.split(";") if part]
    if not _faults:
        return
    _hits[point] += 1
    family = point.split(":")[0]
    _hits[family] += 1
    for fault in _faults:
        if fault.rank is not None and fault.rank != _rank:
            continue
        numbered = fault.point == f"{family}#{_hits[family]}"
        if numbered or (fault.point == point and fault.hit in (0, _hits[point])):
            _fire(fault, point)


def _fire(fault: Fault, point: str) -> None:
    if fault.action == "raise":
        raise RuntimeError(f"injected fault at {point}")
    if fault.action == "enospc":
        raise OSError(errno.ENOSPC, f"No space left on device (injected at {point})")
    if fault.action == "nap":
        time.sleep(0.5)
        return
    if fault.action == "meet":
        _meet(fault.ranks)
        return
    if fault.action == "hang":
        while True:
            time.sleep(60.0)
    if fault.action == "exit":
        os._exit(9)
    os.kill(os.getpid(), getattr(signal, fault.action))


def _meet(ranks: int) -> None:
    """Wait until so many ranks have come here."""
    folder = os.path.join(tempfile.gettempdir(), "lensscan-meet")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, str(_rank)), "wb"):
        pass
    deadline = time.monotonic() + MEET_SECONDS
    while len(os.listdir(folder)) < ranks and time.monotonic() < deadline:
        time.sleep(0.02)
