"""Modules alone and together: each does its work on toys, others stay fixed, a break changes nothing."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_mocks import BANDS, PIXEL_SCALE, SIZE, layered_source, toy_source

from lensscan.config import find, read_toml
from lensscan.errors import ConfigError, ExitCode, ModelError
from lensscan.metrics.images import psnr
from lensscan.mocks.recipes import load_recipe
from lensscan.train.augment import network_inputs
from lensscan.train.distributed import Serial
from lensscan.train.modular import (
    JOINT,
    Learned,
    ModularTrainer,
    image_targets,
    learn_modules,
    stages_of,
    training_flops,
)
from lensscan.train.run import TrainRun
from lensscan.train.settings import TrainSettings

SETTINGS = {
    "name": "toy",
    "recipe": "toy",
    "steps": 6,
    "batch": 32,
    "validate_every": 1000,
    "validation": 96,
    "checkpoint_seconds": 1e9,
    "network": {"kind": "modular", "widths": [8, 12], "depths": [1, 1], "hidden": 16, "squeeze": 8, "condition": 8}
    | {"denoise_width": 8, "denoise_depth": 1, "deblend_widths": [12, 16, 24], "latent": 4, "samples": 8},
    "stream": {"chunk": 256, "window": 2, "epochs": True},
    "optimiser": {"warmup": 5, "ema": 0.9, "lr": 5e-3},
    "augmentation": {"noise": 0.0, "mask": 0.0, "band_missing": 0.0},
    "modules": {"denoise": 4, "deblend": 5, "heads": 3},
}


def settings_of(**changes) -> TrainSettings:
    return TrainSettings.from_mapping({**SETTINGS, **changes}, "toy")


class Alone(Serial):
    """One of several ranks, without the others."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


def maker(source=layered_source, engine=None):
    def make(settings: TrainSettings, folder: Path, stage: str) -> ModularTrainer:
        folder.mkdir(parents=True, exist_ok=True)
        validation = functools.partial(source, 10_000, settings.validation)
        where = (BANDS, SIZE, PIXEL_SCALE, source, validation, engine or Serial(), folder, torch.device("cpu"))
        return ModularTrainer(stage, settings, *where)

    return make


def silent(_line: str) -> None:
    pass


def learn(settings: TrainSettings, folder: Path, stop=lambda: None) -> Learned:
    return learn_modules(settings, folder, maker(), stop, silent)


def test_stages_follow_one_another():
    assert stages_of(settings_of()) == {"denoise": 4, "deblend": 5, "heads": 3, JOINT: 6}
    assert list(stages_of(settings_of(modules={"deblend": 2}))) == ["deblend", JOINT]


def test_the_card_counts_the_mocks_of_the_longest_stage(tmp_path):
    """Every stage draws the mocks from the first on: five batches of all together are among the nine of the first."""
    settings = settings_of(modules={"denoise": 9}, stream={"chunk": 8, "window": 2, "reuse": 1.0}, recipe="slpipe2019")
    trainer = maker()(settings, tmp_path, JOINT)
    trainer.step = 5
    run = TrainRun(settings, tmp_path / "m.safetensors", torch.device("cpu"), "none", lambda: None, silent)
    said = run._provenance(trainer, dataclasses.replace(load_recipe("slpipe2019"), size=SIZE), trainer.engine)
    trainer.stream.close()
    assert said["stages"] == {"denoise": 9, JOINT: 5}
    assert said["mocks"] == trainer.stream.mocks_of(9) > trainer.stream.mocks_of(5)


@pytest.mark.parametrize("stage", ["denoise", "deblend", "heads", JOINT])
def test_a_stage_changes_its_own_module_only(stage, tmp_path):
    trainer = maker()(settings_of(), tmp_path, stage)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    for _ in range(2):
        trainer.train_step()
    trainer.stream.close()
    part = {"denoise": "denoiser.", "deblend": "deblender."}
    changed = {name for name, value in trainer.network.state_dict().items() if not torch.equal(value, before[name])}
    if stage in part:
        assert changed
        assert all(name.startswith(part[stage]) for name in changed)
    else:
        images = {name for name in changed if name.startswith(tuple(part.values()))}
        assert bool(images) == (stage == JOINT)
        assert {"logit.encode.weight", "posterior.output.weight", "stem.weight"} <= changed


