"""Early stopping: when it stops, which weights are kept, on all ranks alike and whatever breaks come between."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_mocks import TRAINING, toy_trainer, train
from toy_ranks import MAPPING, on_threads, ranks_of

from lensscan.errors import ConfigError, ExitCode, ModelError
from lensscan.train.loop import Trainer
from lensscan.train.patience import Best
from lensscan.train.run import TrainRun
from lensscan.train.settings import TrainSettings

STOPPING = {**MAPPING, "steps": 20, "validate_every": 2, "patience": 2}
FOUND = {2: 0.6, 4: 0.8, 6: 0.7, 8: 0.8, 10: 0.9}
"""The figure of each step's validation: the best is that of step 4, and none is better until step 8."""


def scripted(trainer: Trainer) -> Trainer:
    trainer.measure = lambda sample: {"auroc": FOUND.get(trainer.step, 0.0)}
    return trainer


def make(folder: Path, **changes) -> Trainer:
    return scripted(toy_trainer(folder, {**STOPPING, **changes}))


def assert_same_average(first: Trainer, second: Trainer) -> None:
    for name, value in first.average.state_dict().items():
        assert torch.equal(value, second.average.state_dict()[name]), name


@pytest.fixture(scope="module")
def wanted(tmp_path_factory) -> Trainer:
    """The training at the step of its best validation."""
    trainer = make(tmp_path_factory.mktemp("wanted"))
    assert train(trainer, 4) == ExitCode.INCOMPLETE
    return trainer


def test_it_stops_and_keeps_the_best_weights(tmp_path, wanted):
    trainer = make(tmp_path)
    assert train(trainer) == ExitCode.OK
    assert trainer.step == 8
    assert_same_average(trainer, wanted)


def test_breaks_change_nothing(tmp_path, wanted):
    whole = make(tmp_path / "whole")
    train(whole)
    for until in (3, 5, 6, 7, None, None):  # the last comes when all is done
        cut = make(tmp_path / "cut")
        assert train(cut, until) == (ExitCode.OK if until is None else ExitCode.INCOMPLETE)
    assert cut.step == 8
    assert_same_average(cut, wanted)
    assert cut.history.records == whole.history.records


def test_the_best_weights_are_kept_at_the_last_step_too(tmp_path, wanted):
    trainer = make(tmp_path, patience=100)
    trainer.measure = lambda sample: {"auroc": 0.8 if trainer.step == 4 else 0.5}
    assert train(trainer) == ExitCode.OK
    assert trainer.step == 20
    assert_same_average(trainer, wanted)


def test_without_patience_the_last_weights_are_kept(tmp_path, wanted):
    trainer = make(tmp_path, patience=0, steps=20)
    assert train(trainer) == ExitCode.OK
    assert trainer.step == 20
    assert not trainer.best.weights
    assert any(
        not torch.equal(value, wanted.average.state_dict()[name])
        for name, value in trainer.average.state_dict().items()
    )


def test_all_ranks_stop_at_the_same_step(tmp_path):
    trainers = [scripted(trainer) for trainer in ranks_of(tmp_path, 2, **STOPPING)]
    assert on_threads(trainers, train) == [ExitCode.OK] * 2
    assert [trainer.step for trainer in trainers] == [8, 8]
    again = [scripted(trainer) for trainer in ranks_of(tmp_path, 2, **STOPPING)]
    assert on_threads(again, train) == [ExitCode.OK] * 2
    assert [trainer.step for trainer in again] == [8, 8]
    assert_same_average(again[0], trainers[0])


def test_losses_are_better_when_lower():
    best = Best("nll", 2)
    for step, value in enumerate([0.3, 0.1, 0.2, float("nan")]):
        assert not best.over
        best.see({"nll": value, "auroc": 0.5}, step, {"weight": torch.tensor([float(step)])})
    assert best.over
    assert (best.value, best.step, best.stale) == (0.1, 1, 2)
    assert best.weights["weight"].tolist() == [1.0]


@pytest.mark.parametrize("monitor", ["nll", "auroc"])
def test_any_figure_is_better_than_none(monitor):
    """A first validation may overflow; nothing is above or below NaN, and it must not stay the best for that."""
    best = Best(monitor, 3)
    for step, value in enumerate([float("nan"), float("nan"), 0.4, float("nan")]):
        best.see({monitor: value}, step, {"weight": torch.tensor([float(step)])})
    assert (best.value, best.step, best.stale) == (0.4, 2, 1)
    assert best.weights["weight"].tolist() == [2.0]


def test_a_figure_that_no_validation_has_is_one_line():
    with pytest.raises(ModelError, match="no auroc; set monitor to nll"):
        Best("auroc", 1).see({"nll": 0.3}, 2, {})


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"recipe": "hezaveh2017"}, "set monitor to nll"),
        ({"network": {"kind": "holismokes-cnn"}}, "set monitor to nll"),
        ({"network": {"kind": "argonne"}, "monitor": "nll"}, "set monitor to auroc or bce"),
    ],
)
def test_a_monitor_that_no_validation_has_is_refused_at_the_start(tmp_path, changes, remedy):
    wanted = {**TRAINING, "recipe": "des-griz", "patience": 2, **changes}
    run = run_of(tmp_path, wanted)
    with pytest.raises(ConfigError, match=rf"^training toy: patience waits for monitor = [^\n]*; {remedy}$"):
        run.run()
    assert not list(tmp_path.iterdir())
    run_of(tmp_path, {**wanted, "patience": 0})._prepare()


@pytest.mark.parametrize("monitor", ["auroc", "bce", "nll"])
def test_any_monitor_will_do_for_our_own_network(tmp_path, monitor):
    assert run_of(tmp_path, {**TRAINING, "recipe": "des-griz", "patience": 2, "monitor": monitor})._prepare().bands


def test_more_bands_than_the_recipe_has_are_refused_at_the_start(tmp_path):
    with pytest.raises(ConfigError, match=r"^training toy: min_bands = 5, but recipe des-griz has 4; "):
        run_of(tmp_path, {**TRAINING, "recipe": "des-griz", "min_bands": 5}).run()
    assert not list(tmp_path.iterdir())


def run_of(folder: Path, mapping: dict) -> TrainRun:
    settings = TrainSettings.from_mapping(mapping, "toy")
    return TrainRun(settings, folder / "x.safetensors", torch.device("cpu"), "none", lambda: None, lambda line: None)


def test_settings():
    plain = TrainSettings.from_mapping(TRAINING, "toy")
    assert TrainSettings.from_mapping({**TRAINING, "patience": 0, "monitor": "auroc"}, "toy").digest == plain.digest
    assert TrainSettings.from_mapping({**TRAINING, "patience": 3}, "toy").digest != plain.digest
    with pytest.raises(ConfigError, match="patience must not be negative, not -1"):
        TrainSettings.from_mapping({**TRAINING, "patience": -1}, "toy")
