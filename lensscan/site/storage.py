"""Check of the file system that a scan writes to: create, lock, sync, rename, space."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from lensscan.files import sync_folder, temporary_name
from lensscan.site.outcome import Check, Outcome

__all__ = ["check_storage"]

T = TypeVar("T")
PAYLOAD = bytes(1 << 20)
SLOW_SECONDS = 1.0
LITTLE_SPACE = 1 << 30


def check_storage(folder: Path) -> Iterator[Check]:
    """Try in `folder` what a scan does with every finished block, and time each step.

    Parameters
    ----------
    folder : Path
        Where the output is to be written; must exist.
    """
    if not folder.is_dir():
        yield Check("output folder", Outcome.FAIL, f"{folder} is not a folder; make it, or name another with --output")
        return
    name = temporary_name(folder / "lensscan-doctor")
    final = name.with_suffix(".done")
    times: dict[str, float] = {}
    try:
        descriptor = timed(times, "create", lambda: os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        try:
            yield lock_check(descriptor, times)
            timed(times, "write", lambda: os.write(descriptor, PAYLOAD))
            timed(times, "fsync", lambda: os.fsync(descriptor))
        finally:
            os.close(descriptor)
        timed(times, "rename", lambda: os.replace(name, final))
        timed(times, "sync folder", lambda: sync_folder(folder))
    except OSError as error:
        yield Check("output folder", Outcome.FAIL, f"{folder}: {error.strerror or error}; a scan could not write here")
        return
    finally:
        name.unlink(missing_ok=True)
        final.unlink(missing_ok=True)
    yield speed_check(folder, times)
    yield space_check(folder)


def timed(times: dict[str, float], step: str, action: Callable[[], T]) -> T:
    """Run `action` and note its seconds."""
    start = time.perf_counter()
    result = action()
    times[step] = time.perf_counter() - start
    return result


def lock_check(descriptor: int, times: dict[str, float]) -> Check:
    """Tell whether files can be locked; HDF5 asks for it."""
    try:
        timed(times, "lock", lambda: fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB))
    except OSError as error:
        advice = "set HDF5_USE_FILE_LOCKING=FALSE (lensscan itself locks with a file of its own)"
        return Check("file locking", Outcome.WARN, f"not here ({error.strerror or error}); {advice}")
    return Check("file locking", Outcome.OK, "works in the output folder")


def speed_check(folder: Path, times: dict[str, float]) -> Check:
    """Report the seconds of each step; a slow one is paid once a block."""
    text = ", ".join(f"{step} {seconds * 1e3:.1f} ms" for step, seconds in times.items())
    slow = [step for step, seconds in times.items() if seconds > SLOW_SECONDS]
    if slow:
        return Check(
            "output folder", Outcome.WARN, f"{folder}: {text}; {slow[0]} is slow, prefer a scratch file system"
        )
    return Check("output folder", Outcome.OK, f"{folder}: {text}")


def space_check(folder: Path) -> Check:
    """Report the free space."""
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if free < LITTLE_SPACE:
        return Check("disk space", Outcome.WARN, f"{free / 1e9:.2g} GB free; a million scored rows need about 0.5 GB")
    return Check("disk space", Outcome.OK, f"{free / 1e9:.3g} GB free")
