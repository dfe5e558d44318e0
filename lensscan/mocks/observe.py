"""Observe a scene: PSF by Fourier transform, stars as exact points, sky, correlated and Poisson noise.

The PSF is a mixture of Moffat profiles of beta 2.5 and 4.5 with one FWHM, whose transforms are elementary:
``exp(-x) (1 + x)`` and ``exp(-x) (1 + x + 2 x^2 / 5 + x^3 / 15)`` with x = 2 pi k r_d (the Matern family); the
mixture has exactly that FWHM.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensscan.mocks.priors import pixel_normals, row_keys
from lensscan.mocks.recipes import Recipe
from lensscan.mocks.systems import Observation

__all__ = ["add_noise", "convolve", "noise_kernel", "psf_transform"]

BETAS = (2.5, 4.5)


def _frequencies(size: int, pixel: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return kx (size // 2 + 1,) and ky (size,), cycles per arcsec."""
    kx = torch.fft.rfftfreq(size, pixel, device=device, dtype=torch.float32)
    return kx, torch.fft.fftfreq(size, pixel, device=device, dtype=torch.float32)


def psf_transform(recipe: Recipe, fwhm: Tensor, wings: Tensor, e1: Tensor, e2: Tensor, size: int) -> Tensor:
    """Return the PSF's transform on the rfft grid, shape (n, C, size, size // 2 + 1); arguments (n, C).

    The ellipticity keeps the product-average FWHM.
    """
    kx, ky = _frequencies(size, recipe.pixel_scale, fwhm.device)
    # The transform of an ellipse is the ellipse turned by a right angle: e -> -e.
    ee = e1 * e1 + e2 * e2
    u = 1 / (1 - ee)
    a, b, c = (v[..., None, None] for v in (u * (1 + ee + 2 * e1), 4 * u * e2, u * (1 + ee - 2 * e1)))
    k = torch.sqrt((a * (kx * kx) + (b * kx) * ky[:, None] + c * (ky * ky)[:, None]).clamp_min(0))
    width = fwhm[..., None, None]
    if recipe.psf.kind == "gaussian":
        return torch.exp(-((math.pi * k * width) ** 2) / (4 * math.log(2)))
    share = wings[..., None, None]
    scales = [math.pi / math.sqrt(2 ** (1 / beta) - 1) for beta in BETAS]
    x = k * width
    x1, x2 = x * scales[0], x * scales[1]
    broad = torch.exp(-x1) * (1 + x1)
    compact = torch.exp(-x2) * (1 + x2 * (1 + x2 * (0.4 + x2 / 15)))
    return compact + share * (broad - compact)


def _star_transform(rows: Tensor, flux: Tensor, place: Tensor, n: int, size: int, pixel: float) -> Tensor:
    """Return the transform (n, C, size, size // 2 + 1) of point sources integrated over pixels."""
    kx, ky = _frequencies(size, pixel, flux.device)
    # The frame's centre lies (size - 1) / 2 pixels from the first pixel.
    shift = (size - 1) / 2 * pixel
    px, py = (-2 * math.pi * k * (place[:, j, None] + shift) for j, k in ((0, kx), (1, ky)))
    ex = torch.polar(torch.sinc(kx * pixel).expand_as(px).contiguous(), px)
    ey = torch.polar(torch.sinc(ky * pixel).expand_as(py).contiguous(), py)
    waves = ey[:, :, None] * ex[:, None, :]
    out = torch.zeros(n, flux.shape[1], size, size // 2 + 1, dtype=torch.complex64, device=flux.device)
    return out.index_add_(0, rows, waves[:, None] * flux[..., None, None])


def convolve(
    canvas: Tensor, transform: Tensor, stars: tuple[Tensor, Tensor, Tensor], size: int, pixel: float
) -> Tensor:
    """Return the observed, noise-free frames (n, C, size, size) of `canvas` (n, P, P, C)."""
    n, wide = canvas.shape[0], canvas.shape[1]
    spectrum = torch.fft.rfft2(canvas.permute(0, 3, 1, 2).contiguous())
    if len(stars[0]):
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


def add_noise(
    images: Tensor, recipe: Recipe, seed: int, index: NDArray[np.int64], sky: Observation, rows: slice
) -> Tensor:
    """Return observed frames: sky residual and slope, Poisson and correlated noise; absent bands are zero."""
    n, width, size, _ = images.shape
    device = images.device

    def to(value: NDArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(value[rows])).to(device, torch.float32)[..., None, None]

    keys = torch.from_numpy(row_keys(recipe.digest, seed, "pixels", index[rows])).to(device)
    white = pixel_normals(keys, width * (size + 4) ** 2).view(n, width, size + 4, size + 4)
    noise = _filter(white, noise_kernel(recipe.noise.lag1, recipe.noise.lag2))
    poisson = torch.tensor([recipe.band[b].poisson for b in recipe.bands], device=device)[:, None, None]
    noise = noise * torch.sqrt(to(sky.sigma) ** 2 + poisson * images.clamp_min(0))
    step = torch.linspace(-1, 1, size, device=device)
    plane = to(sky.sky) + to(sky.slope[..., 0]) * step + to(sky.slope[..., 1]) * step[:, None]
    return (images + noise + plane) * to(sky.present)
