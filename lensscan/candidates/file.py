"""Reading OUT.h5: the header, the ranked table, provenance, failures, cut flow and score columns.

The layout (format version 1) is written by `lensscan.candidates.writer`:

- ``/candidates``: the ranked table, a compound dataset with astropy's column sidecar;
- ``/scores/<column>``: every selected row in plan order, one contiguous dataset per column;
- ``/failures``: the rows that could not be scored, with the reason;
- ``/cutflow``: the rows that entered and left each step of the cut;
- ``/files``: what the column ``file`` points to;
- ``/provenance``: one JSON text per entry;
- attributes: format version, plan hash, merge settings, counts and the content hash.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lensscan.errors import OutputError

if TYPE_CHECKING:
    import h5py
    from astropy.table import QTable

__all__ = [
    "FORMAT_VERSION",
    "GROUPS",
    "Header",
    "open_output",
    "read_candidates",
    "read_cutflow",
    "read_failures",
    "read_files",
    "read_header",
    "read_provenance",
]

FORMAT_VERSION = 1
GROUPS = ("candidates", "scores", "failures", "cutflow", "files", "provenance")


@dataclass(frozen=True, slots=True)
class Header:
    """The attributes of an output file.

    Attributes
    ----------
    format_version : int
    plan_hash : str
        Of the plan whose shards were merged.
    plan_settings : dict
        Everything that could change a byte of a shard, as hashed in the plan.
    fingerprint : list
        (path, size, mtime) of the input files.
    merge_settings : dict
        What acted at the merge only: top, min_logit, prevalence, calibration.
    content_hash : str
        SHA-256 of the contents, see `lensscan.candidates.digest`.
    n_catalog, n_cut, n_rows, n_scored, n_failed, n_candidates : int
        ``n_catalog = n_cut + n_scored + n_failed``; ``n_rows = n_scored + n_failed`` were selected.
    bands, models : tuple of str
    version : str
        The lensscan that wrote the file.
    """

    format_version: int
    plan_hash: str
    plan_settings: dict[str, Any]
    fingerprint: list[Any]
    merge_settings: dict[str, Any]
    content_hash: str
    n_catalog: int
    n_cut: int
    n_rows: int
    n_scored: int
    n_failed: int
    n_candidates: int
    bands: tuple[str, ...]
    models: tuple[str, ...]
    version: str

    @classmethod
    def of(cls, h5: h5py.File) -> Header:
        """Read the header of an open file; refuses a newer format."""
        path, a = h5.filename, h5.attrs
        if "format_version" not in a or "content_hash" not in a:
            raise OutputError(f"{path} is not an output of lensscan scan; give the OUT.h5 of a scan")
        version = int(a["format_version"])
        if version > FORMAT_VERSION:
            raise OutputError(f"{path} has format {version}, newer than {FORMAT_VERSION}; use a newer lensscan")
        counts = {name: int(a[name]) for name in cls.__dataclass_fields__ if name.startswith("n_")}
        return cls(
            format_version=version,
            plan_hash=str(a["plan_hash"]),
            plan_settings=json.loads(h5["provenance/plan_settings"].asstr()[()]),
            fingerprint=json.loads(h5["provenance/fingerprint"].asstr()[()]),
            merge_settings=json.loads(a["merge_settings"]),
            content_hash=str(a["content_hash"]),
            bands=tuple(json.loads(a["bands"])),
            models=tuple(json.loads(a["models"])),
            version=str(a["version"]),
            **counts,
        )


@contextmanager
def open_output(path: str | Path) -> Iterator[h5py.File]:
    """Open an output file for reading; what cannot be read becomes a one-line `OutputError`."""
    import h5py

    if not Path(path).is_file():
        raise OutputError(f"no file {path}; give the OUT.h5 of a finished scan")
    try:
        with h5py.File(path, "r", locking="best-effort") as h5:
            missing = [name for name in GROUPS if name not in h5]
            if missing:
                raise OutputError(f"{path} lacks /{missing[0]}; it is not an output of lensscan scan")
            yield h5
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OutputError(f"cannot read {path}: {text}; the file is damaged or no output of lensscan scan") from error


def read_header(path: str | Path) -> Header:
    """Return the header of an output file.

    Raises
    ------
    OutputError
        If the file is missing, damaged, foreign or of a newer format.
    """
    with open_output(path) as h5:
        return Header.of(h5)


def read_candidates(path: str | Path) -> QTable:
    """Return the ranked candidates with units and descriptions.

    Parameters
    ----------
    path : str or Path
        An output of ``lensscan scan``.

    Returns
    -------
    astropy.table.QTable
        Best candidate first; the header's counts, bands, models and hashes stand in ``meta``.

    Raises
    ------
    OutputError
        If the file is missing, damaged, foreign or of a newer format.
    """
    from astropy.table import QTable

    with open_output(path) as h5:
        header = Header.of(h5)
        table = QTable.read(h5, path="candidates", format="hdf5", character_as_bytes=False)
    for name in ("plan_hash", "content_hash", "n_catalog", "n_rows", "n_scored", "version"):
        table.meta[name] = getattr(header, name)
    table.meta["bands"], table.meta["models"] = list(header.bands), list(header.models)
    return table


def read_cutflow(path: str | Path) -> list[dict[str, Any]]:
    """Return the steps of the cut: ``name n_in n_kept n_nan n_sentinel``."""
    with open_output(path) as h5:
        return [_plain(record) for record in h5["cutflow"][()]]


def read_failures(path: str | Path, start: int = 0, stop: int | None = None) -> list[dict[str, Any]]:
    """Return failed rows [start, stop): ``plan_row row id status reason file``."""
    with open_output(path) as h5:
        return [_plain(record) for record in h5["failures"][start:stop]]


def read_files(path: str | Path, index: np.ndarray) -> list[str]:
    """Return the paths behind values of the column ``file``."""
    with open_output(path) as h5:
        dataset = h5["files"]
        names = {int(i): dataset[int(i)].decode() for i in np.unique(index)}
    return [names[int(i)] for i in index]


def read_provenance(path: str | Path) -> dict[str, Any]:
    """Return the provenance."""
    with open_output(path) as h5:
        return {name: json.loads(item.asstr()[()]) for name, item in h5["provenance"].items()}


def _plain(record: np.void) -> dict[str, Any]:
    names = record.dtype.names or ()
    values = {name: record[name].item() for name in names}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}
