"""Settings of a training: strict, hashed by what can change a weight."""

from __future__ import annotations

import math
import operator
import re

import pytest
import torch

from lensscan.config import find, read_toml, shipped
from lensscan.errors import ConfigError
from lensscan.mocks.recipes import load_recipe
from lensscan.nets.architecture import architecture, build_network
from lensscan.nets.classic.classifier import PublishedConfig
from lensscan.nets.classic.combination import CombinationConfig
from lensscan.train.settings import LARGEST_SEED, TrainSettings

NAN, INF = math.nan, math.inf
LEAST = {"name": "x", "recipe": "des-griz", "steps": 10}


def settings(**changes) -> TrainSettings:
    return TrainSettings.from_mapping({**LEAST, **changes}, "here.toml")


@pytest.mark.parametrize("name", shipped("training"))
def test_shipped_trainings_are_valid(name):
    loaded = TrainSettings.from_mapping(read_toml(find("training", name)), name)
    recipe = load_recipe(loaded.recipe)
    if isinstance(loaded.network, CombinationConfig):
        assert loaded.network.members
        return  # what it is built of is trained first
    with torch.device("meta"):
        network = build_network(architecture(loaded.network), len(recipe.bands), recipe.size)
    if isinstance(loaded.network, PublishedConfig):
        return  # a yardstick is not shipped
    megabytes = 4e-6 * sum(parameter.numel() for parameter in network.parameters())
    assert megabytes < 9, "all shipped models together stay below 40 MB"


BAD = {
    "unknown key": ({"stepps": 3}, "did you mean 'steps'"),
    "unknown nested key": ({"optimiser": {"momentum": 1.0}}, "unknown key 'momentum'"),
    "no steps": ({"steps": 0}, "steps must be positive"),
    "negative rate": ({"optimiser": {"lr": -1.0}}, "optimiser.lr must be positive"),
    "no reuse": ({"stream": {"reuse": 0.0}}, "stream.reuse must be positive"),
    "parts of epochs": ({"stream": {"epochs": True, "split": True}}, "stream.split needs chunks of at least batch"),
    "small parts": ({"stream": {"chunk": 64, "split": True}}, "stream.split needs chunks of at least batch mocks"),
    "views": ({"views": 4}, "views must be 1 or 8"),
    "ema": ({"optimiser": {"ema": 1.0}}, "optimiser.ema"),
    "precision": ({"precision": "fp8"}, "must be one of fp32, tf32, bf16"),
    "kind": ({"network": {"kind": "resnext"}}, "unknown kind 'resnext'; choose one of resnet, "),
    "key of another kind": ({"network": {"kind": "argonne", "widths": [8]}}, "unknown key 'widths'"),
    "no component": ({"network": {"components": 0}}, "components must be at least 1"),
    "no table": ({"network": "argonne"}, "network must be a table"),
    "decay": ({"optimiser": {"decay": -0.1}}, "optimiser.decay must not be negative"),
    "drop-out": ({"network": {"dropout": 1.0}}, "network: dropout must lie in [0, 1)"),
    "optimiser": ({"optimiser": {"kind": "lamb"}}, "must be one of adamw, adam, sgd, rmsprop"),
    "no members": ({"network": {"kind": "combination"}}, "two networks or more"),
    "one member": ({"network": {"kind": "combination", "members": ["a.safetensors"]}}, "two networks or more"),
    "no files of members": (
        {"network": {"kind": "combination", "networks": [{"kind": "ensai"}, {"kind": "alexnet"}]}},
        "give members alone",
    ),
    "type": ({"batch": "many"}, "batch must be int"),
}


OUT_OF_RANGE = {
    "seed": [-1, LARGEST_SEED + 1],
    "steps batch validate_every validation stream.chunk stream.window augmentation.mask_size": [-1, 0],
    "softening stream.reuse optimiser.lr": [-1.0, 0.0, NAN, INF],
    "min_bands patience stream.chunks optimiser.warmup modules.denoise modules.deblend modules.heads": [-1],
    "optimiser.weight_decay optimiser.decay optimiser.regression modules.weight modules.beta": [-0.1, NAN, INF],
    "augmentation.noise augmentation.gain augmentation.sigma augmentation.fwhm augmentation.pixel_scale": [-0.1, NAN],
    "optimiser.final augmentation.fwhm_missing augmentation.band_missing augmentation.mask": [-0.1, 1.1, NAN],
    "optimiser.clip": [-1.0, 0.0, NAN],
    "optimiser.ema": [-0.1, 1.0],
    "checkpoint_seconds": [-1.0, NAN],
    "finish.calibration finish.evaluation": [-1, 0, 39],
}
"""By the settings' names: values that none of them may have."""
ENDS = {
    "seed": [0, LARGEST_SEED],
    "min_bands": [0],
    "optimiser.clip": [1e-9, 1e9, INF],
    "optimiser.final": [0.0, 1.0],
    "optimiser.ema": [0.0],
    "optimiser.weight_decay": [0.0],
    "augmentation.noise": [0.0, 2.0],
    "augmentation.mask": [0.0, 1.0],
    "checkpoint_seconds": [0.0, INF],
    "finish.calibration": [40],
}


