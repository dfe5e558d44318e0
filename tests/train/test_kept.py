"""A finish that is stopped leaves with the stop's code, goes on where it was, and ends in the same bytes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lensscan.errors import ConfigError, ExitCode
from lensscan.metrics.calibration import Calibration
from lensscan.mocks.recipes import load_recipe
from lensscan.nets.architecture import architecture, build_network
from lensscan.nets.model import Card, Model
from lensscan.train import finish as finish_module
from lensscan.train import run as run_module
from lensscan.train import units as units_module
from lensscan.train.augment import Sample
from lensscan.train.kept import Kept, Stopped, fingerprint
from lensscan.train.run import TrainRun
from lensscan.train.settings import TrainSettings
from lensscan.train.units import with_units

SMALL = {"widths": [8, 8], "depths": [0, 0], "hidden": 8, "squeeze": 2}


def made(tmp_path, stop=lambda: None, **changes):
    """Return a run, and an untrained model of its settings."""
    mapping = {"name": "small", "recipe": "des-griz", "steps": 1, "network": SMALL}
    mapping |= {"finish": {"calibration": 48, "evaluation": 48, "kind": "platt"}, **changes}
    settings = TrainSettings.from_mapping(mapping, "here")
    recipe = load_recipe("des-griz")
    lines: list[str] = []
    work = TrainRun(settings, tmp_path / "small.safetensors", torch.device("cpu"), "none", stop, lines.append)
    torch.manual_seed(0)
    kind = architecture(settings.network)
    identity = {"settings_digest": settings.digest, "recipe_digest": recipe.digest}
    card = Card(settings.name, kind, recipe.bands, recipe.size, recipe.pixel_scale, training=identity)
    return work, Model(card, build_network(kind, len(recipe.bands), recipe.size).eval()), lines


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(finish_module, "CHUNK", 24)
    monkeypatch.setattr(run_module, "LENSES", 200)


def test_a_stopped_finish_goes_on_and_ends_in_the_same_bytes(tmp_path):
    whole, model, _ = made(tmp_path / "whole")
    assert whole.finish(model) == ExitCode.OK
    asked = []

    def stop():
        asked.append(1)
        return ExitCode.INCOMPLETE if len(asked) in (2, 4) else None

    work, model, lines = made(tmp_path / "cut", stop)
    codes = [work.finish(model)]
    assert not work.output.exists()
    assert len(list((work.folder / "finish").glob("*.npz"))) == 2
    codes += [work.finish(model), work.finish(model)]
    assert codes == [ExitCode.INCOMPLETE, ExitCode.INCOMPLETE, ExitCode.OK]
    assert len(asked) == 2 + 1 + 2, "each chunk is made once: two to calibrate, one in eight views, two to evaluate"
    assert work.output.read_bytes() == whole.output.read_bytes()
    assert not work.folder.exists()
    assert lines[-1].startswith("wrote ")


def test_a_calibration_makes_no_other_chunks(tmp_path):
    """A finish of a model that was calibrated before takes what stands for the bare one."""
    work, model, _ = made(tmp_path, lambda: ExitCode.INCOMPLETE)
    calibrated = Model(dataclasses.replace(model.card, calibration=Calibration("platt", 0.5, 1.0)), model.module)
    stands = []
    for each in (model, calibrated):
        assert work.finish(each) == ExitCode.INCOMPLETE
        stands.append({path.name for path in (work.folder / "finish").glob("*.npz")})
    assert stands[0] < stands[1]
    other, _, _ = made(tmp_path / "other", lambda: ExitCode.INCOMPLETE)
    for _ in range(2):
        assert other.finish(model) == ExitCode.INCOMPLETE
    assert {path.name for path in (other.folder / "finish").glob("*.npz")} == stands[1]


def test_views_of_the_training_calibrate_the_logit(tmp_path, monkeypatch):
    """With eight views the logit is calibrated on the mean of eight, with one nothing is scored besides."""
    seen = {}
    real = run_module.score_mocks

    def score(models, views=None, **options):
        found = seen[len(seen)] = real(models, views=views, **options)
        return found

    fits, besides = [], []

    def fit(scored, kind, prior, others):
        fits.append(scored)
        besides.append(others)
        return Calibration(), model.card.f_lens

    monkeypatch.setattr(run_module, "score_mocks", score)
    monkeypatch.setattr(finish_module, "calibrate_logit", fit)
    work, model, _ = made(tmp_path, views=8)
    assert work.finish(model) == ExitCode.OK
    assert fits[0] is seen[1]
    assert np.abs(seen[1].logit - seen[0].logit).max() > 0
    assert len(seen[0].logit) == len(seen[1].logit) == 48
    work, model, _ = made(tmp_path / "one")
    seen.clear()
    assert work.finish(model) == ExitCode.OK
    assert fits[1] is seen[0]
    assert len(seen[1].logit) == 12, "eight views for the posterior alone"
    assert besides == [None, None]


def test_non_lenses_besides_are_scored_in_the_views_of_the_card(tmp_path, monkeypatch):
    fits = []

    def fit(scored, kind, prior, others):
        fits.append((scored, others))
        return Calibration(), model.card.f_lens

    monkeypatch.setattr(finish_module, "calibrate_logit", fit)
    for views, name in ((1, "one"), (8, "eight")):
        finish = {"calibration": 48, "evaluation": 48, "kind": "platt", "others": 30}
        work, model, lines = made(tmp_path / name, views=views, finish=finish)
        assert work.finish(model) == ExitCode.OK
        assert sum(line.endswith("30 of 30 mocks scored") for line in lines) == 1
    (_, one), (_, eight) = fits
    assert not one.is_lens.any()
    assert len(one.logit) == len(eight.logit) == 30
    assert np.abs(one.logit - eight.logit).max() > 0
    assert set(np.unique(one.truth["klass"])).isdisjoint({0, 1})


def test_chunks_of_other_weights_or_damaged_ones_are_made_anew(tmp_path):
    kept = Kept(tmp_path)
    made_now = []

    def make():
        made_now.append(1)
        return {"a": np.arange(3.0)}

    for key in (("x", 1), ("x", 1), ("y", 1)):
        np.testing.assert_array_equal(kept(key, make)["a"], np.arange(3.0))
    assert len(made_now) == 2
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:40])
    kept(("x", 1), make)
    assert len(made_now) == 3
    with pytest.raises(Stopped, match="75"):
        Kept(None, lambda: ExitCode.INCOMPLETE)(("x", 1), make)


def test_fingerprint_is_that_of_weights_and_scale(tmp_path):
    _, model, _ = made(tmp_path)
    recipe = load_recipe("des-griz")
    first = fingerprint([model], recipe, "cpu")
    assert first == fingerprint([model], recipe, torch.device("cpu"))
    assert first != fingerprint([model], recipe, "cuda")
    with torch.no_grad():
        next(model.module.parameters()).view(-1)[0] += 1e-6
    assert first != fingerprint([model], recipe, "cpu")


@pytest.mark.parametrize("lenses", [0, 40])
def test_units_of_what_a_recipe_holds_fixed(monkeypatch, lenses):
    """Round, centred lenses have no spread: their unit is small, not zero; without lenses there is none at all."""
    rng = np.random.default_rng(1)
    n = 100
    latent, is_lens = torch.zeros(n, 7), torch.arange(n) < lenses
    latent[:, 5:] = torch.from_numpy(rng.normal(0, 0.2, (n, 2))).float()
    none = torch.zeros(n, 0)
    monkeypatch.setattr(units_module, "simulate_sample", lambda *_: Sample(none, none, none, is_lens, latent))
    settings = TrainSettings.from_mapping({"name": "x", "recipe": "des-griz", "steps": 1, "network": SMALL}, "here")
    if not lenses:
        with pytest.raises(ConfigError, match="no lens"):
            with_units(settings, load_recipe("des-griz"))
        return
    scale = with_units(settings, load_recipe("des-griz")).network.latent_scale
    assert scale[:5] == (1e-3,) * 5
    assert scale[5] == scale[6] > 0.1
