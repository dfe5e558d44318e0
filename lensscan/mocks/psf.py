"""The PSF in Fourier space: Moffat, Gaussian or a measured image; and the offsets between bands.

``moffat`` is a mixture of Moffat profiles of beta 2.5 and 4.5 with one FWHM, whose transforms are elementary:
``exp(-x) (1 + x)`` and ``exp(-x) (1 + x + 2 x^2 / 5 + x^3 / 15)`` with x = 2 pi k r_d (the Matern family); the
mixture has exactly that FWHM.  An FWHM of 0 is no PSF: the transform is one, and a point fills its pixel only.
All widths are those before the pixel; a measured image, which has the pixel in it, is freed of it.
"""

from __future__ import annotations

import functools
import math
import os
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensscan.errors import ConfigError
from lensscan.mocks.priors import Draws
from lensscan.mocks.recipes import Recipe

__all__ = ["MeasuredPsf", "draw_offsets", "frequencies", "psf_transform", "read_psf", "shift_transform"]

Array = NDArray[np.float64]
BETAS = (2.5, 4.5)
TAPER = 0.15  # outermost part of a measured PSF's radius that fades out
UPSAMPLED = 8  # finer pixels per pixel when its width is measured


def draw_offsets(draws: Draws, recipe: Recipe) -> tuple[Array, Array] | None:
    """Return the astrometric offsets (n, C) of the bands along x and y, arcsec; None if the recipe has none."""
    scatter, width = recipe.effects.astrometry, len(recipe.bands)
    if scatter <= 0:
        return None
    x, y = (draws.normal(f"effects.astrometry.{a}", 0.0, scatter, k=width) for a in "xy")
    return x, y


