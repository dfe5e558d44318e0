"""The plan: the immutable, hashed list of blocks of one run, and the rows they hold (``plan.h5``).

Rows stand in plan order: catalog chunks of 1,000,000 rows, each sorted by (file, offset), so that a block
is contiguous in storage.  Block borders depend on catalog, stamp storage and batch shape only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from lensscan.errors import LensscanError, OutputError, disk_error
from lensscan.files import temporary_name
from lensscan.hdf5 import DiskSink
from lensscan.scan.settings import canonical, digest
from lensscan.schema import Status

if TYPE_CHECKING:
    from lensscan.survey.select import CutFlow
    from lensscan.survey.stamps import Rows

__all__ = ["BATCHES_PER_BLOCK", "CHUNK_ROWS", "FORMAT", "Plan", "PlanWriter"]

FORMAT = 1
CHUNK_ROWS = 1_000_000
BATCHES_PER_BLOCK = 16
WINDOW_ROWS = 16_384
OPEN_COST = 20.0  # opening a file costs about as much as reading so many rows
NUMBERS = {
    "ra": "f8",
    "dec": "f8",
    "px": "f8",
    "py": "f8",
    "file": "u4",
    "offset": "i8",
    "row": "i8",
    "status": "u1",
}
BLOCK = np.dtype([("start", "i8"), ("stop", "i8"), ("n_files", "i4"), ("cost", "f4")])
FLOW = np.dtype([("name", "S160"), ("n_in", "i8"), ("n_kept", "i8"), ("n_nan", "i8"), ("n_sentinel", "i8")])
TEXT = h5py.string_dtype("utf-8")
Columns = dict[str, np.ndarray]


@dataclass(slots=True)
class PlanWriter:
    """Writes ``plan.h5`` chunk by chunk; memory does not grow with the catalog but for 8 bytes a row.

    Parameters
    ----------
    path : Path
        Final name; a temporary name is used until `finish`.
    batch : int
        Rows per batch; a block is a run of at most 16 batches inside one chunk.
    shared_files : bool
        Many rows share a file (packs, tiles), so that the file table is kept unique over chunks.
    """

    path: Path
    batch: int
    shared_files: bool
    n_rows: int = 0
    _temp: Path = field(init=False)
    _sink: DiskSink = field(init=False)
    _h5: Any = None
    _files: dict[str, int] = field(default_factory=dict)
    _n_files: int = 0
    _hashes: list[np.ndarray] = field(default_factory=list)
    _digests: dict[str, Any] = field(default_factory=dict)
    _blocks: list[np.ndarray] = field(default_factory=list)
    _empty: tuple[Any, ...] | None = None
    _id_kind: str = ""
    _id_width: int = 1

    def __post_init__(self) -> None:
        self._temp = temporary_name(self.path)
        try:
            self._sink = DiskSink(self._temp)
        except OSError as error:
            problem = OutputError(f"cannot create {self._temp}: {error.strerror}; check the folder")
            raise disk_error(error, self._temp) or problem from None
        self._h5 = h5py.File(self._sink, "w")
        self._h5.create_dataset("files", (0,), maxshape=(None,), chunks=(4096,), dtype=TEXT)

    def append(self, ids: np.ndarray, numbers: Columns, files: Sequence[str], columns: Columns) -> None:
        """Add the selected rows of one catalog chunk, one column after the other to save memory.

        Parameters
        ----------
        ids : (n,) integer or string array
        numbers : dict of (n,) arrays
            ``ra dec px py offset row status``.
        files : sequence of str
            Storage of each row.
        columns : dict of (n,) arrays
            Catalog columns carried along.
        """
        if len(ids):
            self._append(ids, numbers, files, columns)
        elif self._empty is None:  # a table without rows may have types of its own
            self._empty = (ids, numbers, files, columns)

    def _append(self, ids: np.ndarray, numbers: Columns, files: Sequence[str], columns: Columns) -> None:
        index, names = self._intern(files)
        order = np.lexsort((numbers["offset"], index))
        place = index[order].astype(NUMBERS["file"])
        del index
        self._extend("files", np.array(names, dtype=object), TEXT)
        self._extend("rows/id", self._checked_ids(ids)[order], TEXT if self._id_kind == "str" else None)
        self._extend("rows/file", place)
        for name, array in numbers.items():
            self._extend(f"rows/{name}", np.ascontiguousarray(array[order], dtype=NUMBERS[name]))
        for name, array in columns.items():
            array = np.asarray(array)[order]
            text = array.dtype.kind in "USO"
            self._extend(f"rows/cat_{name}", array.astype(object) if text else array, TEXT if text else None)
        self._hashes.append(hash_ids(ids[order]))
        self._split(place, len(order))

    def _intern(self, files: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """Return the file number of each row, and the names that are new."""
        known = self._files if self.shared_files else {}
        first = self._n_files
        index = np.empty(len(files), dtype=np.int64)
        names: list[str] = []
        for i, name in enumerate(files):
            number = known.get(name)
            if number is None:
                number = known[name] = first + len(names)
                names.append(name)
            index[i] = number
        self._n_files += len(names)
        return index, names

    def _checked_ids(self, ids: np.ndarray) -> np.ndarray:
        kind = {"i": "int", "u": "uint"}.get(ids.dtype.kind, "str")
        if self._id_kind and kind != self._id_kind:
            raise LensscanError(
                f"catalog ids change from {self._id_kind} to {kind} between files; give all files one id type"
            )
        self._id_kind = kind
        if kind != "str":
            return ids.astype("i8" if kind == "int" else "u8")
        text = ids.astype(str)
        if len(text):
            self._id_width = max(self._id_width, int(np.char.str_len(np.char.encode(text, "utf-8")).max()))
        return text.astype(object)

    def _extend(self, name: str, array: np.ndarray, dtype: Any = None) -> None:
        with self._guard():
            if name not in self._h5:
                self._h5.create_dataset(name, (0,), maxshape=(None,), chunks=(16384,), dtype=dtype or array.dtype)
            dataset = self._h5[name]
            at = dataset.shape[0]
            dataset.resize((at + len(array),))
            if len(array):
                dataset[at:] = array
        running = self._digests.setdefault(name, hashlib.sha256())
        running.update("\0".join(array).encode() if array.dtype == object else np.ascontiguousarray(array).data)

    def _split(self, files: np.ndarray, n: int) -> None:
        """Cut the chunk's rows into blocks."""
        starts = np.arange(0, n, self.batch * BATCHES_PER_BLOCK)
        stops = np.minimum(starts + self.batch * BATCHES_PER_BLOCK, n)
        blocks = np.zeros(len(starts), BLOCK)
        changes = np.concatenate([[0], np.cumsum(np.diff(files.astype(np.int64)) != 0)]) if n else np.zeros(0, int)
        for k, (a, b) in enumerate(zip(starts, stops, strict=True)):
            n_files = int(changes[b - 1] - changes[a]) + 1
            blocks[k] = (self.n_rows + a, self.n_rows + b, n_files, (b - a) + OPEN_COST * n_files)
        self._blocks.append(blocks)
        self.n_rows += n

    def mark_duplicates(self) -> int:
        """Give every row but the first of each id the status DUPLICATE_ID; return their number."""
        twice = repeated(self._hashes)
        self._hashes.clear()
        if not len(twice):
            return 0
        best: dict[Any, int] = {}
        places: list[tuple[Any, int, int]] = []
        rows = self._h5["rows"]
        for a in range(0, self.n_rows, CHUNK_ROWS):
            ids = read_ids(rows["id"], a, min(a + CHUNK_ROWS, self.n_rows))
            for k in np.flatnonzero(np.isin(hash_ids(ids), twice)):
                catalog_row = int(rows["row"][a + k])
                key = ids[k]
                best[key] = min(best.get(key, catalog_row), catalog_row)
                places.append((key, a + int(k), catalog_row))
        later = [place for key, place, catalog_row in places if catalog_row != best[key]]
        for place in later:
            rows["status"][place] = Status.DUPLICATE_ID
        self._digests["duplicates"] = hashlib.sha256(np.array(later, "i8").tobytes())
        return len(later)

    @property
    def shared(self) -> list[str]:
        """Files that hold the pixels of several rows, as far as known."""
        return [name for name in self._files if name]

    def finish(
        self,
        settings: dict[str, Any],
        flow: CutFlow,
        fingerprint: list[Any],
        bands: tuple[str, ...],
        storage: Sequence[Any] = (),
    ) -> str:
        """Write blocks, cut flow and hash, and give the file its final name; returns the plan hash."""
        if not self.n_rows:
            none = np.zeros(0)
            self._append(
                *(self._empty or (none.astype("i8"), {name: none for name in NUMBERS if name != "file"}, (), {}))
            )
        self.mark_duplicates()
        rows = {name: value.hexdigest() for name, value in sorted(self._digests.items())}
        settings = {**settings, "rows": digest(rows)}
        plan_hash = digest(settings)
        blocks = np.concatenate(self._blocks) if self._blocks else np.zeros(0, BLOCK)
        steps = np.array(
            [(s.name.encode()[:160], s.n_in, s.n_kept, s.n_nan, s.n_sentinel) for s in flow.steps], dtype=FLOW
        )
        attributes = {
            "format": FORMAT,
            "plan_hash": plan_hash,
            "n_catalog": flow.n_catalog,
            "n_rows": self.n_rows,
            "n_blocks": len(blocks),
            "batch": self.batch,
            "bands": json.dumps(bands),
            "id_kind": self._id_kind or "int",
            "id_width": self._id_width,
        }
        with self._guard():
            self._h5.create_dataset("blocks", data=blocks)
            self._h5.create_dataset("cutflow", data=steps)
            # as datasets: an attribute holds 64 KB at most, and a catalog may be thousands of files
            self._h5.create_dataset("settings", data=canonical(settings), dtype=TEXT)
            self._h5.create_dataset("fingerprint", data=canonical(fingerprint), dtype=TEXT)
            self._h5.create_dataset("storage", data=canonical(storage), dtype=TEXT)
            self._h5.attrs.update(attributes)
            self._h5.close()
            self._sink.sync()
        self._sink.close()
        with self._guard():
            os.replace(self._temp, self.path)
        return plan_hash

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Turn a failed write into a one-line error."""
        problem: BaseException | None = None
        try:
            yield
        except (OSError, RuntimeError) as error:
            problem = error
        problem = self._sink.error or problem
        if problem is not None:
            raise disk_error(problem, self._temp) or OutputError(f"cannot write {self._temp}: {problem}") from problem

    def discard(self) -> None:
        """Remove the temporary file."""
        with contextlib.suppress(OSError, RuntimeError):
            self._h5.close()
        self._sink.close()
        self._temp.unlink(missing_ok=True)


def hash_ids(ids: np.ndarray) -> np.ndarray:
    """Return 64-bit hashes of ids: integers without collision, strings by a multiplicative hash of their words."""
    if ids.dtype.kind in "iu":
        words = ids.astype(np.uint64) if ids.dtype.kind == "u" else ids.astype(np.int64).view(np.uint64)
        return words * np.uint64(0x9E3779B97F4A7C15)  # odd, so invertible: spreads ids over the high bits
    if not len(ids):
        return np.zeros(0, np.uint64)
    raw = np.char.encode(ids.astype(str), "utf-8")
    width = -(-max(raw.dtype.itemsize, 1) // 8) * 8
    words = raw.astype(f"S{width}").view(np.uint64).reshape(len(raw), -1)
    result = np.full(len(raw), 0x9E3779B97F4A7C15, dtype=np.uint64)
    for column in words.T:
        # zero words add nothing, so that the hash does not depend on the width of the chunk's array
        mixed = (result ^ column) * np.uint64(0xBF58476D1CE4E5B9)
        result = np.where(column == 0, result, mixed ^ (mixed >> np.uint64(29)))
    return result


def repeated(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the hashes that occur more than once, bucket by bucket of their high bits to save memory."""
    found = [np.zeros(0, np.uint64)]
    for bucket in range(16):
        some = np.concatenate([part[part >> np.uint64(60) == bucket] for part in parts] or found)
        some.sort()
        found.append(np.unique(some[1:][some[1:] == some[:-1]]))
    return np.concatenate(found)


