"""CSV (also gzipped) and ECSV tables, streamed through pyarrow."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.errors import CatalogError
from lensscan.survey.tables import Columns, Table

__all__ = ["TextTable"]

NULLS = ["", "nan", "NaN", "NAN", "null", "NULL", "None", "--", "N/A", "inf", "-inf", '""']
BYTES_PER_BLOCK = 1 << 24
MAX_UINT64 = 2**64


class TextTable(Table):
    """A table of text with one line of column names; the separator is read from that line (or ECSV's header).

    Values have no types, so every column is read as text and turned into integers where all of a piece's
    values are integers, into floats where they are numbers.  The kind found in the first piece must hold.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        try:
            self._skip, line = self._first_line()
        except (OSError, UnicodeDecodeError, EOFError) as error:
            raise CatalogError(f"{path}: not readable as text ({error})") from None
        self._separator = next((mark for mark in (",", ";", "\t", "|") if mark in line), " " if " " in line else ",")
        self._names = [name.strip().strip('"') for name in line.split(self._separator)]

    def _first_line(self) -> tuple[int, str]:
        skip = 0
        opener = gzip.open if self.path.endswith(".gz") else open
        with opener(self.path, "rt", encoding="utf-8-sig") as stream:  # spreadsheets begin with a byte order mark
            for line in stream:
                if not line.startswith("#") and line.strip():
                    return skip, line.strip()
                skip += 1
        raise CatalogError(f"{self.path}: empty; the first line must name the columns")

    def close(self) -> None:
        """Nothing stays open between readings."""

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self._names)

    def _read(self, names: Sequence[str], rows: int, text: str) -> Iterator[Columns]:
        import pyarrow as pa
        from pyarrow import csv

        try:
            reader = csv.open_csv(
                self.path,
                csv.ReadOptions(block_size=BYTES_PER_BLOCK, skip_rows=self._skip + 1, column_names=self._names),
                csv.ParseOptions(delimiter=self._separator),
                csv.ConvertOptions(
                    include_columns=list(names),
                    column_types=dict.fromkeys(names, pa.string()),
                    strings_can_be_null=False,
                ),
            )
            for batch in reader:
                for start in range(0, batch.num_rows, rows):
                    part = batch.slice(start, rows)
                    yield {
                        name: _typed(np.asarray(part.column(name).to_pylist(), dtype=np.str_), name == text)
                        for name in names
                    }
        except pa.ArrowInvalid as error:
            raise CatalogError(f"{self.path}: {' '.join(str(error).split())[:200]}") from None


def _typed(words: NDArray[np.str_], identifier: bool) -> NDArray[Any]:
    words = np.char.strip(words)
    whole = _integers(words)
    if whole is not None and (identifier or whole.dtype != np.uint64):
        return whole
    if identifier:
        return words
    try:
        return np.where(np.isin(words, NULLS), "nan", words).astype(np.float64)
    except ValueError:
        return words


def _integers(words: NDArray[np.str_]) -> NDArray[Any] | None:
    """Return int64 or uint64 if every word is an integer written without a leading zero, else None."""
    digits = np.char.lstrip(words, "+-")
    plain = np.char.isdecimal(digits) & ((np.char.str_len(digits) == 1) | ~np.char.startswith(digits, "0"))
    if not len(words) or not plain.all():
        return None
    try:
        return words.astype(np.int64)
    except (OverflowError, ValueError):
        pass
    values = [int(word) for word in words]
    return np.array(values, np.uint64) if min(values) >= 0 and max(values) < MAX_UINT64 else None
