"""The ledger: a shard counts only if it verifies; a full disk leaves nothing behind."""

from __future__ import annotations

import os
import stat

import h5py
import numpy as np
import pytest

from lensscan import faults
from lensscan.errors import DiskError, ExitCode, ShardInvalid
from lensscan.hdf5 import DiskSink
from lensscan.scan import shards

PLAN = "a" * 64


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "shards").mkdir()
    return tmp_path


def columns(n=10, seed=1):
    rng = np.random.default_rng(seed)
    return {"logit": rng.normal(size=(n, 2)).astype("f4"), "status": np.ones(n, "u1")}


def test_round_trip(run_dir):
    path = shards.write_shard(run_dir, PLAN, 7, 100, 110, columns(), {"device_key": "cpu"})
    assert path == run_dir / "shards" / "07" / "B000007.h5"
    read = shards.read_shard(path, PLAN, 7, 100, 110)
    np.testing.assert_array_equal(read["logit"], columns()["logit"])
    assert shards.done_blocks(run_dir, PLAN, [(7, 100, 110), (8, 110, 120)]) == ({7}, [])


@pytest.mark.parametrize(
    "args", [("b" * 64, 7, 100, 110), (PLAN, 8, 100, 110), (PLAN, 7, 101, 110), (PLAN, 7, 101, 111)]
)
def test_a_shard_of_another_plan_or_range_is_refused(run_dir, args):
    path = shards.write_shard(run_dir, PLAN, 7, 100, 110, columns())
    with pytest.raises(ShardInvalid):
        shards.read_shard(path, *args)


def test_a_shard_is_durable_before_it_has_its_name_and_so_is_the_name(run_dir, monkeypatch):
    done = []
    rename, kinds = os.replace, {True: "folder", False: "file"}
    monkeypatch.setattr(os, "fsync", lambda number: done.append(kinds[stat.S_ISDIR(os.fstat(number).st_mode)]))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("name") or rename(*names))
    shards.write_shard(run_dir, PLAN, 0, 0, 10, columns())
    assert done == ["file", "name", "folder"]


def test_a_shard_with_another_number_of_rows_is_refused(run_dir):
    with pytest.raises(ShardInvalid, match="has not 10 rows"):
        shards.write_shard(run_dir, PLAN, 0, 0, 10, columns(9))


def test_what_the_disk_did_not_keep_is_noticed_before_it_has_its_name(run_dir, monkeypatch):
    """A disk that loses bytes and says nothing."""
    write = DiskSink.write
    monkeypatch.setattr(DiskSink, "write", lambda self, data: write(self, bytes(len(data))))
    with pytest.raises(ShardInvalid):
        shards.write_shard(run_dir, PLAN, 0, 0, 10, columns())
    assert [p for p in run_dir.rglob("*") if p.is_file()] == []


def test_damage_is_noticed_and_the_shard_removed(run_dir):
    path = shards.write_shard(run_dir, PLAN, 0, 0, 10, columns())
    with h5py.File(path, "r+") as h5:
        table = h5["rows"][()]
        table["logit"][3, 0] += 1e-6
        h5["rows"][...] = table
    done, bad = shards.done_blocks(run_dir, PLAN, [(0, 0, 10)])
    assert done == set()
    assert "checksum" in bad[0]
    assert not path.exists()


@pytest.mark.parametrize("keep", [0, 1, 100, 1000])
def test_truncation_is_noticed(run_dir, keep):
    path = shards.write_shard(run_dir, PLAN, 0, 0, 10, columns())
    os.truncate(path, keep)
    with pytest.raises(ShardInvalid):
        shards.read_shard(path, PLAN, 0, 0, 10)


@pytest.mark.parametrize(
    "point", ["shard:before_write", "shard:before_close", "shard:before_verify", "shard:before_rename"]
)
def test_full_disk_is_74_and_leaves_no_file(run_dir, monkeypatch, point):
    monkeypatch.setattr(faults, "_faults", [faults.Fault(point, "enospc", None, 1)])
    monkeypatch.setattr(faults, "_hits", type(faults._hits)())
    with pytest.raises(DiskError) as caught:
        shards.write_shard(run_dir, PLAN, 0, 0, 10, columns())
    assert caught.value.exit_code == ExitCode.DISK
    assert [p for p in run_dir.rglob("*") if p.is_file()] == []


def test_checksum_sees_values_dtypes_shapes_and_names():
    base = {"a": np.arange(4, dtype="f4")}
    others = [{"a": np.arange(4, dtype="f8")}, {"a": np.arange(4, dtype="f4").reshape(2, 2)}, {"b": base["a"]}]
    others.append({"a": np.arange(4, dtype="f4") + 1})
    sums = [shards.checksum(shards.as_table(columns)) for columns in (base, {"a": base["a"].copy()}, *others)]
    assert sums[0] == sums[1]
    assert len(set(sums)) == 5
