"""SIGKILL at every labelled point of plan, shard write and merge, one after the other, until none fires."""

from __future__ import annotations

import re
import signal

import h5py
import pytest
from launch import run
from tiny_survey import assert_ledger_is_valid, content_hash

pytestmark = pytest.mark.slow
LIMIT = 60


@pytest.mark.timeout(900)
@pytest.mark.parametrize("family", ["plan", "shard", "merge"])
def test_kill_at_every_point(survey, reference_two_blocks, tmp_path, family):
    for number in range(1, LIMIT):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        out = folder / "out.h5"
        args = survey.args(out, "--set", "batch=16")
        result = run(args, fault=f"point={family}#{number},do=SIGKILL")
        if result.code == 0:
            break
        assert result.code == -signal.SIGKILL, result
        assert_ledger_is_valid(folder / "out.h5.run")
        if out.exists():
            assert content_hash(out) == reference_two_blocks, "an output under its final name is complete"
        again = run(args)
        assert again.code == 0, again
        assert content_hash(out) == reference_two_blocks
        left = [p.name for p in folder.iterdir() if p.name != "out.h5"]
        assert left == [], "no temporary file survives the resumed run"
    else:
        raise AssertionError(f"still firing after {LIMIT} points")
    assert number > {"plan": 2, "shard": 8, "merge": 5}[family], f"only {number - 1} points were reached"


@pytest.fixture(scope="module")
def reference_two_blocks(survey, tmp_path_factory) -> str:
    """Content hash with batches of 16 rows: two blocks."""
    out = tmp_path_factory.mktemp("two") / "out.h5"
    result = run(survey.args(out, "--set", "batch=16", "--keep-shards"))
    assert result.code == 0, result
    assert len(list((out.parent / "out.h5.run").rglob("B*.h5"))) == 2
    return content_hash(out)


def test_two_deaths_on_one_block_are_looked_into_and_the_row_survives_if_innocent(survey, reference, tmp_path):
    """Two dead attempts start the search in subprocesses; a block that was merely unlucky loses no row."""
    out = tmp_path / "out.h5"
    for _ in range(2):
        assert run(survey.args(out), fault="point=read:batch,do=SIGKILL,hit=3").code == -signal.SIGKILL
    result = run(survey.args(out))
    assert result.code == 0, result
    assert content_hash(out) == reference


def test_a_damaged_shard_is_scored_again(survey, reference, tmp_path):
    out = tmp_path / "out.h5"
    assert run(survey.args(out), fault="point=merge:begin,do=SIGKILL").code == -signal.SIGKILL
    victim = sorted((tmp_path / "out.h5.run").rglob("B*.h5"))[3]
    with h5py.File(victim, "r+") as h5:
        table = h5["rows"][()]
        table["logit"] += 1
        h5["rows"][...] = table
    result = run(survey.args(out))
    assert result.code == 0, result
    assert re.search(r"damaged shard removed.*B000003", result.err)
    assert content_hash(out) == reference
