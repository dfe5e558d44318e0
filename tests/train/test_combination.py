"""A combination of regressors in the product's own loop: members from their files, held fixed, and its weights."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from launch import run
from toy_mocks import BANDS, PIXEL_SCALE, SIZE, TRAINING, toy_source, toy_trainer, train

from lensscan.errors import ConfigError, ExitCode, LensscanError, ModelError, PlanMismatch
from lensscan.mocks.recipes import load_recipe
from lensscan.nets.architecture import architecture, build_network
from lensscan.nets.model import Card, Model
from lensscan.train.loop import Trainer
from lensscan.train.members import with_members
from lensscan.train.settings import TrainSettings
from lensscan.train.sweep.trial import Bench

RECIPE = SimpleNamespace(name="toy", bands=("g", "r"), size=SIZE, pixel_scale=PIXEL_SCALE, digest="of the recipe")
MEMBER = {"kind": "ensai", "scaling": "peak"}
ADAM = {"kind": "adam", "lr": 1e-2, "warmup": 0, "ema": 0.9, "weight_decay": 0.0, "clip": 1.0, "regression": 1.0}
PLAIN = dict.fromkeys(("noise", "gain", "sigma", "fwhm", "fwhm_missing", "pixel_scale", "band_missing", "mask"), 0.0)
FRAME = Card("toy", MEMBER, RECIPE.bands, SIZE, PIXEL_SCALE, min_bands=BANDS)


def save(path: Path, network: torch.nn.Module | None = None, seed: int = 1, **changes) -> Path:
    """Write the model file of a network; of a fresh one of the card's architecture if none is given."""
    card = dataclasses.replace(FRAME, **changes)
    torch.manual_seed(seed)
    network = network or build_network(card.architecture, len(card.bands), card.size)
    Model(card, network.eval()).save(path)
    return path


def mapping(members, **changes) -> dict:
    network = {"kind": "combination", "members": [str(member) for member in members]}
    return {**TRAINING, "network": network, "optimiser": ADAM, "augmentation": PLAIN, **changes}


