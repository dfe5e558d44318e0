"""Deflectors and the sources behind them, drawn together as in Collett 2015 (numpy, float64).

The number of lenses per dispersion and redshifts is ``phi(sigma) dV/dz_l n(z_s) theta_E^2``.  With theta_E
~ sigma^2 D_ls / D_s it falls into a table over both redshifts, ``dV/dz_l n(z_s) (D_ls / D_s)^2`` times the part
of ``phi sigma^4`` whose theta_E lies between the recipe's limits, and a table over sigma: no draw is wasted on
a theta_E that the label refuses.

Still only one in a hundred lenses or fewer shows, for faint sources are many.  So each attempt of a row draws
some candidates and takes the first that could pass the label rule by the generous estimate of `screen`.  What
is passed over would not have become a lens but for a rare few, so that lenses are distributed as without the
pool; a row only needs fewer attempts.  The other classes then see systems that could be lenses, too: the
selection that lenses went through.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from lensscan.lens.cosmology import Distances, distances, einstein_radius, velocity_dispersion
from lensscan.mocks import sed
from lensscan.mocks.counts import Z_STEP, log_radius, lsst_counts, power_redshifts
from lensscan.mocks.priors import Draws
from lensscan.mocks.recipes import Recipe
from lensscan.mocks.screen import Screen
from lensscan.mocks.tables import LensPrior, SourcePrior

__all__ = ["DISC", "dispersion_function", "draw_pairs"]

Array = NDArray[np.float64]
POOL = 64  # candidates at most
RESAMPLED = 24  # candidates at least where theta_E is given and redshifts are resampled
TRIAL = 2048  # candidates from which a recipe's pool is sized
ROWS = 64  # at a time: temporaries stay in the cache
DISC = 0.85  # sources lie within this fraction of theta_E
SMALLEST, LARGEST = 0.03, 3.0  # half-light radii of sources, arcsec
LENS_STEP = 0.01
BEHIND = 0.12  # least z_source - z_lens of the normal population


def dispersion_function(sigma_v: Array) -> Array:
    """Return the number density of early-type galaxies per km/s and (Mpc / h)^3 (Choi et al. 2007, eq. 4).

    ``phi* (sigma / sigma*)^alpha exp(-(sigma / sigma*)^beta) beta / Gamma(alpha / beta) / sigma`` with
    phi* = 0.008, sigma* = 161 km/s, alpha = 2.32, beta = 2.67 as in Collett 2015; no evolution.
    """
    ratio = sigma_v / 161.0
    return 0.008 * ratio**2.32 * np.exp(-(ratio**2.67)) * 2.67 / math.gamma(2.32 / 2.67) / sigma_v


class Deflectors:
    """The population of Collett 2015: cells of lens and source redshift, and the dispersions within.

    Parameters
    ----------
    lens : LensPrior
        Gives the limits of z, sigma_v and theta_E.
    source : SourcePrior
        Gives the redshifts of sources.
    cosmology : str
    """

    def __init__(self, lens: LensPrior, source: SourcePrior, cosmology: str) -> None:
        self.distances, self.theta_E = distances(cosmology), lens.theta_E
        self.sigma = np.linspace(lens.sigma_v[2], lens.sigma_v[3], 1201)
        self.density = dispersion_function(self.sigma) * self.sigma**4
        self.share = np.concatenate([[0.0], np.cumsum(self.density[1:] + self.density[:-1])])
        self.share /= self.share[-1]
        self.z_lens = np.arange(lens.z[2] + LENS_STEP / 2, lens.z[3], LENS_STEP)
        self.z_source, number = source_redshifts(source)
        comoving = self.distances.transverse(self.z_lens)
        volume = comoving**2 * np.gradient(comoving, self.z_lens)
        ratio = self.distances.ratio(self.z_lens[:, None], self.z_source - Z_STEP / 2)
        low, high = self.between(np.maximum(ratio, 1e-6))
        weight = volume[:, None] * number * ratio**2 * (high - low)
        self.cumulative = np.concatenate([[0.0], np.cumsum(weight.ravel())])
        self.cumulative /= self.cumulative[-1]

    def between(self, ratio: Array) -> tuple[Array, Array]:
        """Return the shares of the dispersions (weighted by sigma^4) at which theta_E meets its limits."""
        low, high = (np.interp(velocity_dispersion(limit, ratio), self.sigma, self.share) for limit in self.theta_E)
        return low, high

    def redshifts(self, draws: Draws, k: int) -> tuple[Array, Array]:
        """Draw lens and source redshifts, shape (n, k)."""
        u = draws.uniform("lens.cell", k=k)
        cell = np.clip(np.searchsorted(self.cumulative, u) - 1, 0, len(self.cumulative) - 2)
        lens, source = np.divmod(cell, len(self.z_source))
        first = self.cumulative[cell]
        within = (u - first) / np.maximum(self.cumulative[cell + 1] - first, 1e-300)
        z_lens = self.z_lens[lens] + LENS_STEP * (within - 0.5)
        z_source = self.z_source[source] + Z_STEP * (draws.uniform("source.jitter", k=k) - 0.5)
        return z_lens, np.maximum(z_source, z_lens + 0.5 * Z_STEP)

    def dispersions(self, draws: Draws, ratio: Array) -> Array:
        """Draw dispersions (km/s) that keep theta_E within its limits, in the shape of `ratio` (n, k)."""
        low, high = self.between(ratio)
        u = draws.uniform("lens.sigma_v", k=ratio.shape[1])
        return np.interp(low + u * (high - low), self.share, self.sigma)

    def importance(self, sigma_v: Array, ratio: Array) -> Array:
        """Return p(z_lens, z_source | theta_E) over the density that `redshifts` draws from."""
        low, high = self.between(ratio)
        density = np.interp(sigma_v, self.sigma, self.density, left=0.0, right=0.0)
        return density * sigma_v / np.maximum(high - low, 1e-12)


def source_redshifts(prior: SourcePrior) -> tuple[Array, Array]:
    """Return redshifts, in steps of 0.02, and the number of sources per unit redshift there."""
    if prior.counts == "lsst":
        counts = lsst_counts(*prior.mag, prior.z_max)
        return counts.z, counts.number
    z = np.arange(Z_STEP / 2, prior.z_max, Z_STEP)
    return z, power_redshifts(z, prior.z_median)


_deflectors = functools.lru_cache(maxsize=16)(Deflectors)


def draw_pairs(draws: Draws, recipe: Recipe) -> dict[str, Array]:
    """Draw lenses with the sources behind them.

    Returns
    -------
    dict of ndarray, shape (n,)
        z_lens, z_source, sigma_v (km/s), theta_E (arcsec); with ``counts = "lsst"`` also what was chosen with them:
        source_mag (i), source_type (see `sed`), source_radius (arcsec) and source_distance (from the lens, in theta_E).

    Notes
    -----
    In a share ``flat_fraction`` of the rows theta_E is uniform between its limits.  With ``collett2015`` the
    redshifts and dispersion of such a row are distributed as the population's at that theta_E (resampled from
    the pool by importance): what is conserved is everything else given theta_E; what is given up is only the
    distribution of theta_E itself.  With ``normal`` redshifts keep their prior, and sigma_v follows, whatever it is.
    """
    screen, size = _screening(recipe)
    parts = []
    for start in range(0, max(draws.n, 1), ROWS):
        rows = slice(start, start + ROWS)
        some = Draws(draws.digest, draws.seed, draws.index[rows], draws.attempt[rows])
        parts.append(_pool(some, recipe, screen, size))
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


_screens: dict[str, tuple[Screen | None, int]] = {}


def _screening(recipe: Recipe) -> tuple[Screen | None, int]:
    """Return a recipe's screen and the size of its pool: as many candidates as hold two or three promising ones."""
    if recipe.digest not in _screens:
        prior = recipe.lens
        least = RESAMPLED if prior.population == "collett2015" and prior.flat_fraction > 0 else 1
        if recipe.source.counts != "lsst":
            _screens[recipe.digest] = (None, least)
        else:
            screen = Screen.of(recipe)
            trial = _pool(Draws(recipe.digest, 0, np.arange(TRIAL)), recipe, None, 1)
            wanted = math.ceil(2.5 / max(screen.promising(trial).mean(), 1e-3))
            _screens[recipe.digest] = (screen, min(max(wanted, 2, least), POOL))
    return _screens[recipe.digest]


