"""The loop: learns, resumes to the bit, gives the same curve over backends and ranks."""

from __future__ import annotations

import dataclasses
import itertools
import os
from pathlib import Path

import pytest
import torch
from curves import curve, leave_curve, needs_horovod
from toy_mocks import TRAINING, toy_source, toy_trainer, train

from lensscan.errors import ExitCode, ModelError, PlanMismatch
from lensscan.files import temporary_name
from lensscan.train.loop import Trainer, learning_rate
from lensscan.train.settings import TrainSettings

MAPPING = {
    **TRAINING,
    "checkpoint_seconds": 1e9,
    "network": {"widths": [8, 12], "depths": [1, 1], "hidden": 16, "squeeze": 8, "condition": 8},
    "optimiser": {"warmup": 5, "ema": 0.9, "lr": 3e-3},
}


def make_trainer(folder: Path, engine=None, **changes) -> Trainer:
    return toy_trainer(folder, {**MAPPING, **changes}, engine)


def silent(_line: str) -> None:
    pass


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {
        **{f"a.{key}": value for key, value in trainer.average.state_dict().items()},
        **{f"n.{key}": value for key, value in trainer.network.state_dict().items()},
    }


def assert_same_weights(first: Trainer, second: Trainer) -> None:
    other = weights(second)
    for key, value in weights(first).items():
        assert torch.equal(value, other[key]), key


def test_learning_rate():
    settings = TrainSettings.from_mapping(MAPPING, "toy")
    rates = [learning_rate(settings, step) for step in range(25)]
    assert rates[0] == pytest.approx(3e-3 / 5)
    assert max(rates) == pytest.approx(3e-3)
    assert rates[-1] == pytest.approx(3e-5)
    assert all(a >= b for a, b in itertools.pairwise(rates[5:]))


@pytest.mark.slow
def test_it_learns(tmp_path):
    trainer = make_trainer(tmp_path, steps=150, validate_every=150, validation=256)
    assert train(trainer) == ExitCode.OK
    found = trainer.history.records[-1]
    assert found["auroc"] > 0.97
    assert found["theta_E_68"] < 0.2, "the prior's own half-width is 0.34"
    assert found["nll"] < 0


def test_same_seed_same_weights(tmp_path):
    first, second = make_trainer(tmp_path / "a", steps=8), make_trainer(tmp_path / "b", steps=8)
    train(first)
    train(second)
    assert_same_weights(first, second)
    third = make_trainer(tmp_path / "c", steps=8, seed=2)
    train(third)
    assert not torch.equal(third.network.stem.weight, first.network.stem.weight)


def test_resume_changes_nothing(tmp_path):
    whole = make_trainer(tmp_path / "whole")
    assert train(whole) == ExitCode.OK
    for until in (7, 8, 19, None):
        cut = make_trainer(tmp_path / "cut")
        expected = ExitCode.OK if until is None else ExitCode.INCOMPLETE
        assert train(cut, until) == expected
    assert_same_weights(whole, cut)
    assert cut.history.records == whole.history.records


def test_a_killed_training_repeats_only_what_was_not_saved(tmp_path):
    whole = make_trainer(tmp_path / "whole")
    train(whole)
    killed = make_trainer(tmp_path / "killed")
    train(killed, 9)
    lost = make_trainer(tmp_path / "killed")
    lost.resume()
    for _ in range(6):  # dies here, after a line of history that the checkpoint does not know
        lost.train_step()
    lost.history.add("train", lost.step, {"loss": 99.0})
    lost.stream.close()
    again = make_trainer(tmp_path / "killed")
    train(again)
    assert_same_weights(whole, again)
    assert again.history.records == whole.history.records


def test_a_stop_while_the_first_mocks_are_made_does_not_wait_for_all_of_them(tmp_path):
    """At every start a window of mocks is made: here six chunks, of which two are made before the stop."""
    stream = {"chunk": 64, "window": 6, "epochs": True}
    whole = make_trainer(tmp_path / "whole", stream=stream)
    train(whole)
    train(make_trainer(tmp_path / "cut", stream=stream), 9)
    cut, made = make_trainer(tmp_path / "cut", stream=stream), []
    cut.stream.source = lambda start, n: made.append(start) or toy_source(start, n)
    cut.resume()
    assert cut.fit(lambda: ExitCode.INCOMPLETE if len(made) == 2 else None, silent) == ExitCode.INCOMPLETE
    cut.stream.close()
    assert (made, cut.step) == ([0, 64], 9)
    again = make_trainer(tmp_path / "cut", stream=stream)
    train(again)
    assert_same_weights(whole, again)
    assert again.history.records == whole.history.records


def test_other_settings_are_refused(tmp_path):
    train(make_trainer(tmp_path), 3)
    with pytest.raises(PlanMismatch, match="other settings"):
        make_trainer(tmp_path, softening=3.0).resume()


def test_a_finished_training_does_nothing_more(tmp_path):
    first = make_trainer(tmp_path, steps=5)
    train(first)
    second = make_trainer(tmp_path, steps=5)
    assert train(second) == ExitCode.OK
    assert_same_weights(first, second)


