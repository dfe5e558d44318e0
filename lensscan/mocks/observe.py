"""Observe a scene: PSF by Fourier transform, stars as exact points, sky, correlated and Poisson noise."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensscan.mocks.priors import Draws, pixel_normals, row_keys
from lensscan.mocks.psf import frequencies
from lensscan.mocks.recipes import Recipe
from lensscan.mocks.sky import Observation

__all__ = ["add_noise", "convolve", "noise_kernel", "scale_to_peak", "settle_stars"]

Stars = tuple[Tensor, Tensor, Tensor]
NARROW = 2.0  # FWHM in pixels below which the pixels' frequencies cannot hold a star


def scale_to_peak(images: Tensor, peak: float) -> Tensor:
    """Return the frames (n, C, S, S) of every stamp scaled so that its brightest pixel has `peak` nJy."""
    brightest = images.amax(dim=(1, 2, 3), keepdim=True)
    return images * torch.where(brightest > 0, peak / brightest.clamp_min(1e-30), torch.ones_like(brightest))


def _star_transform(rows: Tensor, flux: Tensor, place: Tensor, n: int, size: int, pixel: float) -> Tensor:
    """Return the transform (n, C, size, size // 2 + 1) of point sources integrated over pixels."""
    kx, ky = frequencies(size, pixel, flux.device)
    # The frame's centre lies (size - 1) / 2 pixels from the first pixel.
    shift = (size - 1) / 2 * pixel
    px, py = (-2 * math.pi * k * (place[:, j, None] + shift) for j, k in ((0, kx), (1, ky)))
    ex = torch.polar(torch.sinc(kx * pixel).expand_as(px).contiguous(), px)
    ey = torch.polar(torch.sinc(ky * pixel).expand_as(py).contiguous(), py)
    waves = ey[:, :, None] * ex[:, None, :]
    out = torch.zeros(n, flux.shape[1], size, size // 2 + 1, dtype=torch.complex64, device=flux.device)
    return out.index_add_(0, rows, waves[:, None] * flux[..., None, None])


def settle_stars(canvas: Tensor, stars: Stars, fwhm: NDArray[np.float64], pixel: float) -> Stars:
    """Lay the stars of undersampled rows into `canvas` (n, P, P, C), and return those left for Fourier space.

    Below an FWHM of two pixels a star in Fourier space rings.  There it is spread over 3 x 3 pixels that keep flux,
    centroid and the second moment of a pixel; below one pixel, where those weights would show negative, linearly
    over 2 x 2.

    Parameters
    ----------
    stars : tuple of Tensor
        Rows (m,), flux (m, C) and places (m, 2), arcsec.
    fwhm : ndarray, shape (n, C)
        Arcsec.
    """
    rows, flux, place = stars
    least = torch.from_numpy(fwhm.min(axis=1) / pixel).to(canvas.device)
    narrow = least[rows] < NARROW
    if not bool(narrow.any()):
        return stars
    size = canvas.shape[1]
    where = place[narrow] / pixel + (size - 1) / 2
    middle = torch.round(where)
    d = where - middle
    moment = torch.where(least[rows][narrow][:, None] < 1, d.abs() - d * d, torch.full_like(d, 1 / 12))
    side = 0.5 * (moment + d * d)
    weight = torch.stack([side - 0.5 * d, 1 - 2 * side, side + 0.5 * d], dim=2)  # (m, 2, 3)
    at = middle.long()[..., None] + torch.arange(-1, 2, device=canvas.device)
    weight = weight * ((at >= 0) & (at < size))
    at = at.clamp(0, size - 1)
    target = (rows[narrow][:, None, None] * size + at[:, 1, :, None]) * size + at[:, 0, None, :]
    light = (weight[:, 1, :, None] * weight[:, 0, None, :])[..., None] * flux[narrow][:, None, None, :]
    canvas.view(-1, canvas.shape[-1]).index_add_(0, target.reshape(-1), light.reshape(-1, light.shape[-1]))
    return rows[~narrow], flux[~narrow], place[~narrow]


def convolve(canvas: Tensor, transform: Tensor, stars: Stars | None, size: int, pixel: float) -> Tensor:
    """Return the observed, noise-free frames (n, C, size, size) of `canvas` (n, P, P, C)."""
    n, wide = canvas.shape[0], canvas.shape[1]
    spectrum = torch.fft.rfft2(canvas.permute(0, 3, 1, 2).contiguous())
    if stars is not None and len(stars[0]):
        spectrum += _star_transform(*stars, n, wide, pixel)
    spectrum *= transform
    first = (wide - size) // 2
    return torch.fft.irfft2(spectrum, s=(wide, wide))[:, :, first : first + size, first : first + size]


@functools.lru_cache(maxsize=32)
def noise_kernel(lag1: float, lag2: float) -> tuple[float, float, float]:
    """Return (c0, c1, c2) of the symmetric filter c2 c1 c0 c1 c2 whose white-noise output has these correlations."""
    from scipy.optimize import fsolve

    def mismatch(c: NDArray[np.float64]) -> list[float]:
        norm = 1 + 2 * c[0] ** 2 + 2 * c[1] ** 2
        return [(2 * c[0] + 2 * c[0] * c[1]) / norm - lag1, (2 * c[1] + c[0] ** 2) / norm - lag2]

    c1, c2 = fsolve(mismatch, [lag1 / 2, lag2 / 2])
    norm = math.sqrt(1 + 2 * c1 * c1 + 2 * c2 * c2)
    return 1 / norm, float(c1) / norm, float(c2) / norm


def _filter(noise: Tensor, kernel: tuple[float, float, float]) -> Tensor:
    """Apply the filter along both axes; the result is smaller by two pixels on every side."""
    c0, c1, c2 = kernel
    noise = c0 * noise[..., 2:-2] + c1 * (noise[..., 1:-3] + noise[..., 3:-1]) + c2 * (noise[..., :-4] + noise[..., 4:])
    return (
        c0 * noise[..., 2:-2, :]
        + c1 * (noise[..., 1:-3, :] + noise[..., 3:-1, :])
        + c2 * (noise[..., :-4, :] + noise[..., 4:, :])
    )


def _electron(recipe: Recipe, draws: Draws, device: torch.device) -> Tensor:
    """Return nJy per electron, shape (C, 1, 1) or (n, 1, 1, 1); 0 = no Poisson noise."""
    noise = recipe.noise
    if noise.relative is None or noise.electrons is None:
        return torch.tensor([recipe.band[b].poisson for b in recipe.bands], device=device)[:, None, None]
    probability, low, high = noise.electrons
    size = noise.peak / draws.uniform("noise.electrons", low, high)
    size = np.where(draws.uniform("noise.counted") < probability, size, 0.0)
    return torch.from_numpy(size.astype(np.float32)).to(device)[:, None, None, None]


def add_noise(
    images: Tensor, recipe: Recipe, seed: int, index: NDArray[np.int64], sky: Observation, rows: slice
) -> Tensor:
    """Return observed frames: sky residual and slope, Poisson and correlated noise; absent bands are zero.

    Poisson noise is the Gaussian of its variance, and correlated as the rest: a count would jump where devices
    round the frame differently.
    """
    n, width, size, _ = images.shape
    device = images.device

    def to(value: NDArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(value[rows])).to(device, torch.float32)[..., None, None]

    keys = torch.from_numpy(row_keys(recipe.digest, seed, "pixels", index[rows])).to(device)
    draws = Draws(recipe.digest, seed, index[rows])
    raw = pixel_normals(keys, width * (size + 4) ** 2).view(n, width, size + 4, size + 4)
    noise = _filter(raw, noise_kernel(recipe.noise.lag1, recipe.noise.lag2))
    if recipe.noise.white > 0:
        white = torch.from_numpy(draws.uniform("noise.white") < recipe.noise.white).to(device)
        noise = torch.where(white[:, None, None, None], raw[..., 2:-2, 2:-2], noise)
    noise = noise * torch.sqrt(to(sky.sigma) ** 2 + _electron(recipe, draws, device) * images.clamp_min(0))
    step = torch.linspace(-1, 1, size, device=device)
    plane = to(sky.sky) + to(sky.slope[..., 0]) * step + to(sky.slope[..., 1]) * step[:, None]
    return (images + noise + plane) * to(sky.present)
