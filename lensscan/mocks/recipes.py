"""Recipes: everything that defines a set of mocks, as frozen dataclasses read from ``catalogs/recipes``.

Each TOML file says which of its numbers are read (from a paper or from images) and which are assumed.  The
hash of a recipe enters every draw: change a number, and all mocks change.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensscan.config import build, find, read_toml
from lensscan.errors import ConfigError

__all__ = [
    "CLASSES",
    "BandRecipe",
    "FramePrior",
    "GalaxyPrior",
    "LabelRule",
    "LensPrior",
    "NoisePrior",
    "PsfPrior",
    "Recipe",
    "ScenePrior",
    "SourcePrior",
    "load_recipe",
    "make_recipe",
]

CLASSES = (
    "lens",  # a galaxy with a lensed source that passes the label rule
    "undetectable",  # lensed, but below the label rule
    "elliptical",  # a massive galaxy without a source
    "unlensed_arc",  # a massive galaxy with a faint blue source outside the caustic
    "companions",  # a massive galaxy with satellites at arc distance
    "merger",  # two or three galaxies in contact
    "spiral",  # a disc with arms and a red bulge
    "ring",  # a galaxy with a blue ring
    "edge_on",  # a disc seen from the side
    "star",  # a star, or a blend of a star and a galaxy
    "field",  # any galaxy of the survey's magnitude, mostly blue
)


@dataclass(frozen=True, slots=True)
class BandRecipe:
    """Observation of one band.

    Attributes
    ----------
    sigma : tuple of float
        5, 50 and 95 % of the background's standard deviation per pixel, nJy.
    fwhm : tuple of float
        Median and standard deviation of the PSF's full width at half maximum, arcsec.
    poisson : float
        nJy per detected electron: variance added by a source of f nJy in a pixel is ``poisson * f``.
    sky : float
        Standard deviation of the background left in a stamp, in units of sigma.
    """

    sigma: tuple[float, float, float]
    fwhm: tuple[float, float]
    poisson: float = 0.0
    sky: float = 0.0


@dataclass(frozen=True, slots=True)
class NoisePrior:
    """Noise that bands have in common: correlation of neighbouring pixels, common scatter of depth, sky slope."""

    lag1: float = 0.0
    lag2: float = 0.0
    common: float = 0.0
    gradient: float = 0.0
    missing_band: float = 0.0


@dataclass(frozen=True, slots=True)
class PsfPrior:
    """PSF: a mixture of Moffat profiles of beta 2.5 (share `wings`) and 4.5, or a Gaussian; and its ellipticity."""

    kind: str = "moffat"
    wings: tuple[float, float] = (0.2, 0.9)
    ellipticity: float = 0.02
    common: float = 0.5


@dataclass(frozen=True, slots=True)
class FramePrior:
    """Where the galaxy sits in the stamp: uniform sub-pixel phase (pixels), catalog scatter (arcsec), wide shifts."""

    phase: float = 0.5
    scatter: float = 0.0
    wide: float = 0.0
    wide_fraction: float = 0.0


@dataclass(frozen=True, slots=True)
class LensPrior:
    """Mass: velocity dispersions and redshifts, a share with flat theta_E, and how mass follows light.

    Attributes
    ----------
    z : tuple of float
        Median, standard deviation, minimum and maximum of the lens redshift.
    sigma_v : tuple of float
        Mean, standard deviation, minimum and maximum, km/s.
    theta_E : tuple of float
        Limits, arcsec.
    flat_fraction : float
        Share of systems whose theta_E is drawn uniformly between the limits (sigma_v follows).
    q_scatter, angle_scatter, centre_scatter : float
        Mass against light: axis ratio; position angle in degrees at e = 0.2, growing as 1/e; arcsec.
    shear : float
        Mean of the external shear (Rayleigh).
    """

    z: tuple[float, float, float, float] = (0.45, 0.18, 0.1, 0.95)
    sigma_v: tuple[float, float, float, float] = (245.0, 45.0, 150.0, 400.0)
    theta_E: tuple[float, float] = (0.5, 3.0)
    flat_fraction: float = 0.5
    q_scatter: float = 0.1
    angle_scatter: float = 10.0
    centre_scatter: float = 0.05
    shear: float = 0.05


@dataclass(frozen=True, slots=True)
class GalaxyPrior:
    """Light of the massive galaxies.

    Attributes
    ----------
    sersic_n : tuple of float
        Mean, standard deviation, minimum and maximum.
    double : float
        Share with a second, outer component.
    mag_scatter, colour_scatter : float
        Scatter about the magnitude-sigma_v relation, and of each colour about the track.
    mag : tuple of float
        Limits of the total magnitude in the reference band; what falls outside is drawn again.
    radius : tuple of float
        Limits of the half-light radius, arcsec.
    track : mapping
        ``z`` and, at these redshifts, colours (``g-r`` ...) and ``k_i`` = i - M_r - distance modulus.
    """

    track: Mapping[str, tuple[float, ...]]
    sersic_n: tuple[float, float, float, float] = (4.0, 0.9, 2.0, 6.5)
    double: float = 0.4
    mag_scatter: float = 0.35
    colour_scatter: float = 0.05
    mag: tuple[float, float] = (17.0, 21.5)
    radius: tuple[float, float] = (0.3, 4.0)


@dataclass(frozen=True, slots=True)
class SourcePrior:
    """Lensed sources: redshift (mean of log(1+z), scatter), magnitude counts, colours, sizes, clumps."""

    z_max: float = 4.0
    z_median: float = 1.7
    mag: tuple[float, float] = (21.5, 25.0)
    mag_slope: float = 0.3
    red_fraction: float = 0.12
    radius: float = 0.3
    radius_scatter: float = 0.25
    clumps: float = 0.6


@dataclass(frozen=True, slots=True)
class ScenePrior:
    """What else is in a stamp, in every class.

    Attributes
    ----------
    density : float
        Field galaxies per arcmin^2 between the magnitude limits (reference band).
    mag : tuple of float
        Their magnitude limits.
    slope : float
        Counts grow as 10^(slope m).
    red_fraction : float
        Share of red ones among them.
    members : float
        Mean number of companions of the massive galaxy's own colour within `members_radius` arcsec.
    stars : float
        Stars per arcmin^2 between 16 and 23.
    """

    density: float = 0.0
    mag: tuple[float, float] = (18.0, 25.3)
    slope: float = 0.33
    red_fraction: float = 0.4
    members: float = 0.0
    members_radius: float = 12.0
    stars: float = 0.0


@dataclass(frozen=True, slots=True)
class LabelRule:
    """What "lens" means: at least two images, total magnification, arc S/N in the best band, resolved.

    A row whose class asks for a lens is drawn again up to `attempts` times; should all fail (one in thousands),
    it keeps the class of what was drawn last.
    """

    magnification: float = 3.0
    snr: float = 20.0
    snr_max: float = 1e9
    attempts: int = 30


@dataclass(frozen=True, slots=True)
class Recipe:
    """A set of mocks; see the parts for their meaning.

    `size` is in pixels, `pixel_scale` in arcsec; `classes` gives relative weights by name (see `CLASSES`);
    `reference` is the band of magnitude limits; `supersampling` scales the ray grid of lensed sources;
    `zero_point` is that of written FITS files.  `digest` is a hash of every number that shapes the mocks (not
    of name, title and zero_point).
    """

    name: str
    bands: tuple[str, ...]
    size: int
    pixel_scale: float
    band: Mapping[str, BandRecipe]
    classes: Mapping[str, float]
    galaxy: GalaxyPrior
    title: str = ""
    reference: str = "i"
    supersampling: int = 3
    cosmology: str = "Planck18"
    zero_point: float = 30.0
    noise: NoisePrior = field(default_factory=NoisePrior)
    psf: PsfPrior = field(default_factory=PsfPrior)
    frame: FramePrior = field(default_factory=FramePrior)
    lens: LensPrior = field(default_factory=LensPrior)
    source: SourcePrior = field(default_factory=SourcePrior)
    scene: ScenePrior = field(default_factory=ScenePrior)
    label: LabelRule = field(default_factory=LabelRule)
    digest: str = field(init=False, default="")

    def __post_init__(self) -> None:
        content = dataclasses.asdict(self)
        for name in ("name", "title", "zero_point", "digest"):
            del content[name]
        object.__setattr__(self, "digest", hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest())

    @property
    def weights(self) -> list[float]:
        """Relative weight of every class, in the order of `CLASSES`."""
        return [float(self.classes.get(name, 0.0)) for name in CLASSES]


def load_recipe(name: str | Path) -> Recipe:
    """Load a recipe by shipped name or path.

    Raises
    ------
    ConfigError
        If it does not exist, or holds an unknown key, band, class or an impossible number.
    """
    path = find("recipes", name)
    return make_recipe(read_toml(path), str(path))


def make_recipe(mapping: Mapping[str, Any], where: str) -> Recipe:
    """Build a recipe from a mapping as read from TOML; ``base`` names another recipe that it changes.

    Tables are merged key by key, except ``classes``, which is replaced.
    """
    merged = _resolve(dict(mapping), where, 0)
    recipe = build(Recipe, merged, where)
    _check(recipe, where)
    return recipe


def _beside(base: str, where: str) -> str:
    near = Path(where).parent / base
    return str(near) if base.endswith(".toml") and near.is_file() else base


def _resolve(mapping: dict[str, Any], where: str, depth: int) -> dict[str, Any]:
    base = mapping.pop("base", None)
    if base is None:
        return mapping
    if depth > 8:
        raise ConfigError(f"{where}: bases of recipes go round in a circle; remove one")
    parent = find("recipes", _beside(str(base), where))
    return _merge(_resolve(read_toml(parent), str(parent), depth + 1), mapping)


def _merge(base: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping) and key != "classes":
            value = _merge(old, value)
        merged[key] = value
    return merged


def _check(recipe: Recipe, where: str) -> None:
    missing = [band for band in recipe.bands if band not in recipe.band]
    if missing or not recipe.bands:
        raise ConfigError(f"{where}: band {missing[0] if missing else 'list'} has no table [band.<name>]; add it")
    unknown = [name for name in recipe.classes if name not in CLASSES]
    if unknown:
        raise ConfigError(f"{where}: unknown class {unknown[0]!r}; known are: {', '.join(CLASSES)}")
    if not sum(recipe.weights) > 0 or min(recipe.weights) < 0:
        raise ConfigError(f"{where}: class weights must not be negative, and one must be positive")
    if recipe.size < 8 or recipe.pixel_scale <= 0 or recipe.supersampling < 1:
        raise ConfigError(f"{where}: size must be at least 8 pixels, pixel_scale positive, supersampling at least 1")
    if recipe.psf.kind not in ("moffat", "gaussian"):
        raise ConfigError(f"{where}: psf.kind must be moffat or gaussian, not {recipe.psf.kind!r}")
    lengths = {len(values) for values in recipe.galaxy.track.values()}
    if "z" not in recipe.galaxy.track or len(lengths) != 1:
        raise ConfigError(f"{where}: galaxy.track needs z, k_i and colours as lists of equal length")
