"""Galaxies and sources: physical draws of massive galaxies, lensed sources and field galaxies (numpy, float64).

Massive galaxies: velocity dispersion to luminosity and size by Hyde & Bernardi 2009, ellipticity as in
Collett 2015 (section 2); colours from the recipe's track.  All functions take `Draws` and return one value
per row.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lensscan.errors import ConfigError
from lensscan.lens.cosmology import ARCSEC, distances, einstein_radius, velocity_dispersion
from lensscan.mocks.priors import Draws
from lensscan.mocks.recipes import Recipe
from lensscan.mocks.tables import GalaxyPrior

__all__ = ["band_magnitudes", "flux", "lens_mass", "light_of", "random_colours", "source_galaxy", "track_colours"]

Array = NDArray[np.float64]
COLOURS = ("g-r", "r-i", "i-z")
AB_NJY = 31.4


def flux(magnitude: Array) -> Array:
    """Return nJy of AB magnitudes."""
    return 10.0 ** (0.4 * (AB_NJY - magnitude))


def band_magnitudes(bands: tuple[str, ...], i: Array, colours: Array) -> Array:
    """Return magnitudes, shape (..., C), from the i magnitude and colours g-r, r-i, i-z, shape (..., 3).

    VIS is the mean of r, i and z magnitudes, as in LensPop.
    """
    g_r, r_i, i_z = (colours[..., k] for k in range(3))
    known = {"g": i + r_i + g_r, "r": i + r_i, "i": i, "z": i - i_z, "VIS": i + (r_i - i_z) / 3}
    unknown = [band for band in bands if band not in known]
    if unknown:
        raise ConfigError(f"mocks have no magnitudes in band {unknown[0]!r}; known are: {', '.join(known)}")
    return np.stack([known[band] for band in bands], axis=-1)


def track_colours(galaxy: GalaxyPrior, z: Array) -> Array:
    """Return colours g-r, r-i, i-z of a passive galaxy at redshift `z`, shape (n, 3)."""
    grid = np.asarray(galaxy.track["z"])
    return np.stack([np.interp(z, grid, np.asarray(galaxy.track[c])) for c in COLOURS], axis=-1)


def random_colours(draws: Draws, name: str, red_fraction: float, k: int | None = None) -> Array:
    """Return colours of faint field galaxies and sources, shape (n, 3) or (n, k, 3): a blue cloud and a red tail."""
    red = draws.uniform(f"{name}.red", k=k) < red_fraction
    tilt = draws.normal(f"{name}.tilt", k=k)
    sets = []
    for band, blue, blue_sd, old, old_sd in (
        ("g-r", 0.12, 0.20, 1.05, 0.35),
        ("r-i", 0.12, 0.16, 0.55, 0.25),
        ("i-z", 0.08, 0.12, 0.32, 0.12),
    ):
        own = draws.normal(f"{name}.{band}", k=k)
        mixed = 0.7 * tilt + 0.714 * own
        sets.append(np.where(red, old + old_sd * mixed, blue + blue_sd * mixed))
    return np.stack(sets, axis=-1)


def lens_mass(draws: Draws, recipe: Recipe) -> dict[str, Array]:
    """Draw redshifts, velocity dispersion and Einstein radius: keys z_lens, z_source, sigma_v, theta_E.

    A share of systems takes sigma_v from its prior; the others take theta_E uniform between the limits, and
    the dispersion an isothermal sphere would need.
    """
    prior, source = recipe.lens, recipe.source
    table = distances(recipe.cosmology)
    z_lens = draws.normal("lens.z", prior.z[0], prior.z[1], prior.z[2], prior.z[3])
    low = np.log(z_lens + 0.12)
    z_source = np.exp(draws.normal("source.z", math.log(source.z_median), 0.42, low, math.log(source.z_max)))
    ratio = table.ratio(z_lens, z_source)
    sigma_v = draws.normal("lens.sigma_v", prior.sigma_v[0], prior.sigma_v[1], prior.sigma_v[2], prior.sigma_v[3])
    theta_E = einstein_radius(sigma_v, ratio)
    flat = draws.uniform("lens.flat") < prior.flat_fraction
    theta_E = np.where(flat, draws.uniform("lens.theta_E", prior.theta_E[0], prior.theta_E[1]), theta_E)
    sigma_v = np.where(flat, velocity_dispersion(theta_E, ratio), sigma_v)
    return {"z_lens": z_lens, "z_source": z_source, "sigma_v": sigma_v, "theta_E": theta_E}


def light_of(draws: Draws, recipe: Recipe, sigma_v: Array, z: Array) -> dict[str, Array]:
    """Draw the light of massive galaxies: mags (n, C), colours, mag_i, radius, n, q, e1, e2, the outer component.

    Beyond the fundamental plane's range the dispersion is held at the prior's limits: a group lens is not
    brighter than its brightest galaxy.
    """
    prior, mass = recipe.galaxy, recipe.lens
    table = distances(recipe.cosmology)
    v = np.log10(np.clip(sigma_v, mass.sigma_v[2], mass.sigma_v[3]))
    absolute = (-0.37 + np.sqrt(0.37**2 - 0.024 * (2.97 + v))) / 0.012
    k_i = np.interp(z, np.asarray(prior.track["z"]), np.asarray(prior.track["k_i"]))
    mag_i = absolute + table.modulus(z) + k_i + draws.normal("light.mag", 0.0, prior.mag_scatter)
    kpc = 10.0 ** (2.46 - 2.79 * v + 0.84 * v * v + draws.normal("light.size", 0.0, 0.11))
    radius = np.clip(kpc / (1000 * table.angular(z) * ARCSEC), prior.radius[0], prior.radius[1])
    n = draws.normal("light.n", *prior.sersic_n)
    spread = np.clip(0.378 - 0.000572 * np.clip(sigma_v, 100.0, 400.0), 0.1, 0.4)
    one_minus_q = spread * np.sqrt(
        -2 * np.log(1 - draws.uniform("light.q") * (1 - np.exp(-0.5 * (0.75 / spread) ** 2)))
    )
    q = 1 - one_minus_q
    e1, e2 = draws.spin2("light.angle", (1 - q) / (1 + q))
    colours = track_colours(prior, z) + prior.colour_scatter * draws.normal("light.colour", k=3)
    outer = np.where(draws.uniform("light.double") < prior.double, draws.uniform("light.outer", 0.1, 0.5), 0.0)
    return {
        "mag_i": mag_i,
        "colours": colours,
        "mags": band_magnitudes(recipe.bands, mag_i, colours),
        "radius": radius,
        "n": n,
        "q": q,
        "e1": e1,
        "e2": e2,
        "outer": outer,
        "outer_radius": radius * draws.uniform("light.outer_r", 1.5, 3.0),
        "outer_bluer": draws.uniform("light.outer_blue", 0.0, 0.12),
    }


def source_galaxy(draws: Draws, recipe: Recipe, mass: dict[str, Array]) -> dict[str, Array]:
    """Draw a source: offset from the lens (bx, by, uniform in a disc of 0.85 theta_E), light, and two clumps."""
    prior, theta_E = recipe.source, mass["theta_E"]
    distance, angle = theta_E * 0.85 * np.sqrt(draws.uniform("source.b")), draws.uniform("source.phi", 0, 2 * math.pi)
    mag_i = draws.power_law("source.mag", prior.mag[0], prior.mag[1], prior.mag_slope)
    colours = random_colours(draws, "source", prior.red_fraction)
    size = prior.radius * 10.0 ** (-0.08 * (mag_i - 24.0))
    radius = np.clip(size * 10.0 ** draws.normal("source.size", 0.0, prior.radius_scatter), 0.05, 1.0)
    q = 1 - np.minimum(0.3 * np.sqrt(-2 * np.log(draws.uniform("source.q"))), 0.75)
    e1, e2 = draws.spin2("source.angle", (1 - q) / (1 + q))
    clumpy = (draws.uniform("source.clumpy") < prior.clumps).astype(np.float64)
    return {
        "bx": distance * np.cos(angle),
        "by": distance * np.sin(angle),
        "mag_i": mag_i,
        "colours": colours,
        "mags": band_magnitudes(recipe.bands, mag_i, colours),
        "radius": radius,
        "n": draws.uniform("source.n", 0.7, 1.8),
        "e1": e1,
        "e2": e2,
        "clump_share": clumpy[:, None] * draws.uniform("source.clump_share", 0.03, 0.2, k=2),
        "clump_r": radius[:, None] * np.sqrt(draws.uniform("source.clump_r", 0.02, 1.5, k=2)),
        "clump_phi": draws.uniform("source.clump_phi", 0, 2 * math.pi, k=2),
        "clump_size": radius[:, None] * draws.uniform("source.clump_size", 0.15, 0.4, k=2),
    }
