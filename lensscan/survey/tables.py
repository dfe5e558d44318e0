"""Tables in FITS, HDF5, Parquet, CSV and ECSV, read in pieces of bounded size."""

from __future__ import annotations

import difflib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.errors import CatalogError, StampError
from lensscan.survey.fits import keep_bytes, open_fitsio

__all__ = ["EXACT", "Table", "open_table", "split_element", "without"]

Columns = dict[str, NDArray[Any]]
MASK = ".mask"
"""Ending of the column in which astropy stores which values of another are masked, where a format has no such thing."""
OTHER_ANGLE = re.compile(r"(rad|hour|hr|h\b|arcmin|arcsec|mas\b)", re.IGNORECASE)
EXACT = 2.0**53
"""Floats hold all integers below this."""
ELEMENT = re.compile(r"(.+)\[(\d+)\]")


def split_element(name: str) -> tuple[str, int | None]:
    """Split ``"MODEL_MAG[1]"`` into column and element of a vector column; a plain name has element None."""
    match = ELEMENT.fullmatch(name)
    return (match.group(1), int(match.group(2))) if match else (name, None)


class Table(ABC):
    """One table file; a context manager."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> Table:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Names of the columns."""

    @property
    def n_rows(self) -> int | None:
        """Number of rows, None if unknown before reading."""
        return None

    @abstractmethod
    def _read(self, names: Sequence[str], rows: int, text: str) -> Iterator[Columns]:
        """Yield whole columns (vector columns too) in pieces of at most about `rows` rows."""

    def _description(self) -> str:
        """Return what astropy wrote about the columns, as YAML; "" if it did not write the table."""
        return ""

    def unit(self, name: str) -> str:
        """Return the unit that the file states for a column, "" if it states none."""
        text = " ".join(self._description().split())
        found = re.search(rf"\{{name: {re.escape(name)}, unit: (?:!astropy\.units\.Unit \{{unit: )?([^,}}]+)", text)
        return found.group(1).strip() if found else ""

    def check_degrees(self, name: str, key: str) -> None:
        """Raise `CatalogError` if a position is stated in another unit than degrees."""
        unit = self.unit(name) if name in self.names else ""
        if OTHER_ANGLE.match(unit):
            raise CatalogError(
                f"{self.path}: column {name!r} is in {unit}, positions are in degrees; convert the column, "
                f"or name another one as {key} in the survey file"
            )

    def _missing(self, piece: Columns, name: str) -> NDArray[np.bool_] | None:
        """Return which values of a column are missing: where astropy has put a mask column beside it."""
        mask = piece.get(name + MASK)
        return None if mask is None or mask.dtype.kind != "b" or not mask.any() else mask

    def has(self, name: str) -> bool:
        """Tell whether a column, or the vector column of an element, exists."""
        return split_element(name)[0] in self.names or name in self.names

    def check(self, name: str, key: str, survey: str) -> None:
        """Raise `CatalogError` if a column is missing; `key` of the survey file names it, "" if the template does."""
        if not self.has(name):
            close = difflib.get_close_matches(split_element(name)[0], self.names, 1, 0.4)
            by_case = [known for known in self.names if known.lower() == name.lower()]
            nearest = by_case or close
            hint = f"nearest is {nearest[0]!r}" if nearest else "columns: " + ", ".join(self.names[:12])
            remedy = "correct the template of the stamps, or what else names it"
            if key:
                remedy = f"set {key} in the survey file ({survey})"
            raise CatalogError(f"{self.path}: no column {name!r} ({hint}); {remedy}")

    def pieces(self, names: Sequence[str], rows: int, text: str = "") -> Iterator[Columns]:
        """Yield columns in native byte order, strings as str without trailing blanks.

        Parameters
        ----------
        names : sequence of str
            Columns, or elements of vector columns such as ``MODEL_MAG[1]``.
        rows : int
            Largest piece.
        text : str
            Column whose values may be integers or text (the identifier), for formats without types.
        """
        known = set(self.names)
        plain = list(dict.fromkeys(name if name in known else split_element(name)[0] for name in names))
        masks = [name + MASK for name in plain if name + MASK in known and name + MASK not in plain]
        for piece in self._read([*plain, *masks], rows, text):
            for name in plain:
                missing = self._missing(piece, name)
                if missing is not None:
                    if name == text:
                        raise CatalogError(
                            f"{self.path}: id column {name!r} is empty in some rows; give every row an id"
                        )
                    piece[name] = without(piece[name], missing)
            yield {name: self._column(piece, name, known) for name in names}

    def _column(self, piece: Columns, name: str, known: set[str]) -> NDArray[Any]:
        if name in known:
            return _native(piece[name])
        column, element = split_element(name)
        values = piece[column]
        if values.ndim != 2 or element is None or element >= values.shape[1]:
            shape = values.shape[1:]
            raise CatalogError(f"{self.path}: column {column!r} has no element {element}; its shape is {shape}")
        return _native(values[:, element])


