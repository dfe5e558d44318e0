"""Writes packs: a temporary file, synced, verified and renamed, never a half-written one under its name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lensscan.config import Survey
from lensscan.errors import ConfigError, OutputError, StampError, disk_error
from lensscan.files import ascii_text, sync_folder, temporary_name
from lensscan.schema import Status
from lensscan.survey.fits import BLOCK
from lensscan.survey.packfile import MAX_ROWS, SIGN_BIT, PackFile, failure_dtype, index_dtype, row_dtype
from lensscan.survey.stamps import Batch, Frame
from lensscan.survey.zeropoint import NJY_ZERO_POINT

__all__ = ["PackWriter"]

LETTERS = {"|i1": "L", "|u1": "B", ">i2": "I", ">i4": "J", ">i8": "K", ">f4": "E", ">f8": "D"}
CARD_TEXT = 68
"""Characters of the text in one card of a header."""
UNITS = {"RA": "deg", "DEC": "deg", "IMAGE": "nJy", "ORIGIN": "arcsec", "FWHM": "arcsec", "SIGMA": "nJy"}


class PackWriter:
    """Writes one pack; a context manager that leaves nothing behind if it is left by an error.

    Parameters
    ----------
    path : str or Path
        Final name.
    frame : Frame
        Bands, size and pixel scale of the images.
    id_dtype : dtype
        int64, uint64 or str of some width: that of the catalog.
    survey : Survey, optional
        Named in the header, in ASCII and as far as a card holds it.
    key : str
        Says what the pack was made from; a resumed `lensscan pack` keeps packs whose key is the same.

    Raises
    ------
    ConfigError
        If a header cannot hold the name of a band.
    OutputError
        If more than 50,000 rows are added, or the written file does not verify.
    DiskError
        If the disk is full.
    """

    def __init__(
        self, path: str | Path, frame: Frame, id_dtype: np.dtype[Any], survey: Survey | None = None, key: str = ""
    ) -> None:
        self.path = str(path)
        for band in frame.bands:
            if _card_text(band) != band:
                raise ConfigError(
                    f"{path}: a pack cannot name band {band!r}; give it an ASCII name of at most {CARD_TEXT} "
                    "characters in the survey file"
                )
        self._frame, self._survey, self._key = frame, survey, key
        self._unsigned = id_dtype.kind == "u"
        self._id = f"S{id_dtype.itemsize}" if id_dtype.kind == "U" else ">i8"
        self._row = row_dtype(self._id, len(frame.bands), frame.size)
        self._index: list[NDArray[Any]] = []
        self._failed: list[NDArray[Any]] = []
        self.n_rows = 0
        self._part = str(temporary_name(self.path))
        self._stream: IO[bytes] | None = None

    def __enter__(self) -> PackWriter:
        with self._disk():
            self._stream = open(self._part, "xb")
            self._stream.write(_primary() + self._header("STAMPS", self._row, 0))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with self._disk():
                    self._finish()
        finally:
            if self._stream is not None and not self._stream.closed:
                with contextlib.suppress(OSError):
                    self._stream.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._part)

    def add(
        self, batch: Batch, ids: NDArray[Any], ra: NDArray[np.float64], dec: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Append the rows of a filled batch that could be read; the others are listed in the HDU FAILURES.

        Parameters
        ----------
        batch : Batch
            Filled by a `StampReader` for this writer's frame; its first ``len(ids)`` rows.
        ids, ra, dec : (n,) arrays

        Returns
        -------
        (n,) bool array
            Which rows were written.
        """
        n = len(ids)
        written = batch.status[:n] == Status.PENDING
        take = np.flatnonzero(written)
        if self.n_rows + len(take) > MAX_ROWS:
            raise OutputError(f"{self.path}: a pack holds at most {MAX_ROWS} rows; begin another")
        rows = np.zeros(len(take), self._row)
        rows["ID"] = self._stored(ids[take])
        rows["RA"], rows["DEC"] = ra[take], dec[take]
        images = batch.images[take]
        if batch.masked:
            images[batch.mask[take]] = np.nan
        images[~batch.present[take]] = np.nan
        rows["IMAGE"] = images
        self._keep_failures(ids[~written], batch.status[:n][~written])
        index = np.zeros(len(take), index_dtype(self._id, len(self._frame.bands)))
        for name in ("ID", "RA", "DEC"):
            index[name] = rows[name]
        for name in ("origin", "wcs", "fwhm", "sigma"):
            index[name.upper()] = getattr(batch, name)[take]
        index["FLAGS"] = batch.flags[take]
        index["PADDING"] = batch.padding[take]
        with self._disk():
            assert self._stream is not None, "used outside its with block"
            self._stream.write(rows.data)
        self._index.append(index)
        self.n_rows += len(take)
        return np.asarray(written)

    def _keep_failures(self, ids: NDArray[Any], status: NDArray[np.uint8]) -> None:
        failed = np.zeros(len(ids), failure_dtype(self._id))
        failed["ID"], failed["STATUS"] = self._stored(ids), status
        self._failed.append(failed)

    def _stored(self, ids: NDArray[Any]) -> NDArray[Any]:
        if self._unsigned:
            return (ids.astype(np.uint64) ^ np.uint64(SIGN_BIT)).view(np.int64)
        if ids.dtype.kind == "U":
            return np.char.encode(ids, "utf-8")
        return ids

    def _finish(self) -> None:
        stream = self._stream
        assert stream is not None, "used outside its with block"
        _pad(stream, self.n_rows * self._row.itemsize)
        kind = index_dtype(self._id, len(self._frame.bands))
        self._table(stream, "INDEX", kind, self._index)
        if sum(map(len, self._failed)):
            self._table(stream, "FAILURES", failure_dtype(self._id), self._failed)
        stream.seek(BLOCK)
        stream.write(self._header("STAMPS", self._row, self.n_rows))
        stream.flush()
        os.fsync(stream.fileno())
        stream.close()
        self._verify()
        os.replace(self._part, self.path)
        sync_folder(os.path.dirname(self.path) or ".")

    def _table(self, stream: IO[bytes], name: str, dtype: np.dtype[Any], parts: list[NDArray[Any]]) -> None:
        rows = sum(map(len, parts))
        stream.write(self._header(name, dtype, rows))
        for part in parts:
            stream.write(part.tobytes())
        _pad(stream, rows * dtype.itemsize)

    def _verify(self) -> None:
        """Read the file back from its name: layout, number of rows, identifiers beside the images and in INDEX."""
        try:
            pack = PackFile.open(self._part)
        except StampError as error:
            raise OutputError(f"{self.path}: does not verify after writing ({error.reason}); run again") from None
        try:
            same = pack.index is not None and (pack.rows["ID"] == pack.index["ID"]).all()
            if len(pack.rows) != self.n_rows or not same or pack.bands != self._frame.bands:
                raise OutputError(f"{self.path}: does not verify after writing; check the disk and run again")
        finally:
            pack.close()

    def _header(self, name: str, dtype: np.dtype[Any], rows: int) -> bytes:
        frame = self._frame
        cards: list[tuple[str, Any]] = [
            ("XTENSION", "BINTABLE"),
            ("BITPIX", 8),
            ("NAXIS", 2),
            ("NAXIS1", dtype.itemsize),
            ("NAXIS2", rows),
            ("PCOUNT", 0),
            ("GCOUNT", 1),
            ("TFIELDS", len(dtype.names or ())),
            ("EXTNAME", name),
        ]
        cards += _columns(dtype)
        if self._unsigned:
            cards += [("TSCAL1", 1), ("TZERO1", SIGN_BIT)]
        cards += [("BUNIT", "nJy"), ("PIXSCALE", frame.pixel_scale)]
        for number, band in enumerate(frame.bands, 1):
            cards += [(f"BAND{number}", band), (f"ZP{number}", NJY_ZERO_POINT)]
        if self._survey is not None:
            cards.append(("SURVEY", self._survey.name))
        if self._key:
            cards.append(("PACKKEY", self._key))
        return _blocks(cards)

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise disk_error(error, self.path) or OutputError(f"cannot write {self.path}: {reason}") from None


