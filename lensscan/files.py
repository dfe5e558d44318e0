"""Files that appear whole or not at all: temporary names, what killed attempts left, renames that last."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lensscan.errors import LensscanError, OutputError, disk_error

__all__ = [
    "ascii_text",
    "check_file",
    "check_folder",
    "keep_inputs",
    "make_folder",
    "replacing",
    "sweep_temporary",
    "sync_folder",
    "temporary_files",
    "temporary_name",
]

STALE_SECONDS = 3600.0
"""Nobody leaves a temporary file untouched for so long."""


def ascii_text(text: object) -> str:
    """Return a text with all but ASCII escaped with a backslash, as FITS headers and columns need it."""
    return str(text).encode("ascii", "backslashreplace").decode()


def make_folder(path: str | Path) -> None:
    """Make a folder and those above it, if they are missing.

    Raises
    ------
    DiskError, OutputError
        If it cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _problem(error, Path(path)) from None


def check_folder(path: str | Path) -> None:
    """Raise what `make_folder` would, and what a file in there would, leaving nothing: for a look before long work.

    Raises
    ------
    DiskError, OutputError
        If in the path, or in the nearest folder above it that exists, no file can be made.
    """
    whole = Path(path).absolute()
    try:
        nearest = next(each for each in (whole, *whole.parents) if each.exists())
        probe = temporary_name(nearest / "check")
        probe.touch(exist_ok=False)  # permissions alone say too little: root has all of them everywhere
        probe.unlink()
    except OSError as error:
        raise _problem(error, Path(path)) from None


def check_file(path: str | Path) -> None:
    """Raise what `replacing` would: for a look before long work.

    Raises
    ------
    DiskError, OutputError
        If the path is a folder or names no file, or its folder cannot be written to.
    """
    check_folder(temporary_name(path).parent)


def temporary_name(path: str | Path) -> Path:
    """Return a hidden name beside `path` that no other attempt uses: it holds host, process and a random word.

    Raises
    ------
    OutputError
        If the path is a folder, or ends without a name.
    """
    path = Path(path)
    if not path.name or path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder; give a file")
    return path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


def temporary_files(path: str | Path) -> Iterator[Path]:
    """Return the temporary files of all attempts at `path`."""
    path = Path(path)
    return path.parent.glob(f".{glob.escape(path.name)}.*.tmp")


def sweep_temporary(paths: Iterable[Path]) -> int:
    """Remove what dead attempts left, and return how many files that were.

    Parameters
    ----------
    paths : iterable of Path
        Of names by `temporary_name`.  Removed are those of processes of this host that are gone, and those that
        nobody touched for an hour.
    """
    removed = 0
    for path in paths:
        match = re.search(rf"\.{re.escape(os.uname().nodename)}-(\d+)-\w+\.tmp$", path.name)
        dead = match is not None and not os.path.exists(f"/proc/{match[1]}")
        with contextlib.suppress(FileNotFoundError):  # another sweep was faster
            if dead or path.stat().st_mtime < time.time() - STALE_SECONDS:
                path.unlink()
                removed += 1
    return removed


def sync_folder(folder: str | Path) -> None:
    """Make the renames in a folder last through a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def keep_inputs(output: str | Path, *inputs: str | Path | None) -> None:
    """Raise `OutputError` if an output would replace a file that it is made from, by whatever name."""
    for path in inputs:
        if path is not None and os.path.exists(path) and os.path.exists(output) and os.path.samefile(path, output):
            raise OutputError(f"{output} is the input {path} itself and would be lost; give another output")


@contextmanager
def replacing(path: str | Path, sync: bool = True) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to; afterwards sync the file and rename it in one step.

    The folder is made if it is missing.  Without `sync` a crash of the machine may leave an empty file: for what
    is checked or made again anyway.  Left by an error, nothing stays behind and an older file is untouched.

    Raises
    ------
    DiskError, OutputError
        If the file cannot be written.
    """
    path, temporary = Path(path), temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if sync:
            with open(temporary, "rb") as stream:
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _problem(error, path) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _problem(error: OSError, path: Path) -> LensscanError:
    return disk_error(error, path) or OutputError(f"cannot write {path}: {error.strerror or error}; check the folder")
