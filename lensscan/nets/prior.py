"""The prior of theta_E under which a network's posterior stands, and that of nature, as densities over lenses.

Both are those of the lenses that a recipe labels so, selection by the label included, from draws of a fixed seed.
A recipe with the population of Collett 2015 conserves everything else given theta_E when it flattens theta_E
(`lensscan.mocks.deflectors`): a posterior then goes from one to the other by the ratio of these densities alone.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray

from lensscan.errors import ModelError
from lensscan.mocks.recipes import Recipe, load_recipe, with_natural_lenses
from lensscan.mocks.simulate import draw_truth
from lensscan.nets.card import Card, ThetaPrior

__all__ = ["card_prior", "density", "lens_radii", "natural_rows", "theta_prior"]

Array = NDArray[np.float64]
SEED = 9_071_501
LENSES = 8000
FEWER = 4000
"""Lenses drawn at an export, for a card without densities."""
POINTS = 97
TAIL = 5e-4
HIGHEST = 0.99
"""Quantile of the ratio of densities that is always chosen: at their ends both are the kernel's."""


def lens_radii(recipe: Recipe, seed: int, n: int) -> Array:
    """Return theta_E (arcsec) of at most `n` lenses of a recipe; those that fail its label are left out."""
    lenses = dataclasses.replace(recipe, classes={"lens": 1.0})
    truth = draw_truth(lenses, seed=seed, n=n)
    radii = np.asarray(truth["theta_E"], np.float64)[np.asarray(truth["is_lens"], bool)]
    return radii[np.isfinite(radii) & (radii > 0)]


def density(radii: Array, low: float, high: float, width: float) -> Array:
    """Return the density of ln theta_E at `POINTS` even steps between two limits, normalised there.

    Parameters
    ----------
    radii : ndarray, shape (n,)
        Arcsec; those beyond the limits do not count.
    low, high : float
        Arcsec.
    width : float
        Standard deviation of the Gaussian kernel, in ln theta_E; mass beyond a limit is reflected there
        (Silverman 1986, section 2.10).
    """
    first, last = float(np.log(low)), float(np.log(high))
    grid, value = np.linspace(first, last, POINTS), np.log(radii[(radii >= low) & (radii <= high)])
    mirrored = np.concatenate([value, 2 * first - value, 2 * last - value])
    result = np.empty(POINTS)
    for k, at in enumerate(grid):
        result[k] = np.exp(-0.5 * ((mirrored - at) / width) ** 2).sum()
    return result / (0.5 * (result[1:] + result[:-1]) * np.diff(grid)).sum()


def theta_prior(recipe: Recipe, seed: int = SEED, n: int = LENSES) -> ThetaPrior:
    """Return the densities of theta_E of a recipe, training and natural; empty if it makes no lenses.

    Parameters
    ----------
    recipe : Recipe
    seed, n : int
        Of the lenses that are drawn, for either density.

    Notes
    -----
    The kernel has 0.9 min(sd, IQR / 1.34) n^(-1/5) (Silverman 1986, eq. 3.31) of the training lenses, for both: their
    ratio is then nearly free of the smoothing.
    """
    if not recipe.classes.get("lens", 0.0) > 0:
        return ThetaPrior()
    radii = lens_radii(recipe, seed, n)
    if len(radii) < 100:
        return ThetaPrior()
    low, high = (float(f"{value:.5g}") for value in np.quantile(radii, [TAIL, 1 - TAIL]))
    spread = np.log(radii)
    quarters = np.quantile(spread, [0.25, 0.75])
    width = 0.9 * min(float(spread.std()), float(quarters[1] - quarters[0]) / 1.34) * len(radii) ** -0.2
    training = density(radii, low, high, max(width, 1e-3))
    natural: tuple[float, ...] = ()
    if recipe.lens.population == "collett2015":
        natural = _rounded(density(lens_radii(with_natural_lenses(recipe), seed, n), low, high, max(width, 1e-3)))
    return ThetaPrior(low, high, _rounded(training), natural)


def natural_rows(prior: ThetaPrior, theta_E: NDArray[np.floating], seed: int = SEED) -> NDArray[np.bool_]:
    """Choose lenses of a training's prior so that those chosen are distributed as nature's (rejection sampling).

    Parameters
    ----------
    prior : ThetaPrior
    theta_E : ndarray, shape (n,)
        Arcsec; rows without one are not chosen.
    seed : int
        Of the draws.

    Returns
    -------
    ndarray of bool, shape (n,)
        All lenses where the recipe has no natural population.
    """
    known = np.isfinite(theta_E) & (theta_E > 0)
    if not prior.natural or not known.any():
        return known
    grid = np.linspace(np.log(prior.low), np.log(prior.high), len(prior.natural))
    value = np.log(np.where(known, theta_E, 1.0))
    ratio = np.interp(value, grid, prior.natural) / np.interp(value, grid, prior.training)
    most = np.quantile(ratio[known], HIGHEST)
    return np.asarray(known & (np.random.default_rng(seed).random(len(ratio)) * most < ratio))


def card_prior(card: Card) -> ThetaPrior:
    """Return the densities of a model: those in its card, else those of its recipe, drawn anew.

    Raises
    ------
    ModelError
        If the card has none, and its recipe is unknown here or makes other mocks than those of the training.
    """
    if card.theta_E_prior.training:
        return card.theta_E_prior
    name = str(card.training.get("recipe", ""))
    if not name:
        raise ModelError(f"model {card.name} states neither densities of theta_E nor its recipe; train it anew")
    recipe = load_recipe(name)
    if recipe.digest != card.training.get("recipe_digest"):
        raise ModelError(
            f"model {card.name}: recipe {name} makes other mocks than those it was trained on, so the prior of its "
            "posterior is not known; train it anew"
        )
    prior = _drawn(recipe.digest, name)
    if not prior.training:
        raise ModelError(f"model {card.name}: recipe {name} makes no lenses with a known theta_E")
    return prior


@functools.lru_cache(maxsize=4)
def _drawn(digest: str, name: str) -> ThetaPrior:
    return theta_prior(load_recipe(name), n=FEWER)


def _rounded(values: Array) -> tuple[float, ...]:
    return tuple(float(f"{value:.5g}") for value in values)
