"""Redshift and velocity dispersion of real galaxies, guessed from those drawn galaxies that look alike.

A table of massive galaxies of the recipe's own population is drawn once; each real galaxy gets those whose
magnitudes match (importance sampling, resampled at even steps), so that a guess carries the scatter of the
relations and theta_E follows the galaxy's light.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from lensscan.mocks.population import lens_mass, light_of
from lensscan.mocks.priors import Draws
from lensscan.mocks.recipes import Recipe

__all__ = ["Lookalikes"]

Array = NDArray[np.float64]
DRAWN = 20_000
KEPT = 64  # lookalikes of each galaxy
BLOCK = 64  # galaxies at a time
MAGNITUDE = 0.2  # mag: light beyond the aperture
COLOUR = 0.08  # mag
REDSHIFT = 0.02  # of log(1 + z)
DISPERSION = 0.08  # of log sigma_v


class Lookalikes:
    """Lookalikes of real galaxies in a recipe's population.

    Parameters
    ----------
    recipe : Recipe
        Its lens and galaxy priors; the share of systems with uniform theta_E, which serves training, is left out.
    mags : ndarray, shape (N, C)
        Total magnitudes in the recipe's bands; NaN where unknown.
    z, sigma_v : ndarray, shape (N,)
        Where known they are matched too, and handed back as they are; NaN where unknown.
    """

    def __init__(self, recipe: Recipe, mags: Array, z: Array, sigma_v: Array) -> None:
        physical = dataclasses.replace(recipe, lens=dataclasses.replace(recipe.lens, flat_fraction=0.0))
        draws = Draws(f"{physical.digest}/lookalikes", 0, np.arange(DRAWN, dtype=np.int64))
        mass = lens_mass(draws, physical)
        self._z, self._sigma_v = mass["z_lens"], mass["sigma_v"]
        drawn = _features(light_of(draws, physical, self._sigma_v, self._z)["mags"], self._z, self._sigma_v)
        self._known_z, self._known_v = z, sigma_v
        self._number = np.zeros((len(z), KEPT), np.int32)
        real = _features(mags, z, sigma_v)
        patterns, which = np.unique(np.isfinite(real), axis=0, return_inverse=True)
        for number, known in enumerate(patterns):
            table = _whiten(drawn, known)
            rows = np.flatnonzero(which.ravel() == number)
            for start in range(0, len(rows), BLOCK):
                some = rows[start : start + BLOCK]
                self._number[some] = _match(table, _whiten(real[some], known))

    def guess(self, number: NDArray[np.int64], u: Array) -> tuple[Array, Array]:
        """Return redshift and velocity dispersion (km/s) of the galaxies `number` for uniform draws `u` in [0, 1)."""
        column = np.minimum((np.asarray(u) * KEPT).astype(np.int64), KEPT - 1)
        row = self._number[number, column]
        z, sigma_v = self._known_z[number], self._known_v[number]
        return np.where(np.isfinite(z), z, self._z[row]), np.where(np.isfinite(sigma_v), sigma_v, self._sigma_v[row])


def _features(mags: Array, z: Array, sigma_v: Array) -> Array:
    """Return what is compared, shape (n, C + 2): magnitudes, log(1 + z), log sigma_v."""
    return np.column_stack([mags, np.log1p(z), np.log(sigma_v)])


def _whiten(features: Array, known: NDArray[np.bool_]) -> Array:
    """Return the known features in units of what may lie between lookalikes: mean magnitude, colours, the rest."""
    bands = len(known) - 2
    mags = features[:, :bands][:, known[:bands]]
    mean = mags.mean(axis=1, keepdims=True) if mags.shape[1] else mags
    widths = np.array([REDSHIFT, DISPERSION])
    rest = (features[:, bands:] / widths)[:, known[bands:]]
    return np.concatenate([mean / MAGNITUDE, (mags - mean) / COLOUR, rest], axis=1)


def _match(table: Array, real: Array) -> NDArray[np.int32]:
    """Return the table rows (n, KEPT) that represent the posterior of n galaxies."""
    middle = table.mean(axis=0)
    table, real = table - middle, real - middle
    chi2 = (table**2).sum(axis=1) + (real**2).sum(axis=1)[:, None] - 2 * (real @ table.T)
    # A galaxy unlike all drawn ones gets the nearest of them, not the one nearest.
    nearest = np.maximum(chi2.min(axis=1, keepdims=True), 0.0)
    weight = np.exp((-0.5 * (chi2 - nearest) / np.maximum(nearest, 1.0)).astype(np.float32))
    edges = np.cumsum(weight, axis=1, dtype=np.float64)
    steps = (np.arange(KEPT) + 0.5) / KEPT
    found = [np.searchsorted(row, steps * row[-1]) for row in edges]
    return np.minimum(np.stack(found), len(table) - 1).astype(np.int32)
