"""Catalogs with traps, scanned end to end: duplicate, huge and string ids, no rows, one row, broken stamps."""

from __future__ import annotations

import shutil

import fitsio
import h5py
import numpy as np
import pytest
from launch import run
from tiny_survey import SIZE, Survey, content_hash, write_stamp

from lensscan.errors import ExitCode
from lensscan.schema import Status

pytestmark = pytest.mark.mpi


def make(folder, survey: Survey, ids) -> Survey:
    """Write a survey like the small one, with the given ids; every row passes the cut."""
    for name in ("tiny.toml", "red.toml", "tiny.safetensors"):
        shutil.copy(survey.folder / name, folder / name)
    (folder / "stamps").mkdir()
    n = len(ids)
    columns = {"id": ids, "ra": np.zeros(n), "dec": np.zeros(n), "mag_g": np.full(n, 21.0), "mag_i": np.full(n, 19.0)}
    fitsio.write(str(folder / "catalog.fits"), columns, names=list(columns))
    rng = np.random.default_rng(3)
    for name in ids:
        text = name.decode() if isinstance(name, bytes) else str(name)
        write_stamp(folder / "stamps" / f"{text}.fits", {band: rng.normal(0, 1, (SIZE, SIZE)) for band in "gi"})
    return Survey(folder)


def test_duplicate_ids_keep_the_first_row(survey, tmp_path):
    ids = np.array([5, 7, 5, 9, 7, 5], dtype=np.int64)
    mine = make(tmp_path, survey, ids)
    out = tmp_path / "out.h5"
    result = run(mine.args(out), 2)
    assert result.code == 0, result
    content_hash(out)
    with h5py.File(out) as h5:
        status = dict(zip(h5["scores/row"][()].tolist(), h5["scores/status"][()].tolist(), strict=True))
        assert sorted(h5["candidates"]["id"].tolist()) == [5, 7, 9]
    assert [status[row] for row in range(6)] == [1, 1, 19, 1, 19, 19]


@pytest.mark.slow
def test_too_many_failed_rows_are_exit_code_3(survey, tmp_path):
    mine = make(tmp_path, survey, np.arange(1, 7))
    (tmp_path / "stamps" / "4.fits").unlink()
    for allowed, code in (("0.1", 3), ("0.2", 0)):
        out = tmp_path / f"{allowed}.h5"
        result = run(mine.args(out, "--set", f"max_failed={allowed}"))
        assert result.code == code, result
        assert ("1 of 6 rows failed" in result.err) == (code == 3)
        content_hash(out)
        again = run(mine.args(out, "--set", f"max_failed={allowed}"))
        assert again.code == code, again


@pytest.mark.parametrize("ranks", [0, 2])
def test_ids_above_2_to_the_53_stay_exact(survey, tmp_path, ranks):
    ids = np.array([2**53 + 1, 2**53 + 2, 2**62 + 1, 2**63 - 1], dtype=np.int64)
    mine = make(tmp_path, survey, ids)
    out = tmp_path / "out.h5"
    result = run(mine.args(out), ranks)
    assert result.code == 0, result
    with h5py.File(out) as h5:
        assert sorted(h5["candidates"]["id"].tolist()) == sorted(ids.tolist())


@pytest.mark.slow
def test_string_ids(survey, tmp_path):
    ids = np.array([b"DES-J0001", b"DES-J0002", b"x"])
    mine = make(tmp_path, survey, ids)
    out = tmp_path / "out.h5"
    result = run(mine.args(out), 2)
    assert result.code == 0, result
    with h5py.File(out) as h5:
        assert sorted(h5["candidates"]["id"].tolist()) == sorted(ids.tolist())


@pytest.mark.parametrize("ranks", [0, 3])
def test_zero_selected_rows_complete(survey, tmp_path, ranks):
    mine = make(tmp_path, survey, np.array([1, 2, 3]))
    cut = (tmp_path / "red.toml").read_text(encoding="utf-8").replace("min = 0.5", "min = 50.0")
    (tmp_path / "red.toml").write_text(cut)
    out = tmp_path / "out.h5"
    result = run(mine.args(out), ranks)
    assert result.code == 0, result
    content_hash(out)
    with h5py.File(out) as h5:
        assert len(h5["candidates"]) == 0


@pytest.mark.slow
def test_one_row_and_more_ranks_than_blocks(survey, tmp_path):
    mine = make(tmp_path, survey, np.array([42]))
    hashes = set()
    for ranks in (0, 3):
        out = tmp_path / f"out{ranks}.h5"
        result = run(mine.args(out), ranks)
        assert result.code == 0, result
        hashes.add(content_hash(out))
    assert len(hashes) == 1


def test_too_many_failures_are_exit_3(survey, tmp_path):
    mine = make(tmp_path, survey, np.arange(10) + 1)
    (tmp_path / "stamps" / "4.fits").unlink()
    out = tmp_path / "out.h5"
    result = run(mine.args(out, "--set", "max_failed=0.05"))
    assert result.code == ExitCode.TOO_MANY_FAILED, result
    assert run(mine.args(out, "--set", "max_failed=0.05")).code == ExitCode.TOO_MANY_FAILED, "and again, at once"
    with h5py.File(out) as h5:
        assert h5["failures"]["status"].tolist() == [Status.MISSING_FILE]
