"""Writing a picture: under a temporary name first, failures as one line."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lensscan.errors import OutputError, disk_error

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["save_png", "write_picture"]


def write_picture(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Call `write` with a temporary name beside `path`, then rename; makes the folder; returns the path.

    Raises
    ------
    DiskError, OutputError
        If the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        problem = OutputError(f"cannot write {path}: {error.strerror or error}; check the folder")
        raise (disk_error(error, path) or problem) from None
    return path


def save_png(image: Image | NDArray[np.uint8], path: str | Path) -> Path:
    """Write a page, or an array of uint8 of shape (H, W, 3), as PNG; returns the path."""
    from PIL import Image

    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    return write_picture(path, lambda name: picture.save(name, format="PNG"))
