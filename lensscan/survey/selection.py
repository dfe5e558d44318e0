"""Writes selection.fits: the selected rows, and the cut flow with the size of the catalog they come from."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.errors import CatalogError, ConfigError, OutputError, disk_error
from lensscan.files import ascii_text, temporary_name
from lensscan.survey.fits import create_fitsio, open_fitsio
from lensscan.survey.select import CutFlow

__all__ = ["SelectionWriter"]


class SelectionWriter:
    """Appends chunks to a FITS table and ends with the cut flow; a context manager.

    The file appears under its name only when it is complete, synced and read back.

    Parameters
    ----------
    path : str or Path
        Must end in ``.fits``.

    Raises
    ------
    ConfigError, OutputError, DiskError
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        if not self.path.endswith(".fits"):
            raise ConfigError(f"-o {self.path}: a selection is a FITS file; end its name in .fits")
        folder = os.path.dirname(self.path) or "."
        if not os.path.isdir(folder):
            raise OutputError(f"cannot write {self.path}: no folder {folder}; make it, or give another name")
        self._part = str(temporary_name(self.path))
        self._file: Any = None
        self._dtype: np.dtype[Any] | None = None
        self._n = 0

    def __enter__(self) -> SelectionWriter:
        with self._disk():
            self._file = create_fitsio(self._part)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._part)

    def add(self, rows: dict[str, NDArray[Any]]) -> None:
        """Append rows: columns of equal length under their names in the survey's catalog."""
        count = len(next(iter(rows.values())))
        if self._dtype is None:
            if not count:
                return
            self._dtype = np.dtype([(name, _stored(values, name)) for name, values in rows.items()])
            with self._disk():
                self._file.create_table_hdu(dtype=self._dtype, extname="SELECTION")
        table = np.zeros(count, self._dtype)
        for name, values in rows.items():
            kind = self._dtype[name]
            if values.dtype.kind == "U":
                values = np.char.encode(values, "utf-8")
                if values.dtype.itemsize > kind.itemsize:
                    raise CatalogError(
                        f"column {name!r}: text of {values.dtype.itemsize} bytes, in the first chunk at most "
                        f"{kind.itemsize}; leave the column out of the catalog"
                    )
            table[name] = values
        with self._disk():
            self._file["SELECTION"].append(table)
        self._n += count

    def finish(self, flow: CutFlow, columns: dict[str, NDArray[Any]]) -> None:
        """Write the cut flow and give the file its name; `columns` (empty) define the table of an empty selection."""
        with self._disk():
            if self._dtype is None:
                self._dtype = np.dtype([(name, _stored(values, name)) for name, values in columns.items()])
                self._file.create_table_hdu(dtype=self._dtype, extname="SELECTION")
            rows = flow.rows()
            if not len(rows):
                rows = np.zeros(1, rows.dtype)
            self._file.write(rows, extname="CUTFLOW")
            header = self._file["CUTFLOW"]
            header.write_key("CUT", ascii_text(flow.name), "name of the cut")
            header.write_key("N_CAT", flow.n_catalog, "rows of the catalog")
            header.write_key("N_SEL", flow.n_selected, "rows selected")
            header.write_key("MAGS", ascii_text(flow.magnitudes), "which magnitudes were cut")
            if flow.prevalence is not None:
                header.write_key("PREVALEN", flow.prevalence, "lenses per selected row, as the cut states it")
            self._file.close()
            self._verify()
            with open(self._part, "rb") as stream:
                os.fsync(stream.fileno())
            os.replace(self._part, self.path)

    def _verify(self) -> None:
        with open_fitsio(self._part) as file:
            if file["SELECTION"].get_nrows() != self._n:
                raise OutputError(f"{self.path}: does not verify after writing; check the disk and run again")

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk_error(error, self.path) or OutputError(f"cannot write {self.path}: {error}") from None


def _stored(values: NDArray[Any], name: str) -> Any:
    if not name.isascii():
        raise CatalogError(f"column {name!r}: a FITS table names columns in ASCII; rename it in the catalog")
    kind = values.dtype.kind
    if kind == "U":
        width = f"S{max(values.dtype.itemsize, 4)}"
        return width if values.ndim == 1 else (width, values.shape[1:])
    if kind in "biufc":
        return values.dtype if values.ndim == 1 else (values.dtype, values.shape[1:])
    raise CatalogError(f"column {name!r} has dtype {values.dtype}, which a FITS table cannot hold")
