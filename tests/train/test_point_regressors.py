"""Published regressors in the product's own loop: they learn, resume to the bit, and their training files run."""

from __future__ import annotations

import math

import pytest
import torch
from launch import run
from test_loop import assert_same_weights, make_trainer, train
from toy_mocks import toy_source

from lensscan.errors import ExitCode
from lensscan.nets.model import Model

CNN = {
    "network": {"kind": "holismokes-cnn"},
    "optimiser": {"kind": "adam", "lr": 1e-3, "warmup": 0, "ema": 0.0, "clip": 1e9, "regression": 1.0},
}


def test_it_learns_by_the_papers_loss(tmp_path):
    trainer = make_trainer(tmp_path, **CNN, steps=60, validate_every=30)
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
    trainer = make_trainer(tmp_path, **CNN)
    sample = toy_source(0, 8)
    loss, bce, nll = trainer.losses(sample).detach().tolist()
    images, scalars = torch.zeros(8, 2, 16, 16), torch.zeros(8, 9)
    assert bce == 0
    assert nll > 0
    trainer.network.eval()
    outcome = trainer.network(images, scalars)
    assert torch.isnan(outcome.logit).all()
    halved = make_trainer(tmp_path, **{**CNN, "optimiser": {**CNN["optimiser"], "regression": 0.5}})
    assert halved.losses(sample)[0].item() == pytest.approx(loss / 2, rel=1e-5)
    for each in (trainer, halved):
        each.stream.close()


def test_resume_changes_nothing(tmp_path):
    """Also the running widths, which are no weights."""
    whole = make_trainer(tmp_path / "whole", **CNN)
    assert train(whole) == ExitCode.OK
    for until in (7, None):
        cut = make_trainer(tmp_path / "cut", **CNN)
        train(cut, until)
    assert_same_weights(whole, cut)
    assert cut.history.records == whole.history.records


TINY = {"steps": 2, "batch": 8, "validation": 32, "stream.chunk": 32, "stream.window": 1}
TINY |= {"finish.calibration": 96, "finish.evaluation": 64}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hezaveh2017-64-alexnet", "hezaveh2017-64", "holismokes4-cnn"])
def test_training_files_of_published_tables_run(name, tmp_path):
    path = tmp_path / "model.safetensors"
    done = run(["train", name, "-o", str(path), *(f"--set={key}={value}" for key, value in TINY.items())])
    assert done.code == 0, done
    card = Model.load(str(path)).card
    assert card.evaluation["n_other"] == 0
    assert card.evaluation["detection"].startswith("none")
    assert math.isfinite(card.evaluation["parameters"]["theta_E"]["half_width_68"])
    assert card.calibration.kind == "none"
    assert min(card.posterior_scale) > 0
