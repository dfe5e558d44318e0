"""Published regressors in the product's own loop: they learn, resume to the bit, and their training files run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from launch import run
from toy_mocks import TRAINING, toy_source, toy_trainer, train

from lensscan.errors import ExitCode
from lensscan.nets.model import Model
from lensscan.train.loop import Trainer

MAPPING = {**TRAINING, "network": {"kind": "holismokes-cnn"}}
ADAM = {"kind": "adam", "lr": 1e-3, "warmup": 0, "ema": 0.0, "clip": 1e9, "regression": 1.0}


def make_trainer(folder: Path, optimiser: dict = ADAM, **changes) -> Trainer:
    return toy_trainer(folder, {**MAPPING, "optimiser": optimiser, **changes})


def test_it_learns_by_the_papers_loss(tmp_path):
    trainer = make_trainer(tmp_path, steps=60, validate_every=30)
    with torch.no_grad():
        before = trainer.measure(toy_source(10_000, 64))
    assert train(trainer) == ExitCode.OK
    record = trainer.history.records[-1]
    assert record["own"] < 0.5 * before["own"]
    assert record["nll"] < before["nll"]
    assert "auroc" not in record, "it does not score"
    assert [r["bce"] for r in trainer.history.records if r["kind"] == "train"] == [0.0]
    width = trainer.network.square[0].sqrt().item()
    assert 0.5 * record["theta_E_68"] < width < 1.0, "of log theta_E, the radii lie about 1 arcsec"


def test_the_loss_of_a_step_is_the_papers_alone(tmp_path):
    trainer = make_trainer(tmp_path)
    sample = toy_source(0, 8)
    loss, bce, nll = trainer.losses(sample).detach().tolist()
    assert bce == 0
    assert nll > loss > 0, "the likelihood is watched, not followed"
    halved = make_trainer(tmp_path, {**ADAM, "regression": 0.5})
    assert halved.losses(sample)[0].item() == pytest.approx(loss / 2, rel=1e-5)
    for each in (trainer, halved):
        each.stream.close()


def test_resume_changes_nothing(tmp_path):
    """Also the running widths, which are no weights."""
    whole = make_trainer(tmp_path / "whole")
    assert train(whole) == ExitCode.OK
    for until in (7, None):
        cut = make_trainer(tmp_path / "cut")
        train(cut, until)
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, cut.network.state_dict()[key]), key
        assert torch.equal(whole.average.state_dict()[key], cut.average.state_dict()[key]), key
    assert cut.history.records == whole.history.records


TINY = {"steps": 2, "batch": 8, "validation": 32, "stream.chunk": 32, "stream.window": 1}
TINY |= {"finish.calibration": 96, "finish.evaluation": 64}


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize("name", ["hezaveh2017-64-alexnet", "hezaveh2017-64", "holismokes4-cnn"])
def test_training_files_of_published_tables_run(name, tmp_path):
    path = tmp_path / "model.safetensors"
    changes = (f"--set={key}={value}" for key, value in TINY.items())
    done = run(["train", name, "-o", str(path), *changes], timeout=600)
    assert done.code == 0, done
    card = Model.load(str(path)).card
    assert card.evaluation["n_other"] == 0
    assert card.evaluation["detection"].startswith("none")
    assert math.isfinite(card.evaluation["parameters"]["theta_E"]["half_width_68"])
    assert card.calibration.kind == "none"
    assert min(card.posterior_scale) > 0
