"""lensscan sweep as a user starts it: one rank or two, killed, stopped, resumed; the table is always the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch import Finished, run
from tiny_sweep import SWEEP, journal, table

from lensscan.errors import ExitCode

pytest.importorskip("optuna")
pytestmark = pytest.mark.timeout(1200)  # against hangs alone: a slow machine trains slowly
PATIENCE = 400


def sweep(folder: Path, *options: str, **how: object) -> Finished:
    file = folder.with_suffix(".toml")
    file.write_text(SWEEP)
    return run(["sweep", str(file), "-o", str(folder), *options], timeout=PATIENCE, **how)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "sweep"
    return folder, sweep(folder)


@pytest.fixture
def to_the_end(alone):
    """Return a sweep that ends well, with the table of one process."""

    def check(folder: Path, *options: str, **how: object) -> Finished:
        done = sweep(folder, *options, **how)
        assert done.code == 0, done
        assert table(folder) == table(alone[0])
        return done

    return check


@pytest.mark.slow
def test_one_process(alone):
    folder, done = alone
    assert done.code == 0, done
    assert len(done.out.splitlines()) == 11, "head, nine trials, where the files are"
    assert "best bce" in done.err
    assert {path.name for path in folder.iterdir()} >= {"trials.csv", "parallel.png", "best.toml", "journal.log"}
    assert not list((folder / "alive").iterdir())


@pytest.mark.slow
@pytest.mark.mpi
def test_two_ranks_give_the_same_table(to_the_end, tmp_path):
    to_the_end(tmp_path / "two", ranks=2)
    owners = {entry["user_attrs"]["owner"] for entry in journal(tmp_path / "two") if entry["op_code"] == 4}
    assert len(owners) == 2, "one rank did all the work"


KILLS = (
    "point=sweep:entered,do=SIGKILL,hit=2",
    "point=sweep:claimed,do=SIGKILL,hit=3",
    "point=checkpoint:written,do=SIGKILL,hit=2",
    "point=checkpoint:renamed,do=SIGKILL,hit=2",
    "point=sweep:trained,do=SIGKILL,hit=3",
    "point=sweep:told,do=SIGKILL,hit=2",
)


@pytest.mark.slow
def test_killed_at_every_point_and_resumed(to_the_end, tmp_path):
    for fault in KILLS:
        killed = sweep(tmp_path / "killed", fault=fault)
        assert killed.code == -9, (fault, killed)
    assert not (tmp_path / "killed" / "trials.csv").exists()
    to_the_end(tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.mpi
def test_a_dead_rank_is_replaced_by_the_others(to_the_end, tmp_path):
    fault = "point=sweep:claimed,do=SIGKILL,rank=1"
    to_the_end(tmp_path / "ulfm", ranks=2, ulfm=True, fault=fault)
    assert (tmp_path / "ulfm" / "parallel.png").exists()


@pytest.mark.slow
@pytest.mark.mpi
def test_the_others_write_the_results_of_a_dead_root(to_the_end, tmp_path):
    fault = "point=sweep:claimed,do=SIGKILL,rank=0"
    to_the_end(tmp_path / "root", ranks=2, ulfm=True, fault=fault)


@pytest.mark.slow
@pytest.mark.mpi
def test_a_job_that_dies_with_its_rank_is_resumed_by_one(to_the_end, tmp_path):
    killed = sweep(tmp_path / "job", ranks=2, fault="point=sweep:trained,do=SIGKILL,rank=1")
    assert killed.code != 0, killed
    to_the_end(tmp_path / "job")


@pytest.mark.slow
@pytest.mark.mpi
def test_a_signal_to_one_rank_stops_all(to_the_end, tmp_path):
    stopped = sweep(tmp_path / "stop", ranks=2, fault="point=sweep:claimed,do=SIGUSR1,rank=1")
    assert stopped.code == ExitCode.INCOMPLETE, stopped
    assert "run the same command again" in stopped.err
    assert len(table(tmp_path / "stop")) < 9
    to_the_end(tmp_path / "stop", ranks=2)


@pytest.mark.slow
@pytest.mark.parametrize("name,code", [("SIGUSR1", ExitCode.INCOMPLETE), ("SIGINT", ExitCode.INTERRUPTED)])
def test_signals_stop_in_order(tmp_path, name, code):
    stopped = sweep(tmp_path / "s", fault=f"point=sweep:claimed,do={name},hit=2")
    assert stopped.code == code, stopped
    assert len(stopped.err.strip().splitlines()[-1].split(";")) == 2
    assert "Traceback" not in stopped.err
    states = [entry["state"] for entry in journal(tmp_path / "s") if entry["op_code"] == 6]
    assert states[-1] == 3, "what was in hand is left to the next run"


@pytest.mark.slow
def test_a_time_limit_stops_in_order(tmp_path):
    stopped = sweep(tmp_path / "s", "--max-seconds", "0")
    assert stopped.code == ExitCode.INCOMPLETE, stopped


@pytest.mark.slow
def test_a_full_disk_is_exit_code_74(tmp_path):
    full = sweep(tmp_path / "s", fault="point=checkpoint:written,do=enospc")
    assert full.code == ExitCode.DISK, full
    assert "free disk space" in full.err


@pytest.mark.slow
@pytest.mark.mpi
def test_a_sick_rank_ends_with_one_line_and_fails_no_trial(to_the_end, tmp_path):
    sick = sweep(tmp_path / "sick", ranks=2, fault="point=checkpoint:renamed,do=raise,rank=1")
    assert sick.code == ExitCode.ERROR, sick
    assert "broke off by no fault of its settings: injected fault" in sick.err
    assert "Traceback" not in sick.err
    assert not [entry for entry in journal(tmp_path / "sick") if "reason" in entry.get("user_attr", {})]
    done = to_the_end(tmp_path / "sick", "--retry-failed")
    assert "tried again" not in done.err


def test_a_bad_file_is_one_line(tmp_path):
    done = sweep(tmp_path / "s", "--set", "parameters.optimiser.lr.low=-1")
    assert done.code == ExitCode.USAGE
    assert done.err.strip().count("\n") == 0
    assert "optimiser.lr: a logarithmic range must begin above 0" in done.err
    assert not (tmp_path / "s").exists()


def test_unknown_sweep_is_one_line():
    done = run(["sweep", "no-such"])
    assert done.code == ExitCode.USAGE
    assert "argonne2017" in done.err
    assert done.err.strip().count("\n") == 0
