"""HDF5 and Parquet tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.errors import CatalogError
from lensscan.survey.tables import Columns, Table

__all__ = ["HdfTable", "ParquetTable"]


class HdfTable(Table):
    """A compound dataset, or a group of equally long datasets; of several in a file the longest."""

    def __init__(self, path: str) -> None:
        import h5py

        super().__init__(path)
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise CatalogError(f"{path}: not readable as HDF5 ({error})") from None
        self._columns, self._compound, self._rows = self._find()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _find(self) -> tuple[dict[str, Any], Any, int]:
        import h5py

        groups: dict[str, dict[str, Any]] = {}
        compounds: list[Any] = []

        def visit(name: str, item: Any) -> None:
            if not isinstance(item, h5py.Dataset) or not item.shape or name.endswith("__table_column_meta__"):
                return
            if item.dtype.names:
                compounds.append(item)
            else:
                groups.setdefault(item.parent.name, {})[name.rpartition("/")[2]] = item

        self._file.visititems(visit)
        best: tuple[dict[str, Any], Any, int] = ({}, None, -1)
        for item in compounds:
            if item.shape[0] > best[2]:
                best = (dict.fromkeys(item.dtype.names, item), item, item.shape[0])
        for columns in groups.values():
            lengths = [item.shape[0] for item in columns.values()]
            longest = max(set(lengths), key=lambda length: (lengths.count(length), length))
            if longest > best[2]:
                best = ({n: item for n, item in columns.items() if item.shape[0] == longest}, None, longest)
        if not best[0]:
            raise CatalogError(f"{self.path}: holds no table; give a compound dataset or a group of columns")
        return best

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self._columns)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self._rows)

    def _description(self) -> str:
        key = f"{self._compound.name}.__table_column_meta__" if self._compound is not None else None
        return b"\n".join(self._file[key][:]).decode("utf-8", "replace") if key and key in self._file else ""

    def unit(self, name: str) -> str:
        """Return the unit that the file states for a column, "" if it states none."""
        stated = "" if self._compound is not None else self._columns[name].attrs.get("unit", "")
        return str(stated) or super().unit(name)

    def _read(self, names: Sequence[str], rows: int, text: str) -> Iterator[Columns]:
        for start in range(0, self._rows, rows):
            part = slice(start, min(start + rows, self._rows))
            try:
                if self._compound is not None:
                    data = self._compound.fields(list(names))[part]
                    yield {name: data[name] for name in names}
                else:
                    yield {name: self._columns[name][part] for name in names}
            except OSError as error:
                raise CatalogError(f"{self.path}: rows from {start}: {error}") from None


class ParquetTable(Table):
    """A Parquet file."""

    def __init__(self, path: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        super().__init__(path)
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise CatalogError(f"{path}: not readable as Parquet ({' '.join(str(error).split())[:160]})") from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self._file.schema_arrow.names)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self._file.metadata.num_rows)

    def _read(self, names: Sequence[str], rows: int, text: str) -> Iterator[Columns]:
        import pyarrow as pa

        batches = self._file.iter_batches(batch_size=min(rows, 1 << 17), columns=list(names))
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                reason = " ".join(str(error).split())[:160]
                raise CatalogError(f"{self.path}: damaged ({reason}); get the file again") from None
            if batch is None:
                return
            yield {name: _from_arrow(batch.column(name), self.path, name) for name in names}

    def _description(self) -> str:
        return (self._file.schema_arrow.metadata or {}).get(b"table_meta_yaml", b"").decode("utf-8", "replace")


def _from_arrow(array: Any, path: str, name: str) -> NDArray[Any]:
    import pyarrow as pa

    kind = array.type
    if pa.types.is_dictionary(kind):
        return _from_arrow(array.dictionary_decode(), path, name)
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind):
        return _vectors(array.to_pylist())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array(["" if value is None else value for value in array.to_pylist()], dtype=np.str_)
    if pa.types.is_integer(kind) and array.null_count:
        try:
            return np.asarray(array.cast(pa.float64()).to_numpy(zero_copy_only=False))
        except pa.ArrowInvalid:
            raise CatalogError(f"{path}: column {name!r} has missing integers; fill or drop them") from None
    if pa.types.is_decimal(kind):
        return np.array([np.nan if value is None else float(value) for value in array.to_pylist()])
    values = np.asarray(array.to_numpy(zero_copy_only=False))
    return values.astype(np.str_) if values.dtype.kind in "mM" else values


def _vectors(rows: list[Any]) -> NDArray[Any]:
    """Return lists as a vector column; lists of different lengths, or of no numbers, as text."""
    try:
        return np.array([[np.nan if value is None else value for value in row or ()] for row in rows], np.float64)
    except (ValueError, TypeError):
        return np.array(["" if row is None else str(row) for row in rows], dtype=np.str_)
