"""The same content hash for any number of ranks, threads and histories; exit codes that tell the truth."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import h5py
import pytest
from launch import BIN, environment, finish, mpiexec, run, start
from tiny_survey import assert_ledger_is_valid, content_hash

from lensscan.errors import ExitCode

pytestmark = pytest.mark.mpi
NAPS = "point=worker:block,do=nap,hit=0;"


def together(ranks):
    """Return faults: no rank goes on from its first block before every rank has one, and each block takes a while."""
    return f"point=worker:block,do=meet,ranks={ranks};{NAPS}"


def slow(value):
    """One more case of a test that a quicker one stands for."""
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)


@pytest.mark.parametrize("ranks", [1, 2, 3, slow(8)])
def test_the_hash_does_not_depend_on_the_ranks(survey, reference, tmp_path, ranks):
    out = tmp_path / "out.h5"
    result = run(survey.args(out), ranks)
    assert result.code == 0, result
    assert content_hash(out) == reference
    assert not (tmp_path / "out.h5.run").exists(), "the run folder goes after a verified merge"


@pytest.mark.parametrize("setting", ["readers=3", slow("threads=2"), slow("root_scores=no")])
def test_the_hash_does_not_depend_on_threads(survey, reference, tmp_path, setting):
    out = tmp_path / "out.h5"
    result = run(survey.args(out, "--set", setting), 2)
    assert result.code == 0, result
    assert content_hash(out) == reference


def test_a_finished_run_is_left_alone(survey, reference, tmp_path):
    out = tmp_path / "out.h5"
    assert run(survey.args(out)).code == 0
    before = out.stat()
    result = run(survey.args(out), 2)
    assert result.code == 0, result
    assert "nothing to do" in result.err
    assert (out.stat().st_mtime_ns, out.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_dry_run_tells_and_keeps_nothing(survey, tmp_path, ranks):
    result = run(survey.args(tmp_path / "out.h5", "--dry-run"), ranks)
    assert result.code == 0, result
    assert "catalog rows selected" in result.out
    assert not list(tmp_path.glob("out.h5*"))


def test_other_merge_settings_merge_anew_without_scoring(survey, tmp_path):
    out = tmp_path / "out.h5"
    assert run(survey.args(out, "--keep-shards")).code == 0
    shards = {p: p.stat().st_mtime_ns for p in (tmp_path / "out.h5.run" / "shards").rglob("*.h5")}
    result = run(survey.args(out, "--keep-shards", "--set", "top=7"))
    assert result.code == 0, result
    with h5py.File(out) as h5:
        assert len(h5["candidates"]) == 7
    assert {p: p.stat().st_mtime_ns for p in shards} == shards


@pytest.mark.slow
def test_another_plan_is_refused_and_the_field_named(survey, tmp_path):
    out = tmp_path / "out.h5"
    assert run(survey.args(out)).code == 0
    result = run(survey.args(out, "--set", "batch=8"))
    assert result.code == ExitCode.ERROR, result
    assert "batch" in result.err
    assert len(result.err.strip().splitlines()) == 1, "one clear line"
    assert run(survey.args(out, "--set", "batch=8", "--overwrite")).code == 0


def test_stop_signal_then_resume_with_other_ranks(survey, reference, tmp_path):
    out = tmp_path / "out.h5"
    process = start(survey.args(out), 3, fault=together(3) + "point=worker:block,do=SIGUSR1,rank=1,hit=2")
    result = finish(process)
    assert result.code == ExitCode.INCOMPLETE, result
    assert not out.exists()
    result = run(survey.args(out), 2)
    assert result.code == 0, result
    assert "resuming" in result.err
    assert content_hash(out) == reference


def test_sigusr1_to_mpiexec_stops_in_order(survey, reference, tmp_path):
    out = tmp_path / "out.h5"
    process = start(survey.args(out), 2, fault=together(2))
    wait_for(lambda: len(list((tmp_path / "out.h5.run" / "shards").rglob("B*.h5"))) > 0)
    process.send_signal(signal.SIGUSR1)
    result = finish(process)
    assert result.code == ExitCode.INCOMPLETE, result
    assert run(survey.args(out)).code == 0
    assert content_hash(out) == reference


@pytest.mark.parametrize(
    ("ranks", "fault"),
    [
        (0, "point=worker:block,do=SIGTERM,hit=4"),
        slow((3, together(3) + "point=worker:block,do=SIGTERM,rank=2,hit=2")),
        slow((0, "point=plan:before_rename,do=SIGTERM;point=plan:before_rename,do=nap")),
        slow((0, "point=merge:before_verify,do=SIGTERM;point=merge:before_verify,do=nap")),
    ],
    ids=["scoring", "a-rank", "planning", "merging"],
)
def test_sigterm_stops_in_order_and_resumes(survey, reference, tmp_path, ranks, fault):
    out = tmp_path / "out.h5"
    result = run(survey.args(out), ranks, fault=fault)
    assert result.code == ExitCode.INCOMPLETE, result
    assert "run the same command again" in result.err
    assert "Traceback" not in result.err
    assert not out.exists()
    assert_ledger_is_valid(tmp_path / "out.h5.run")
    assert bool(list((tmp_path / "out.h5.run").rglob("B*.h5"))) == ("plan" not in fault)
    assert run(survey.args(out), 2).code == 0
    assert content_hash(out) == reference


@pytest.mark.slow
def test_max_seconds(survey, reference, tmp_path):
    out = tmp_path / "out.h5"
    result = run(survey.args(out, "--max-seconds", "0"))
    assert result.code == ExitCode.INCOMPLETE, result
    assert "run the same command again" in result.err
    assert run(survey.args(out), 2).code == 0
    assert content_hash(out) == reference


@pytest.mark.parametrize("ranks", [0, 2])
def test_ctrl_c_is_130(survey, tmp_path, ranks):
    out = tmp_path / "out.h5"
    process = start(survey.args(out), ranks, fault="point=worker:block,do=SIGINT,rank=0,hit=2")
    result = finish(process)
    assert result.code == ExitCode.INTERRUPTED, result
    assert "Traceback" not in result.err


def test_a_worker_killed_under_ulfm_costs_nothing(survey, reference, tmp_path):
    out = tmp_path / "out.h5"
    result = run(survey.args(out), 3, ulfm=True, fault=together(3) + "point=shard:before_rename,do=SIGKILL,rank=2")
    assert result.code == 0, result
    assert "rank 2 died" in result.err
    assert content_hash(out) == reference


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_worker_that_reads_for_ever_is_left_behind(survey, reference, tmp_path):
    """A dead file server: the blocks go to others, and every process leaves, the hanging one too."""
    out = tmp_path / "out.h5"
    fault = together(3) + "point=read:batch,do=hang,rank=2"
    result = run(survey.args(out, "--set", "stall_seconds=5"), 3, fault=fault, timeout=380)
    assert result.code == 0, result
    assert "rank 2 finished no row for 5 s" in result.err
    assert "ranks [2] do not answer; leaving without them" in result.err
    assert content_hash(out) == reference


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_frozen_worker_is_left_behind_and_the_output_is_complete(survey, reference, tmp_path):
    """The launcher sees ranks that never reach MPI's end: its exit code is not that of the scan."""
    out = tmp_path / "out.h5"
    fault = together(3) + "point=worker:block,do=SIGSTOP,rank=2"
    result = run(survey.args(out, "--set", "stall_seconds=5"), 3, fault=fault, timeout=380)
    assert result.code != 0, result
    assert "ranks [2] do not answer; leaving without them" in result.err
    assert content_hash(out) == reference
    again = run(survey.args(out))
    assert again.code == 0, again
    assert "nothing to do" in again.err


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_single_process_that_reads_for_ever_heeds_a_stop(survey, reference, tmp_path):
    out = tmp_path / "out.h5"
    process = start(survey.args(out), fault="point=read:batch,do=hang,hit=40")
    wait_for(lambda: len(list((tmp_path / "out.h5.run").rglob("B*.h5"))) > 0)
    process.send_signal(signal.SIGTERM)
    result = finish(process, 200)
    assert result.code == ExitCode.INCOMPLETE, result
    assert run(survey.args(out)).code == 0
    assert content_hash(out) == reference


