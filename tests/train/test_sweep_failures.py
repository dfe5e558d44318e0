"""What fails a trial of a sweep, what ends the rank instead and leaves the trial, and failed trials tried again."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch
from tiny_sweep import SWEEP, kept_mocks, table

from lensscan.errors import ConfigError, DiskError, ExitCode, LensscanError, ModelError, OutputError
from lensscan.mpi import World
from lensscan.train.loop import Trainer
from lensscan.train.sweep import trial as trial_module
from lensscan.train.sweep.progress import Progress
from lensscan.train.sweep.run import SweepRun
from lensscan.train.sweep.settings import Sweep
from lensscan.train.sweep.trial import Bench, costs_a_trial

pytest.importorskip("optuna")
CPU = torch.device("cpu")
SICK = "CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA"


@pytest.fixture(autouse=True, scope="module")
def mocks_once():
    """Simulate the mocks, the same for all trials, once for all tests."""
    with kept_mocks():
        yield


def two(**changes) -> Sweep:
    """Two trials of three steps."""
    few = {"search": "random", "trials": 2, "fixed": {"steps": 3}}
    return Sweep.from_mapping({**tomllib.loads(SWEEP), **few, **changes}, "small.toml")


def run(folder: Path, sweep: Sweep | None = None, retry: bool = False) -> tuple[dict[int, str], list[str]]:
    """Return the outcomes of the trials, and what was reported."""
    lines: list[str] = []
    code, rows = SweepRun(sweep or two(), folder, CPU, World(), lambda: None, lines.append, retry).run()
    assert code == ExitCode.OK
    return {row.trial: row.outcome for row in rows}, lines


@pytest.fixture
def breaking(monkeypatch):
    """Let the second step of the first trial raise."""

    def set_error(error: Exception) -> None:
        steps, step = iter(range(1000)), Trainer.train_step

        def broken(trainer: Trainer) -> torch.Tensor:
            if next(steps) == 1:
                raise error
            return step(trainer)

        monkeypatch.setattr(Trainer, "train_step", broken)

    return set_error


@pytest.mark.parametrize(
    ("error", "told", "words"),
    [
        (RuntimeError(SICK), LensscanError, "trial 0 broke off by no fault of its settings: CUDA error: an illegal"),
        (KeyError("a"), LensscanError, "broke off by no fault of its settings: 'a' .KeyError on"),
        (ConfigError("stream.folder: mock 3 is unreadable"), OutputError, "mock 3 is unreadable"),
        (OSError(28, "No space left on device"), DiskError, "free disk space"),
    ],
)
def test_what_settings_cannot_cause_fails_no_trial(tmp_path, breaking, error, told, words):
    breaking(error)
    with pytest.raises(told, match=words) as caught:
        run(tmp_path)
    assert "\n" not in str(caught.value)
    outcomes, lines = run(tmp_path)
    assert outcomes == {0: "finished", 1: "finished"}
    assert not any("failed" in line for line in lines)


@pytest.mark.parametrize("error", [ValueError("Invalid log format."), RuntimeError("MPI_ERR_OTHER: known error")])
def test_an_error_of_journal_or_ranks_within_a_training_is_not_the_trials(tmp_path, monkeypatch, error):
    look = Progress.look

    def broken(progress, read, step=None):
        if step == 2:
            raise error
        look(progress, read, step)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "look", broken)
        with pytest.raises(LensscanError, match=f"trial 0 broke off by no fault of its settings: {error}"):
            run(tmp_path)
    assert torch.load(tmp_path / "trials/0000/checkpoint.pt", weights_only=True)["step"] == 2
    assert run(tmp_path)[0] == {0: "finished", 1: "finished"}


def test_memory_too_small_fails_the_trial_which_may_be_tried_again(tmp_path, breaking):
    breaking(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"))
    assert run(tmp_path)[0] == {1: "finished", 0: "failed"}
    assert "out of memory" in table(tmp_path)[-1]["reason"]
    assert run(tmp_path)[0] == {1: "finished", 0: "failed"}, "not without being asked"
    outcomes, lines = run(tmp_path, retry=True)
    assert outcomes == {0: "finished", 1: "finished"}
    assert "failed trials that are tried again: 1" in lines
    assert not any("again" in line for line in run(tmp_path, retry=True)[1])


def test_a_trial_that_fails_again_stays_failed_and_may_be_tried_once_more(tmp_path):
    sweep = two(parameters={"optimiser": {"lr": {"choices": [1e-3, 1e30]}}}, trials=4)
    first, _ = run(tmp_path, sweep)
    assert sorted(first.values()) == ["failed", "failed", "finished", "finished"]
    for _ in range(2):
        again, lines = run(tmp_path, sweep, retry=True)
        assert again == first
        assert "failed trials that are tried again: 2" in lines


def test_a_folder_of_mocks_that_is_missing_is_found_before_the_first_trial(tmp_path):
    training = {**tomllib.loads(SWEEP)["training"], "stream": {"folder": str(tmp_path / "no-mocks")}}
    with pytest.raises(ConfigError, match="no-mocks"):
        run(tmp_path / "sweep", two(training=training))
    assert not (tmp_path / "sweep" / "journal.log").exists()


def test_a_folder_that_vanishes_meanwhile_fails_no_trial(tmp_path, monkeypatch):
    """The trial's error looks like one of its settings; but every trial would have it."""
    asked = iter(range(2))

    def check(bench, settings):
        if next(asked):
            raise ConfigError("stream.folder: gone")

    def advance(*arguments):
        raise ConfigError("stream.folder: gone")

    with monkeypatch.context() as patch:
        patch.setattr(Bench, "check", check)
        patch.setattr(Bench, "advance", advance)
        with pytest.raises(ConfigError, match="gone"):
            run(tmp_path)
    assert run(tmp_path)[0] == {0: "finished", 1: "finished"}


def test_what_costs_a_trial():
    with pytest.raises(RuntimeError) as no_memory:
        torch.empty(1 << 55)
    ours = [ModelError("a"), ConfigError("a"), ZeroDivisionError(), ValueError(), MemoryError(), no_memory.value]
    assert all(costs_a_trial(error) for error in ours)
    others = [RuntimeError(SICK), OutputError("a"), DiskError("a"), KeyError("a"), OSError(5, "a"), TypeError()]
    assert not any(costs_a_trial(error) for error in others)


def test_each_trial_rounds_as_its_own_precision_says(tmp_path, monkeypatch):
    """A sweep may vary it; the device was set to the training file's alone."""
    found = []
    monkeypatch.setattr(trial_module, "set_precision", lambda device, precision: found.append(precision))
    run(tmp_path, two(trials=4, parameters={"precision": {"choices": ["fp32", "tf32"]}}))
    drawn = {int(line["trial"]): line["precision"] for line in table(tmp_path)}
    assert set(found) == {"fp32", "tf32"}
    assert found == [drawn[trial] for trial in range(4)]
