"""A stamp that kills every process that reads it costs its own row, and nothing else."""

from __future__ import annotations

import signal

import h5py
import numpy as np
import pytest
from launch import run
from tiny_survey import content_hash

from lensscan.schema import Status

PATCH = """
import os, signal
import lensscan.survey.loose as loose
read = loose.LooseReader._read_row
def deadly(self, path, *rest):
    if os.path.basename(path) == os.environ["POISON"]:
        os.kill(os.getpid(), signal.SIGSEGV)
    return read(self, path, *rest)
loose.LooseReader._read_row = deadly
"""


@pytest.fixture(scope="module")
def healthy(survey, tmp_path_factory):
    """The undisturbed output."""
    out = tmp_path_factory.mktemp("healthy") / "out.h5"
    assert run(survey.args(out)).code == 0
    return out


@pytest.fixture
def poison(healthy, tmp_path):
    """Environment in which one selected stamp is deadly, and its id."""
    (tmp_path / "sitecustomize.py").write_text(PATCH)
    with h5py.File(healthy) as h5:
        victim = int(h5["scores/id"][70])
    return victim, {"PYTHONPATH": str(tmp_path), "POISON": f"{victim}.fits"}


def check(out, healthy, victim) -> None:
    """Only the victim's row differs from the undisturbed output."""
    content_hash(out)
    with h5py.File(out) as a, h5py.File(healthy) as b:
        ids = a["scores/id"][()]
        np.testing.assert_array_equal(ids, b["scores/id"][()])
        fine = ids != victim
        assert a["scores/status"][()][~fine].tolist() == [Status.CRASHED]
        np.testing.assert_array_equal(a["scores/logit"][()][fine], b["scores/logit"][()][fine])


@pytest.mark.slow
def test_found_after_two_deaths_of_the_whole_job(survey, healthy, poison, tmp_path):
    victim, environment = poison
    out = tmp_path / "out.h5"
    for _ in range(2):
        assert run(survey.args(out), **environment).code == -signal.SIGSEGV
    result = run(survey.args(out), **environment)
    assert result.code == 0, result
    check(out, healthy, victim)


@pytest.mark.mpi
@pytest.mark.slow
def test_found_within_one_run_under_ulfm(survey, healthy, poison, tmp_path):
    victim, environment = poison
    out = tmp_path / "out.h5"
    result = run(survey.args(out, "--set", "root_scores=no"), 5, ulfm=True, **environment)
    assert result.code == 0, result
    check(out, healthy, victim)
