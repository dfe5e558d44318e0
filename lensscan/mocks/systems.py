"""The systems of a set of rows: class, observing conditions, galaxy, mass, source and their truth (numpy, float64).

Rows are drawn again, with the number of the attempt in the counter, until they are what their class says; so
each row stays a pure function of (recipe, seed, index).  Half of the galaxies without a source went through
the same selection as the lenses (the unpainted twins): their light does not tell the classes apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lensscan.lens.cosmology import distances, einstein_radius
from lensscan.lens.light import sersic_b
from lensscan.mocks.arcs import is_detectable, log_sersic_peak, measure, signal_to_noise
from lensscan.mocks.population import flux, lens_mass, light_of, source_galaxy
from lensscan.mocks.priors import Draws
from lensscan.mocks.realsky import N_VIEWS, real_sky
from lensscan.mocks.recipes import CLASSES, Recipe
from lensscan.mocks.sky import Observation, observe
from lensscan.mocks.tables import LensPrior

__all__ = ["Systems", "draw_systems", "prior_draws"]

Array = NDArray[np.float64]
LENS, UNDETECTABLE, UNLENSED, UNBENT = (
    CLASSES.index(name) for name in ("lens", "undetectable", "unlensed_arc", "unlensed_source")
)
PAINTED, REAL = CLASSES.index("painted"), CLASSES.index("real")
SOURCED = (LENS, UNDETECTABLE, UNLENSED)
MASSIVE = [
    *SOURCED,
    UNBENT,
    *(CLASSES.index(name) for name in ("elliptical", "companions", "merger", "ring", "tidal_arc", "artefact")),
]
TWINS = 0.5
SLOPES = (1.6, 2.6)


@dataclass(slots=True)
class Systems:
    """Drawn systems: class numbers, observation, and arrays by name (see `draw_systems`).

    `stamp` is the number of the real stamp a row is painted on, -1 where there is none, and `view` its view (0 to 7).
    """

    index: NDArray[np.int64]
    klass: NDArray[np.int64]
    sky: Observation
    light: dict[str, Array]
    mass: dict[str, Array]
    source: dict[str, Array]
    measured: dict[str, Array]
    stamp: NDArray[np.int64]
    view: NDArray[np.int64]
    truth: dict[str, Array] = field(default_factory=dict)

    @property
    def is_lens(self) -> NDArray[np.bool_]:
        """Rows that pass the label rule."""
        return (self.klass == LENS) | (self.klass == PAINTED)

    @property
    def lensed(self) -> NDArray[np.bool_]:
        """Rows whose source is painted; that of class unlensed_source as if there were no mass."""
        return np.isin(self.klass, (*SOURCED, UNBENT, PAINTED))

    @property
    def massive(self) -> NDArray[np.bool_]:
        """Rows whose central galaxy is a massive galaxy that is drawn."""
        return np.isin(self.klass, MASSIVE) & (self.stamp < 0)


def draw_systems(recipe: Recipe, seed: int, index: NDArray[np.int64]) -> Systems:
    """Draw the systems of the rows `index`.

    ``truth`` holds theta_E, e1, e2, x, y, sx, sy, gamma1, gamma2, slope, magnification, snr_arc, n_images, z_lens,
    z_source, sigma_v: NaN where the class has no such thing; and ``stamp``, -1 where nothing is real.

    Raises
    ------
    ConfigError
        If a class needs real stamps, and the recipe names none that can be used.
    """
    draws = Draws(recipe.digest, seed, index)
    klass = draws.choice("class", np.asarray(recipe.weights))
    sky = observe(draws, recipe)
    wants = np.where((draws.uniform("twin") < TWINS) | (klass == UNBENT), LENS, -1)
    for own in SOURCED:
        wants = np.where(klass == own, own, wants)
    wants = np.where(klass == PAINTED, LENS, wants)
    real = np.isin(klass, (PAINTED, REAL))
    store: dict[str, Array] = {}
    reached = np.full(len(index), -1)
    pending, attempt, width = np.flatnonzero(np.isin(klass, MASSIVE) | real), 0, 1
    while len(pending) and attempt <= recipe.label.attempts:
        # Later rounds try several attempts of a row at once and keep the first that fits: few rows, few calls.
        width = min(width, recipe.label.attempts + 1 - attempt)
        rows = np.repeat(pending, width)
        numbers = np.tile(np.arange(attempt, attempt + width), len(pending))
        tried = Draws(recipe.digest, seed, index[rows], numbers)
        last = attempt + width > recipe.label.attempts
        drawn = _attempt(recipe, tried, sky, rows, wants[rows], real[rows], all_measured=last)
        fits = drawn.pop("fits").reshape(-1, width) > 0
        chosen = np.arange(len(pending)) * width + np.where(fits.any(axis=1), fits.argmax(axis=1), width - 1)
        reached[pending] = np.nan_to_num(drawn.pop("label")[chosen], nan=-1).astype(np.int64)
        _store(store, {name: value[chosen] for name, value in drawn.items()}, pending, len(index))
        pending, attempt, width = pending[~fits.any(axis=1)], attempt + width, 2 * width
    missed = (klass == PAINTED) & (reached != LENS)
    klass = np.where(np.isin(klass, SOURCED) | missed, reached, klass)
    parts: dict[str, dict[str, Array]] = {name: {} for name in ("light", "mass", "source", "truth", "real")}
    for name, value in store.items():
        part, _, key = name.partition(".")
        parts[part][key] = value
    stamp, view = (
        np.nan_to_num(parts["real"].get(key, np.full(len(index), np.nan)), nan=-1).astype(np.int64)
        for key in ("stamp", "view")
    )
    systems = Systems(
        np.asarray(index), klass, sky, parts["light"], parts["mass"], parts["source"], parts["truth"], stamp, view
    )
    if real.any():
        systems.sky = _sky_of_stamps(recipe, systems)
    _finish_truth(systems)
    if recipe.noise.relative is not None:
        systems.truth["snr_arc"] = np.full(len(index), np.nan)  # the stamp is yet to be scaled to its noise
    return systems


def prior_draws(
    recipe: Recipe, seed: int, n: int
) -> tuple[dict[str, Array], dict[str, Array], NDArray[np.int64], dict[str, Array]]:
    """Return the first draw of n systems before any selection, what was kept of n rows, their class, and the sky.

    Keys are ``light.*``, ``mass.*``, ``source.*`` and ``truth.*`` of shape (n,), moduli of shear and ellipticity and
    the source's offset in units of theta_E among them; the sky has ``fwhm`` and ``sigma``, (n, C).
    """
    index = np.arange(n, dtype=np.int64)
    draws = Draws(recipe.digest, seed, index)
    sky = observe(draws, recipe)
    first = _attempt(recipe, draws, sky, index, np.full(n, -1), np.zeros(n, bool), all_measured=True)
    systems = draw_systems(recipe, seed, index)
    blank = np.full(n, np.nan)
    parts = {"light": systems.light, "mass": systems.mass, "source": systems.source, "truth": systems.measured}
    kept = {}
    for name in first:
        part, _, key = name.partition(".")
        kept[name] = parts.get(part, {}).get(key, blank)
    for table in (first, kept):
        for name, part in (("mass.e", "mass.e"), ("light.e", "light.e"), ("mass.shear", "mass.gamma")):
            table[name] = np.hypot(table[f"{part}1"], table[f"{part}2"])
        with np.errstate(divide="ignore", invalid="ignore"):
            table["source.offset"] = np.hypot(table["source.bx"], table["source.by"]) / table["mass.theta_E"]
    return first, kept, systems.klass, {"fwhm": systems.sky.fwhm, "sigma": systems.sky.sigma}


def _store(store: dict[str, Array], drawn: dict[str, Array], rows: NDArray[np.int64], n: int) -> None:
    for name, value in drawn.items():
        if name not in store:
            store[name] = np.full((n, *value.shape[1:]), np.nan)
        store[name][rows] = value


def _attempt(
    recipe: Recipe,
    draws: Draws,
    sky: Observation,
    rows: NDArray[np.int64],
    wants: NDArray[np.int64],
    real: NDArray[np.bool_],
    all_measured: bool,
) -> dict[str, Array]:
    """Draw galaxy, mass and source once; say what they make, and whether the row `wants` it (-1: anything fits).

    Rows that are `real` take a real galaxy instead of a drawn one.  Measuring arcs is most of the work: unless
    `all_measured`, galaxies that cannot fit, and those that fit with any arcs, have NaN for label and arcs.
    """
    mass = lens_mass(draws, recipe)
    light = light_of(draws, recipe, mass["sigma_v"], mass["z_lens"])
    for axis in "xy":
        light[axis] = getattr(sky, axis)[rows]
    seen = {name: getattr(sky, name)[rows] for name in ("fwhm", "sigma", "present")}
    chosen: dict[str, Array] = {}
    if real.any():
        chosen = _take_real(recipe, draws, real, mass, light, seen)
    mass |= _mass_of(draws, recipe.lens, light)
    source = source_galaxy(draws, recipe, mass)
    # Arcs that are none lie outside the caustic, where the disc of sources ends.
    far = (
        mass["theta_E"]
        * draws.uniform("source.far", 1.0, 2.3)
        / np.maximum(np.hypot(source["bx"], source["by"]), 1e-12)
    )
    scale = np.where(wants == UNLENSED, far, 1.0)
    source["bx"], source["by"] = source["bx"] * scale, source["by"] * scale
    within = np.full(draws.n, recipe.galaxy.residual is not None)
    within |= (light["mag_i"] >= recipe.galaxy.mag[0]) & (light["mag_i"] <= recipe.galaxy.mag[1])
    within |= real
    judged = np.flatnonzero(all_measured | (within & (wants >= 0)))
    parts = ({key: value[judged] for key, value in part.items()} for part in (mass, light, source, seen))
    verdict = _judge(recipe, *parts)
    truth = {key: _spread(value, judged, draws.n) for key, value in verdict.items()}
    label = truth.pop("label")
    result = chosen | {f"light.{k}": v for k, v in light.items()} | {f"mass.{k}": v for k, v in mass.items()}
    result |= {f"source.{k}": v for k, v in source.items()} | {f"truth.{k}": v for k, v in truth.items()}
    visible = (wants != UNLENSED) | (truth["snr_arc"] >= 0.5 * recipe.label.snr)
    fits = within & visible & ((wants == label) | (wants < 0))
    return result | {"label": label, "fits": fits.astype(np.float64)}


def _spread(values: Array, rows: NDArray[np.int64], n: int) -> Array:
    """Return n values, NaN but for `rows`."""
    result = np.full(n, np.nan)
    result[rows] = values
    return result


def _take_real(
    recipe: Recipe,
    draws: Draws,
    real: NDArray[np.bool_],
    mass: dict[str, Array],
    light: dict[str, Array],
    seen: dict[str, Array],
) -> dict[str, Array]:
    """Put real galaxies, as their stamps show them in a random view, in place of the drawn ones where `real`.

    theta_E follows from the galaxy: its redshift and dispersion are known, or guessed from galaxies like it.
    """
    library = real_sky(recipe)
    stamp = library.pick(draws.uniform("real.stamp"))
    view = np.floor(draws.uniform("real.view", 0, N_VIEWS)).astype(np.int64)
    known = library.view(stamp, view)
    z, sigma_v = library.guess(stamp, draws.uniform("real.guess"))
    ratio = distances(recipe.cosmology).ratio(z, mass["z_source"])
    for name, value in (
        ("z_lens", z),
        ("sigma_v", sigma_v),
        ("theta_E", np.maximum(einstein_radius(sigma_v, ratio), 1e-4)),
    ):
        mass[name] = np.where(real, value, mass[name])
    e = np.minimum(np.hypot(known["e1"], known["e2"]), 0.7)
    known["q"] = (1 - e) / (1 + e)
    known["radius"] = np.clip(np.nan_to_num(known["radius"], nan=0.7), *recipe.galaxy.radius)
    known |= {"n": np.full(draws.n, 4.0), "outer": np.zeros(draws.n)}
    for name in ("mags", "mag_i", "colours", "radius", "n", "q", "e1", "e2", "x", "y", "outer"):
        light[name] = np.where(real if light[name].ndim == 1 else real[:, None], known[name], light[name])
    for name in seen:
        own = real[:, None] & (known["present"].astype(bool) | (name == "present"))
        seen[name] = np.where(own, known[name], seen[name])
    return {"real.stamp": np.where(real, stamp, np.nan), "real.view": np.where(real, view, np.nan)}


def _sky_of_stamps(recipe: Recipe, systems: Systems) -> Observation:
    """Return the observing conditions with those of the real stamps in their rows."""
    rows = np.flatnonzero(systems.stamp >= 0)
    known = real_sky(recipe).view(systems.stamp[rows], systems.view[rows])
    changed = {}
    for name in ("fwhm", "sigma", "present", "x", "y"):
        value = getattr(systems.sky, name).copy()
        value[rows] = (
            known[name] if name in ("x", "y", "present") else np.where(known["present"], known[name], value[rows])
        )
        changed[name] = value
    return replace(systems.sky, **changed)


def _mass_of(draws: Draws, prior: LensPrior, light: dict[str, Array]) -> dict[str, Array]:
    """Draw shape, centre and slope of the mass about the light, and the external shear."""
    q = np.clip(light["q"] + draws.normal("mass.q", 0.0, prior.q_scatter), 0.25, 0.995)
    e_light = np.maximum(np.hypot(light["e1"], light["e2"]), 1e-6)
    turn = np.radians(np.minimum(prior.angle_scatter * 0.2 / e_light, 90.0)) * draws.normal("mass.turn")
    phi = 0.5 * np.arctan2(light["e2"], light["e1"]) + turn
    if prior.one_minus_q is not None:
        q = 1 - draws.uniform("mass.one_minus_q", *prior.one_minus_q)
        phi = draws.uniform("mass.angle", 0.0, math.pi)
    e = (1 - q) / (1 + q)
    shear = prior.shear * math.sqrt(2 / math.pi) * np.sqrt(-2 * np.log(draws.uniform("mass.shear")))
    gamma1, gamma2 = draws.spin2("mass.shear_angle", np.minimum(shear, 0.25))
    mass = {"e1": e * np.cos(2 * phi), "e2": e * np.sin(2 * phi), "gamma1": gamma1, "gamma2": gamma2}
    for axis in "xy":
        mass[axis] = light[axis] + draws.normal(f"mass.{axis}", 0.0, prior.centre_scatter)
    mass["slope"] = np.full(draws.n, prior.slope[0])
    if prior.slope[1] > 0:
        mass["slope"] = draws.normal("mass.slope", *prior.slope, *SLOPES)
    return mass


def _judge(
    recipe: Recipe,
    mass: dict[str, Array],
    light: dict[str, Array],
    source: dict[str, Array],
    seen: dict[str, Array],
) -> dict[str, Array]:
    """Measure the arcs and apply the label rule, as ``label``; theta_E outside the recipe's limits is no lens."""
    theta_E = mass["theta_E"]
    arcs = measure(
        theta_E,
        mass["e1"],
        mass["e2"],
        mass["gamma1"],
        mass["gamma2"],
        source["bx"],
        source["by"],
        source["radius"],
        source["n"],
        source["e1"],
        source["e2"],
        None if recipe.lens.slope == (2.0, 0.0) else mass["slope"],
    )
    poisson = np.array([recipe.band[b].poisson for b in recipe.bands])
    n, radius = light["n"], light["radius"]
    log_sb = log_sersic_peak(radius, n) - sersic_b(n) * (theta_E / radius) ** (1 / n)
    background = np.nan_to_num(flux(light["mags"])) * np.exp(log_sb)[:, None]
    fwhm, sigma = seen["fwhm"], np.where(seen["present"], seen["sigma"], np.inf)
    snr = signal_to_noise(
        flux(source["mags"]) * arcs.magnification[:, None],
        arcs.area,
        fwhm,
        sigma,
        recipe.pixel_scale,
        poisson,
        background,
    )
    best = snr.argmax(axis=1)[:, None]
    top, width = np.take_along_axis(snr, best, 1)[:, 0], np.take_along_axis(fwhm, best, 1)[:, 0]
    inside = (theta_E >= recipe.lens.theta_E[0]) & (theta_E <= recipe.lens.theta_E[1])
    good = is_detectable(recipe.label, arcs, top, theta_E, source["radius"], width) & inside
    label = np.where(good, LENS, np.where(arcs.images >= 2, UNDETECTABLE, UNLENSED)).astype(np.float64)
    images = arcs.images.astype(np.float64)
    return {"magnification": arcs.magnification, "snr_arc": top, "n_images": images, "label": label}


def _finish_truth(systems: Systems) -> None:
    """Collect the truth in a fixed order, blank where nothing is lensed."""
    nothing = np.full(len(systems.index), np.nan)
    measured, mass, source = systems.measured, systems.mass, systems.source
    lensed = systems.is_lens | (systems.klass == UNDETECTABLE)
    truth = {key: np.where(lensed, mass.get(key, nothing), np.nan) for key in ("theta_E", "e1", "e2", "x", "y")}
    for axis in "xy":
        truth[f"s{axis}"] = truth[axis] + source.get(f"b{axis}", nothing)
    for key in ("gamma1", "gamma2", "slope", "z_source"):
        truth[key] = np.where(lensed, mass.get(key, nothing), np.nan)
    for key in ("magnification", "snr_arc", "n_images"):
        truth[key] = np.where(lensed, measured.get(key, nothing), np.nan)
    for key in ("z_lens", "sigma_v"):
        truth[key] = mass.get(key, nothing)
    truth["stamp"] = systems.stamp
    systems.truth = truth