@pytest.mark.slow
def test_a_rank_that_dies_during_planning_is_not_waited_for(survey, reference, tmp_path):
    out = tmp_path / "out.h5"
    fault = "point=plan:before_rename,do=nap,hit=0;point=rank:up,do=SIGKILL,rank=2"
    result = run(survey.args(out), 3, ulfm=True, fault=fault)
    assert result.code == 0, result
    assert "rank 2 died" in result.err
    assert content_hash(out) == reference


@pytest.mark.slow
def test_two_of_three_workers_killed_under_ulfm(survey, reference, tmp_path):
    out = tmp_path / "out.h5"
    fault = together(4) + "point=worker:block,do=SIGKILL,rank=2,hit=1;point=shard:before_write,do=SIGKILL,rank=1,hit=1"
    result = run(survey.args(out), 4, ulfm=True, fault=fault)
    assert result.code == 0, result
    assert content_hash(out) == reference


@pytest.mark.slow
def test_a_worker_killed_without_ulfm_ends_nonzero_and_resumes(survey, reference, tmp_path):
    out = tmp_path / "out.h5"
    result = run(survey.args(out), 3, fault=together(3) + "point=shard:before_rename,do=SIGKILL,rank=2")
    assert result.code != 0, result
    assert not out.exists()
    assert run(survey.args(out), 3).code == 0
    assert content_hash(out) == reference