def frequencies(size: int, pixel: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return kx (size // 2 + 1,) and ky (size,), cycles per arcsec."""
    kx = torch.fft.rfftfreq(size, pixel, device=device, dtype=torch.float32)
    return kx, torch.fft.fftfreq(size, pixel, device=device, dtype=torch.float32)


def psf_transform(recipe: Recipe, fwhm: Tensor, wings: Tensor, e1: Tensor, e2: Tensor, size: int) -> Tensor:
    """Return the PSF's transform on the rfft grid, shape (n, C, size, size // 2 + 1); arguments (n, C).

    The ellipticity keeps the product-average FWHM.  A measured PSF keeps its own shape and wings.
    """
    kx, ky = frequencies(size, recipe.pixel_scale, fwhm.device)
    if recipe.psf.kind == "image":
        measured = [read_psf(recipe.band[b].psf, recipe.pixel_scale) for b in recipe.bands]
        return torch.stack([psf.transform(kx, ky, fwhm[:, k]) for k, psf in enumerate(measured)], dim=1)
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
    broad = torch.exp((-x1).clamp_min(-87.0)) * (1 + x1)
    compact = torch.exp((-x2).clamp_min(-87.0)) * (1 + x2 * (1 + x2 * (0.4 + x2 / 15)))
    return compact + share * (broad - compact)


def shift_transform(dx: Tensor, dy: Tensor, size: int, pixel: float) -> Tensor:
    """Return the factor on the rfft grid that moves images by (dx, dy) arcsec; arguments (n, C).

    Exact for images that the PSF limits to the pixels' frequencies.
    """
    kx, ky = frequencies(size, pixel, dx.device)
    phase = dx[..., None, None] * kx + (dy[..., None] * ky)[..., None]
    return torch.polar(torch.ones_like(phase), -2 * math.pi * phase)


@dataclass(frozen=True, slots=True)
class MeasuredPsf:
    """A PSF image of unit sum, ready for its transform.

    Attributes
    ----------
    image : ndarray, shape (K, L)
    x, y : ndarray, shapes (L,) and (K,)
        Places of its columns and rows relative to its centroid, arcsec.
    pixel_scale : float
        Arcsec.
    fwhm : float
        Arcsec, before the pixel: that of the circle with the area inside the half-maximum contour.
    """

    image: Array
    x: Array
    y: Array
    pixel_scale: float
    fwhm: float

    def transform(self, kx: Tensor, ky: Tensor, fwhm: Tensor) -> Tensor:
        """Return the transform (n, len(ky), len(kx)) of the PSF stretched to `fwhm` (n,), without its pixel.

        Zero beyond the Nyquist frequency of the measured pixels.
        """
        device = kx.device
        image = torch.from_numpy(self.image).to(device, torch.complex64)
        stretch = (fwhm / self.fwhm)[:, None]
        parts = []
        for k, place in ((kx, self.x), (ky, self.y)):
            scaled = stretch * k  # (n, k)
            phase = scaled[..., None] * torch.from_numpy(place).to(device, torch.float32)
            pixel = scaled * self.pixel_scale
            kept = (pixel.abs() <= 0.5) / torch.sinc(pixel.clamp(-0.5, 0.5))
            parts.append(torch.polar(kept[..., None].expand_as(phase).contiguous(), -2 * math.pi * phase))
        along_x, along_y = parts
        return along_y @ (image @ along_x.transpose(1, 2))


def read_psf(path: str, pixel_scale: float) -> MeasuredPsf:
    """Read the PSF image of a FITS file, the first HDU with a two-dimensional image; the same call costs nothing.

    The median of the outermost pixels is taken as background, all beyond the radius at which the mean profile
    first falls to zero is cut, and the rim of what remains fades out, so that neither noise in the wings nor a
    pedestal counts as light.

    Parameters
    ----------
    path : str
    pixel_scale : float
        Arcsec; of the image, where its header has no PIXSCALE.

    Raises
    ------
    ConfigError
        If there is no such file, no image in it, or no light in the image.
    """
    try:
        state = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    return _read(path, pixel_scale, (state.st_size, state.st_mtime_ns))


def _unreadable(path: str, error: Exception) -> ConfigError:
    return ConfigError(f"{path}: cannot be read as the PSF of a band ({error}); give a FITS image")


@functools.lru_cache(maxsize=32)
def _read(path: str, pixel_scale: float, state: tuple[int, int]) -> MeasuredPsf:
    """Read a file once for each `state` (size and time) that it is seen in."""
    from astropy.io import fits

    try:
        with fits.open(path) as hdus:
            found = [(hdu.data, hdu.header) for hdu in hdus if hdu.header.get("NAXIS") == 2 and hdu.is_image]
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(path, error) from error
    if not found or min(found[0][0].shape) < 5:
        raise ConfigError(f"{path}: holds no PSF image of at least 5 by 5 pixels; give one in band.<name>.psf")
    data, header = found[0]
    scale = header.get("PIXSCALE", pixel_scale)
    if not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
        raise ConfigError(f"{path}: PIXSCALE is {scale!r}; give the size of the PSF's pixels in arcsec")
    return prepare(np.asarray(data, dtype=np.float64), float(scale), path)


def prepare(image: Array, pixel_scale: float, name: str) -> MeasuredPsf:
    """Return a measured PSF of an image (K, L); see `read_psf`."""
    edge = np.ones(image.shape, dtype=bool)
    edge[1:-1, 1:-1] = False
    image = np.nan_to_num(image - np.nanmedian(image[edge]))
    if not image.max() > 0:
        raise ConfigError(f"{name}: the PSF image holds no light; give one whose peak is positive")
    low, high = np.arange(image.shape[1], dtype=np.float64), np.arange(image.shape[0], dtype=np.float64)
    row, column = (float(v) for v in np.unravel_index(image.argmax(), image.shape))
    for _ in range(2):
        radius = np.hypot(low - column, (high - row)[:, None])
        light = image * _window(image, radius)
        total = light.sum()
        if not total > 0:
            raise ConfigError(f"{name}: the PSF image holds no light; give one whose peak is positive")
        column, row = float((light.sum(axis=0) * low).sum() / total), float((light.sum(axis=1) * high).sum() / total)
    x, y = (low - column) * pixel_scale, (high - row) * pixel_scale
    psf = MeasuredPsf(light / total, x, y, pixel_scale, 1.0)
    return MeasuredPsf(psf.image, x, y, pixel_scale, _half_width(psf))


def _window(image: Array, radius: Array) -> Array:
    """Return the taper of a PSF image: one inside, fading to zero where the mean profile or the image ends."""
    ring = np.rint(radius).astype(np.int64)
    profile = np.bincount(ring.ravel(), image.ravel()) / np.maximum(np.bincount(ring.ravel()), 1)
    dark = np.flatnonzero(profile[2:] <= 0)
    ends = float(dark[0]) + 2 if len(dark) else math.inf
    edge = min(radius[0].min(), radius[-1].min(), radius[:, 0].min(), radius[:, -1].min())
    reach = max(min(ends, edge + 0.5), 2.0)
    along = np.clip((reach - radius) / (TAPER * reach), 0.0, 1.0)
    return np.asarray(0.5 - 0.5 * np.cos(math.pi * along))


def _half_width(psf: MeasuredPsf) -> float:
    """Return the FWHM (arcsec) of a PSF, on finer pixels by zero padding in Fourier space."""
    size = 2 * max(psf.image.shape)
    fine = size * UPSAMPLED
    kx, ky = frequencies(fine, psf.pixel_scale / UPSAMPLED, torch.device("cpu"))
    values = torch.fft.irfft2(psf.transform(kx, ky, torch.ones(1)), s=(fine, fine))[0]
    area = float((values > 0.5 * values.max()).sum()) * (psf.pixel_scale / UPSAMPLED) ** 2
    return 2 * math.sqrt(area / math.pi)
