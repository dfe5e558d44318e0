"""The files that hold a run's pixels, as they were when its plan was made, and whether they still are.

A plan's hash knows identifiers, paths and offsets, not pixels: reading all of them before a scan would double its
reading.  So the plan remembers size, time and a sample of the bytes of every pack and tile that it uses, and of some
stamps where each has a file of its own.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lensscan.scan.plan import hash_ids

__all__ = ["SomeRows", "changed_files", "contents", "record_files"]

Item = TypeVar("Item")
Found = TypeVar("Found")
PIECE = 65_536
PIECES = 16
THREADS = 16  # each waits for metadata of a parallel file system
ABSENT = -1
ROWS = 200
"""Rows whose files are looked at where each has its own: of stamps made anew, one in twenty shows in all but 1e-4."""


class SomeRows:
    """Chooses `ROWS` rows of all that it is shown, spread evenly, the same ones however they come in chunks."""

    def __init__(self) -> None:
        self._keys = np.zeros(0, np.uint64)
        self._names = np.zeros(0, object)

    def add(self, rows: NDArray[np.integer], names: Sequence[str]) -> None:
        """Show it rows by number (n,), and where each is stored; those that are stored nowhere are empty."""
        fresh = hash_ids(np.asarray(rows))
        near = np.flatnonzero(fresh < self._keys[-1]) if len(self._keys) == ROWS else np.arange(len(fresh))
        near = np.array([k for k in near.tolist() if names[k]], np.intp)
        keys = np.concatenate([self._keys, fresh[near]])
        stored = np.concatenate([self._names, np.array([names[k] for k in near.tolist()], object)])
        chosen = np.argsort(keys, kind="stable")[:ROWS]
        self._keys, self._names = keys[chosen], stored[chosen]

    @property
    def names(self) -> list[str]:
        """Where the chosen rows are stored."""
        return [str(name) for name in self._names]


def record_files(paths: Iterable[str], seconds: float | None = None) -> list[list[Any]]:
    """Return [path, size, time of change in ns, sample] of files; the size of one that is not there is -1.

    Of those that cannot be looked at, or did not answer within `seconds`, there is none.
    """
    return [each for each in _each(_record, sorted(paths), seconds) if each is not None]


def changed_files(
    stored: Sequence[Sequence[Any]], gone: bool = True, seconds: float | None = None
) -> tuple[list[str], list[str]]:
    """Compare files with what `record_files` said of them.

    Parameters
    ----------
    stored : sequence
    gone : bool
        Count files that are not there any more as changed.
    seconds : float, optional
        Files that do not answer for so long count as the same.

    Returns
    -------
    changed, touched : list of str
        Paths of files of other bytes; of files of another time but the same size and sample.
    """
    verdicts = _each(_compare, stored, seconds)
    bad = ("changed", "gone") if gone else ("changed",)
    changed = [str(item[0]) for item, verdict in zip(stored, verdicts, strict=True) if verdict in bad]
    return changed, [str(item[0]) for item, verdict in zip(stored, verdicts, strict=True) if verdict == "touched"]


def contents(stored: Iterable[Sequence[Any]]) -> list[list[Any]]:
    """Return what says which bytes the files hold: all but the time."""
    return [[path, size, sample] for path, size, _, sample in stored]


def _each(look: Callable[[Item], Found], items: Sequence[Item], seconds: float | None) -> list[Found | None]:
    """Return what `look` finds of each; None of those that take longer than all may together.

    Whoever hangs is left behind in a thread that does not keep the process.
    """
    found: list[Found | None] = [None] * len(items)
    waiting = iter(range(len(items)))
    errors: list[BaseException] = []
    lock = threading.Lock()
    end = None if seconds is None else time.monotonic() + seconds

    def work() -> None:
        while end is None or time.monotonic() < end:
            with lock:
                number = next(waiting, None)
            if number is None:
                return
            try:
                found[number] = look(items[number])
            except BaseException as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(THREADS, len(items)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(None if end is None else max(0.0, end - time.monotonic()))
    if errors:
        raise errors[0]
    return list(found)


def _stat(path: str) -> os.stat_result:
    """Return what is known of a file; what is none (a pipe would wait for its writer) is not there."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(path)
    return found


def _record(path: str) -> list[Any] | None:
    """Return what to remember of a file; None of one that cannot be looked at, which is left to its reader."""
    try:
        found = _stat(path)
        return [path, found.st_size, found.st_mtime_ns, _sample(path, found.st_size)]
    except (FileNotFoundError, NotADirectoryError):
        return [path, ABSENT, 0, ""]
    except (OSError, ValueError):
        return None


def _compare(stored: Sequence[Any]) -> str:
    path, size, changed, sample = stored
    try:
        found = _stat(path)
        if found.st_size == size and found.st_mtime_ns == changed:
            return "same"
        return "touched" if found.st_size == size and _sample(path, size) == sample else "changed"
    except (FileNotFoundError, NotADirectoryError):
        return "same" if size == ABSENT else "gone"
    except (OSError, ValueError):
        return "same"  # it cannot be looked at: its reader will say so


def _sample(path: str, size: int) -> str:
    """Return the SHA-256 of a small file, of a large one that of `PIECES` pieces from its first bytes to its last."""
    running = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        whole = size <= PIECE * PIECES
        starts = range(0, size, PIECE) if whole else np.linspace(0, size - PIECE, PIECES).astype(np.int64).tolist()
        for start in starts:
            stream.seek(start)
            running.update(stream.read(PIECE))
    return running.hexdigest()
