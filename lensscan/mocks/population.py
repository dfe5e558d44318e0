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
from lensscan.mocks import sed
from lensscan.mocks.deflectors import DISC, draw_pairs
from lensscan.mocks.earlytypes import absolute_magnitude, log_size, track
from lensscan.mocks.placement import caustic_positions
from lensscan.mocks.priors import Draws
from lensscan.mocks.recipes import Recipe
from lensscan.mocks.tables import GalaxyPrior, SourcePrior
from lensscan.survey.zeropoint import NJY_ZERO_POINT

__all__ = ["band_magnitudes", "flux", "lens_mass", "light_of", "random_colours", "source_galaxy", "track_colours"]

Array = NDArray[np.float64]
COLOURS = ("g-r", "r-i", "i-z")


def flux(magnitude: Array) -> Array:
    """Return nJy of AB magnitudes."""
    return 10.0 ** (0.4 * (NJY_ZERO_POINT - magnitude))


def band_magnitudes(bands: tuple[str, ...], i: Array, colours: Array) -> Array:
    """Return magnitudes, shape (..., C), from the i magnitude and colours, shape (..., 3) or (..., 5).

    The colours are g-r, r-i, i-z and, if there are five, u-g and z-y.  With three, ``u - g = 0.05 + 0.86 (g - r)
    - 0.42 (r - i)`` (rms 0.3 mag over all types of `sed` below z = 1.2) and ``z - y = 0.04 + 0.46 (i - z)`` (0.04).
    ``F814W = i + 0.01 - 0.52 (i - z)`` (rms 0.005); VIS is the mean of r, i and z magnitudes, as in LensPop.
    """
    g_r, r_i, i_z = (colours[..., k] for k in range(3))
    if colours.shape[-1] > 3:
        u_g, z_y = colours[..., 3], colours[..., 4]
    else:
        u_g, z_y = 0.05 + 0.86 * g_r - 0.42 * r_i, 0.04 + 0.46 * i_z
    g, z = i + r_i + g_r, i - i_z
    known = {"u": g + u_g, "g": g, "r": i + r_i, "i": i, "z": z, "y": z - z_y}
    known |= {"Y": known["y"], "VIS": i + (r_i - i_z) / 3, "F814W": i + 0.01 - 0.52 * i_z}
    unknown = [band for band in bands if band not in known]
    if unknown:
        raise ConfigError(f"mocks have no magnitudes in band {unknown[0]!r}; known are: {', '.join(known)}")
    return np.stack([known[band] for band in bands], axis=-1)


