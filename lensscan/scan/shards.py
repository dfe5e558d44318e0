"""The ledger: one finished, verified HDF5 file per block.

A block is done if and only if its shard stands under its final name and verifies: plan hash, row range and
checksum.  A shard is written to a name unique to the attempt, flushed, synced, re-opened, verified and
renamed, so that a straggler can only replace it by identical bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lensscan import faults
from lensscan.errors import OutputError, ShardInvalid, disk_error
from lensscan.files import sync_folder, temporary_name
from lensscan.hdf5 import new_hdf5

__all__ = [
    "checksum",
    "done_blocks",
    "read_shard",
    "remove_shards",
    "shard_path",
    "write_shard",
]

FAN_OUT = 256


class ForeignShard(ShardInvalid):
    """A shard of another plan, which may be sound."""


def shard_path(run_dir: Path, block: int) -> Path:
    """Return the final name of a block's shard."""
    return run_dir / "shards" / f"{block % FAN_OUT:02x}" / f"B{block:06d}.h5"


def as_table(columns: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return columns as one structured array: a file of one dataset is several times cheaper than one of a dozen."""
    names = sorted(columns)
    kinds = {name: np.dtype(np.uint8) if columns[name].dtype == bool else columns[name].dtype for name in names}
    dtype = np.dtype([(name, kinds[name], columns[name].shape[1:]) for name in names])
    table = np.empty(len(columns[names[0]]), dtype)
    for name in names:
        table[name] = columns[name]
    return table


def checksum(table: NDArray[Any]) -> str:
    """Return the SHA-256 over dtype, shape and data of a structured array."""
    running = hashlib.sha256(f"{table.dtype.descr} {table.shape}".encode())
    running.update(table.view(np.uint8).data)
    return running.hexdigest()


def write_shard(
    run_dir: Path,
    plan_hash: str,
    block: int,
    start: int,
    stop: int,
    columns: Mapping[str, NDArray[Any]],
    notes: Mapping[str, str | float] | None = None,
) -> Path:
    """Write the shard of one block durably and return its path.

    Parameters
    ----------
    run_dir : Path
    plan_hash : str
    block, start, stop : int
        Block number and its plan rows [start, stop).
    columns : mapping of (stop - start, ...) arrays
    notes : mapping, optional
        Attributes outside the checksum (device key, timings).

    Raises
    ------
    DiskError
        If the disk is full; nothing is left behind.
    """
    final = shard_path(run_dir, block)
    temp = temporary_name(final)
    table = as_table(columns)
    about = {"plan_hash": plan_hash, "block": block, "start": start, "stop": stop, "checksum": checksum(table)}
    try:
        final.parent.mkdir(exist_ok=True)
        faults.reach("shard:before_write")
        with new_hdf5(temp) as h5:
            h5.create_dataset("rows", data=table)
            faults.reach("shard:before_close")
            h5.attrs["about"] = json.dumps({**(notes or {}), **about})
        faults.reach("shard:before_verify")
        read_shard(temp, plan_hash, block, start, stop)
        faults.reach("shard:before_rename")
        os.replace(temp, final)
        faults.reach("shard:after_rename")
        sync_folder(final.parent)
    except (OSError, RuntimeError, ShardInvalid) as error:
        temp.unlink(missing_ok=True)
        if isinstance(error, ShardInvalid):
            raise
        raise disk_error(error, temp) or OutputError(
            f"cannot write shard {temp}: {error}; check the output folder"
        ) from error
    return final


def read_shard(
    path: Path, plan_hash: str, block: int, start: int, stop: int, notes: dict[str, Any] | None = None
) -> dict[str, NDArray[Any]]:
    """Read and verify one shard; what is written about it is added to `notes`, if given.

    Raises
    ------
    ShardInvalid
        If it is missing, damaged, or belongs to another plan or row range.
    """
    try:
        with h5py.File(path, "r", locking=False) as h5:
            about = json.loads(h5.attrs["about"])
            table = h5["rows"][()]
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise ShardInvalid(f"{path}: {error}") from None
    expected = {"block": block, "start": start, "stop": stop, "checksum": checksum(table)}
    if about.get("plan_hash") != plan_hash:
        raise ForeignShard(f"{path}: its plan hash is {about.get('plan_hash')}, not {plan_hash}")
    for name, value in expected.items():
        if about.get(name) != value:
            raise ShardInvalid(f"{path}: {name} is {about.get(name)}, not {value}")
    if table.shape != (stop - start,):
        raise ShardInvalid(f"{path}: has not {stop - start} rows")
    if notes is not None:
        notes.update(about)
    return {name: table[name] for name in table.dtype.names}


def done_blocks(run_dir: Path, plan_hash: str, blocks: Iterable[tuple[int, int, int]]) -> tuple[set[int], list[str]]:
    """Return the blocks whose shard verifies, and a line about each one that does not, which is removed."""
    done: set[int] = set()
    bad: list[str] = []
    for block, start, stop in blocks:
        path = shard_path(run_dir, block)
        if not path.exists():
            continue
        try:
            read_shard(path, plan_hash, block, start, stop)
            done.add(block)
        except ShardInvalid as error:
            what = "shard of another plan" if isinstance(error, ForeignShard) else "damaged shard"
            bad.append(f"{what} removed, its block is scored again: {error}")
            path.unlink(missing_ok=True)
    return done, bad


def remove_shards(run_dir: Path) -> int:
    """Remove all shards of a run, and the marks of its blocks under way; return how many shards there were.

    Raises
    ------
    OutputError
        If one cannot be removed.
    """
    count = sum(1 for _ in run_dir.glob("shards/*/B*.h5"))
    try:
        for folder in (run_dir / "shards", run_dir / "attempts"):
            shutil.rmtree(folder)
            folder.mkdir()
    except OSError as error:
        raise OutputError(f"cannot remove {error.filename}: {error.strerror}; remove {run_dir}") from None
    return count
