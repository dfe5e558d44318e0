"""A scan with a separate regressor: the same bytes for any number of ranks, and after a kill between its batches."""

from __future__ import annotations

import signal

import h5py
import numpy as np
import pytest
from launch import run
from small_networks import save_network
from tiny_survey import assert_ledger_is_valid, content_hash, make_survey

pytestmark = pytest.mark.mpi
BATCH = 4


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    return make_survey(tmp_path_factory.mktemp("survey"), n=140)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Return the arguments of a classifier with a regressor for smaller stamps of one band."""
    folder = tmp_path_factory.mktemp("models")
    paths = [folder / f"{name}.safetensors" for name in ("judge", "regressor")]
    save_network(paths[0])
    save_network(paths[1], seed=2, bands=("i",), size=12)
    return ["--model", str(paths[0]), "--regressor", str(paths[1]), "--set", f"batch={BATCH}", "--set", "threads=1"]


@pytest.fixture(scope="module")
def regressed(survey, options, tmp_path_factory):
    """Content hash of the scan in one process."""
    out = tmp_path_factory.mktemp("regressed") / "out.h5"
    result = run(survey.args(out, *options))
    assert result.code == 0, result
    with h5py.File(out) as h5:
        shares = np.isfinite(h5["scores/theta_E"][()]).mean()
    assert 0.2 < shares < 0.8, "some rows below the limit and some above, or this proves little"
    return content_hash(out)


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_the_hash_does_not_depend_on_the_ranks(survey, options, regressed, tmp_path, ranks):
    out = tmp_path / "out.h5"
    result = run(survey.args(out, *options), ranks)
    assert result.code == 0, result
    assert content_hash(out) == regressed


@pytest.mark.parametrize("hit", [pytest.param(1, marks=pytest.mark.slow), 11])
def test_a_kill_before_a_batch_of_the_regressor(survey, options, regressed, tmp_path, hit):
    out = tmp_path / "out.h5"
    result = run(survey.args(out, *options), fault=f"point=regress:batch,do=SIGKILL,hit={hit}")
    assert result.code == -signal.SIGKILL, result
    assert_ledger_is_valid(tmp_path / "out.h5.run")
    assert hit > 1 or not list((tmp_path / "out.h5.run").rglob("B*.h5"))
    result = run(survey.args(out, *options), 2)
    assert result.code == 0, result
    assert content_hash(out) == regressed


@pytest.mark.slow
def test_two_deaths_on_the_regressor_are_looked_into(survey, options, regressed, tmp_path):
    """The search for a stamp that kills takes the regressor along; none is found here."""
    out = tmp_path / "out.h5"
    for _ in range(2):
        result = run(survey.args(out, *options), fault="point=regress:batch,do=SIGKILL,hit=11")
        assert result.code == -signal.SIGKILL, result
    result = run(survey.args(out, *options))
    assert result.code == 0, result
    assert content_hash(out) == regressed


def test_an_exception_in_the_regressor_costs_an_attempt_of_the_block(survey, options, regressed, tmp_path):
    out = tmp_path / "out.h5"
    result = run(survey.args(out, *options), fault="point=regress:batch,do=raise,hit=5")
    assert result.code == 0, result
    assert "injected fault" in result.err
    assert content_hash(out) == regressed