def _pool(draws: Draws, recipe: Recipe, screen: Screen | None, k: int) -> dict[str, Array]:
    """Draw `k` candidates for every row and take the first that is promising, or else the first."""
    prior, grid = recipe.lens, distances(recipe.cosmology)
    collett = _deflectors(prior, recipe.source, recipe.cosmology) if prior.population == "collett2015" else None
    z_lens, z_source = _normal_redshifts(draws, recipe, k) if collett is None else collett.redshifts(draws, k)
    ratio = np.maximum(_ratio(grid, z_lens, z_source), 1e-6)
    if collett is None:
        sigma_v = draws.normal("lens.sigma_v", *prior.sigma_v, k=k)
    else:
        sigma_v = collett.dispersions(draws, ratio)
    flat = (draws.uniform("lens.flat") < prior.flat_fraction)[:, None]
    theta_E = np.where(flat, draws.uniform("lens.theta_E", *prior.theta_E)[:, None], einstein_radius(sigma_v, ratio))
    sigma_v = np.where(flat, velocity_dispersion(theta_E, ratio), sigma_v)
    drawn = {"z_lens": z_lens, "z_source": z_source, "sigma_v": sigma_v, "theta_E": theta_E}
    order = np.broadcast_to(-np.arange(k, dtype=np.float64), z_lens.shape)
    if collett is not None and flat.any():
        weight = collett.importance(sigma_v, ratio)
        resampled = np.log(np.maximum(weight, 1e-300)) - np.log(-np.log(draws.uniform("lens.importance", k=k)))
        order = np.where(flat, np.where(weight > 0, resampled, -2e6), order)
    if recipe.source.counts == "lsst":
        drawn |= _sources(draws, recipe, z_source, k)
    if screen is not None:
        order = order - 1e6 * ~screen.promising(drawn)
    best = order.argmax(axis=1)
    return {key: value[np.arange(draws.n), best] for key, value in drawn.items()}


