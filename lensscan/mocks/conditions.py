"""Conditions under which the systems of a recipe can be observed: effects on and off, and grids of one quantity."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lensscan.mocks.recipes import Recipe, reobserved
from lensscan.mocks.tables import EffectsPrior

__all__ = ["GRIDS", "SWITCHES", "Condition", "conditions_of", "grid_unit", "other_skies", "switched_on"]

STEPS = 5
FACTORS = (0.5, 0.7, 1.0, 1.2, 1.5, 2.0)
"""Of noise or seeing, for recipes that state them band by band."""
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4)
"""Largest shares of the arcs' flux that masks may hide."""
CIRCLES = 40
WIDER, NOISIER = 1.2, 1.5
"""Factors on seeing and noise of another sky."""
INDEX = 2.5
"""Sersic index of galaxies under another sky."""
GENEROUS = 4.0
"""Area of all circles over the share to be hidden: so much that the share ends their number, not the circles."""
Changes = dict[str, Any]
Grid = list[tuple[float, Changes]]


@dataclass(frozen=True, slots=True)
class Condition:
    """One way to observe the systems of a recipe.

    Attributes
    ----------
    kind : str
        ``everything`` (the recipe), ``nothing`` (every effect off), ``without`` or ``only`` an effect, or a key of
        `GRIDS`.
    name : str
        The effect's, empty elsewhere.
    value : float
        Of a grid; NaN elsewhere.
    recipe : Recipe
        See `lensscan.mocks.recipes.reobserved`.
    """

    kind: str
    name: str
    value: float
    recipe: Recipe

    @property
    def words(self) -> str:
        """What a table calls it."""
        if self.kind in GRIDS:
            return f"{GRIDS[self.kind]} {self.value:.3g}"
        return f"{self.kind} {self.name}".strip()


GRIDS = {"masks": "masks, at most", "noise": "noise", "psf": "PSF, FWHM"}
"""Kinds of grids; their units are those of `grid_unit`."""


def grid_unit(kind: str, recipe: Recipe) -> str:
    """Return the unit of a grid's values, in words."""
    if kind == "masks":
        return "share of the arcs' flux"
    if kind == "noise":
        return "of the peak" if recipe.noise.relative is not None else "times the recipe's"
    return "arcsec" if recipe.psf.uniform is not None else "times the recipe's"


def _effect(name: str) -> Callable[[Recipe], Changes]:
    off: Changes = {name: getattr(EffectsPrior(), name)}
    return lambda recipe: {"effects": dataclasses.replace(recipe.effects, **off)}


def _noise(**values: Any) -> Callable[[Recipe], Changes]:
    return lambda recipe: {"noise": dataclasses.replace(recipe.noise, **values)}


def _bands(recipe: Recipe, **values: Callable[[Any], Any]) -> Changes:
    """Return the bands with single numbers changed by functions of them."""
    return {
        "band": {
            name: dataclasses.replace(band, **{key: change(getattr(band, key)) for key, change in values.items()})
            if name in recipe.bands
            else band
            for name, band in recipe.band.items()
        }
    }


def _no_poisson(recipe: Recipe) -> Changes:
    if recipe.noise.relative is not None and recipe.noise.electrons is not None:
        return _noise(electrons=(0.0, *recipe.noise.electrons[1:]))(recipe)
    return _bands(recipe, poisson=lambda value: 0.0)


SWITCHES: dict[str, Callable[[Recipe], Changes]] = {
    "cosmic rays": _effect("cosmic_rays"),
    "hot pixels": _effect("hot_pixels"),
    "hot columns": _effect("hot_columns"),
    "bleeding": _effect("bleed"),
    "zero bias": _effect("zero_bias"),
    "halo": _effect("halo"),
    "zero points": _effect("zero_point"),
    "gain": _effect("gain"),
    "offsets of bands": _effect("astrometry"),
    "masks": _effect("masks"),
    "Poisson noise": _no_poisson,
    "correlation of noise": _noise(lag1=0.0, lag2=0.0),
    "slope of the sky": _noise(gradient=0.0),
    "level of the sky": lambda recipe: _bands(recipe, sky=lambda value: 0.0),
}
"""Effects by name, each with what turns it off; noise and seeing themselves are not among them."""