def test_the_weight_of_the_bottleneck_decays_as_that_of_every_layer(tmp_path):
    trainer = maker()(settings_of(), tmp_path, JOINT)
    trainer.stream.close()
    decayed, plain = trainer.optimiser.param_groups
    assert any(parameter is trainer.network.logit.weight for parameter in decayed["params"])
    assert any(parameter is trainer.network.logit.bias for parameter in plain["params"])


@pytest.mark.parametrize("stage", ["heads", JOINT])
def test_the_bottleneck_draws_the_same_points_for_any_number_of_ranks(tmp_path, stage):
    """The weighted mean of the losses of three unequal shares is that of the whole batch, to rounding."""
    whole = layered_source(0, 32)

    def loss(rank: int, size: int, step: int) -> float:
        trainer = maker(engine=Alone(rank, size))(settings_of(), tmp_path, stage)
        trainer.stream.close()
        trainer.step = step
        rows = slice(trainer.stream.first, trainer.stream.last)
        return float(trainer.losses(whole.rows(rows))[0].detach()) * trainer.stream.weight / size

    alone = loss(0, 1, step=5)
    assert sum(loss(rank, 3, step=5) for rank in range(3)) == pytest.approx(alone, rel=2e-6)
    assert loss(0, 1, step=6) != pytest.approx(alone, rel=1e-4), "other points are seen in the loss"


def test_a_flow_head_learns_by_its_exact_likelihood(tmp_path):
    pytest.importorskip("zuko")
    settings = settings_of(network=SETTINGS["network"] | {"head": "flow", "flow_layers": 2})
    trainer = maker()(settings, tmp_path, "heads")
    trainer.train_step()
    trainer.stream.close()
    named = trainer.network.named_parameters()
    flow = {name: p for name, p in named if name.startswith(("posterior.flow", "posterior.condition"))}
    assert {"posterior.condition.weight", "posterior.flow.couplings.0.first.weight"} <= set(flow)
    for name, parameter in flow.items():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert min(training_flops(settings, BANDS, SIZE).values()) > 0


def test_a_break_changes_nothing(tmp_path):
    settings = settings_of()
    whole = learn(settings, tmp_path / "whole")
    asked = iter([None] * 6 + [ExitCode.INCOMPLETE] + [None] * 100)
    first = learn(settings, tmp_path / "cut", lambda: next(asked))
    assert first.code == ExitCode.INCOMPLETE, "it stops inside the second stage"
    assert not (tmp_path / "cut" / "heads").exists()
    again = learn(settings, tmp_path / "cut")
    assert (whole.code, again.code) == (ExitCode.OK, ExitCode.OK)
    for stage in ("denoise", "deblend", "heads"):
        assert (tmp_path / "cut" / stage / "curves.png").read_bytes()[1:4] == b"PNG", stage
    assert whole.weights is not None
    for name, value in whole.weights.items():
        assert torch.equal(value, again.weights[name]), name


def test_the_common_stage_begins_where_the_modules_ended(tmp_path):
    settings = settings_of()
    learned = learn(settings, tmp_path)
    trainer = maker()(settings, tmp_path / "joint", JOINT)
    trainer.go_on_from(learned)
    for name, value in learned.weights.items():
        assert torch.equal(trainer.network.state_dict()[name], value), name
    trainer.train_step()
    moved = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.go_on_from(learned)
    trainer.stream.close()
    assert all(torch.equal(value, moved[name]) for name, value in trainer.network.state_dict().items())


def test_mocks_without_layers_are_refused(tmp_path):
    trainer = maker(toy_source)(settings_of(), tmp_path, "denoise")
    with pytest.raises(ModelError, match="layers"):
        trainer.train_step()
    trainer.stream.close()


def test_modules_that_are_not_there_are_refused():
    plain = SETTINGS["network"] | {"denoise_width": 0}
    with pytest.raises(ConfigError, match=r"modules\.denoise = 4"):
        settings_of(network=plain)
    with pytest.raises(ConfigError, match="kind modular"):
        settings_of(network={})
    with pytest.raises(ConfigError, match="even"):
        settings_of(network=SETTINGS["network"] | {"samples": 7})