@pytest.mark.parametrize("ulfm", [slow(False), True])
def test_root_killed_ends_nonzero_and_resumes(survey, reference, tmp_path, ulfm):
    out = tmp_path / "out.h5"
    result = run(survey.args(out), 3, ulfm=ulfm, fault=f"{together(3)}point=shard:after_rename,do=SIGKILL,rank=0")
    assert result.code != 0, result
    assert not out.exists()
    assert run(survey.args(out), 2).code == 0
    assert content_hash(out) == reference


@pytest.mark.parametrize("point", ["worker:block", slow("read:batch"), slow("shard:before_write")])
def test_an_exception_in_a_worker_never_hangs(survey, reference, tmp_path, point):
    out = tmp_path / "out.h5"
    result = run(survey.args(out), 3, fault=f"{together(3)}point={point},do=raise,rank=1")
    assert result.code == 0, result
    assert "injected fault" in result.err
    assert content_hash(out) == reference


def test_ranks_that_mpi_does_not_see_are_refused(survey, tmp_path):
    """An mpiexec of another MPI starts N jobs of size 1; here the launcher's word is forged."""
    out = tmp_path / "out.h5"
    line = [mpiexec(), "-n", "1", "env", "OMPI_COMM_WORLD_SIZE=4", sys.executable, "-m", "lensscan", *survey.args(out)]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == ExitCode.ERROR, done.stderr
    assert "4 ranks" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.h5.run").exists(), "refused before any file is opened"


@pytest.mark.slow
def test_a_second_job_on_the_same_output_is_refused(survey, reference, tmp_path):
    out = tmp_path / "out.h5"
    first = start(survey.args(out), 0, fault="point=worker:block,do=SIGSTOP,hit=2")
    wait_for(lambda: (tmp_path / "out.h5.run" / "lock").exists())
    result = run(survey.args(out))
    assert result.code == ExitCode.ERROR, result
    assert f"pid {first.pid}" in result.err
    for pid in group(first.pid):
        os.kill(pid, signal.SIGKILL)
    first.wait()
    assert run(survey.args(out)).code == 0, "the owner is dead: its lock is taken over"
    assert content_hash(out) == reference


def test_a_users_mistake_is_one_line_on_every_launch(survey, tmp_path):
    for ranks in (0, 3):
        result = run(survey.args(tmp_path / "out.h5", "--survey", "nosuch"), ranks)
        assert result.code == ExitCode.USAGE, result
        lines = [line for line in result.err.splitlines() if line.startswith("lensscan")]
        assert len(lines) == 1
        assert "nosuch" in lines[0]
        assert "Traceback" not in result.err


def wait_for(condition, seconds: float = 100.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def group(leader: int) -> list[int]:
    """Return the pids of a session's processes."""
    pids = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.getsid(int(name)) == leader:
                    pids.append(int(name))
            except ProcessLookupError:
                continue
    return pids


def test_bin_has_lensscan():
    assert (BIN / "lensscan").exists()
