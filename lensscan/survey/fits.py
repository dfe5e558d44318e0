"""The one door to FITS files: headers are checked against the file before any pixel is read.

Plain images (also gzipped ones, also scaled integers) are decoded here, straight from the bytes of the
file: a stamp of 65 kB costs one `read`, and equal header blocks are parsed once.  Tile-compressed images
and tables go through fitsio, and this is the only module that imports it.  Whatever is wrong with a file
becomes a `StampError` with a status; special files (FIFOs, directories, devices) are never opened.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.errors import StampError
from lensscan.schema import Status
from lensscan.survey.header import Header, parse_header

__all__ = [
    "BLOCK",
    "MAX_STAMP_BYTES",
    "Hdu",
    "create_fitsio",
    "decode",
    "keep_bytes",
    "open_fitsio",
    "open_regular",
    "physical",
    "read_all",
    "read_compressed",
    "reentrant",
    "scan",
    "scan_descriptor",
]

BLOCK = 2880
MAX_STAMP_BYTES = 1 << 28
"""No loose stamp file is larger than this (256 MiB), gunzipped or not: a forged size must not allocate."""
MAX_HEADER_BLOCKS = 1024
STRUCTURE = frozenset(
    ("XTENSION", "BITPIX", "NAXIS", "PCOUNT", "GCOUNT", "GROUPS", "ZIMAGE", "ZBITPIX", "ZNAXIS")
    + tuple(f"{prefix}{axis}" for prefix in ("NAXIS", "ZNAXIS", "ZTILE") for axis in range(1, 10))
)
"""Keywords that fix the size of an HDU; images of more than nine axes are refused."""
DTYPES = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


@dataclass(slots=True)
class Hdu:
    """One HDU of a file, its data not read yet.

    Attributes
    ----------
    header : Header
    index : int
        Number of the HDU in the file, from 0.
    kind : str
        ``image``, ``compressed`` (tile-compressed image), ``table`` or ``other``.
    shape : tuple of int
        Image shape, slowest axis first; of a compressed image that of the image inside.
    start, size : int
        Offset and bytes of the data in the file.
    """

    header: Header
    index: int
    kind: str
    shape: tuple[int, ...]
    start: int
    size: int


def _integer(header: Header, key: str, default: int | None = None) -> int:
    value = header.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise StampError(Status.UNREADABLE, f"header keyword {key} is {value!r}, not a count")
    return value


def _axes(header: Header, prefix: str = "NAXIS") -> tuple[int, ...]:
    count = _integer(header, prefix)
    if count > 9:
        raise StampError(Status.UNREADABLE, f"{prefix} = {count}")
    return tuple(_integer(header, f"{prefix}{axis}") for axis in range(count, 0, -1))


def _describe(header: Header, index: int, start: int) -> Hdu:
    kind, shape, size = _structure(header.raw_cards(STRUCTURE))
    return Hdu(header, index, kind, shape, start, size)


@lru_cache(maxsize=256)
def _structure(cards: tuple[str, ...]) -> tuple[str, tuple[int, ...], int]:
    """Return kind, shape and bytes of an HDU from its structural cards."""
    header = Header("".join(cards).encode("latin-1"))
    bitpix = header.get("BITPIX")
    if isinstance(bitpix, bool) or bitpix not in DTYPES:
        raise StampError(Status.UNREADABLE, f"BITPIX is {bitpix!r}")
    axes = _axes(header)
    size = 0
    if axes and not (axes[-1] == 0 and header.get("GROUPS") is True):
        pixels = math.prod(axes)
        size = abs(bitpix) // 8 * _integer(header, "GCOUNT", 1) * (_integer(header, "PCOUNT", 0) + pixels)
    extension = header.text("XTENSION").upper()
    if header.get("ZIMAGE") is True:
        inner = _axes(header, "ZNAXIS")
        _check_compressed(header, inner, axes)
        return "compressed", inner, size
    kind = "table" if extension in ("BINTABLE", "A3DTABLE") else "image"
    if extension not in ("", "IMAGE", "BINTABLE", "A3DTABLE"):
        kind = "other"
    return kind, axes, size


def _check_compressed(header: Header, inner: tuple[int, ...], table: tuple[int, ...]) -> None:
    """A compressed image has one table row per tile: a forged ZNAXIS shows before anything is allocated."""
    if header.get("ZBITPIX") not in DTYPES or len(table) != 2:
        raise StampError(Status.UNREADABLE, "not a valid compressed image")
    defaults = (1,) * (len(inner) - 1) + inner[-1:]
    tiles = 1
    for axis, (length, default) in enumerate(zip(inner, defaults, strict=True)):
        side = _integer(header, f"ZTILE{len(inner) - axis}", default)
        tiles *= math.ceil(length / max(side, 1))
    if tiles != table[0]:
        raise StampError(Status.UNREADABLE, f"{table[0]} compressed tiles, the header claims {tiles}")


def _walk(read: Callable[[int, int], bytes], total: int, limit: int | None) -> list[Hdu]:
    """Walk the HDUs; `read(start, size)` gives bytes.  Data must lie inside the file, but padding may miss."""
    hdus: list[Hdu] = []
    position = 0
    while position < total and (limit is None or len(hdus) < limit):
        raw = _header_blocks(read, position)
        if hdus and not raw.startswith(b"XTENSION"):
            break  # the standard allows junk ("special records") after the last HDU
        start = position + len(raw)
        hdu = _describe(parse_header(raw), len(hdus), start)
        if start + hdu.size > total:
            missing = start + hdu.size - total
            reason = f"HDU {hdu.index}: the header claims {hdu.size} bytes, {missing} are missing"
            raise StampError(Status.UNREADABLE, reason)
        hdus.append(hdu)
        position = start + -(-hdu.size // BLOCK) * BLOCK
    return hdus


def _header_blocks(read: Callable[[int, int], bytes], position: int) -> bytes:
    raw = read(position, BLOCK)
    if not (raw.startswith(b"SIMPLE  =") if position == 0 else raw.startswith((b"SIMPLE", b"XTENSION"))):
        if position == 0:
            raise StampError(Status.UNREADABLE, f"not a FITS file (begins with {raw[:16]!r})")
        return raw
    blocks = 1
    while not _has_end(raw, (blocks - 1) * BLOCK):
        more = read(position + blocks * BLOCK, BLOCK)
        blocks += 1
        if len(more) < BLOCK or blocks > MAX_HEADER_BLOCKS:
            raise StampError(Status.UNREADABLE, "header without END")
        raw += more
    return raw


def _has_end(raw: bytes, start: int) -> bool:
    found = raw.find(b"END     ", start)
    while found >= 0:
        if found % 80 == 0:
            return True
        found = raw.find(b"END     ", found + 1)
    return False


def scan(data: bytes, limit: int | None = None) -> list[Hdu]:
    """Return the HDUs of a whole file held in memory.

    Raises
    ------
    StampError
        UNREADABLE: not FITS, a header without END, or data beyond the end of the file.
    """
    return _walk(lambda start, size: data[start : start + size], len(data), limit)


def scan_descriptor(descriptor: int, limit: int | None = None) -> list[Hdu]:
    """Return the HDUs of an open file, reading headers only."""
    total = os.fstat(descriptor).st_size
    try:
        return _walk(lambda start, size: os.pread(descriptor, size, start), total, limit)
    except OSError as error:
        raise StampError(Status.UNREADABLE, str(error)) from None


def open_regular(path: str) -> int:
    """Open a regular file for reading and return its descriptor; never blocks on a FIFO.

    Raises
    ------
    StampError
        MISSING_FILE, or UNREADABLE for anything that is not a readable, non-empty regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise StampError(Status.MISSING_FILE, f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise StampError(Status.UNREADABLE, f"{path}: {error}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        os.close(descriptor)
        what = "empty" if stat.S_ISREG(status.st_mode) else "not a regular file"
        raise StampError(Status.UNREADABLE, f"{path}: {what}")
    return descriptor


def read_all(path: str, limit: int = MAX_STAMP_BYTES) -> bytes:
    """Read a whole file, gunzipped if it is gzip, at most `limit` bytes.

    Raises
    ------
    StampError
        MISSING_FILE, UNREADABLE, or WRONG_SHAPE if it is larger than `limit`.
    """
    descriptor = open_regular(path)
    try:
        size = os.fstat(descriptor).st_size
        if size > limit:
            raise StampError(Status.WRONG_SHAPE, f"{path}: {size} bytes are no stamp")
        data = os.read(descriptor, size)
        while len(data) < size:
            more = os.read(descriptor, size - len(data))
            if not more:
                raise StampError(Status.UNREADABLE, f"{path}: ends after {len(data)} of {size} bytes")
            data += more
    except OSError as error:
        raise StampError(Status.UNREADABLE, f"{path}: {error}") from None
    finally:
        os.close(descriptor)
    return _gunzip(data, path, limit) if data.startswith(b"\x1f\x8b") else data


def _gunzip(data: bytes, path: str, limit: int) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    try:
        result = stream.decompress(data, limit)
    except zlib.error as error:
        raise StampError(Status.UNREADABLE, f"{path}: damaged gzip: {error}") from None
    if stream.unconsumed_tail:
        raise StampError(Status.WRONG_SHAPE, f"{path}: gunzips to more than {limit} bytes")
    if not stream.eof:
        raise StampError(Status.UNREADABLE, f"{path}: truncated gzip")
    return result


def decode(data: bytes, hdu: Hdu) -> NDArray[Any]:
    """Return the pixels of a plain image as physical values.

    Floats without scaling come back as a big-endian view (no copy); scaled or blanked integers as
    float64 with NaN where BLANK.

    Raises
    ------
    StampError
        WRONG_SHAPE for an HDU without pixels.
    """
    if hdu.size == 0:
        raise StampError(Status.WRONG_SHAPE, f"HDU {hdu.index} holds no pixels")
    dtype = DTYPES[hdu.header.get("BITPIX")]
    pixels = np.frombuffer(data, dtype, math.prod(hdu.shape), hdu.start).reshape(hdu.shape)
    return physical(pixels, hdu.header)


def physical(pixels: NDArray[Any], header: Header) -> NDArray[Any]:
    """Apply BSCALE, BZERO and BLANK; floats without scaling come back as they are.

    Raises
    ------
    StampError
        UNREADABLE if a keyword is not a number.
    """
    scale, zero, blank = header.get("BSCALE", 1), header.get("BZERO", 0), header.get("BLANK")
    blanked = pixels.dtype.kind in "iu" and isinstance(blank, int)
    if scale == 1 and zero == 0 and not blanked:
        return pixels
    if not isinstance(scale, (int, float)) or not isinstance(zero, (int, float)):
        raise StampError(Status.UNREADABLE, "BSCALE or BZERO is not a number")
    values = pixels * float(scale) + float(zero)
    if blanked:
        values[pixels == blank] = np.nan
    return values


def reentrant() -> bool:
    """Tell whether several threads may read at once, each with its own handle."""
    import fitsio

    return bool(fitsio.cfitsio_is_reentrant())


def open_fitsio(path: str) -> Any:
    """Open a regular file with fitsio.

    Raises
    ------
    StampError
        MISSING_FILE or UNREADABLE.
    """
    import fitsio

    os.close(open_regular(path))
    try:
        with _literal(path) as name:
            return fitsio.FITS(name, "r")
    except (OSError, ValueError, RuntimeError) as error:
        raise StampError(Status.UNREADABLE, f"{path}: {' '.join(str(error).split())}") from None


def keep_bytes(hdu: Any) -> Any:
    """Return a table of an open fitsio file that gives text as bytes: fitsio itself takes all text for ASCII."""
    hdu._maybe_decode_fits_ascii_strings_to_unicode_py3 = lambda array: array
    return hdu


def create_fitsio(path: str) -> Any:
    """Create a FITS file with fitsio, replacing an old one; raises OSError."""
    import fitsio

    if "[" in path or "(" in path:
        raise OSError("cfitsio writes no file with [ or ( in its path; give another name")
    return fitsio.FITS(os.path.join(".", path), "rw", clobber=True)


@contextlib.contextmanager
def _literal(path: str) -> Iterator[str]:
    """Give a name by which cfitsio opens this very file: it takes [ for a filter, a leading ~ for a home."""
    if "[" not in path:
        yield os.path.join(".", path)
        return
    with tempfile.TemporaryDirectory(prefix="lensscan-") as folder:
        link = os.path.join(folder, "link.fits")
        os.symlink(os.path.abspath(path), link)
        yield link


def read_compressed(handle: Any, hdu: Hdu, section: tuple[slice, slice] | None = None) -> NDArray[Any]:
    """Return the pixels, or a section (rows, columns), of a tile-compressed image of an open fitsio file.

    Raises
    ------
    StampError
        UNREADABLE if cfitsio cannot decompress it.
    """
    try:
        if section is None:
            return np.asarray(handle[hdu.index].read())
        return np.asarray(handle[hdu.index][section[0], section[1]])
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        raise StampError(Status.UNREADABLE, f"HDU {hdu.index}: {' '.join(str(error).split())}") from None
