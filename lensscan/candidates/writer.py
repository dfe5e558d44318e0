"""Writing OUT.h5: streamed columns, failures and the ranked table, hashed while they are written."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from lensscan import __version__
from lensscan.candidates.digest import ContentDigest
from lensscan.candidates.file import FORMAT_VERSION
from lensscan.errors import LensscanError, OutputError, disk_error
from lensscan.hdf5 import DiskSink
from lensscan.schema import find_column, status_name

__all__ = [
    "FAILURE_ROWS",
    "OutputWriter",
    "column_sidecar",
    "failure_records",
]

T = TypeVar("T")
FAILURE_ROWS = 65_536
REASON_WIDTH = 32


def failure_records(
    plan_row: NDArray[np.int64], columns: Mapping[str, NDArray[Any]], failed: NDArray[np.intp]
) -> NDArray[Any]:
    """Return the records of ``/failures`` of the rows `failed` of one chunk."""
    ids, files = columns["id"], columns["file"]
    records = np.empty(len(failed), failure_dtype(ids.dtype))
    records["plan_row"], records["row"] = plan_row[failed], columns["row"][failed]
    records["id"], records["file"] = ids[failed], files[failed]
    status = records["status"] = columns["status"][failed]
    for code in np.unique(status):
        records["reason"][status == code] = status_name(code).removeprefix("failed:").encode()
    return records


def failure_dtype(id_dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of ``/failures``."""
    fields = [
        ("plan_row", "<i8"),
        ("row", "<i8"),
        ("id", id_dtype),
        ("status", "u1"),
        ("reason", f"S{REASON_WIDTH}"),
    ]
    return np.dtype([*fields, ("file", "<u4")])


def column_sidecar(dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return astropy's ``__table_column_meta__`` of a dtype: units and descriptions as YAML lines."""
    from astropy.table import QTable, meta
    from astropy.table.column import Column as TableColumn

    table = QTable()
    for name in dtype.names or ():
        base, shape = dtype[name].base, dtype[name].shape
        if base.kind == "S":
            base = np.dtype(f"U{base.itemsize}")
        text = find_column(name)
        table[name] = TableColumn(
            np.empty((0, *shape), base), description=text.description or None, unit=text.unit or None
        )
    return np.array([line.encode("utf-8") for line in meta.get_yaml_from_table(table)])


class OutputWriter:
    """Writes one output file under a temporary name.

    Every method turns a full disk into a `DiskError` and other failures into an `OutputError`.

    Parameters
    ----------
    path : Path
        Temporary name; must not exist.
    n_rows : int
        Selected rows.
    columns : mapping
        Name -> dtype of the score columns.
    id_dtype : numpy.dtype
        Of the ids.
    """

    def __init__(self, path: Path, n_rows: int, columns: Mapping[str, DTypeLike], id_dtype: np.dtype[Any]) -> None:
        self.path = path
        self.digest = ContentDigest()
        self.n_failed = 0
        try:
            self._sink = DiskSink(path)
        except OSError as error:
            raise self._problem(error) from error
        self.h5 = h5py.File(self._sink, "w")
        self._guard(lambda: self._layout(n_rows, columns, id_dtype))

    def write(self, start: int, columns: Mapping[str, NDArray[Any]]) -> None:
        """Write score columns of the plan rows from `start` on; each column front to back."""

        def action() -> None:
            for name, array in columns.items():
                dataset = self.h5[f"scores/{name}"]
                array = np.ascontiguousarray(array, dtype=dataset.dtype)
                if len(array):
                    dataset[start : start + len(array)] = array
                self.digest.update(f"scores/{name}", array)

        self._guard(action)

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Read back a score column."""
        return np.asarray(self._guard(lambda: self.h5[f"scores/{name}"][start:stop]))

    def append_failures(self, records: NDArray[Any]) -> None:
        """Append rows to ``/failures``."""

        def action() -> None:
            dataset = self.h5["failures"]
            dataset.resize((self.n_failed + len(records),))
            if len(records):
                dataset[self.n_failed :] = records
            self.digest.update("failures", records)
            self.n_failed += len(records)

        self._guard(action)

    def write_table(self, records: NDArray[Any]) -> None:
        """Write ``/candidates`` with astropy's sidecar of units and descriptions."""

        def action() -> None:
            self.h5.create_dataset("candidates", data=records)
            self.h5.create_dataset("candidates.__table_column_meta__", data=column_sidecar(records.dtype))
            self.digest.update("candidates", records)

        self._guard(action)

    def write_cutflow(self, records: NDArray[Any]) -> None:
        """Write ``/cutflow``."""

        def action() -> None:
            self.h5.create_dataset("cutflow", data=records)
            self.digest.update("cutflow", records)

        self._guard(action)

    def copy_files(self, source: h5py.File) -> None:
        """Copy ``/files`` of the plan."""
        self._guard(lambda: source.copy("files", self.h5, "files"))

    def write_header(self, attributes: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
        """Write attributes (lists and dicts as JSON), provenance and the content hash; returns the hash."""
        content = self.digest.hexdigest()

        def action() -> None:
            for name, value in attributes.items():
                self.h5.attrs[name] = value if isinstance(value, (int, str)) else json.dumps(value, sort_keys=True)
            self.h5.attrs["content_hash"] = content
            self.h5.attrs["version"] = __version__
            self.h5.attrs["format_version"] = FORMAT_VERSION
            group = self.h5.create_group("provenance")
            for name, value in provenance.items():
                group[name] = json.dumps(value, default=str)

        self._guard(action)
        return content

    def close(self) -> None:
        """Flush, close and sync the file."""
        self._guard(self.h5.close)
        self._sink.sync()
        self._guard(self._sink.close)

    def discard(self) -> None:
        """Close and remove the temporary file, whatever state it is in."""
        with contextlib.suppress(OSError, RuntimeError):
            self.h5.close()
        self._sink.close()
        self.path.unlink(missing_ok=True)

    def _layout(self, n_rows: int, columns: Mapping[str, DTypeLike], id_dtype: np.dtype[Any]) -> None:
        group = self.h5.create_group("scores")
        for name, dtype in columns.items():
            dataset = group.create_dataset(name, (n_rows,), dtype=dtype)
            text = find_column(name)
            for key in ("unit", "ucd", "description"):
                if getattr(text, key):
                    dataset.attrs[key] = getattr(text, key)
        dtype = failure_dtype(id_dtype)
        self.h5.create_dataset("failures", (0,), maxshape=(None,), chunks=(FAILURE_ROWS // 16,), dtype=dtype)

    def _guard(self, action: Callable[[], T]) -> T:
        """Do something to the file; complain if the disk did."""
        try:
            result = action()
        except (OSError, RuntimeError) as error:
            raise self._problem(self._sink.error or error) from error
        if self._sink.error is not None:
            raise self._problem(self._sink.error)
        return result

    def _problem(self, error: BaseException) -> LensscanError:
        problem = OutputError(f"cannot write {self.path}: {error}; check the output folder")
        return disk_error(error, self.path) or problem
