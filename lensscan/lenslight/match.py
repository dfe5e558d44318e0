"""Bands brought to one PSF, that of the worst band, by Gaussian kernels applied in frequency space.

Of a PSF only the FWHM is known.  Broadened by a Gaussian, a PSF with wings does not end at the FWHM that the
sum of squares gives; the kernel is therefore chosen for a Moffat profile of middling wings, and the FWHM that
profiles of stronger and of weaker wings would end at tell what mismatch may remain.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["FWHM_TO_SIGMA", "MISMATCH", "Matched", "kernel_fwhm", "match_bands", "smooth"]

MISMATCH = 0.05
"""Largest relative difference of the bands' FWHM that passes."""
MIDDLE, EXTREMES = 3.2, (2.5, 4.5)
"""Moffat beta for which kernels are chosen, and those between which seeing usually lies."""
FWHM_TO_SIGMA = 1 / (2 * math.sqrt(2 * math.log(2)))
BROADEST = 40.0
"""Largest kernel, in units of the FWHM that it acts on."""
COVERED = 0.5
"""A pixel whose kernel falls on valid pixels by less than this is missing after the convolution."""


@dataclass(slots=True)
class Matched:
    """Bands of one PSF.

    Attributes
    ----------
    images : Tensor, shape (n, C, H, W), float64
        nJy per pixel; 0 where missing.
    mask : Tensor of bool, shape (n, C, H, W)
        True = missing.
    noise : Tensor, shape (n, C), float64
        Factor by which the convolution lowered white noise.
    fwhm : Tensor, shape (n,), float64
        The common FWHM, arcsec.
    mismatch : Tensor, shape (n, C), float64
        Largest relative difference from it that the unknown wings of the PSF leave; NaN for an unknown FWHM,
        infinite where the band is broader than the target.
    """

    images: Tensor
    mask: Tensor
    noise: Tensor
    fwhm: Tensor
    mismatch: Tensor


def _moffat(x: NDArray[np.float64], beta: float) -> NDArray[np.float64]:
    """Return the transform of a Moffat profile of FWHM 1 and unit flux at `x` cycles; beta = inf: a Gaussian."""
    from scipy.special import gammaln, kv

    if math.isinf(beta):
        return np.exp(-((math.pi * x) ** 2) / (4 * math.log(2)))
    scaled = np.maximum(math.pi * x / math.sqrt(2 ** (1 / beta) - 1), 1e-9)
    return 2 * np.exp((beta - 1) * np.log(scaled / 2) - gammaln(beta - 1)) * kv(beta - 1, scaled)


@functools.cache
def _broadening(beta: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return kernel FWHM and FWHM after the convolution, both in units of the Moffat profile's FWHM."""
    from scipy.special import j0

    kernels = np.concatenate([np.linspace(0, 2, 81), np.geomspace(2.1, BROADEST, 40)])
    result = np.empty_like(kernels)
    for k, kernel in enumerate(kernels):
        guess = math.hypot(1, kernel)
        x = np.linspace(0, 3.5 / guess, 1500)
        waves = _moffat(x, beta) * _moffat(kernel * x, math.inf) * x
        radius = np.linspace(0.4, 0.6, 41) * guess
        profile = (j0(2 * math.pi * radius[:, None] * x) * waves).sum(axis=1) / waves.sum()
        result[k] = 2 * np.interp(-0.5, -profile, radius)
    return kernels, result


def kernel_fwhm(fwhm: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the FWHM of the Gaussian kernels, and the mismatch that may remain.

    Parameters
    ----------
    fwhm : Tensor, shape (n, C)
        Arcsec; NaN unknown.
    target : Tensor, shape (n, 1)
        Arcsec.

    Returns
    -------
    kernel, mismatch : Tensor, shape (n, C), float64
        Arcsec; relative, see `Matched`.
    """
    own, aim = (v.detach().cpu().double().numpy() for v in torch.broadcast_tensors(fwhm, target))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = aim / own
    known = np.isfinite(ratio) & (ratio > 0)
    safe = np.where(known, ratio, 1.0)
    kernels, after = _broadening(MIDDLE)
    kernel = np.where(safe > 1, np.interp(safe, after, kernels), 0.0)
    worst = np.maximum(1 / safe - 1, 0.0)  # a band broader than the target stays so
    for beta in EXTREMES:
        reached = np.interp(kernel, *_broadening(beta))
        worst = np.maximum(worst, np.where(kernel > 0, np.abs(reached / safe - 1), 0.0))
    kernel, worst = np.where(known, kernel * np.where(known, own, 0), 0.0), np.where(known, worst, np.nan)
    return torch.from_numpy(kernel).to(fwhm.device), torch.from_numpy(worst).to(fwhm.device)


def smooth(images: Tensor, fwhm: Tensor) -> Tensor:
    """Convolve the last two axes with Gaussians of `fwhm` (pixels, the leading shape); the rim is mirrored.

    The cosine transform is the Fourier transform of the mirrored image: no seam that would ring, and the same
    numbers whatever else is in the batch.  As a product of matrices it is the fastest for stamps.
    """
    height, width = images.shape[-2:]
    lines, columns = _cosines(height, images), _cosines(width, images)
    transfer = [
        torch.exp(-2 * (math.pi * FWHM_TO_SIGMA * fwhm[..., None] * k / (2 * side)) ** 2)
        for k, side in ((torch.arange(s, dtype=images.dtype, device=images.device), s) for s in (height, width))
    ]
    spectrum = lines @ images @ columns.T * (transfer[0][..., :, None] * transfer[1][..., None, :])
    return lines.T @ spectrum @ columns


def _cosines(side: int, like: Tensor) -> Tensor:
    """Return the orthonormal matrix of the cosine transform (DCT-II), rows by frequency, (side, side)."""
    steps = torch.arange(side, dtype=like.dtype, device=like.device)
    matrix = torch.cos((math.pi / side) * steps[:, None] * (steps + 0.5)) * math.sqrt(2 / side)
    matrix[0] *= math.sqrt(0.5)
    return matrix


def match_bands(
    images: Tensor, mask: Tensor, fwhm: Tensor, pixel_scale: float, target: Tensor | None = None
) -> Matched:
    """Convolve all bands to the PSF of the worst.

    Missing pixels are left out by normalised convolution (Knutsson & Westin 1993): image and weight are
    convolved alike and divided.

    Parameters
    ----------
    images : Tensor, shape (n, C, H, W)
        nJy per pixel.
    mask : Tensor of bool, shape (n, C, H, W)
        True = missing.
    fwhm : Tensor, shape (n, C)
        Arcsec; NaN unknown.
    pixel_scale : float
        Arcsec.
    target : Tensor, shape (n,), optional
        FWHM wanted, arcsec; default the largest of a stamp's bands.
    """
    fwhm = fwhm.double()
    aim = fwhm.nan_to_num(0.0).amax(dim=1) if target is None else target.double()
    kernel, mismatch = kernel_fwhm(fwhm, aim[:, None])
    pixels = kernel / pixel_scale
    valid = (~mask).double()
    light = smooth(images.double().masked_fill(mask, 0.0), pixels)
    weight = smooth(valid, pixels) if bool(mask.any()) else valid
    missing = weight < COVERED
    light = (light / weight.clamp_min(COVERED)).masked_fill(missing, 0.0)
    # White noise through a Gaussian of sigma s pixels: a factor 1 / (2 sqrt(pi) s), never above 1.
    factor = 1 / (2 * math.sqrt(math.pi) * FWHM_TO_SIGMA * pixels).clamp_min(1.0)
    return Matched(light, missing, factor, aim, mismatch)