def test_the_denoiser_takes_noise_off_and_the_deblender_finds_the_arcs(tmp_path):
    network = SETTINGS["network"] | {"deblend_widths": [16, 24]}
    settings = settings_of(modules={"denoise": 80, "deblend": 150}, network=network)
    learned = learn(settings, tmp_path)
    trainer = maker()(settings, tmp_path / "joint", JOINT)
    trainer.go_on_from(learned)
    sample = layered_source(50_000, 128)
    images, scalars = network_inputs(sample, settings.softening, PIXEL_SCALE)
    targets = {name: value.numpy() for name, value in image_targets(sample, settings.softening).items()}
    with torch.no_grad():
        trace = trainer.average.trace(images, scalars)
    trainer.stream.close()
    peak = targets["denoise"].max(axis=(1, 2, 3))
    gain = psnr(trace.denoised.numpy(), targets["denoise"], peak) - psnr(images.numpy(), targets["denoise"], peak)
    assert gain.mean() > 3.0, f"denoised by {gain.mean():.2f} dB"
    found, arcs = trace.deblended.numpy(), targets["deblend"]
    left, nothing = targets["denoise"], np.zeros_like(arcs)
    over = [(psnr(found, arcs, peak) - psnr(other, arcs, peak)).mean() for other in (left, nothing)]
    assert over[0] > 6.0, f"deblended by {over[0]:.2f} dB against a perfect denoiser"
    assert over[1] > 4.0, f"nearer to the arcs than nothing at all by {over[1]:.2f} dB"
    likeness = [np.corrcoef(one.ravel(), true.ravel())[0, 1] for one, true in zip(found, arcs, strict=True)]
    assert np.mean(likeness) > 0.8


def test_the_bottleneck_pays_for_what_it_lets_through(tmp_path):
    rates = []
    for beta in (0.0, 3.0):
        settings = settings_of(modules={"beta": beta}, steps=25)
        trainer = maker()(settings, tmp_path / str(beta), JOINT)
        for _ in range(25):
            trainer.train_step()
        trainer.stream.close()
        sample = layered_source(50_000, 64)
        with torch.no_grad():
            belief = trainer.network.eval().trace(*network_inputs(sample, 2.0, PIXEL_SCALE)).belief
        rates.append(float((belief.mean**2 + belief.spread**2 - 1 - 2 * belief.spread.log()).sum(dim=1).mean() / 2))
    assert rates[1] < 0.3 * rates[0]


def test_operations_are_counted():
    """A convolution of the last layer by hand; the common stage costs more than any alone."""
    settings = settings_of()
    before = torch.random.get_rng_state()
    found = training_flops(settings, BANDS, SIZE)
    assert torch.equal(torch.random.get_rng_state(), before), "a training draws the same numbers, counted or not"
    each = {name: value / (steps * settings.batch) for (name, value), steps in
            zip(found.items(), stages_of(settings).values(), strict=True)}  # fmt: skip
    width, bands = 8, BANDS
    macs = SIZE**2 * 9 * (bands * width + 2 * width * width + width * bands)
    forward_backward = 2 * macs * 3 - 2 * SIZE**2 * 9 * bands * width  # no gradient of the stamp itself
    assert each["denoise"] == pytest.approx(forward_backward)
    assert each[JOINT] > each["deblend"] > each["denoise"]


@pytest.mark.parametrize("recipe_name", ["slpipe2019", "slpipe2019-64"])
def test_a_shipped_pair_is_alike_in_data_and_compute(recipe_name):
    pair = []
    for name in (f"{recipe_name}-modular", f"{recipe_name}-end-to-end"):
        path = find("training", name)
        pair.append(TrainSettings.from_mapping(read_toml(path), str(path)))
    modular, plain = pair
    assert modular.recipe == recipe_name
    recipe = load_recipe(modular.recipe)
    flops = [sum(training_flops(each, len(recipe.bands), recipe.size).values()) for each in pair]
    assert flops[0] == pytest.approx(flops[1], rel=0.01)
    for name in ("recipe", "seed", "batch", "stream", "augmentation", "softening", "precision"):
        assert getattr(modular, name) == getattr(plain, name), name
    images = {"denoise_width": 0, "deblend_widths": ()}
    assert dataclasses.replace(modular.network, **images) == dataclasses.replace(plain.network, **images)
    assert plain.network.denoise_width == 0
    assert not plain.network.deblend_widths