def track_colours(galaxy: GalaxyPrior, z: Array) -> Array:
    """Return colours g-r, r-i, i-z of a passive galaxy at redshift `z`, shape (n, 3)."""
    return np.stack([track(galaxy, colour, z) for colour in COLOURS], axis=-1)


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
    the dispersion an isothermal sphere would need.  Physical populations and counts: see `deflectors.draw_pairs`,
    whose further keys `source_galaxy` reads.
    """
    if recipe.lens.population != "normal" or recipe.source.counts != "power":
        return draw_pairs(draws, recipe)
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
    mag_i = (
        absolute_magnitude(v)
        + table.modulus(z)
        + track(prior, "k_i", z)
        + draws.normal("light.mag", 0.0, prior.mag_scatter)
    )
    kpc = 10.0 ** (log_size(v) + draws.normal("light.size", 0.0, 0.11))
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
    """Draw a source: offset from the lens (bx, by; arcsec), light, and clumps.

    Parameters
    ----------
    mass : dict of ndarray
        theta_E, e1, e2, z_source, and what `lens_mass` drew of the source, if anything.

    Returns
    -------
    dict of ndarray
        bx, by, mag_i, colours (n, 3 or 5), mags (n, C), radius (arcsec), n, e1, e2; clump_share (of the light, below
        a half in all), clump_r, clump_phi, clump_size, each (n, K); with ``profile = "images"`` also image (in (0, 1):
        which of the folder) and turn (radians), and no ellipticity of its own.
    """
    prior = recipe.source
    bx, by = _offset(draws, recipe, mass)
    mag_i = mass.get("source_mag")
    if mag_i is None:
        mag_i = draws.power_law("source.mag", prior.mag[0], prior.mag[1], prior.mag_slope)
    colours = _source_colours(draws, recipe, mass)
    radius = _source_radius(draws, recipe, mass, mag_i)
    if prior.counts == "lsst":
        u = draws.uniform("source.q") * (1 - math.exp(-0.5 * (0.8 / 0.3) ** 2))
        q = 1 - 0.3 * np.sqrt(-2 * np.log(1 - u))
    else:
        q = 1 - np.minimum(0.3 * np.sqrt(-2 * np.log(draws.uniform("source.q"))), 0.75)
    e1, e2 = draws.spin2("source.angle", (1 - q) / (1 + q))
    source = {
        "bx": bx,
        "by": by,
        "mag_i": mag_i,
        "colours": colours,
        "mags": band_magnitudes(recipe.bands, mag_i, colours),
        "radius": radius,
        "n": draws.uniform("source.n", *prior.n),
        "e1": e1,
        "e2": e2,
    }
    if prior.profile == "images":
        source |= {"image": draws.uniform("source.image"), "turn": draws.uniform("source.turn", 0, 2 * math.pi)}
        source |= {"e1": np.zeros(draws.n), "e2": np.zeros(draws.n)}
    return source | _clumps(draws, prior, radius)


def _offset(draws: Draws, recipe: Recipe, mass: dict[str, Array]) -> tuple[Array, Array]:
    if recipe.source.position == "caustic":
        return caustic_positions(draws, mass["theta_E"], mass["e1"], mass["e2"])
    theta_E, angle = mass["theta_E"], draws.uniform("source.phi", 0, 2 * math.pi)
    if "source_distance" in mass:
        distance = theta_E * mass["source_distance"]
    else:
        distance = theta_E * DISC * np.sqrt(draws.uniform("source.b"))
    return distance * np.cos(angle), distance * np.sin(angle)


def _source_colours(draws: Draws, recipe: Recipe, mass: dict[str, Array]) -> Array:
    if recipe.source.colours == "random":
        return random_colours(draws, "source", recipe.source.red_fraction)
    kind = mass.get("source_type")
    if kind is None:
        kind = sed.draw_type(draws.uniform("source.type"), mass["z_source"])
    return sed.sed_colours(draws, "source", mass["z_source"], kind)


def _source_radius(draws: Draws, recipe: Recipe, mass: dict[str, Array], mag_i: Array) -> Array:
    prior = recipe.source
    if prior.uniform_radius is not None:
        return draws.uniform("source.uniform_radius", *prior.uniform_radius)
    if "source_radius" in mass:
        return mass["source_radius"]
    size = prior.radius * 10.0 ** (-0.08 * (mag_i - 24.0))
    return np.clip(size * 10.0 ** draws.normal("source.size", 0.0, prior.radius_scatter), 0.05, 1.0)


def _clumps(draws: Draws, prior: SourcePrior, radius: Array) -> dict[str, Array]:
    """Draw Gaussian clumps in a share of the sources; each takes less light where there are more than two."""
    k = prior.clump_count
    clumpy = (draws.uniform("source.clumpy") < prior.clumps).astype(np.float64)
    part = min(1.0, 2.4 / max(k, 1))
    return {
        "clump_share": clumpy[:, None] * draws.uniform("source.clump_share", 0.03 * part, 0.2 * part, k=k),
        "clump_r": radius[:, None] * np.sqrt(draws.uniform("source.clump_r", 0.02, 1.5, k=k)),
        "clump_phi": draws.uniform("source.clump_phi", 0, 2 * math.pi, k=k),
        "clump_size": radius[:, None] * draws.uniform("source.clump_size", 0.15, 0.4, k=k),
    }