def test_gradients_of_every_parameter_are_finite(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train_step()
    trainer.stream.close()
    for name, parameter in trainer.network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_weights_that_are_not_finite_reach_neither_checkpoint_nor_validation(tmp_path, monkeypatch):
    """A finite loss whose gradient is not: clipping then makes every weight NaN."""
    train(make_trainer(tmp_path), 7)
    kept = (tmp_path / "checkpoint.pt").read_bytes()
    trainer = make_trainer(tmp_path, validate_every=12)
    average = trainer._average_gradients

    def overflow(losses: torch.Tensor) -> torch.Tensor:
        if trainer.step == 11:
            trainer.parameters[0].grad.fill_(torch.inf)
        return average(losses)

    monkeypatch.setattr(trainer, "_average_gradients", overflow)
    with pytest.raises(ModelError, match="the weights are no longer finite at step 12; the last checkpoint stands"):
        train(trainer)
    assert bool(torch.isfinite(trainer.sums).all())
    assert (tmp_path / "checkpoint.pt").read_bytes() == kept
    assert not trainer.history.column("valid", "bce")[0]


@torch.no_grad()
def test_losses_of_training_and_validation_have_one_scale(tmp_path):
    """On the same mocks, some of them below the label rule, a network has the same losses: curves can be compared."""
    trainer = make_trainer(tmp_path)
    trainer.stream.close()
    sample = toy_source(0, 48)
    sample.vague = ~sample.is_lens & (torch.arange(48) % 3 == 0)
    trainer.network.eval()
    _, bce, nll = trainer.losses(sample).tolist()
    found = trainer.measure(sample)
    assert (found["bce"], found["nll"]) == pytest.approx((bce, nll), rel=1e-5)
    assert found["bce"] < 0.9 * trainer.measure(dataclasses.replace(sample, vague=None))["bce"]


def test_scores_that_are_not_finite_are_one_line(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.stream.close()
    trainer._validation = toy_source(0, 16)
    trainer._validation.images[3] = torch.nan
    with pytest.raises(ModelError, match="1 of 16 validation mocks have scores that are not finite"):
        trainer.validate(silent)
    assert not trainer.history.records


def test_undecayed_parameters(tmp_path):
    trainer = make_trainer(tmp_path)
    decayed, plain = trainer.optimiser.param_groups
    assert plain["weight_decay"] == 0
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    count = len(decayed["params"]) + len(plain["params"])
    assert count == len(trainer.parameters)
    trainer.stream.close()


def double_source(start, n):
    sample = toy_source(start, n)
    return dataclasses.replace(sample, images=sample.images.double(), latent=sample.latent.double())


def curve_of_engine(backend: str, folder: str, precision: str) -> None:
    """Train with an engine, in a process of its own; leaves the loss curve of rank 0."""

    def make(engine, place):
        trainer = make_trainer(place, engine, steps=50)
        if precision == "float64":
            trainer.stream.source = double_source
        return trainer

    leave_curve(make, backend, folder, precision)


@pytest.mark.mpi
@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "precision", "bound"), [(1, "float64", 1e-6), (2, "float64", 1e-6), (2, "float32", 1e-5)]
)
@pytest.mark.parametrize("backend", ["torch", pytest.param("horovod", marks=needs_horovod)])
def test_the_curve_is_the_same_plain_and_joined(tmp_path, backend, ranks, precision, bound):
    """Beside one plain process; the bound in float32 is that of docs/train.md."""
    alone = curve("train.test_loop", tmp_path / "plain", "none", 1, precision)
    assert alone[-1] < alone[0]
    joined = curve("train.test_loop", tmp_path / "joined", backend, ranks, precision)
    assert joined == pytest.approx(alone, abs=bound)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    """Its settings may be the same to the letter: the recipe's file was edited between."""
    first = make_trainer(tmp_path)
    first.recipe_digest = "before"
    assert train(first, 6) == ExitCode.INCOMPLETE
    other = make_trainer(tmp_path)
    other.recipe_digest = "after"
    with pytest.raises(PlanMismatch, match="trained on another recipe of this name; put the recipe back") as caught:
        other.resume()
    assert "\n" not in str(caught.value)
    other.recipe_digest = "before"
    other.resume()
    assert other.step == 6


def test_what_a_killed_checkpoint_left_is_swept(tmp_path):
    trainer = make_trainer(tmp_path)
    assert train(trainer, 6) == ExitCode.INCOMPLETE
    left = temporary_name(tmp_path / "checkpoint.pt")
    gone = left.with_name(left.name.replace(f"-{os.getpid()}-", "-999999999-"))
    gone.write_bytes(b"half")
    make_trainer(tmp_path).resume()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "curves.jsonl"]


def test_validation_mocks_without_lenses_have_no_figures(tmp_path):
    trainer = make_trainer(tmp_path)
    sample = toy_source(0, 32)
    others = sample.rows(~sample.is_lens)
    with torch.no_grad():
        assert trainer.measure(others) == {}
        assert {"auroc", "nll"} <= set(trainer.measure(sample))


def test_a_checkpoint_lasts_through_a_crash_of_the_machine_and_so_does_what_it_says_is_past(tmp_path, monkeypatch):
    """Lines of the curves before its step are not written again, and a rename lasts when its folder is synced."""
    trainer = make_trainer(tmp_path)
    trainer.stream.close()
    trainer.history.add("train", 0, {"loss": 1.0})
    synced, sync = [], os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    trainer.save()
    curves, checkpoint, folder = synced
    assert (curves, folder) == ("curves.jsonl", tmp_path.name)
    assert checkpoint.startswith(".checkpoint.pt.")
