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
        best: tuple[dict[str, Any], Any, int] = ({}, None, 0)
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

        try:
            for batch in self._file.iter_batches(batch_size=min(rows, 1 << 17), columns=list(names)):
                yield {name: _from_arrow(batch.column(name), self.path, name) for name in names}
        except (pa.ArrowException, OSError) as error:
            raise CatalogError(f"{self.path}: damaged ({' '.join(str(error).split())[:160]}); write it again") from None


def _from_arrow(array: Any, path: str, name: str) -> NDArray[Any]:
    import pyarrow as pa

    kind = array.type
    if pa.types.is_dictionary(kind):
        return _from_arrow(array.dictionary_decode(), path, name)
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind):
        return np.array([[np.nan if v is None else v for v in row or ()] for row in array.to_pylist()], float)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array(["" if value is None else value for value in array.to_pylist()], dtype=np.str_)
    if pa.types.is_integer(kind) and array.null_count:
        if kind.bit_width == 64:
            raise CatalogError(f"{path}: column {name!r} has missing integers; fill or drop them")
        return np.asarray(array.cast(pa.float64()).to_numpy(zero_copy_only=False))
    if pa.types.is_decimal(kind):
        return np.array([np.nan if value is None else float(value) for value in array.to_pylist()])
    return np.asarray(array.to_numpy(zero_copy_only=False))
