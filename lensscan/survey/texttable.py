"""CSV (also gzipped) and ECSV tables, streamed through pyarrow."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from lensscan.errors import CatalogError
from lensscan.survey.tables import Columns, Table

__all__ = ["TextTable"]

NULLS = ["", "nan", "NaN", "NAN", "null", "NULL", "None", "--", "N/A", "inf", "-inf", '""']
BYTES_PER_BLOCK = 1 << 24
MAX_UINT64 = 2**64
EXACT_DIGITS = 16
"""Integers with fewer digits are exact as fractions."""


class TextTable(Table):
    """A table of text with one line of column names; the separator is read from that line (or ECSV's header).

    Values have no types, so every column is read as text and turned into integers where all of a piece's
    values are integers, into floats where they are numbers.  A column with a leading zero (``0012``) stays text,
    and so do integers that floats would round.  The kind found in the first piece must hold.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        try:
            self._skip, line = self._first_line()
        except (OSError, UnicodeDecodeError, EOFError) as error:
            raise CatalogError(f"{path}: not readable as text ({error})") from None
        bare = re.sub('"[^"]*"', "", line)
        self._separator = next((mark for mark in (",", ";", "\t", "|") if mark in bare), " " if " " in bare else ",")
        fields = next(csv.reader([line], delimiter=self._separator, skipinitialspace=True))
        self._names = [name.strip() for name in fields]

    def _first_line(self) -> tuple[int, str]:
        with self._bytes() as data, io.TextIOWrapper(data, encoding="utf-8-sig") as stream:
            for skip, line in enumerate(stream):
                if not line.startswith("#") and line.strip():
                    return skip, line.strip()
        raise CatalogError(f"{self.path}: empty; the first line must name the columns")

    def _bytes(self) -> IO[bytes]:
        return cast(IO[bytes], gzip.open(self.path, "rb")) if self.path.endswith(".gz") else open(self.path, "rb")

    def _source(self) -> Any:
        """Return what pyarrow reads: the file; where blanks separate, the file with one blank where there are more."""
        return _Aligned(self._bytes()) if self._separator == " " and ".ecsv" not in self.path.lower() else self.path

    def close(self) -> None:
        """Nothing stays open between readings."""

    def check(self, name: str, key: str, survey: str) -> None:
        """Raise `CatalogError` if a column is missing, or if two have its name."""
        super().check(name, key, survey)
        if self._names.count(name) > 1:
            raise CatalogError(f"{self.path}: {self._names.count(name)} columns are named {name!r}; rename all but one")

    def _description(self) -> str:
        with self._bytes() as data, io.TextIOWrapper(data, encoding="utf-8-sig") as stream:
            head = itertools.takewhile(lambda line: line.startswith("#"), stream)
            return "\n".join(line.lstrip("# ") for line in head)

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return [name for name in dict.fromkeys(self._names) if name]

    def _read(self, names: Sequence[str], rows: int, text: str) -> Iterator[Columns]:
        import pyarrow as pa
        from pyarrow import csv as arrow

        try:
            reader = arrow.open_csv(
                self._source(),
                arrow.ReadOptions(block_size=BYTES_PER_BLOCK, skip_rows=self._skip + 1, column_names=self._names),
                arrow.ParseOptions(delimiter=self._separator),
                arrow.ConvertOptions(
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
        except (pa.ArrowInvalid, OSError, EOFError) as error:
            raise CatalogError(f"{self.path}: {' '.join(str(error).split())[:200]}; correct the file") from None


class _Aligned(io.RawIOBase):
    """The bytes of a table whose columns are aligned by blanks, with one blank between any two values."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._rest = stream, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while len(self._rest) < len(buffer):
            lines = self._stream.readlines(BYTES_PER_BLOCK)
            if not lines:
                break
            self._rest += b"".join(line if b'"' in line else b" ".join(line.split()) + b"\n" for line in lines)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size

    def close(self) -> None:
        self._stream.close()
        super().close()


def _typed(words: NDArray[np.str_], identifier: bool) -> NDArray[Any]:
    words = np.char.strip(words)
    whole = _integers(words)
    if whole is not None and (identifier or whole.dtype != np.uint64):
        return whole
    if identifier:
        return words
    known = np.where(np.isin(words, NULLS), "", words)
    if _labels(known):
        return known
    try:
        return np.where(known == "", "nan", known).astype(np.float64)
    except ValueError:
        return words


def _labels(words: NDArray[np.str_]) -> bool:
    """Tell whether fractions would spoil a column: integers with a leading zero, or too long for a fraction."""
    size = np.char.str_len(words)
    if (np.char.isdecimal(words) & np.char.startswith(words, "0") & (size > 1)).any():
        return True
    long = size >= EXACT_DIGITS
    return bool(long.any() and (np.char.isdecimal(np.char.lstrip(words, "+-")) | (size == 0)).all())


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
