"""Recipes are strict, inherit, and are told apart by their numbers."""

import dataclasses

import pytest

from lensscan.config import read_toml, shipped
from lensscan.errors import ConfigError
from lensscan.mocks.recipes import CLASSES, load_recipe, make_recipe, without_lenses
from lensscan.mocks.simulate import simulate


@pytest.mark.parametrize("name", shipped("recipes"))
def test_every_shipped_recipe_loads(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert sum(recipe.weights) > 0
    assert len(recipe.digest) == 64
    text = (__import__("lensscan.config", fromlist=["find"]).find("recipes", name)).read_text(encoding="utf-8")
    assert "READ" in text or "ASSUMED" in text, "a recipe says which numbers are read and which assumed"


def mapping():
    from lensscan.config import find

    return read_toml(find("recipes", "des-griz"))


def test_digest_follows_numbers_not_names():
    first = make_recipe(mapping(), "x")
    renamed = make_recipe(mapping() | {"name": "other", "title": "t", "zero_point": 27.0}, "x")
    assert renamed.digest == first.digest
    changed = mapping()
    changed["lens"]["shear"] = 0.06
    assert make_recipe(changed, "x").digest != first.digest


def test_base_is_merged_but_classes_replaced(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('base = "des-griz"\nname = "mine"\n[classes]\nlens = 1.0\n[lens]\nshear = 0.01\n')
    recipe = load_recipe(path)
    assert recipe.weights == [1.0] + [0.0] * (len(CLASSES) - 1)
    assert recipe.lens.shear == 0.01
    assert recipe.lens.centre_scatter == load_recipe("des-griz").lens.centre_scatter
    (tmp_path / "again.toml").write_text('base = "mine.toml"\nname = "again"\n')
    assert load_recipe(tmp_path / "again.toml").digest == recipe.digest


def test_circular_bases_are_refused(tmp_path):
    (tmp_path / "a.toml").write_text('base = "b.toml"\n')
    (tmp_path / "b.toml").write_text('base = "a.toml"\n')
    with pytest.raises(ConfigError, match="circle"):
        load_recipe(tmp_path / "a.toml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": {"lense": 1.0}}, "lense"),
        ({"classes": {"lens": 0.0}}, "positive"),
        ({"bands": ["g", "u"]}, "u"),
        ({"size": 4}, "size"),
        ({"psf": {"kind": "airy"}}, "airy"),
        ({"lenss": {}}, "did you mean 'lens'"),
        ({"base": "nowhere"}, "nowhere"),
        ({"base": "des-griz", "band": {"g": {"fwhm": [-1.0, 0.1]}}}, "band.g has a number below zero"),
        ({"base": "des-griz", "band": {"r": {"sigma": [1.0, float("nan"), 2.0]}}}, "band.r has a number below zero"),
    ],
)
def test_bad_recipes_are_refused_in_one_line(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_recipe(mapping() | change, "recipe.toml")
    assert "\n" not in str(caught.value)


def test_a_recipe_without_its_lenses_keeps_the_proportions_of_the_others():
    recipe = make_recipe({"base": "des-griz", "classes": {"lens": 0.5, "undetectable": 0.1, "ring": 0.3}}, "test")
    alone = without_lenses(recipe)
    kept = {name: weight for name, weight in recipe.classes.items() if name not in ("lens", "undetectable", "painted")}
    assert dict(alone.classes) == kept
    assert kept["ring"] == 0.3
    assert alone.digest != recipe.digest
    truth = simulate(dataclasses.replace(alone, size=16), seed=1, start=0, n=64).truth
    assert not truth["is_lens"].any()
    with pytest.raises(ConfigError, match="makes lenses only"):
        without_lenses(dataclasses.replace(recipe, classes={"lens": 1.0, "painted": 1.0, "ring": 0.0}))
