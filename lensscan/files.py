"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lensscan.errors import OutputError, disk_error

__all__ = ["replacing"]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to; afterwards sync the file and rename it in one step.

    The folder is made if it is missing.  Left by an error, nothing stays behind and an older file is untouched.

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
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        problem = OutputError(f"cannot write {path}: {error.strerror or error}; check the folder")
        raise (disk_error(error, path) or problem) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
