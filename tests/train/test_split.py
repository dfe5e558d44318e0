"""Splits by group and by sky: whole groups, the right share; a model is finished on galaxies that are held out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from toy_mocks import toy_source

from lensscan.errors import ConfigError, ExitCode
from lensscan.mocks.recipes import held_out, load_recipe, make_recipe
from lensscan.nets.architecture import architecture, build_network
from lensscan.nets.model import Card, Model
from lensscan.survey.cells import sky_cells
from lensscan.train import finish as finish_module
from lensscan.train import run as run_module
from lensscan.train import split
from lensscan.train.published import ARGONNE2017, fit_published
from lensscan.train.run import TrainRun
from lensscan.train.settings import TrainSettings
from lensscan.train.split import galaxies_apart, held_back

RNG = np.random.default_rng(8)
RA, DEC = RNG.uniform(0, 360, 5000), np.degrees(np.arcsin(RNG.uniform(-1, 1, 5000)))


def test_cells_never_stand_on_both_sides():
    cells = sky_cells(RA, DEC, 10.0)
    apart = held_back(cells, 0.2, seed=3)
    assert not set(cells[apart]) & set(cells[~apart])
    assert apart.mean() == pytest.approx(0.2, abs=0.01)
    assert (held_back(cells, 0.2, seed=3) == apart).all()
    assert (held_back(cells, 0.2, seed=4) != apart).any()


def test_a_published_training_holds_groups_back_whole():
    sample = toy_source(0, 120)
    groups = np.arange(120) // 6
    recipe = dataclasses.replace(ARGONNE2017, epochs=1)
    fitted = fit_published(sample.images.numpy(), sample.is_lens.numpy(), recipe, groups=groups)
    assert len(fitted.held_back) == 24
    assert len(set(groups[fitted.held_back])) == 4


def test_shares_of_none_and_all():
    assert not held_back(np.arange(10), 0.0, 1).any()
    assert held_back(np.arange(10), 1.0, 1).all()


def painted(**tables):
    return make_recipe({"base": "des-griz", "name": "my-own", "classes": {"painted": 1.0}, **tables}, "test")


def test_held_out_galaxies_are_those_of_the_other_part():
    recipe = painted(canvas={"part": "train"}, source={"part": "train"})
    assert held_out(recipe) == painted(canvas={"part": "test"}, source={"part": "test"})
    for tables in ({}, {"canvas": {"part": "test"}}):
        assert held_out(painted(**tables)) == painted(**tables)


def test_a_training_on_real_stamps_holds_some_back_or_says_so(monkeypatch):
    read = []
    monkeypatch.setattr(split, "real_sky", lambda recipe: read.append(recipe.canvas.part))
    assert galaxies_apart(load_recipe("des-griz")) == ""
    assert galaxies_apart(painted(canvas={"part": "train"})) == ""
    assert read == ["test"], "before the training: afterwards it would be too late to find that they cannot be read"
    for tables in ({}, {"canvas": {"part": "test"}}):
        said = galaxies_apart(painted(**tables))
        assert said.startswith("warning: recipe my-own holds no real stamps back")
        assert "\n" not in said
    with pytest.raises(ConfigError, match="no folder nowhere"):
        galaxies_apart(painted(source={"profile": "images", "images": "nowhere", "part": "train"}))


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Return a run on a recipe with parts, an untrained model of it, and what was reported."""
    monkeypatch.setattr(finish_module, "CHUNK", 24)
    monkeypatch.setattr(run_module, "LENSES", 200)
    file = tmp_path / "parted.toml"
    file.write_text('base = "des-griz"\nname = "parted"\n[canvas]\npart = "train"\n', encoding="utf-8")
    mapping = {"name": "small", "recipe": str(file), "steps": 1, "network": {"widths": [8, 8], "depths": [0, 0]}}
    mapping["finish"] = {"calibration": 48, "evaluation": 48, "kind": "platt"}
    settings, recipe = TrainSettings.from_mapping(mapping, "here"), load_recipe(file)
    lines: list[str] = []
    run = TrainRun(settings, tmp_path / "small.safetensors", torch.device("cpu"), "none", lambda: None, lines.append)
    kind = architecture(settings.network)
    identity = {"settings_digest": settings.digest, "recipe_digest": recipe.digest}
    card = Card(settings.name, kind, recipe.bands, recipe.size, recipe.pixel_scale, training=identity)
    return run, Model(card, build_network(kind, len(recipe.bands), recipe.size).eval()), lines


def test_a_model_is_finished_on_galaxies_held_out(work, monkeypatch):
    """Nature's theta_E, calibration, evaluation, and what is unlike the training: all on the part not trained on."""
    run, model, lines = work
    parts = {}

    def note(name):
        real = getattr(run_module, name)

        def noted(*given, **options):
            recipe = options.get("recipe") or next(part for part in given if hasattr(part, "canvas"))
            parts.setdefault(name, []).append(recipe.canvas.part)
            return real(*given, **options)

        monkeypatch.setattr(run_module, name, noted)

    for name in ("score_mocks", "theta_prior", "add_novelty"):
        note(name)
    monkeypatch.setattr(run_module, "galaxies_apart", lambda recipe: f"warning: {recipe.canvas.part}")
    assert run.finish(model) == ExitCode.OK
    assert parts == {"theta_prior": ["test"], "score_mocks": ["test"] * 3, "add_novelty": ["test"]}
    assert lines[0] == "warning: train"
    written = Model.load(str(run.output)).card.training
    assert written["recipe_digest"] == load_recipe(run.settings.recipe).digest, "what it was trained on"


def test_a_training_begins_with_the_warning(work, monkeypatch):
    run, _, lines = work
    monkeypatch.setattr(run_module, "galaxies_apart", lambda recipe: "warning: nothing is held back")
    monkeypatch.setattr(run_module, "with_units", lambda settings, recipe: settings)
    monkeypatch.setattr(TrainRun, "_train", lambda *_: (None, ExitCode.INCOMPLETE))
    assert run.run() == ExitCode.INCOMPLETE
    assert lines == ["warning: nothing is held back"]
