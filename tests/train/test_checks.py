"""What a training and its recipe must have for one another, and what its validations then hold."""

from __future__ import annotations

import dataclasses

import pytest
from toy_mocks import TRAINING

from lensscan.errors import ConfigError
from lensscan.mocks.recipes import load_recipe, make_recipe
from lensscan.train.checks import check_fit, figures
from lensscan.train.settings import TrainSettings

DETECTION, POSTERIOR = ["auroc", "bce", "tpr_2", "tpr_3"], ["nll", "theta_E_68"]


def settings_of(kind: str, **changes: object) -> TrainSettings:
    network = {} if kind == "resnet" else {"network": {"kind": kind}}
    return TrainSettings.from_mapping({**TRAINING, **network, **changes}, "test")


def recipe_of(**classes: float):
    return make_recipe({"base": "des-griz", "classes": classes}, "test")


@pytest.mark.parametrize(
    ("kind", "recipe", "wanted"),
    [
        ("resnet", load_recipe("des-griz"), DETECTION + POSTERIOR),
        ("resnet", load_recipe("holismokes4"), POSTERIOR),
        ("argonne", load_recipe("des-griz"), DETECTION),
        ("holismokes-cnn", load_recipe("des-griz"), POSTERIOR),
    ],
)
def test_figures_of_a_validation(kind, recipe, wanted):
    settings = settings_of(kind)
    assert figures(settings, recipe) == wanted
    check_fit(settings, recipe)


def test_a_classifier_needs_both_classes_and_a_regressor_lenses():
    for classes in ({"lens": 1.0}, {"lens": 1.0, "undetectable": 1.0}):
        with pytest.raises(ConfigError, match=r"has not anything but lenses.*change its \[classes\]"):
            check_fit(settings_of("argonne"), recipe_of(**classes))
    for kind in ("argonne", "resnet", "holismokes-cnn"):
        with pytest.raises(ConfigError, match="des-griz has not lenses, so this network learns nothing"):
            check_fit(settings_of(kind), recipe_of(elliptical=1.0, lens=0.0))
    check_fit(settings_of("resnet"), recipe_of(lens=1.0))


def test_others_of_the_finish_need_a_recipe_that_has_some():
    asked = settings_of("resnet", finish={"others": 1000})
    check_fit(asked, load_recipe("des-griz"))
    with pytest.raises(ConfigError, match=r"makes lenses only: it has no others to draw"):
        check_fit(asked, recipe_of(lens=1.0, undetectable=1.0))


def test_a_painted_lens_is_a_lens():
    recipe = dataclasses.replace(load_recipe("des-griz"), classes={"painted": 1.0})
    with pytest.raises(ConfigError, match="has not anything but lenses"):
        check_fit(settings_of("argonne"), recipe)
    check_fit(settings_of("resnet"), recipe)