def cases(table: dict[str, list]) -> list[tuple[str, float]]:
    return [(name, value) for names, values in table.items() for name in names.split() for value in values]


@pytest.mark.parametrize(("name", "value"), cases(OUT_OF_RANGE))
def test_numbers_out_of_range_are_one_line(name, value):
    with pytest.raises(ConfigError, match=rf"^here.toml: {re.escape(name)} must .*, not [^\n]+$"):
        settings(**nested(name, value))


@pytest.mark.parametrize(("name", "value"), cases(ENDS))
def test_the_ends_of_a_range_are_taken(name, value):
    assert operator.attrgetter(name)(settings(**nested(name, value))) == value


def nested(name: str, value: float) -> dict:
    table, _, key = name.rpartition(".")
    return {table: {key: value}} if table else {key: value}


SHAPELESS = {
    "condition squeeze hidden components flow_layers flow_condition flow_hidden": [0, -1],
    "widths": [[8, 0, 8, 8], [], [8, 8]],
    "depths": [[1, 1, -1, 1], [], [1, 1, 1]],
    "dropout": [-0.1, 1.0, NAN],
    "latent_centre": [[], [0.0] * 6],
    "latent_scale": [[], [1.0] * 8, [1.0] * 6 + [0.0], [1.0] * 6 + [-1.0], [1.0] * 6 + [NAN]],
}
MODULELESS = {"denoise_width denoise_depth": [-1], "deblend_widths": [[8, 0]], "latent": [0], "samples": [2, 5]}


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [(kind, *case) for kind in ("resnet", "modular") for case in cases(SHAPELESS)]
    + [("modular", *case) for case in cases(MODULELESS)],
)
def test_shapes_that_no_network_has_are_one_line(kind, name, value):
    with pytest.raises(ConfigError, match=rf"^here.toml: network: [^\n]*{name}[^\n]*, not [^\n]+$"):
        settings(network={"kind": kind, name: value})


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_settings_are_one_line(name):
    changes, words = BAD[name]
    with pytest.raises(ConfigError) as caught:
        settings(**changes)
    assert words in str(caught.value)
    assert "here.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [{"seed": 2}, {"steps": 11}, {"softening": 3.0}, {"optimiser": {"lr": 1e-3}}, {"stream": {"window": 3}}]
    + [
        {"stream": {"epochs": True}},
        {"stream": {"split": True}},
        {"optimiser": {"decay": 0.1}},
        {"network": {"kind": "argonne"}},
        {"network": {"components": 2}},
    ],
)
def test_digest_sees_what_changes_a_weight(changes):
    assert settings(**changes).digest != settings().digest
    assert (settings(**changes).seedless_digest == settings().seedless_digest) == (set(changes) == {"seed"})


@pytest.mark.parametrize("changes", [{"notes": "n"}, {"version": "9"}, {"checkpoint_seconds": 5.0}, {"views": 8}])
def test_digest_does_not_see_the_rest(changes):
    assert settings(**changes).digest == settings().digest


def test_kinds_have_digests_of_their_own():
    kinds = [{}, {"kind": "argonne"}, {"kind": "argonne", "scaling": "linear"}]
    assert len({settings(network=kind).digest for kind in kinds}) == 3
    assert settings(network={"kind": "resnet"}).digest == settings().digest


def test_the_digest_does_not_know_where_a_recipe_lies():
    """What is in it has a digest of its own."""
    here = settings(recipe="mine.toml").digest
    assert settings(recipe="./mine.toml").digest == settings(recipe="/far/away/mine.toml").digest == here
    assert settings(recipe="yours.toml").digest != here


@pytest.mark.parametrize(("seed", "words"), [(24494897, "the mock survey"), (17320508, "the difficulty of a set")])
def test_seeds_whose_mocks_serve_something_else_are_refused(seed, words):
    with pytest.raises(ConfigError, match=f"seed {seed} would use mocks of {words}; take another"):
        settings(seed=seed)
    with pytest.raises(ConfigError, match=words):
        settings(seed=seed - 1).with_seed(seed)
