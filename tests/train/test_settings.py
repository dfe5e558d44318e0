"""Settings of a training: strict, hashed by what can change a weight."""

from __future__ import annotations

import pytest
import torch

from lensscan.config import find, read_toml, shipped
from lensscan.errors import ConfigError
from lensscan.mocks.recipes import load_recipe
from lensscan.nets.architecture import architecture, build_network
from lensscan.nets.classic.classifier import PublishedConfig
from lensscan.nets.classic.combination import CombinationConfig
from lensscan.train.settings import TrainSettings

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
    "drop-out": ({"network": {"dropout": 1.0}}, "network.dropout must lie in [0, 1)"),
    "optimiser": ({"optimiser": {"kind": "lamb"}}, "must be one of adamw, adam, sgd, rmsprop"),
    "no members": ({"network": {"kind": "combination"}}, "two networks or more"),
    "one member": ({"network": {"kind": "combination", "members": ["a.safetensors"]}}, "two networks or more"),
    "no files of members": (
        {"network": {"kind": "combination", "networks": [{"kind": "ensai"}, {"kind": "alexnet"}]}},
        "give members alone",
    ),
    "type": ({"batch": "many"}, "batch must be int"),
}


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