def _matters(recipe: Recipe, name: str) -> bool:
    """Return whether turning an effect off changes anything that is drawn."""
    effects = recipe.effects
    amounts: dict[str, Any] = {
        "cosmic rays": effects.cosmic_rays[0],
        "hot pixels": effects.hot_pixels[0],
        "hot columns": effects.hot_columns[0],
        "bleeding": effects.bleed * max(recipe.band[band].saturation for band in recipe.bands),
        "halo": effects.halo[0] * effects.halo[1],
        "masks": effects.masks[0],
    }
    if name in amounts:
        return bool(amounts[name] > 0)
    off = SWITCHES[name](recipe)
    return any(getattr(recipe, part) != value for part, value in off.items())


def switched_on(recipe: Recipe) -> list[str]:
    """Return the effects that a recipe has, in the order of `SWITCHES`."""
    return [name for name in SWITCHES if _matters(recipe, name)]


def _without(recipe: Recipe, names: Iterable[str]) -> Recipe:
    for name in names:
        recipe = reobserved(recipe, **SWITCHES[name](recipe))
    return recipe


def conditions_of(recipe: Recipe) -> list[Condition]:
    """Return the recipe itself, its effects off one at a time and on one at a time, none of them, and the grids.

    In a grid everything else stays as in the recipe.
    """
    names = switched_on(recipe)
    found = [Condition("everything", "", math.nan, recipe)]
    if names:
        found.append(Condition("nothing", "", math.nan, _without(recipe, names)))
    if len(names) > 1:
        found += [Condition("without", name, math.nan, _without(recipe, [name])) for name in names]
        others = {name: [other for other in names if other != name] for name in names}
        found += [Condition("only", name, math.nan, _without(recipe, others[name])) for name in names]
    for kind, make in (("masks", _masks), ("noise", _levels), ("psf", _seeing)):
        found += [Condition(kind, "", value, reobserved(recipe, **changes)) for value, changes in make(recipe)]
    return found


def _masks(recipe: Recipe) -> Grid:
    """Return masks that hide up to so much of the arcs, as circles large enough to do so."""
    side = recipe.size * recipe.pixel_scale
    found: Grid = []
    for share in SHARES:
        radius = math.sqrt(GENEROUS * max(share, 1e-3) * side**2 / (math.pi * CIRCLES))
        masks = (float(share > 0), CIRCLES, radius, share)
        found.append((share, {"effects": dataclasses.replace(recipe.effects, masks=masks)}))
    return found


def _levels(recipe: Recipe) -> Grid:
    """Return levels of the noise per pixel: those that the recipe draws from, or factors on them."""
    if recipe.noise.relative is not None:
        levels = np.linspace(*recipe.noise.relative, STEPS).tolist()
        return [(level, _noise(relative=(level, level))(recipe)) for level in levels]
    return [(factor, _bands(recipe, sigma=_times(factor))) for factor in FACTORS]


def _seeing(recipe: Recipe) -> Grid:
    """Return widths of the PSF: those that the recipe draws from, or factors on them."""
    if recipe.psf.uniform is not None:
        widths = np.linspace(*recipe.psf.uniform, STEPS).tolist()
        return [
            (width, {"psf": dataclasses.replace(recipe.psf, uniform=(width, width), share=1.0)}) for width in widths
        ]
    return [(factor, _bands(recipe, fwhm=_times(factor))) for factor in FACTORS]


def other_skies(recipe: Recipe) -> dict[str, Recipe]:
    """Return the recipe itself and what a survey may differ from it in, one thing at a time, by words.

    Unlike the conditions above these are recipes of their own, of new systems: the label chooses its lenses anew.
    """
    if recipe.psf.uniform is not None:
        low, high = recipe.psf.uniform
        seeing: Changes = {"psf": dataclasses.replace(recipe.psf, uniform=(WIDER * low, WIDER * high))}
    else:
        seeing = _bands(recipe, fwhm=_times(WIDER))
    if recipe.noise.relative is not None:
        low, high = recipe.noise.relative
        noise = _noise(relative=(NOISIER * low, NOISIER * high))(recipe)
    else:
        noise = _bands(recipe, sigma=_times(NOISIER))
    light: Changes = {"galaxy": dataclasses.replace(recipe.galaxy, sersic_n=(INDEX, 0.0, INDEX, INDEX), double=0.0)}
    return {
        "nothing": recipe,
        f"seeing {100 * (WIDER - 1):.0f} % wider": dataclasses.replace(recipe, **seeing),
        f"noise {NOISIER:g} times as high": dataclasses.replace(recipe, **noise),
        f"galaxies: one component, n = {INDEX:g}": dataclasses.replace(recipe, **light),
    }


def _times(factor: float) -> Callable[[Any], Any]:
    return lambda values: tuple(factor * value for value in values)