def _columns(dtype: np.dtype[Any]) -> list[tuple[str, Any]]:
    cards: list[tuple[str, Any]] = []
    for number, name in enumerate(dtype.names or (), 1):
        column = dtype[name]
        count = int(np.prod(column.shape)) if column.shape else 1
        if column.kind == "S":
            form = f"{column.itemsize}A"
        else:
            form = f"{count if count > 1 else ''}{LETTERS[column.base.str]}"
        cards += [(f"TTYPE{number}", name), (f"TFORM{number}", form)]
        if len(column.shape) > 1:
            cards.append((f"TDIM{number}", f"({','.join(str(side) for side in reversed(column.shape))})"))
        if name in UNITS:
            cards.append((f"TUNIT{number}", UNITS[name]))
    return cards


def _primary() -> bytes:
    return _blocks([("SIMPLE", True), ("BITPIX", 8), ("NAXIS", 0), ("EXTEND", True), ("ORIGIN", "lensscan pack")])


def _blocks(cards: Sequence[tuple[str, Any]]) -> bytes:
    text = "".join(_card(key, value) for key, value in cards) + "END".ljust(80)
    return text.ljust(-(-len(text) // BLOCK) * BLOCK).encode("ascii")


def _card(key: str, value: object) -> str:
    if isinstance(value, bool):
        word = ("T" if value else "F").rjust(20)
    elif isinstance(value, str):
        word = "'" + _card_text(value).replace("'", "''").ljust(8) + "'"
    else:
        word = (repr(float(value)).upper() if isinstance(value, float) else str(value)).rjust(20)
    return f"{key:8}= {word}".ljust(80)


def _card_text(text: str) -> str:
    """Return as much of a text as a card holds, in ASCII; a quote takes two places."""
    text = ascii_text(text)
    while len(text) + text.count("'") > CARD_TEXT:
        text = text[:-1]
    return text


def _pad(stream: IO[bytes], size: int) -> None:
    stream.write(b"\0" * (-size % BLOCK))
