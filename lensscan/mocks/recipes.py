"""Recipes: everything that defines a set of mocks, as frozen dataclasses read from ``catalogs/recipes``.

Each TOML file says which of its numbers are read (from a paper or from images) and which are assumed.  The
hash of a recipe enters every draw: change a number, and all mocks change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensscan.config import LATE, build, digest, find, read_toml
from lensscan.errors import ConfigError
from lensscan.mocks.tables import (
    CLASSES,
    LENSED,
    LENSES,
    BandRecipe,
    CanvasPrior,
    EffectsPrior,
    FramePrior,
    GalaxyPrior,
    LabelRule,
    LensPrior,
    NoisePrior,
    PsfPrior,
    ScenePrior,
    SourcePrior,
)

__all__ = [
    "CLASSES",
    "SIMULATOR",
    "Recipe",
    "held_out",
    "kinds_of",
    "load_recipe",
    "make_recipe",
    "reobserved",
    "with_natural_lenses",
    "without_lenses",
]

SIMULATOR = 2
"""Raised whenever the same recipe gives other mocks than before; part of every digest."""


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
    effects: EffectsPrior = field(default_factory=EffectsPrior, metadata=LATE)
    canvas: CanvasPrior = field(default_factory=CanvasPrior, metadata=LATE)
    digest: str = field(init=False, default="")

    def __post_init__(self) -> None:
        unseen = ("name", "title", "zero_point", "digest")
        object.__setattr__(self, "digest", digest(self, without=unseen, simulator=SIMULATOR))

    @property
    def weights(self) -> list[float]:
        """Relative weight of every class, in the order of `CLASSES`."""
        return [float(self.classes.get(name, 0.0)) for name in CLASSES]


def reobserved(recipe: Recipe, **changes: Any) -> Recipe:
    """Return other conditions under which the very systems of a recipe can be observed; see `simulate`.

    Parameters
    ----------
    recipe : Recipe
    changes
        Of ``band`` (noise, seeing), ``noise``, ``psf`` and ``effects``; the digest stays, so that whatever they do
        not touch is drawn as it was.

    Raises
    ------
    ValueError
        If anything else is to be changed: it would belong to the systems.
    """
    others = set(changes) - {"band", "noise", "psf", "effects"}
    if others:
        raise ValueError(f"{others.pop()} is no condition of the observation")
    changed = dataclasses.replace(recipe, **changes)
    object.__setattr__(changed, "digest", recipe.digest)
    return changed


def held_out(recipe: Recipe) -> Recipe:
    """Return a recipe with the real galaxies, stamps and sources, that a training on it does not show.

    Where its ``part`` is ``train`` that becomes ``test``; else nothing is held out, and the recipe is returned.
    """
    changes: dict[str, Any] = {}
    if recipe.canvas.part == "train":
        changes["canvas"] = dataclasses.replace(recipe.canvas, part="test")
    if recipe.source.part == "train":
        changes["source"] = dataclasses.replace(recipe.source, part="test")
    return dataclasses.replace(recipe, **changes) if changes else recipe


def kinds_of(recipe: Recipe) -> tuple[bool, bool]:
    """Return whether a recipe makes lenses, and whether it makes anything without a lensed source."""
    drawn = {name for name, weight in recipe.classes.items() if weight > 0}
    return bool(drawn.intersection(LENSES)), bool(drawn.difference(LENSED))


def with_natural_lenses(recipe: Recipe) -> Recipe:
    """Return a recipe whose lenses have nature's theta_E, without the large ones that a training adds.

    The recipe itself where its population is not one of nature's.
    """
    if recipe.lens.population != "collett2015":
        return recipe
    return dataclasses.replace(recipe, lens=dataclasses.replace(recipe.lens, flat_fraction=0.0))


def without_lenses(recipe: Recipe) -> Recipe:
    """Return a recipe of the same non-lenses, in the same proportions, alone.

    Raises
    ------
    ConfigError
        If it has none.
    """
    if not kinds_of(recipe)[1]:
        raise ConfigError(f"recipe {recipe.name} makes lenses only: it has no others to draw")
    classes = {name: weight for name, weight in recipe.classes.items() if name not in LENSED}
    return dataclasses.replace(recipe, classes=classes)


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
    for name, band in recipe.band.items():
        numbers = (*band.sigma, band.fwhm[1], band.poisson, band.sky, band.saturation)
        if not (band.fwhm[0] > 0 and all(number >= 0 for number in numbers)):
            raise ConfigError(f"{where}: band.{name} has a number below zero or none, or a seeing of zero; correct it")
    if recipe.psf.kind not in ("moffat", "gaussian", "image"):
        raise ConfigError(f"{where}: psf.kind must be moffat, gaussian or image, not {recipe.psf.kind!r}")
    if recipe.canvas.cells < 0:
        raise ConfigError(f"{where}: canvas.cells must not be negative, not {recipe.canvas.cells:g}; 0 turns it off")
    without = [band for band in recipe.bands if recipe.psf.kind == "image" and not recipe.band[band].psf]
    if without:
        raise ConfigError(f"{where}: psf.kind is image, but band.{without[0]} names no file psf; add it")
    if recipe.source.profile == "images" and not recipe.source.images:
        raise ConfigError(f"{where}: source.profile is images, but source.images names no folder; add it")
    lengths = {len(values) for values in recipe.galaxy.track.values()}
    if "z" not in recipe.galaxy.track or len(lengths) != 1:
        raise ConfigError(f"{where}: galaxy.track needs z, k_i and colours as lists of equal length")
