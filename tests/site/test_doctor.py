"""The environment check: each line's outcome, and what it says to do."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensscan.cli.main import main
from lensscan.site import doctor, launchers, storage
from lensscan.site.outcome import Check, Outcome


def outcomes(checks: Iterator[Check]) -> dict[str, Outcome]:
    return {check.name: check.outcome for check in checks}


def only(checks: Iterator[Check]) -> Check:
    (check,) = checks
    return check


def test_good_folder_passes_and_is_left_clean(tmp_path: Path) -> None:
    found = outcomes(storage.check_storage(tmp_path))
    assert set(found) == {"file locking", "output folder", "disk space"}
    assert Outcome.FAIL not in found.values()
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_fails(tmp_path: Path) -> None:
    check = only(storage.check_storage(tmp_path / "nowhere"))
    assert check.outcome is Outcome.FAIL
    assert "nowhere" in check.text


def test_full_disk_fails_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, payload: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    checks = list(storage.check_storage(tmp_path))
    assert checks[-1].outcome is Outcome.FAIL
    assert "No space left" in checks[-1].text
    assert list(tmp_path.iterdir()) == []


def test_no_locks_is_a_warning_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(storage.fcntl, "flock", refuse)
    check = next(storage.check_storage(tmp_path))
    assert check.outcome is Outcome.WARN
    assert "HDF5_USE_FILE_LOCKING=FALSE" in check.text


def test_slow_sync_is_a_warning(tmp_path: Path) -> None:
    check = storage.speed_check(tmp_path, {"create": 0.001, "fsync": 3.0})
    assert check.outcome is Outcome.WARN
    assert "fsync" in check.text


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake mpiexec, first on PATH, in an environment without one of its own and outside any job."""
    path = tmp_path / "bin" / "mpiexec"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(launchers.mpi, "launched_size", lambda: None)
    return path


def probed(launcher: Path, script: str) -> Check:
    launcher.write_text(f"#!/usr/bin/env bash\n{script}\n")
    return launchers.probe(launcher)


def test_launcher_whose_ranks_see_each_other(launcher: Path) -> None:
    check = probed(launcher, "echo rank 1 of 2 under Fine MPI; echo rank 0 of 2 under Fine MPI")
    assert check.outcome is Outcome.OK
    assert "Fine MPI" in check.text


def test_launcher_of_another_mpi(launcher: Path) -> None:
    """It starts N jobs of one rank each: nothing in their environment tells."""
    check = probed(launcher, 'shift 2; "$@"; "$@"')
    assert check.outcome is Outcome.FAIL
    assert "do not see each other" in check.text


@pytest.mark.mpi
def test_launcher_of_another_mpi_that_tells_its_size(launcher: Path) -> None:
    pytest.importorskip("mpi4py")
    check = probed(launcher, 'export PMI_SIZE=2; shift 2; "$@" && "$@"')
    assert check.outcome is Outcome.FAIL
    assert "\n" not in check.text
    assert "launcher started 2 ranks" in check.text


def test_launcher_that_hangs(launcher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "SECONDS", 0.3)
    check = probed(launcher, "exec sleep 20")
    assert check.outcome is Outcome.FAIL
    assert "hung" in check.text


def test_launcher_that_cannot_start(launcher: Path) -> None:
    launcher.chmod(0o644)
    assert launchers.probe(launcher).outcome is Outcome.FAIL


def test_foreign_launcher_on_path_is_a_warning_where_the_own_one_works(
    launcher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "venv" / "mpiexec"
    own.parent.mkdir()
    own.write_text("#!/bin/sh\necho rank 0 of 2 under Own MPI\necho rank 1 of 2 under Own MPI\n")
    own.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(own.with_name("python")))
    launcher.write_text("#!/bin/sh\necho rank 0 of 1 under serial\necho rank 0 of 1 under serial\n")
    first, second = launchers.check_launchers()
    assert first.outcome is Outcome.OK
    assert second.outcome is Outcome.WARN
    assert second.text.endswith(f"here the right one is {own}")


def test_no_launcher_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers.mpi, "launched_size", lambda: None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert only(launchers.check_launchers()).outcome is Outcome.WARN


def test_packages_missing_and_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("h5py", "horovod"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    checks = list(doctor.check_packages())
    assert checks[0].outcome is Outcome.FAIL
    assert "h5py" in checks[0].text
    assert [check.outcome for check in checks if check.name == "horovod"] == [Outcome.WARN]


def test_more_threads_than_cores_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "9999")
    assert only(doctor.check_cores()).outcome is Outcome.WARN
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert only(doctor.check_cores()).outcome is Outcome.OK


def test_one_reader_where_fitsio_is_not_reentrant(monkeypatch: pytest.MonkeyPatch) -> None:
    from lensscan.survey import fits

    monkeypatch.setattr(fits, "reentrant", lambda: False)
    assert only(doctor.check_fitsio()).outcome is Outcome.WARN


def test_models_load_and_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lensscan.nets.model import make_trivial

    path = tmp_path / "tiny.safetensors"
    make_trivial(("g", "r"), 9, 0.263).save(path)
    monkeypatch.setattr(doctor, "shipped", lambda kind: [str(path)])
    check = only(doctor.check_models())
    assert check.outcome is Outcome.OK
    assert "the same bits" in check.text


def test_broken_model_is_a_failure_not_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(b"not a model")
    monkeypatch.setattr(doctor, "shipped", lambda kind: [str(path)])
    found = [check for check in doctor.diagnose(tmp_path) if check.name == "models"]
    assert [check.outcome for check in found] == [Outcome.FAIL]


@pytest.mark.parametrize(("outcome", "code"), [(Outcome.WARN, 0), (Outcome.FAIL, 1)])
def test_exit_code(
    outcome: Outcome, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = [Check("python", Outcome.OK, "fine"), Check("models", outcome, "look here")]
    monkeypatch.setattr(doctor, "diagnose", lambda folder: iter(checks))
    monkeypatch.setattr("lensscan.mpi.launched_size", lambda: None)
    assert main(["doctor"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == [outcome.value, "models", "look", "here"]
    assert lines[2].startswith("1 ok, ")
