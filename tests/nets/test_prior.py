"""The prior of theta_E of a model: densities from the recipe's own lenses, in the card or drawn anew."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lensscan.errors import ModelError
from lensscan.mocks.recipes import load_recipe
from lensscan.nets.card import Card, ThetaPrior
from lensscan.nets.model import Model, load_model, make_trivial
from lensscan.nets.prior import POINTS, card_prior, density, natural_rows, theta_prior


def integral(values, low, high):
    values = np.asarray(values)
    return float((0.5 * (values[1:] + values[:-1])).sum() * np.log(high / low) / (len(values) - 1))


def test_density_of_known_lenses():
    rng = np.random.default_rng(1)
    radii = np.exp(rng.uniform(np.log(0.5), np.log(3.0), 50_000))
    found = density(radii, 0.5, 3.0, 0.05)
    assert len(found) == POINTS
    assert integral(found, 0.5, 3.0) == pytest.approx(1.0, abs=1e-9)
    np.testing.assert_allclose(found, 1 / np.log(6.0), rtol=0.06)  # flat up to the bounds, thanks to the mirrors


@pytest.fixture(scope="module")
def prior():
    return theta_prior(load_recipe("des-griz"), n=600)


def test_nature_has_smaller_lenses_than_training(prior):
    assert 0.5 <= prior.low < 0.65
    assert 2.4 < prior.high <= 3.0
    theta = np.exp(np.linspace(np.log(prior.low), np.log(prior.high), POINTS))
    for values in (prior.training, prior.natural):
        assert integral(values, prior.low, prior.high) == pytest.approx(1.0, abs=1e-3)
    ratio = np.asarray(prior.natural) / np.asarray(prior.training)
    assert ratio[theta > 2.2].max() < 0.5, "half of the training lenses are drawn flat in theta_E"
    assert ratio[np.abs(theta - 0.9) < 0.1].min() > 1.0


def test_lenses_of_training_are_thinned_to_those_of_nature(prior):
    """Nature is a lognormal here, training half that and half flat: exact densities, exact answer."""
    rng, n = np.random.default_rng(2), 60_000
    grid = np.linspace(np.log(0.5), np.log(3.0), POINTS)
    natural = np.exp(-0.5 * ((grid - 0.1) / 0.3) ** 2)
    natural /= (0.5 * (natural[1:] + natural[:-1]) * np.diff(grid)).sum()
    training = 0.5 * natural + 0.5 / np.log(6.0)
    known = ThetaPrior(0.5, 3.0, tuple(training), tuple(natural))
    value = np.where(rng.random(n) < 0.5, rng.normal(0.1, 0.3, n), rng.uniform(*grid[[0, -1]], n))
    value = value[(value > grid[0]) & (value < grid[-1])]
    rows = natural_rows(known, np.append(np.exp(value), np.nan))
    assert not rows[-1]
    assert 0.45 < rows.mean() < 0.75
    mean, std = (grid * natural).sum() / natural.sum(), 0.3
    assert value[rows[:-1]].mean() == pytest.approx(mean, abs=0.01)
    assert value[rows[:-1]].std() == pytest.approx(std, abs=0.02)
    assert value.std() > std + 0.05
    assert natural_rows(dataclasses.replace(known, natural=()), np.array([1.0, np.nan])).tolist() == [True, False]


def test_the_card_keeps_it(prior, tmp_path):
    model = make_trivial("gri", 45, 0.263)
    card = dataclasses.replace(model.card, theta_E_prior=prior)
    Model(card, model.module).save(tmp_path / "m.safetensors")
    assert card_prior(load_model(tmp_path / "m.safetensors").card) == prior


def test_a_card_without_it_must_name_its_recipe():
    card = Card("m", {"kind": "trivial"}, ("g",), 32, 0.2)
    with pytest.raises(ModelError, match="neither densities of theta_E nor its recipe"):
        card_prior(card)
    old = dataclasses.replace(card, training={"recipe": "des-griz", "recipe_digest": "0" * 64})
    with pytest.raises(ModelError, match="makes other mocks"):
        card_prior(old)


def test_a_recipe_without_a_population_has_no_natural_density():
    recipe = load_recipe("des-griz")
    normal = dataclasses.replace(recipe, lens=dataclasses.replace(recipe.lens, population="normal"))
    prior = theta_prior(normal, n=150)
    assert prior.training
    assert prior.natural == ()
    assert theta_prior(dataclasses.replace(recipe, classes={"star": 1.0})) == ThetaPrior()