def read_ids(dataset: Any, start: int, stop: int) -> np.ndarray:
    """Return ids of the rows [start, stop) as an integer or str array."""
    values = dataset[start:stop]
    return values if values.dtype.kind in "iu" else np.array([v.decode() for v in values], dtype=str)


@dataclass(slots=True)
class Plan:
    """A finished plan, opened for reading.

    Attributes
    ----------
    path : Path
    plan_hash : str
    settings : dict
        Everything that can change a byte of a shard.
    fingerprint : list
        (path, size, mtime) of the input files, for the quick check whether they changed.
    blocks : (n_blocks,) structured array
        ``start stop n_files cost``.
    """

    path: Path
    plan_hash: str
    settings: dict[str, Any]
    fingerprint: list[Any]
    n_catalog: int
    n_rows: int
    batch: int
    bands: tuple[str, ...]
    id_kind: str
    id_width: int
    blocks: np.ndarray
    cutflow: np.ndarray
    storage: list[Any] = field(default_factory=list)
    _window: tuple[int, int, Rows] | None = None

    @classmethod
    def open(cls, path: Path) -> Plan:
        """Open ``plan.h5``; an unreadable one or one of another format is an `OutputError`."""
        try:
            with h5py.File(path, "r", locking=False) as h5:
                a = h5.attrs
                if int(a["format"]) != FORMAT:
                    raise OutputError(
                        f"{path} has plan format {a['format']}, this lensscan writes {FORMAT}; remove {path.parent}"
                    )
                return cls(
                    path=path,
                    plan_hash=str(a["plan_hash"]),
                    settings=json.loads(h5["settings"][()]),
                    fingerprint=json.loads(h5["fingerprint"][()]),
                    n_catalog=int(a["n_catalog"]),
                    n_rows=int(a["n_rows"]),
                    batch=int(a["batch"]),
                    bands=tuple(json.loads(a["bands"])),
                    id_kind=str(a["id_kind"]),
                    id_width=int(a["id_width"]),
                    blocks=h5["blocks"][()],
                    cutflow=h5["cutflow"][()],
                    storage=json.loads(h5["storage"][()]) if "storage" in h5 else [],
                )
        except (OSError, KeyError, ValueError) as error:
            raise OutputError(f"cannot read the plan {path} ({error}); remove {path.parent} and start again") from None

    def rows(self, start: int, stop: int) -> Rows:
        """Return the rows [start, stop) as the stamp readers want them.

        A window of several blocks is read at a time: opening the file costs more than reading it.
        """
        if self._window is None or not (self._window[0] <= start and stop <= self._window[1]):
            end = min(self.n_rows, max(stop, start + WINDOW_ROWS))
            self._window = (start, end, self._read_rows(start, end))
        first, _, rows = self._window
        return rows.cut(start - first, stop - first)

    def _read_rows(self, start: int, stop: int) -> Rows:
        from lensscan.survey.stamps import Rows

        with h5py.File(self.path, "r", locking=False) as h5:
            rows = h5["rows"]
            number = rows["file"][start:stop]
            first, last = (int(number.min()), int(number.max())) if len(number) else (0, -1)
            names = [name.decode() for name in h5["files"][first : last + 1]]
            return Rows(
                id=read_ids(rows["id"], start, stop),
                file=[names[i - first] for i in number.astype(np.int64)],
                **{name: rows[name][start:stop] for name in ("ra", "dec", "px", "py", "offset", "status")},
            )

    def block_rows(self) -> Iterator[tuple[int, int, int]]:
        """Yield (block, start, stop)."""
        for number, block in enumerate(self.blocks):
            yield number, int(block["start"]), int(block["stop"])
