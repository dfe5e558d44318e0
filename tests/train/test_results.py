"""What a training leaves and says when it is done, without a training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lensscan.errors import ExitCode
from lensscan.nets.model import Model
from lensscan.train import run as run_module
from lensscan.train.history import History
from lensscan.train.run import TrainRun
from lensscan.train.settings import TrainSettings

SETTINGS = TrainSettings.from_mapping({"name": "small", "recipe": "des-griz", "steps": 3, "version": "2"}, "small")


@pytest.fixture
def training(tmp_path, monkeypatch):
    """A training that is done at once, and what it reports."""
    lines: list[str] = []
    monkeypatch.setattr(run_module, "galaxies_apart", lambda recipe: "")
    monkeypatch.setattr(run_module, "with_units", lambda settings, recipe: settings)
    trainer = SimpleNamespace(history=History(tmp_path / "curves.jsonl"), step=3)
    trainer.history.add("train", 3, {"loss": 0.5})
    monkeypatch.setattr(TrainRun, "_train", lambda *_: (trainer, ExitCode.OK))
    run = TrainRun(SETTINGS, tmp_path / "small.safetensors", torch.device("cpu"), "none", lambda: None, lines.append)
    return run, lines


def test_the_curves_are_drawn_before_the_model_is_written(training, monkeypatch):
    """A kill between the two used to leave them out for good: with the model there is nothing more to do."""
    run, _ = training
    drawn = []
    monkeypatch.setattr(TrainRun, "_finish", lambda *_: drawn.append((run.folder / "curves.png").exists()))
    assert run.run() == ExitCode.OK
    assert drawn == [True]


def standing(run: TrainRun, monkeypatch, **card: object) -> None:
    """Let the model of this training stand there, made with these words and this [finish]."""
    recipe = run._prepare()
    own = run._identity(recipe) | {"finish": card.pop("finish", dataclasses.asdict(SETTINGS.finish))}
    words = {"name": "small", "version": "2", "notes": "", "views": 1, "training": own, **card}
    Path(run.output).touch()
    monkeypatch.setattr(Model, "load", lambda path: SimpleNamespace(card=SimpleNamespace(**words)))


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ({}, "nothing to do"),
        ({"version": "1"}, "nothing to do; its version differ: --finish"),
        ({"finish": {"kind": "platt", "others": 7, "calibration": 20_000}}, "its finish.kind, finish.others differ"),
        ({"finish": {}}, "nothing to do"),
    ],
)
def test_a_finished_model_says_what_is_otherwise_in_it(training, monkeypatch, card, said):
    run, lines = training
    standing(run, monkeypatch, **card)
    assert run.run() == ExitCode.OK
    (line,) = lines
    assert said in line
    assert ("differ" in line) == ("differ" in said)
