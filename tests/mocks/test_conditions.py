"""Conditions: the same systems, one thing changed at a time."""

from __future__ import annotations

import pytest
import torch

from lensscan.errors import ConfigError
from lensscan.mocks.conditions import GRIDS, SHARES, SWITCHES, conditions_of, grid_unit, switched_on
from lensscan.mocks.recipes import load_recipe, reobserved
from lensscan.mocks.simulate import simulate
from lensscan.mocks.tables import EffectsPrior

HEZAVEH = load_recipe("hezaveh2017-64")
DES = load_recipe("des-griz")
N = 6


def chosen(recipe, kind):
    return {each.name or each.value: each for each in conditions_of(recipe) if each.kind == kind}


@pytest.fixture(scope="module")
def whole():
    return simulate(HEZAVEH, seed=4, n=N)


@pytest.mark.parametrize(("recipe", "step"), [(HEZAVEH, 3), (DES, 7)])
def test_conditions_show_the_same_systems(recipe, step):
    before = simulate(recipe, seed=2, n=3)
    for condition in conditions_of(recipe)[1::step]:
        assert condition.recipe.digest == recipe.digest
        again = simulate(recipe, seed=2, n=3, conditions=condition.recipe)
        assert set(again.truth) == set(before.truth)
        for name, column in before.truth.items():
            assert torch.equal(again.truth[name].nan_to_num(), column.nan_to_num()), (condition.words, name)


def test_the_recipe_itself_is_a_condition_that_changes_nothing(whole):
    again = simulate(HEZAVEH, seed=4, n=N, conditions=reobserved(HEZAVEH))
    assert torch.equal(again.images, whole.images)
    assert torch.equal(again.missing, whole.missing)


def test_switches_are_the_effects_that_a_recipe_has():
    assert switched_on(HEZAVEH) == [
        "cosmic rays",
        "zero bias",
        "gain",
        "masks",
        "Poisson noise",
        "correlation of noise",
    ]
    assert {"halo", "offsets of bands", "slope of the sky"} <= set(switched_on(DES))
    assert "masks" not in switched_on(DES)
    (nothing,) = [each.recipe for each in conditions_of(HEZAVEH) if each.kind == "nothing"]
    assert switched_on(nothing) == []
    kept = {name: getattr(HEZAVEH.effects, name) for name in ("unit", "hot_pixels", "hot_columns")}
    assert nothing.effects == EffectsPrior(**kept)


def test_one_effect_at_a_time():
    names = switched_on(HEZAVEH)
    without, only = chosen(HEZAVEH, "without"), chosen(HEZAVEH, "only")
    assert list(without) == list(only) == names
    for name in names:
        assert switched_on(without[name].recipe) == [other for other in names if other != name]
        assert switched_on(only[name].recipe) == [name]


def test_turning_one_effect_off_leaves_the_others_where_they_were(whole):
    found = simulate(HEZAVEH, seed=4, n=N, conditions=chosen(HEZAVEH, "without")["zero bias"].recipe)
    assert torch.equal(found.missing, whole.missing)
    shift = (whole.images - found.images)[:, 0]
    seen = ~whole.missing[:, 0]
    for row in range(N):
        levels = shift[row][seen[row]]
        assert float(levels.std()) < 0.1 * abs(float(levels.mean())) + 0.5, "one constant, but for the Poisson noise"
    assert float(shift.abs().max()) > 1


def test_masks_off_uncovers_the_same_pixels(whole):
    found = simulate(HEZAVEH, seed=4, n=N, conditions=chosen(HEZAVEH, "without")["masks"].recipe)
    assert found.missing is None
    assert whole.missing.any()
    seen = ~whole.missing
    assert torch.equal(found.images[seen], whole.images[seen])


def test_grids_set_what_they_say(whole):
    noise, psf, masks = (chosen(HEZAVEH, kind) for kind in ("noise", "psf", "masks"))
    assert list(noise) == pytest.approx([0.01, 0.0325, 0.055, 0.0775, 0.1])
    for level, condition in noise.items():
        found = simulate(HEZAVEH, seed=4, n=2, conditions=condition.recipe)
        assert found.sigma.flatten().tolist() == pytest.approx([1000 * level] * 2)
    for width, condition in psf.items():
        assert simulate(HEZAVEH, seed=4, n=2, conditions=condition.recipe).fwhm.flatten().tolist() == pytest.approx(
            [width] * 2
        )
    assert tuple(masks) == SHARES
    hidden = []
    light = simulate(HEZAVEH, seed=4, n=N, noise=False).images.clamp_min(0)
    for share, condition in masks.items():
        missing = simulate(HEZAVEH, seed=4, n=N, conditions=condition.recipe).missing
        if missing is None:
            assert share == 0
            continue
        part = (light * missing).sum(dim=(1, 2, 3)) / light.sum(dim=(1, 2, 3))
        assert float(part.max()) < share + 0.05, "the light but for what is left of the lens's"
        hidden.append(float(part.mean()))
    assert hidden == sorted(hidden)
    assert hidden[-1] > 0.15
    assert [grid_unit(kind, HEZAVEH) for kind in GRIDS] == ["share of the arcs' flux", "of the peak", "arcsec"]


def test_recipes_that_state_their_bands_get_factors():
    noise, psf = chosen(DES, "noise"), chosen(DES, "psf")
    before = simulate(DES, seed=2, n=3)
    for factor, condition in list(noise.items())[::3]:
        sigma = simulate(DES, seed=2, n=3, conditions=condition.recipe).sigma
        torch.testing.assert_close(sigma, factor * before.sigma, rtol=1e-5, atol=0)
    for factor, condition in list(psf.items())[::3]:
        fwhm = simulate(DES, seed=2, n=3, conditions=condition.recipe).fwhm
        torch.testing.assert_close(fwhm, factor * before.fwhm, rtol=1e-5, atol=0)
    assert grid_unit("psf", DES) == grid_unit("noise", DES) == "times the recipe's"


def test_words_are_all_different():
    words = [each.words for each in conditions_of(HEZAVEH)]
    assert len(set(words)) == len(words)
    assert words[:3] == ["everything", "nothing", "without cosmic rays"]
    assert set(switched_on(HEZAVEH)) <= set(SWITCHES)


def test_what_belongs_to_the_systems_stays():
    with pytest.raises(ValueError, match="lens is no condition"):
        reobserved(HEZAVEH, lens=HEZAVEH.lens)
    with pytest.raises(ConfigError, match="no conditions of recipe des-griz"):
        simulate(DES, seed=1, n=1, conditions=HEZAVEH)
