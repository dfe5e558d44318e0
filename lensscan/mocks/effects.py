"""What detectors and pipelines do to images: one pure function per effect on frames (n, C, S, S), nJy per pixel.

Every effect draws its own counters, so that a row is the same whatever the batch, and costs nothing while its
probability or amplitude in `EffectsPrior` is zero.  What is added by the detector itself (cosmic rays, hot pixels
and columns, bleeding) is not blurred by the PSF.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensscan.mocks.priors import Draws
from lensscan.mocks.recipes import Recipe
from lensscan.mocks.sky import Observation

__all__ = [
    "add_bias",
    "add_cosmic_rays",
    "add_effects",
    "add_halo",
    "add_hot_columns",
    "add_hot_pixels",
    "calibrate",
    "flags_pixels",
    "hide_circles",
    "saturate",
]

Array = NDArray[np.float64]
THICKNESS = 10.0  # pixels: how thick a detector is for a cosmic ray that enters at 45 degrees
HALO_AT = 2.0  # arcsec: where the object's surface brightness sets the depth of the bowl
HALO_WIDTH = (2.0, 5.0)  # arcsec: standard deviation of the bowl
BLOCK = 512  # trails at a time


def flags_pixels(recipe: Recipe) -> bool:
    """Whether stamps of this recipe have missing pixels: circular masks, or a band that saturates."""
    return recipe.effects.masks[0] > 0 or any(recipe.band[b].saturation > 0 for b in recipe.bands)


def add_effects(frames: Tensor, recipe: Recipe, draws: Draws, sky: Observation) -> Tensor:
    """Return the frames with every effect that comes before the noise; `sky` holds the same rows."""
    frames = calibrate(frames, recipe, draws)
    frames = add_halo(frames, recipe, draws, sky.x, sky.y)
    unit = sky.sigma if recipe.effects.unit == "sigma" else np.full_like(sky.sigma, recipe.noise.peak)
    frames = add_cosmic_rays(frames, recipe, draws, unit)
    frames = add_hot_pixels(frames, recipe, draws, unit)
    frames = add_hot_columns(frames, recipe, draws, unit)
    return add_bias(frames, recipe, draws, unit)


def _tensor(values: NDArray[Any], like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(like.device)


def calibrate(frames: Tensor, recipe: Recipe, draws: Draws) -> Tensor:
    """Scale the light of every band by its error in zero point, and that of the stamp by its gain.

    An error of calibration: truth keeps the true magnitudes.  The noise added later is what the truth says.
    """
    prior = recipe.effects
    if prior.zero_point <= 0 and prior.gain <= 0:
        return frames
    mag = draws.normal("effects.zero_point", 0.0, prior.zero_point, k=frames.shape[1])
    gain = np.maximum(1 + draws.normal("effects.gain", 0.0, prior.gain), 0.0)
    return frames * _tensor(gain[:, None] * 10 ** (-0.4 * mag), frames)[..., None, None]


def add_halo(frames: Tensor, recipe: Recipe, draws: Draws, x: Array, y: Array) -> Tensor:
    """Subtract a Gaussian bowl around the object at (x, y) (n,), arcsec: a background that took in its outskirts.

    The depth is a fraction, uniform below ``halo[1]``, of the mean surface brightness at two arcsec.
    """
    probability, amplitude = recipe.effects.halo
    if probability <= 0 or amplitude <= 0:
        return frames
    fraction = amplitude * draws.uniform("effects.halo.depth") * (draws.uniform("effects.halo") < probability)
    width = _tensor(draws.uniform("effects.halo.width", *HALO_WIDTH), frames)[:, None, None]
    size = frames.shape[-1]
    grid = (torch.arange(size, device=frames.device, dtype=torch.float32) - (size - 1) / 2) * recipe.pixel_scale
    r = torch.hypot(grid - _tensor(x, frames)[:, None, None], grid[:, None] - _tensor(y, frames)[:, None, None])
    ring = torch.exp(-0.5 * ((r - HALO_AT) / recipe.pixel_scale) ** 2)
    level = (frames * ring[:, None]).sum(dim=(2, 3)) / ring.sum(dim=(1, 2))[:, None].clamp_min(1e-6)
    bowl = torch.exp(-0.5 * (r / width) ** 2)
    return frames - (level * _tensor(fraction, frames)[:, None])[..., None, None] * bowl[:, None]


@dataclass(frozen=True, slots=True)
class Hits:
    """Where an effect strikes: rows and bands (m,), and which of the `k` draws of a row are each hit's own."""

    draws: Draws
    name: str
    row: NDArray[np.intp]
    band: NDArray[np.intp]
    slot: NDArray[np.intp]
    k: int

    def uniform(self, what: str, low: float = 0.0, high: float = 1.0) -> Array:
        """Draw one number for every hit, shape (m,)."""
        return np.asarray(self.draws.uniform(f"{self.name}.{what}", low, high, k=self.k)[self.row, self.slot])

    def flux(self, recipe: Recipe, low: float, high: float, unit: Array) -> Array:
        """Draw the brightness of every hit (nJy): uniform in units of the peak, else log-uniform in `unit` (n, C)."""
        if recipe.effects.unit == "peak":
            size = self.uniform("flux", low, high)
        else:
            size = np.exp(self.uniform("flux", math.log(low), math.log(high)))
        return np.asarray(size * unit[self.row, self.band])


