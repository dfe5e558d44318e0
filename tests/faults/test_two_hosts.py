"""Several nodes: the same bytes; a rank killed on the other host; a whole host killed."""

from __future__ import annotations

import sys
import time

import pytest
from faults.hosts import TwoHosts, why_not
from launch import finish
from tiny_survey import assert_ledger_is_valid, content_hash

from lensscan.errors import ExitCode

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.mpi, pytest.mark.timeout(400)]
SLOW = "point=worker:block,do=nap,hit=0;"


@pytest.fixture
def hosts(tmp_path):
    """Two hosts, removed afterwards."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with TwoHosts(tmp_path) as two:
        yield two


def lensscan(args: list[str]) -> list[str]:
    return [sys.executable, "-m", "lensscan", *args]


def test_the_same_hash_over_two_hosts(survey, reference, hosts, tmp_path):
    out = tmp_path / "out.h5"
    result = finish(hosts.start(lensscan(survey.args(out)), 4))
    assert result.code == 0, result
    assert content_hash(out) == reference


def test_a_rank_killed_on_the_other_host(survey, reference, hosts, tmp_path):
    out = tmp_path / "out.h5"
    fault = SLOW + "point=shard:before_rename,do=SIGKILL,rank=1"
    args = survey.args(out, "--set", "root_scores=no")
    result = finish(hosts.start(lensscan(args), 4, ulfm=True, fault=fault))
    assert result.code == 0, result
    assert "rank 1 died" in result.err, result
    assert content_hash(out) == reference


@pytest.mark.parametrize("ulfm", [False, True])
def test_a_whole_host_killed(survey, reference, hosts, tmp_path, ulfm):
    """mpiexec's exit code proves nothing; verify tells that work is missing, and the next run completes it."""
    out = tmp_path / "out.h5"
    process = hosts.start(lensscan(survey.args(out)), 4, ulfm=ulfm, fault=SLOW)
    shards = tmp_path / "out.h5.run" / "shards"
    deadline = time.monotonic() + 90
    while len(list(shards.rglob("B*.h5"))) < 2:
        assert time.monotonic() < deadline, "no shard appeared"
        assert process.poll() is None, finish(process)
        time.sleep(0.05)
    hosts.kill(hosts.names[1])
    finish(process)
    verdict = hosts.run_on(hosts.names[0], lensscan(["verify", str(out)]))
    if out.exists():  # the surviving ranks finished the work
        assert verdict.returncode == 0, verdict.stderr
    else:
        assert verdict.returncode == ExitCode.INCOMPLETE, verdict.stderr
        assert_ledger_is_valid(tmp_path / "out.h5.run")
    code = None
    while code != 0 and time.monotonic() < deadline + 150:  # as a job script does; orphans may hold the lock
        again = finish(hosts.start(lensscan(survey.args(out)), 4))
        code = hosts.run_on(hosts.names[0], lensscan(["verify", str(out)])).returncode
    assert code == 0, again
    assert content_hash(out) == reference
