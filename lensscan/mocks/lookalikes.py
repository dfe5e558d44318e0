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
REDSHIFT = 0.02  # times 1 + z
DISPERSION = 0.08  # relative


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
        self._mags = light_of(draws, physical, self._sigma_v, self._z)["mags"]
        self._known_z, self._known_v = z, sigma_v
        self._number = np.zeros((len(z), KEPT), np.int32)
        for start in range(0, len(z), BLOCK):
            rows = slice(start, start + BLOCK)
            self._number[rows] = self._match(mags[rows], z[rows], sigma_v[rows])

    def _match(self, mags: Array, z: Array, sigma_v: Array) -> NDArray[np.int32]:
        """Return the table rows (n, KEPT) that represent the posterior of n galaxies."""
        known = np.isfinite(mags)
        count = np.maximum(known.sum(axis=1), 1)[:, None]
        miss = np.where(known[:, None, :], self._mags[None] - np.where(known, mags, 0.0)[:, None, :], 0.0)
        mean = miss.sum(axis=2) / count
        colours = np.where(known[:, None, :], (miss - mean[:, :, None]) ** 2, 0.0).sum(axis=2)
        chi2 = (mean / MAGNITUDE) ** 2 + colours / COLOUR**2
        chi2 += np.nan_to_num((self._z - z[:, None]) / (REDSHIFT * (1 + z[:, None])), nan=0.0) ** 2
        chi2 += np.nan_to_num((self._sigma_v / sigma_v[:, None] - 1) / DISPERSION, nan=0.0) ** 2
        # A galaxy unlike all drawn ones gets the nearest of them, not the one nearest.
        nearest = chi2.min(axis=1, keepdims=True)
        weight = np.exp(-0.5 * (chi2 - nearest) / np.maximum(nearest, 1.0))
        edges = np.cumsum(weight, axis=1)
        steps = (np.arange(KEPT) + 0.5) / KEPT
        found = [np.searchsorted(row, steps * row[-1]) for row in edges]
        return np.minimum(np.stack(found), DRAWN - 1).astype(np.int32)

    def guess(self, number: NDArray[np.int64], u: Array) -> tuple[Array, Array]:
        """Return redshift and velocity dispersion (km/s) of the galaxies `number` for uniform draws `u` in [0, 1)."""
        column = np.minimum((np.asarray(u) * KEPT).astype(np.int64), KEPT - 1)
        row = self._number[number, column]
        z, sigma_v = self._known_z[number], self._known_v[number]
        return np.where(np.isfinite(z), z, self._z[row]), np.where(np.isfinite(sigma_v), sigma_v, self._sigma_v[row])
