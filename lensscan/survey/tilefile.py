"""One coadd tile of one band: sections of its pixels, plain (mapped) or tile-compressed (in strips)."""

from __future__ import annotations

import math
import mmap
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.errors import StampError
from lensscan.schema import Status
from lensscan.survey.fits import (
    DTYPES,
    Hdu,
    open_fitsio,
    open_regular,
    physical,
    read_compressed,
    scan_descriptor,
)
from lensscan.survey.header import Header
from lensscan.survey.layout import single_image

__all__ = ["TileFile"]

ROW_TILED = 4
"""A compressed image counts as row-tiled if its tiles are at least this many times wider than high."""


class TileFile:
    """An open tile; not to be shared between threads.

    Any section of a row-tiled compressed image costs the decompression of its whole rows: 6.4 ms for a
    64-pixel cut-out of a 10,000 pixel wide tile, as much as 1/190 of the tile.  Cut-outs come in storage
    order, so the rows of the last one are kept and only rows not seen yet are decompressed: the cost of
    reading the whole tile once, without holding it.

    Attributes
    ----------
    image : int
        HDU of the image.
    extra : tuple of (str, int)
        (kind, HDU) of the planes beside it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._handle: Any = None
        self._strips: dict[int, tuple[int, NDArray[Any]]] = {}
        self._descriptor = open_regular(path)
        try:
            self.hdus: list[Hdu] = scan_descriptor(self._descriptor)
            self.image, self.extra = single_image(self.hdus)
            self._size = os.fstat(self._descriptor).st_size
            self._memory = mmap.mmap(self._descriptor, self._size, access=mmap.ACCESS_READ)
        except (StampError, OSError, ValueError) as error:
            os.close(self._descriptor)
            raise StampError(getattr(error, "status", Status.UNREADABLE), f"{path}: {error}") from None

    @property
    def header(self) -> Header:
        """Header of the image."""
        return self.hdus[self.image].header

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image."""
        height, width = self.hdus[self.image].shape
        return height, width

    def section(self, index: int, rows: slice, columns: slice) -> NDArray[Any]:
        """Return pixels [rows, columns) of HDU `index`; the slices lie inside the image.

        Raises
        ------
        StampError
            UNREADABLE, or WRONG_SHAPE for a plane of another shape than the image.
        """
        hdu = self.hdus[index]
        if hdu.shape != self.hdus[self.image].shape:
            raise StampError(Status.WRONG_SHAPE, f"{self.path}: HDU {index} has shape {hdu.shape}")
        if hdu.kind == "compressed":
            if _row_tiled(hdu):
                return self._strip(hdu, rows)[:, columns]
            return read_compressed(self._fitsio(), hdu, (rows, columns))
        if os.fstat(self._descriptor).st_size < self._size:
            raise StampError(Status.UNREADABLE, f"{self.path}: was truncated while in use")
        dtype = DTYPES[hdu.header.get("BITPIX")]
        pixels = np.frombuffer(self._memory, dtype, math.prod(hdu.shape), hdu.start).reshape(hdu.shape)
        return physical(pixels[rows, columns], hdu.header)

    def release(self) -> None:
        """Give the mapped pages back, so that the process does not grow with the tiles it has read."""
        self._memory.madvise(mmap.MADV_DONTNEED)

    def _strip(self, hdu: Hdu, rows: slice) -> NDArray[Any]:
        first, strip = self._strips.get(hdu.index, (0, np.empty((0, hdu.shape[1]), np.float32)))
        last = first + len(strip)
        if rows.start < first or rows.start > last:
            first = last = rows.start
            strip = strip[:0]
        if rows.stop > last:
            more = read_compressed(self._fitsio(), hdu, (slice(last, rows.stop), slice(0, hdu.shape[1])))
            keep = max(first, rows.start)
            strip = np.concatenate([strip[keep - first :], more]) if len(strip) else more
            first = keep
            self._strips[hdu.index] = first, strip
        return strip[rows.start - first : rows.stop - first]

    def _fitsio(self) -> Any:
        if self._handle is None:
            self._handle = open_fitsio(self.path)
        return self._handle

    def close(self) -> None:
        """Close the file."""
        self._strips.clear()
        if self._handle is not None:
            self._handle.close()
            self._handle = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _row_tiled(hdu: Hdu) -> bool:
    width = hdu.header.number("ZTILE1") or hdu.shape[1]
    height = hdu.header.number("ZTILE2") or 1.0
    return width >= ROW_TILED * height