def _strike(draws: Draws, name: str, probability: float, mean: float, width: int) -> Hits:
    """Hit each of `width` frames of a row with the given probability, then 1 + Poisson(mean - 1) times."""
    most = math.ceil(mean + 5 * math.sqrt(mean)) + 1
    counts = [1 + draws.poisson(f"{name}.count.{k}", max(mean - 1, 0.0), most - 1) for k in range(width)]
    count = np.stack(counts, axis=1) * (draws.uniform(name, k=width) < probability)
    row, band, number = np.nonzero(np.arange(most) < count[..., None])
    return Hits(draws, name, row, band, band * most + number, width * most)


def add_cosmic_rays(frames: Tensor, recipe: Recipe, draws: Draws, unit: Array) -> Tensor:
    """Add straight trails one pixel wide of random place, direction and length; `unit` (n, C).

    Muons come with intensity cos^2 of the zenith angle: cos theta = u^(1/4) through a flat detector, and a trail
    of thickness * tan theta.
    """
    probability, mean, low, high = recipe.effects.cosmic_rays
    if probability <= 0:
        return frames
    width, size = frames.shape[1], frames.shape[-1]
    hits = _strike(draws, "effects.cosmic_rays", probability, mean, width)
    x, y = (hits.uniform(axis, -0.5, size - 0.5) for axis in "xy")
    angle = hits.uniform("angle", 0.0, math.pi)
    tangent = np.sqrt(1 / np.sqrt(hits.uniform("slant")) - 1)
    half = 0.5 * np.clip(THICKNESS * tangent, 1.0, 2.0 * size)
    flux = hits.flux(recipe, low, high, unit)
    target = torch.from_numpy(hits.row * width + hits.band).to(frames.device)
    table = _tensor(np.stack([x, y, np.cos(angle), np.sin(angle), half, flux], axis=1), frames)
    out = frames.clone().view(-1, size, size)
    for part in range(0, len(table), BLOCK):
        out.index_add_(0, target[part : part + BLOCK], _trails(table[part : part + BLOCK], size))
    return out.view_as(frames)


def _trails(table: Tensor, size: int) -> Tensor:
    """Return trails (m, size, size): linear across (one pixel's charge shared by two), with soft ends."""
    x, y, cos, sin, half, flux = (table[:, k, None, None] for k in range(6))
    grid = torch.arange(size, device=table.device, dtype=torch.float32)
    dx, dy = grid[None, None, :] - x, grid[None, :, None] - y
    across = (1 - (dy * cos - dx * sin).abs()).clamp_min(0)
    along = (half + 0.5 - (dx * cos + dy * sin).abs()).clamp(0, 1)
    return flux * across * along


def add_hot_pixels(frames: Tensor, recipe: Recipe, draws: Draws, unit: Array) -> Tensor:
    """Add single bright pixels; `unit` (n, C)."""
    probability, mean, low, high = recipe.effects.hot_pixels
    if probability <= 0:
        return frames
    width, size = frames.shape[1], frames.shape[-1]
    hits = _strike(draws, "effects.hot_pixels", probability, mean, width)
    row, column = (np.floor(hits.uniform(axis, 0, size)).astype(np.int64) for axis in "yx")
    flux = hits.flux(recipe, low, high, unit)
    place = ((hits.row * width + hits.band) * size + row) * size + column
    out = frames.clone()
    out.view(-1).index_add_(0, torch.from_numpy(place).to(frames.device), _tensor(flux, frames))
    return out


def add_hot_columns(frames: Tensor, recipe: Recipe, draws: Draws, unit: Array) -> Tensor:
    """Raise or lower one whole column of a frame; `unit` (n, C)."""
    probability, low, high = recipe.effects.hot_columns
    if probability <= 0:
        return frames
    width, size, name = frames.shape[1], frames.shape[-1], "effects.hot_columns"
    hit = draws.uniform(name, k=width) < probability
    sign = np.where(draws.uniform(f"{name}.sign", k=width) < 0.5, -1.0, 1.0)
    level = _tensor(hit * sign * draws.uniform(f"{name}.flux", low, high, k=width) * unit, frames)
    column = torch.from_numpy(np.floor(draws.uniform(f"{name}.x", 0, size, k=width))).to(frames.device)
    here = torch.arange(size, device=frames.device) == column[..., None]
    return frames + (level[..., None] * here)[:, :, None, :]