def combination(folder: Path, members, **changes) -> Trainer:
    settings = TrainSettings.from_mapping(mapping(members, **changes), "toy")
    return toy_trainer(folder, with_members(settings, RECIPE))


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Return the files of a trained network, another one, and one that never learnt."""
    folder = tmp_path_factory.mktemp("members")
    files = []
    for seed in (3, 4):
        optimiser = {**ADAM, "lr": 1e-3, "clip": 1e9, "ema": 0.0}
        trainer = toy_trainer(folder / f"{seed}", mapping([], network=MEMBER, seed=seed, optimiser=optimiser))
        assert train(trainer) == ExitCode.OK
        files.append(save(folder / f"{seed}.safetensors", trainer.average))
    return [*files, save(folder / "poor.safetensors", seed=7)]


def test_weights_leave_a_poor_member_behind(members, tmp_path):
    trainer = combination(tmp_path, members, steps=60, validate_every=60)
    with torch.no_grad():
        mean = trainer.measure(toy_source(20_000, 128))
        torch.testing.assert_close(trainer.network.combine.weight, torch.full((3, 1, 5), 1 / 3))
    assert train(trainer) == ExitCode.OK
    with torch.no_grad():
        found = trainer.measure(toy_source(20_000, 128))
    assert found["own"] < 0.7 * mean["own"], "the plain mean of the members"
    weight = trainer.average.combine.weight[:, 0]
    assert weight[2, 0] < weight[:2, 0].min()
    assert not torch.equal(weight, trainer.network.combine.weight[:, 0]), "the moving average"


def test_members_stay_as_they_are_to_the_bit(members, tmp_path):
    trainer = combination(tmp_path, members, steps=4)
    assert train(trainer) == ExitCode.OK
    for number, file in enumerate(members):
        for key, value in Model.load(file).module.state_dict().items():
            for network in (trainer.network, trainer.average):
                assert torch.equal(network.members[number].state_dict()[key], value), key
    learnt = [name for name, value in trainer.network.named_parameters() if value in trainer.optimiser.state]
    assert learnt == ["combine.weight"]


def test_the_model_file_needs_no_member(members, tmp_path):
    trainer = combination(tmp_path, members, steps=2)
    train(trainer)
    module = trainer.average.eval()
    card = dataclasses.replace(FRAME, architecture=architecture(trainer.settings.network))
    digest = Model(card, module).save(tmp_path / "c.safetensors")
    again = Model.load(tmp_path / "c.safetensors")
    assert again.save(tmp_path / "again.safetensors") == digest
    images, scalars = torch.rand(3, BANDS, SIZE, SIZE), torch.zeros(3, 4 * BANDS + 1)
    with torch.no_grad():
        assert torch.equal(again.module(images, scalars).condition, module(images, scalars).condition)
    assert str(tmp_path) not in str(again.card.to_mapping())


def test_resume_changes_nothing(members, tmp_path):
    whole = combination(tmp_path / "whole", members, steps=8, validate_every=4)
    assert train(whole) == ExitCode.OK
    for until in (3, None):
        cut = combination(tmp_path / "cut", members, steps=8, validate_every=4)
        train(cut, until)
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, cut.network.state_dict()[key]), key
        assert torch.equal(whole.average.state_dict()[key], cut.average.state_dict()[key]), key
    assert cut.history.records == whole.history.records


def test_a_moved_member_may_go_on_and_a_changed_one_may_not(members, tmp_path):
    files = [Path(save(tmp_path / f"{number}.safetensors", seed=number)) for number in (1, 2)]
    train(combination(tmp_path / "run", files), until=3)
    files[1] = files[1].rename(tmp_path / "moved.safetensors")
    moved = combination(tmp_path / "run", files)
    moved.resume()
    moved.stream.close()
    assert moved.step == 3
    save(files[1], seed=9)
    changed = combination(tmp_path / "run", files)
    with pytest.raises(PlanMismatch, match="other settings"):
        changed.resume()
    changed.stream.close()


def test_a_member_that_changes_at_the_start_is_noticed(members, tmp_path):
    files = [save(tmp_path / f"{number}.safetensors", seed=number) for number in (1, 2)]
    settings = with_members(TrainSettings.from_mapping(mapping(files), "toy"), RECIPE)
    save(files[0], seed=5)
    with pytest.raises(ModelError, match="has changed since"):
        toy_trainer(tmp_path, settings)


RESNET = {"kind": "resnet", "widths": [8, 12], "depths": [0, 0], "hidden": 16, "squeeze": 4}
BOTH = {"kind": "combination", "networks": [MEMBER, MEMBER]}
WRONG = {
    "no regressor": ({"architecture": RESNET}, {}, ModelError, "resnet, is no published regressor"),
    "a combination": ({"architecture": BOTH}, {}, ModelError, "combination, is no published regressor"),
    "a classifier": ({"architecture": {"kind": "argonne"}}, {}, ModelError, "argonne, is no published regressor"),
    "convention": ({"architecture": {"kind": "holismokes-cnn"}}, {}, ModelError, "are those of holismokes4"),
    "bands": (
        {"bands": ("r", "g")},
        {},
        ModelError,
        "takes r g at 16 pixels of 0.3 arcsec, and the recipe toy makes g r",
    ),
    "size": ({"size": 20}, {}, ModelError, "g r at 20 pixels"),
    "pixel scale": ({"pixel_scale": 0.2}, {}, ModelError, "16 pixels of 0.2 arcsec"),
    "scaling": ({"architecture": {"kind": "ensai"}}, {}, ModelError, "all must have noise, or none"),
    "fewer bands": ({}, {"min_bands": 1}, ModelError, "it needs 2 bands, the training gives 1"),
    "the same mocks": ({"training": {"seed": 1, "recipe_digest": RECIPE.digest}}, {}, ModelError, "another seed"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_member_that_does_not_fit_is_one_line(name, tmp_path):
    card, changes, kind, words = WRONG[name]
    files = [save(tmp_path / "first.safetensors"), save(tmp_path / "second.safetensors", seed=2, **card)]
    with pytest.raises(kind) as caught:
        with_members(TrainSettings.from_mapping(mapping(files, **changes), "toy"), RECIPE)
    assert words in str(caught.value)
    assert "cannot be a member of toy" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_softening_matters_where_the_noise_is_the_unit(tmp_path):
    for scaling, wrong in (("noise", True), ("linear", False)):
        card = {"architecture": {"kind": "ensai", "scaling": scaling}, "softening": 3.0}
        files = [save(tmp_path / f"{seed}.safetensors", seed=seed, **card) for seed in (1, 2)]
        settings = TrainSettings.from_mapping(mapping(files), "toy")
        if wrong:
            with pytest.raises(ModelError, match="its softening is 3, the training's 2"):
                with_members(settings, RECIPE)
        else:
            assert len(with_members(settings, RECIPE).network.networks) == 2


def test_files_that_are_not_there_or_the_same(tmp_path):
    first, copy = save(tmp_path / "first.safetensors"), save(tmp_path / "copy.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"nothing")
    expected = {
        tmp_path / "none.safetensors": (ConfigError, "toy: network.members: models: no file"),
        copy: (ConfigError, "is given twice"),
        damaged: (ModelError, "is not a safetensors file"),
    }
    for path, (kind, words) in expected.items():
        with pytest.raises(LensscanError, match=words) as caught:
            with_members(TrainSettings.from_mapping(mapping([first, path]), "toy"), RECIPE)
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value)


def test_a_sweep_varies_its_rate(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    recipe = load_recipe(tmp_path / "tiny.toml")
    frame = {"bands": recipe.bands, "size": recipe.size, "pixel_scale": recipe.pixel_scale, "min_bands": 1}
    files = [save(tmp_path / f"{seed}.safetensors", seed=seed, **frame) for seed in (1, 2)]
    small = {"steps": 2, "batch": 8, "validation": 32, "stream": {"chunk": 32, "window": 1}}
    bench, found = Bench(recipe, torch.device("cpu")), []
    for rate in (1e-3, 1e-1):
        settings = TrainSettings.from_mapping(
            mapping(files, optimiser={**ADAM, "lr": rate, "ema": 0.0}, **small), "toy"
        )
        (tmp_path / f"{rate}").mkdir()
        found.append(bench.advance(settings, tmp_path / f"{rate}", 2, "nll", lambda step: None))
    assert found[0] != found[1]
    assert all(math.isfinite(value) for value in found)


TINY = """
base = "hezaveh2017-64"
name = "tiny"
title = "tiny"
size = 24
pixel_scale = 0.32
"""
FEW = {"steps": 2, "batch": 8, "validation": 32, "validate_every": 2, "stream.chunk": 32, "stream.window": 1}
FEW |= {"finish.calibration": 96, "finish.evaluation": 64}


def command(folder: Path, training: str, output: str, *options: str, code: int = 0, **how) -> Path:
    (folder / "tiny.toml").write_text(TINY)
    changes = {**FEW, "recipe": folder / "tiny.toml"}
    assignments = [f"--set={key}={value}" for key, value in changes.items()]
    done = run(["train", training, "-o", str(folder / output), *assignments, *options], timeout=200, **how)
    assert done.code == code, done
    return folder / output


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.timeout(400)
def test_by_commands(tmp_path):
    """Members, then their combination: stopped, resumed, on two ranks, finished anew; the shipped files throughout."""
    files = []
    for name, seed in (("one", 1), ("two", 3)):
        options = ("--set=network.kind=ensai", f"--set=name={name}", f"--set=seed={seed}")
        files.append(command(tmp_path, "hezaveh2017-64-alexnet", f"{name}.safetensors", *options))
    members = f"--set=network.members={[str(file) for file in files]}".replace("'", '"')
    shipped = "hezaveh2017-64-combination"
    command(tmp_path, shipped, "c.safetensors", members, "--max-seconds", "0", code=ExitCode.INCOMPLETE)
    serial = command(tmp_path, shipped, "c.safetensors", members)
    again = command(tmp_path, shipped, "again.safetensors", members, "--finish", str(serial))
    assert again.read_bytes() == serial.read_bytes()
    ranks = command(tmp_path, shipped, "two-ranks.safetensors", members, "--backend", "torch", ranks=2)
    first, second = Model.load(serial), Model.load(ranks)
    torch.testing.assert_close(first.module.combine.weight, second.module.combine.weight, rtol=0, atol=1e-4)
    assert (first.module.combine.weight != 1 / 2).any()
    known = [[str(file), Model.load(file).card.hash] for file in files]
    assert [list(member) for member in first.card.training["members"]] == known
    assert not first.scores
