"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lensscan.errors import LensscanError, OutputError, disk_error

__all__ = ["ascii_text", "check_folder", "keep_inputs", "make_folder", "replacing"]


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
    """Raise what `make_folder` would, as far as can be told without making anything: for a look before long work.

    Raises
    ------
    DiskError, OutputError
        If the path, or the nearest folder above it that exists, is no folder or cannot be written to.
    """
    whole = Path(path).absolute()
    nearest = next(each for each in (whole, *whole.parents) if each.exists())
    number = errno.ENOTDIR if not nearest.is_dir() else 0 if os.access(nearest, os.W_OK | os.X_OK) else errno.EACCES
    if number:
        raise _problem(OSError(number, os.strerror(number)), Path(path))


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
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