def add_bias(frames: Tensor, recipe: Recipe, draws: Draws, unit: Array) -> Tensor:
    """Add one constant to the stamp, the same in all bands in units of `unit` (n, C)."""
    if recipe.effects.zero_bias <= 0:
        return frames
    level = draws.normal("effects.zero_bias", 0.0, recipe.effects.zero_bias)[:, None] * unit
    return frames + _tensor(level, frames)[..., None, None]


def saturate(images: Tensor, recipe: Recipe, draws: Draws) -> tuple[Tensor, Tensor | None]:
    """Clip observed images at the bands' saturation; return them and which pixels are saturated (n, C, S, S), or None.

    With probability ``effects.bleed`` a frame bleeds: the charge above saturation fills the column up and down from
    where it arose, as many pixels as it takes.  Saturated and bled pixels keep their value and count as missing,
    as in the bad-pixel plane of a survey.
    """
    levels = [recipe.band[b].saturation for b in recipe.bands]
    if max(levels) <= 0:
        return images, None
    level = torch.tensor([v if v > 0 else math.inf for v in levels], device=images.device)[:, None, None]
    full = images >= level
    if recipe.effects.bleed > 0:
        bleeds = draws.uniform("effects.bleed", k=len(levels)) < recipe.effects.bleed
        cover = _bled(images, level) * _tensor(bleeds, images)[..., None, None]
        room = torch.where(cover > 0, (level - images).clamp_min(0), torch.zeros_like(images))
        images, full = images + room * cover, full | (cover > 0.5)
    return torch.minimum(images, level), full


def _bled(images: Tensor, level: Tensor) -> Tensor:
    """Return how far each pixel is filled by charge that flows along its column, 0 to 1.

    Everything is a continuous function of the image, so that rounding moves no whole pixel.
    """
    ratio = images / level
    excess = (ratio - 1).clamp_min(0)
    charge = excess.sum(dim=2, keepdim=True)
    row = torch.arange(images.shape[2], device=images.device, dtype=torch.float32)[:, None]
    middle = (excess * row).sum(dim=2, keepdim=True) / charge.clamp_min(1e-12)
    already = ((ratio - 0.9) * 10).clamp(0, 1).sum(dim=2, keepdim=True)
    half = 0.5 * (charge + already)
    return torch.where(charge > 0, (half + 0.5 - (row - middle).abs()).clamp(0, 1), torch.zeros_like(ratio))


def hide_circles(arcs: Tensor | None, recipe: Recipe, draws: Draws, device: torch.device) -> Tensor:
    """Return the circular masks, True = missing, shape (n, S, S), the same in all bands.

    One to ``masks[1]`` circles; the last are dropped one by one until those left hide at most ``masks[3]`` of the
    arcs' flux.

    Parameters
    ----------
    arcs : Tensor, shape (n, S, S), or None
        Observed, noise-free flux of the lensed source; zero where there is none; None = nowhere.
    """
    probability, most, radius, share = recipe.effects.masks
    size = recipe.size
    hidden = torch.zeros(draws.n, size, size, dtype=torch.bool, device=device)
    used = np.flatnonzero(draws.uniform("effects.masks") < probability)
    if not len(used):
        return hidden
    draws = draws.redraw(used, 0)
    count = np.floor(draws.uniform("effects.masks.count", 1, most + 1))
    x, y = (
        torch.from_numpy(draws.uniform(f"effects.masks.{a}", -0.5, size - 0.5, k=most).astype(np.float32)).to(device)
        for a in "xy"
    )
    left = torch.from_numpy(count).to(device)
    chosen = torch.from_numpy(used).to(device)
    light = None if arcs is None else arcs[chosen]
    limit = None if light is None else share * light.sum(dim=(1, 2))
    grid = torch.arange(size, device=device, dtype=torch.float32)
    union = torch.zeros(len(used), size, size, dtype=torch.bool, device=device)
    for k in range(most):
        distance2 = (grid - x[:, k, None, None]) ** 2 + (grid[:, None] - y[:, k, None, None]) ** 2
        circle = (distance2 <= (radius / recipe.pixel_scale) ** 2) & (left > k)[:, None, None]
        grown = union | circle
        if light is not None and limit is not None:
            # What a row hides only grows: once a circle hides too much, this and all later ones are dropped.
            fits = (light * grown).sum(dim=(1, 2)) <= limit
            left = torch.where(fits, left, torch.full_like(left, float(k)))
            grown = torch.where(fits[:, None, None], grown, union)
        union = grown
    hidden[chosen] = union
    return hidden
