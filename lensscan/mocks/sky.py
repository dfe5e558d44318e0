"""Observing conditions of a set of rows: depth, seeing, PSF shape, sky, where the target sits (numpy, float64)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lensscan.mocks.priors import Draws
from lensscan.mocks.recipes import Recipe

__all__ = ["Observation", "draw_fwhm", "observe"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Observation:
    """Observing conditions: fwhm (arcsec), sigma and sky (nJy per pixel), wings and PSF shape, (n, C); centre (n,).

    `slope` is the sky's gradient, (n, C, 2), in nJy per half frame; `present` (n, C) tells which bands exist.
    """

    fwhm: Array
    sigma: Array
    sky: Array
    slope: Array
    wings: Array
    psf1: Array
    psf2: Array
    x: Array
    y: Array
    present: NDArray[np.bool_]


def observe(draws: Draws, recipe: Recipe) -> Observation:
    """Draw the observing conditions; depth and seeing of the bands scatter partly together.

    With ``noise.relative`` stamps are scaled to a known peak, so that sigma is known before they are painted.
    """
    bands = [recipe.band[b] for b in recipe.bands]
    width, noise = len(bands), recipe.noise
    low, mid, high = (np.log([b.sigma[k] for b in bands]) for k in range(3))
    z = _shared(draws, "noise.depth", noise.common, width)
    sigma = np.exp(mid + np.where(z > 0, (high - mid), (mid - low)) / 1.645 * np.clip(z, -3, 3))
    z = _shared(draws, "psf.fwhm", recipe.psf.common, width)
    fwhm = np.array([b.fwhm[0] for b in bands]) + np.array([b.fwhm[1] for b in bands]) * np.clip(z, -2.5, 3.5)
    level = np.array([b.sky for b in bands])
    e = recipe.psf.ellipticity * np.sqrt(-2 * np.log(draws.uniform("psf.e", k=width)))
    psf1, psf2 = draws.spin2("psf.angle", np.minimum(e, 0.3))
    frame, pixel = recipe.frame, recipe.pixel_scale
    wide = np.where(draws.uniform("frame.wide") < frame.wide_fraction, frame.wide, 0.0)
    centre = [
        draws.uniform(f"frame.phase.{a}", -frame.phase, frame.phase) * pixel
        + draws.normal(f"frame.scatter.{a}", 0.0, frame.scatter)
        + wide * draws.uniform(f"frame.wide.{a}", -1.0, 1.0)
        for a in "xy"
    ]
    present = draws.uniform("noise.present", k=width) >= noise.missing_band
    present |= ~present.any(axis=1, keepdims=True)
    sky = Observation(
        fwhm=draw_fwhm(draws, recipe, fwhm),
        sigma=sigma,
        sky=level * sigma * draws.normal("noise.sky", k=width),
        slope=noise.gradient * sigma[..., None] * draws.normal("noise.slope", k=2 * width).reshape(-1, width, 2),
        wings=draws.uniform("psf.wings", recipe.psf.wings[0], recipe.psf.wings[1], k=width),
        psf1=psf1,
        psf2=psf2,
        x=centre[0],
        y=centre[1],
        present=present,
    )
    if noise.relative is None:
        return sky
    sigma = noise.peak * draws.uniform("noise.relative", *noise.relative, k=len(recipe.bands))
    ratio = sigma / sky.sigma
    return replace(sky, sigma=sigma, sky=sky.sky * ratio, slope=sky.slope * ratio[..., None])


def draw_fwhm(draws: Draws, recipe: Recipe, fwhm: Array) -> Array:
    """Return the FWHM (n, C), arcsec: `fwhm` as drawn from the bands, unless ``psf.uniform`` or ``psf.share`` say else.

    0 where a stamp has no PSF.
    """
    prior = recipe.psf
    if prior.uniform is not None:
        fwhm = np.broadcast_to(draws.uniform("psf.uniform", *prior.uniform)[:, None], fwhm.shape)
    if prior.share < 1:
        fwhm = np.where(draws.uniform("psf.share")[:, None] < prior.share, fwhm, 0.0)
    return fwhm


def _shared(draws: Draws, name: str, common: float, width: int) -> Array:
    """Return unit normals (n, width) with pairwise correlation `common`."""
    both = draws.normal(f"{name}.common")[:, None]
    return math.sqrt(common) * both + math.sqrt(1 - common) * draws.normal(name, k=width)
