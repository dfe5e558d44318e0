"""The files that hold a run's pixels, as they were when its plan was made, and whether they still are.

A plan's hash knows identifiers, paths and offsets, not pixels: reading all of them before a scan would double its
reading.  So the plan remembers size, time and a sample of the bytes of every pack and tile that it uses.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

__all__ = ["changed_files", "contents", "record_files"]

PIECE = 65_536
PIECES = 16
THREADS = 16  # each waits for metadata of a parallel file system
ABSENT = -1


def record_files(paths: Iterable[str]) -> list[list[Any]]:
    """Return [path, size, time of change in ns, sample] of files; the size of one that is not there is -1."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(_record, sorted(paths)))


def changed_files(stored: Sequence[Sequence[Any]], gone: bool = True) -> tuple[list[str], list[str]]:
    """Compare files with what `record_files` said of them.

    Parameters
    ----------
    stored : sequence
    gone : bool
        Count files that are not there any more as changed.

    Returns
    -------
    changed, touched : list of str
        Paths of files of other bytes; of files of another time but the same size and sample.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        verdicts = list(pool.map(_compare, stored))
    bad = ("changed", "gone") if gone else ("changed",)
    changed = [str(item[0]) for item, verdict in zip(stored, verdicts, strict=True) if verdict in bad]
    return changed, [str(item[0]) for item, verdict in zip(stored, verdicts, strict=True) if verdict == "touched"]


def contents(stored: Iterable[Sequence[Any]]) -> list[list[Any]]:
    """Return what says which bytes the files hold: all but the time."""
    return [[path, size, sample] for path, size, _, sample in stored]


def _record(path: str) -> list[Any]:
    try:
        found = os.stat(path)
        return [path, found.st_size, found.st_mtime_ns, _sample(path, found.st_size)]
    except OSError:
        return [path, ABSENT, 0, ""]


def _compare(stored: Sequence[Any]) -> str:
    path, size, changed, sample = stored
    try:
        found = os.stat(path)
        if found.st_size == size and found.st_mtime_ns == changed:
            return "same"
        return "touched" if found.st_size == size and _sample(path, size) == sample else "changed"
    except OSError:
        return "same" if size == ABSENT else "gone"


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