def without(values: NDArray[Any], missing: NDArray[np.bool_]) -> NDArray[Any]:
    """Return a column with NaN, or empty text, where a value is missing; integers too long for floats as text."""
    if values.dtype.kind in "iu" and (np.abs(values[~missing].astype(np.float64)) >= EXACT).any():
        values = values.astype(np.str_)
    if values.dtype.kind in "SUO":
        return np.where(missing, values.dtype.type() if values.dtype.kind != "O" else "", values)
    if values.dtype.kind in "biu":
        values = values.astype(np.float64)
    return np.where(missing, np.nan, values).astype(values.dtype)


def _native(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind == "S":
        return np.char.rstrip(np.char.decode(values, "utf-8", "replace"))
    if values.dtype.kind == "O":
        words = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values]
        return np.array(words, dtype=np.str_)
    if values.dtype.kind == "U":
        return np.char.rstrip(values)
    return np.ascontiguousarray(values, values.dtype.newbyteorder("="))


class FitsTable(Table):
    """The first binary table of a FITS file."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        try:
            self._file = open_fitsio(path)
            tables = [hdu for hdu in self._file if hdu.get_exttype() in ("BINARY_TBL", "ASCII_TBL")]
        except (StampError, OSError) as error:
            raise CatalogError(f"{path}: not readable as FITS ({' '.join(str(error).split())[:120]})") from None
        if not tables:
            self._file.close()
            raise CatalogError(f"{path}: holds no table, or was cut short; give a FITS file with a binary table")
        self._hdu: Any = keep_bytes(tables[0])
        header = self._hdu.read_header()
        columns = range(1, len(self.names) + 1)
        self._units = {header.get(f"TTYPE{n}"): header[f"TUNIT{n}"] for n in columns if f"TUNIT{n}" in header}
        self._nulls = {
            header.get(f"TTYPE{n}"): int(header[f"TNULL{n}"]) + int(header.get(f"TZERO{n}", 0))
            for n in columns
            if f"TNULL{n}" in header and str(header[f"TNULL{n}"]).lstrip("-").isdecimal()
        }

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self._hdu.get_colnames())

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self._hdu.get_nrows())

    def unit(self, name: str) -> str:
        """Return the unit that the file states for a column, "" if it states none."""
        return str(self._units.get(name, "")).strip()

    def _missing(self, piece: Columns, name: str) -> NDArray[np.bool_] | None:
        if name in self._nulls and piece[name].dtype.kind in "iu":
            missing = piece[name] == self._nulls[name]
            return missing if missing.any() else None
        return super()._missing(piece, name)

    def _read(self, names: Sequence[str], rows: int, text: str) -> Iterator[Columns]:
        for start in range(0, self.n_rows, rows):
            stop = min(start + rows, self.n_rows)
            try:
                data = self._hdu[list(names)][start:stop]
            except (OSError, ValueError, RuntimeError) as error:
                reason = " ".join(str(error).split())[:160]
                raise CatalogError(f"{self.path}: rows {start} to {stop}: {reason}") from None
            yield {name: _decoded(data[name]) for name in names}


def _decoded(values: NDArray[Any]) -> NDArray[Any]:
    """Return text as str of the column's own width, which every piece of it has."""
    if values.dtype.kind != "S":
        return values
    return np.char.decode(values, "utf-8", "replace").astype(f"U{values.dtype.itemsize}")


def open_table(path: str) -> Table:
    """Open a table file by its ending, or by its first bytes.

    Raises
    ------
    CatalogError
        If it is none of FITS, HDF5, Parquet, CSV (also gzipped) and ECSV.
    """
    lower = path.lower()
    if os.path.isdir(path):
        raise CatalogError(f"{path} is a folder; give a file, or a quoted glob such as '{path.rstrip('/')}/*.fits'")
    if lower.endswith((".csv", ".csv.gz", ".ecsv", ".ecsv.gz", ".txt", ".dat")):
        from lensscan.survey.texttable import TextTable

        return TextTable(path)
    if lower.endswith((".parquet", ".parq", ".pq")):
        from lensscan.survey.columnar import ParquetTable

        return ParquetTable(path)
    if lower.endswith((".h5", ".hdf5", ".hdf", ".he5")):
        from lensscan.survey.columnar import HdfTable

        return HdfTable(path)
    if lower.endswith((".fits", ".fit", ".fits.gz", ".fit.gz", ".fits.fz")):
        return FitsTable(path)
    raise CatalogError(f"{path}: unknown ending; catalogs are .fits .h5 .parquet .csv .csv.gz or .ecsv files")
