"""The file format of packs: FITS, `STAMPS` = one binary table row ``ID RA DEC IMAGE`` per object.

Nothing else stands in the row, so that whole-row slices of an uncompressed table are read at memory speed.
What a scan needs besides the pixels stands in a small table `INDEX` with the same rows (origin, sky position,
seeing, noise, flags); packs written elsewhere may lack it.  An optional table `PLANES` (``IVAR MASK PSF``)
is read if present.  Missing pixels are NaN.
"""

from __future__ import annotations

import math
import mmap
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.errors import StampError
from lensscan.schema import Status
from lensscan.survey.fits import Hdu, open_regular, scan_descriptor
from lensscan.survey.header import Header

__all__ = ["MAX_ROWS", "PackFile", "failure_dtype", "index_dtype", "row_dtype", "table_dtype"]

MAX_ROWS = 50_000
FORMATS = {"L": "i1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
SIGN_BIT = 2**63


def row_dtype(id_format: str, bands: int, size: int) -> np.dtype[Any]:
    """Return the dtype of a STAMPS row; `id_format` is ``>i8`` or ``S<width>``."""
    return np.dtype([("ID", id_format), ("RA", ">f8"), ("DEC", ">f8"), ("IMAGE", ">f4", (bands, size, size))])


def index_dtype(id_format: str, bands: int) -> np.dtype[Any]:
    """Return the dtype of an INDEX row."""
    return np.dtype(
        [
            ("ID", id_format),
            ("RA", ">f8"),
            ("DEC", ">f8"),
            ("ORIGIN", ">f4", (2,)),
            ("WCS", ">f8", (6,)),
            ("FWHM", ">f4", (bands,)),
            ("SIGMA", ">f4", (bands,)),
            ("FLAGS", ">i4"),
            ("PADDING", ">i4"),
        ]
    )


def failure_dtype(id_format: str) -> np.dtype[Any]:
    """Return the dtype of a FAILURES row: rows that were wanted and could not be read."""
    return np.dtype([("ID", id_format), ("STATUS", "u1")])


def table_dtype(header: Header) -> np.dtype[Any]:
    """Return the numpy dtype of a binary table's rows from its header.

    Raises
    ------
    StampError
        UNREADABLE for columns of variable length, or a header whose widths do not add up.
    """
    fields: list[Any] = []
    for number in range(1, int(header.number("TFIELDS") or 0) + 1):
        name, form = header.text(f"TTYPE{number}").upper(), header.text(f"TFORM{number}")
        letter = form.lstrip("0123456789")[:1]
        digits = form[: len(form) - len(form.lstrip("0123456789"))]
        repeat = int(digits) if digits else 1
        if letter == "A":
            fields.append((name, f"S{repeat}"))
        elif letter in FORMATS:
            shape = _dimensions(header.text(f"TDIM{number}"), repeat)
            fields.append((name, FORMATS[letter], shape) if shape != (1,) else (name, FORMATS[letter]))
        else:
            raise StampError(Status.UNREADABLE, f"column {name} has format {form}")
    dtype = np.dtype(fields)
    if dtype.itemsize != header.get("NAXIS1"):
        raise StampError(Status.UNREADABLE, f"rows of {header.get('NAXIS1')} bytes, the columns take {dtype.itemsize}")
    return dtype


def _dimensions(text: str, repeat: int) -> tuple[int, ...]:
    if not text:
        return (repeat,)
    shape = tuple(int(word) for word in reversed(text.strip("() ").split(",")))
    return shape if math.prod(shape) == repeat else (repeat,)


@dataclass(slots=True)
class PackFile:
    """A pack, verified and mapped into memory.

    Attributes
    ----------
    path : str
    header : Header
        Of STAMPS.
    bands : tuple of str
    rows : structured array
        The STAMPS table, a view of the mapped file.
    index, planes, failures : structured array or None
    """

    path: str
    header: Header
    bands: tuple[str, ...]
    rows: NDArray[Any]
    index: NDArray[Any] | None
    planes: NDArray[Any] | None
    failures: NDArray[Any] | None
    _start: int
    _memory: mmap.mmap
    _descriptor: int

    @classmethod
    def open(cls, path: str) -> PackFile:
        """Open and verify a pack.

        Raises
        ------
        StampError
            MISSING_FILE, or UNREADABLE with what is wrong.
        """
        descriptor = open_regular(path)
        try:
            hdus = {hdu.header.name: hdu for hdu in scan_descriptor(descriptor)}
            stamps = hdus.get("STAMPS")
            if stamps is None or stamps.kind != "table":
                raise StampError(Status.UNREADABLE, f"{path}: no table STAMPS")
            total = os.fstat(descriptor).st_size
            memory = mmap.mmap(descriptor, total, access=mmap.ACCESS_READ)
            file = np.frombuffer(memory, np.uint8)
            rows = _view(file, stamps)
            names = rows.dtype.names or ()
            if names[:4] != ("ID", "RA", "DEC", "IMAGE") or rows.dtype["IMAGE"].base != np.dtype(">f4"):
                raise StampError(Status.UNREADABLE, f"{path}: STAMPS must hold ID RA DEC IMAGE, float32")
            shape = rows.dtype["IMAGE"].shape
            bands = tuple(stamps.header.text(f"BAND{n}") for n in range(1, shape[0] + 1)) if len(shape) == 3 else ()
            if not bands or not all(bands):
                raise StampError(Status.UNREADABLE, f"{path}: IMAGE needs TDIM (W,H,bands) and BAND1 to BANDn")
            return cls(
                path,
                stamps.header,
                bands,
                rows,
                _beside(file, hdus.get("INDEX"), len(rows)),
                _beside(file, hdus.get("PLANES"), len(rows)),
                _beside(file, hdus.get("FAILURES")),
                stamps.start,
                memory,
                descriptor,
            )
        except StampError as error:
            os.close(descriptor)
            where = "" if error.reason.startswith(path) else f"{path}: "
            raise StampError(error.status, f"{where}{error.reason}") from None
        except BaseException:
            os.close(descriptor)
            raise

    def check(self) -> None:
        """Raise `StampError` if the file has shrunk since it was opened: touching the map would end the process."""
        if os.fstat(self._descriptor).st_size < len(self._memory):
            raise StampError(Status.UNREADABLE, f"{self.path}: was truncated while in use")

    def release(self, low: int, high: int) -> None:
        """Give the pages of rows [low, high) back, so that the process does not grow with the packs it has read."""
        first = self._start + low * self.rows.itemsize
        first += -first % mmap.PAGESIZE
        length = self._start + high * self.rows.itemsize - first
        if length > 0:
            self._memory.madvise(mmap.MADV_DONTNEED, first, length - length % mmap.PAGESIZE)

    def ids(self) -> NDArray[Any]:
        """Return the identifiers in native form: int64, uint64 or str."""
        return native_ids(self.rows["ID"] if self.index is None else self.index["ID"], self.header)

    def ids_at(self, low: int, high: int) -> NDArray[Any]:
        """Return the identifiers that stand beside the images of rows [low, high)."""
        return native_ids(self.rows["ID"][low:high], self.header)

    def close(self) -> None:
        """Close the file; views of it stay valid until they are dropped."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def native_ids(values: NDArray[Any], header: Header) -> NDArray[Any]:
    """Return identifiers of a pack as int64, uint64 (TZERO1 = 2^63) or str."""
    if values.dtype.kind == "S":
        return np.char.rstrip(np.char.decode(values, "utf-8", "replace"))
    native = values.astype(np.int64)
    if header.number("TZERO1") == float(SIGN_BIT):
        return native.view(np.uint64) ^ np.uint64(SIGN_BIT)
    return native


def _view(file: NDArray[np.uint8], hdu: Hdu) -> NDArray[Any]:
    dtype = table_dtype(hdu.header)
    return np.frombuffer(file, dtype, hdu.shape[0], hdu.start)


def _beside(file: NDArray[np.uint8], hdu: Hdu | None, rows: int | None = None) -> NDArray[Any] | None:
    if hdu is None or hdu.kind != "table" or rows not in (None, hdu.shape[0]):
        return None
    return _view(file, hdu)