def _ratio(grid: Distances, z_lens: Array, z_source: Array) -> Array:
    return 1 - grid.transverse(z_lens) / grid.transverse(z_source)


def _normal_redshifts(draws: Draws, recipe: Recipe, k: int) -> tuple[Array, Array]:
    """Draw lens redshifts from the normal prior, and sources behind them from the counts."""
    z, number = source_redshifts(recipe.source)
    share = np.concatenate([[0.0], np.cumsum(number)]) / number.sum()
    edges = np.append(z - Z_STEP / 2, z[-1] + Z_STEP / 2)
    z_lens = draws.normal("lens.z", *recipe.lens.z, k=k)
    first = np.interp(z_lens + BEHIND, edges, share)
    u = first + draws.uniform("source.z", k=k) * (1 - first)
    return z_lens, np.maximum(np.interp(u, share, edges), z_lens + 0.5 * Z_STEP)


def _sources(draws: Draws, recipe: Recipe, z: Array, k: int) -> dict[str, Array]:
    """Draw magnitude, type, size and distance of the sources at `z`."""
    prior = recipe.source
    mag = lsst_counts(*prior.mag, prior.z_max).magnitude(draws.uniform("source.mag", k=k), z)
    kind = sed.draw_type(draws.uniform("source.type", k=k), z)
    size = log_radius(recipe.cosmology, mag, z, kind) + draws.normal("source.size", 0.0, prior.radius_scatter, k=k)
    return {
        "source_mag": mag,
        "source_type": kind,
        "source_radius": np.clip(10.0**size, SMALLEST, LARGEST),
        "source_distance": DISC * np.sqrt(draws.uniform("source.b", k=k)),
    }
