"""Writing a picture: under a temporary name first, failures as one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lensscan.files import replacing

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
    with replacing(path) as temporary:
        write(temporary)
    return Path(path)


def save_png(image: Image | NDArray[np.uint8], path: str | Path) -> Path:
    """Write a page, or an array of uint8 of shape (H, W, 3), as PNG; returns the path."""
    from PIL import Image

    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    return write_picture(path, lambda name: picture.save(name, format="PNG"))
