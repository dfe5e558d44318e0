"""Normalisation of stamps: asinh(f / (k sigma)) per band, and the scalar inputs that undo the loss.

Everything here is a function of one stamp alone, the same bits for any neighbours, and never looks at the
brightest pixel (DESIGN section 2).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["aperture_snr", "estimate_sigma", "n_scalars", "normalise", "scalar_inputs"]

MAD_TO_SIGMA = 1.482602218505602
CLIP = 3.0
REFERENCE_SIGMA = 10.0
REFERENCE_FWHM = 1.0
REFERENCE_SCALE = 0.2
APERTURE = 2.0


def n_scalars(n_bands: int) -> int:
    """Return the number of scalars: log sigma, FWHM, its known bit and present bit per band; pixel scale."""
    return 4 * n_bands + 1


def _border(images: Tensor, width: int) -> Tensor:
    """Return the pixels of the outermost `width` rows and columns, (..., p)."""
    inner = images[..., width:-width, :]
    parts = [images[..., :width, :], images[..., -width:, :], inner[..., :width], inner[..., -width:]]
    return torch.cat([part.flatten(-2) for part in parts], dim=-1)


def estimate_sigma(images: Tensor, mask: Tensor | None = None) -> Tensor:
    """Estimate the noise per pixel of each stamp and band from the border.

    The median absolute deviation of the unmasked border pixels (a frame of 1/12 of the side), taken again
    without the pixels beyond 3 sigma.

    Parameters
    ----------
    images : Tensor, (n, C, S, S), float32
        nJy per pixel.
    mask : bool Tensor of the same shape, optional
        True = missing.

    Returns
    -------
    Tensor, (n, C), float32
        nJy per pixel; NaN where the whole border is masked.
    """
    width = max(2, images.shape[-1] // 12)
    values = _border(images, width)
    if mask is not None:
        values = values.masked_fill(_border(mask, width), math.nan)
    ordered = _sorted(values)
    count = ordered.isfinite().sum(dim=-1, keepdim=True)
    deviation = _sorted((values - _middle(ordered, count)).abs_())
    limit = CLIP * MAD_TO_SIGMA * _middle(deviation, count)
    kept = (deviation <= limit).sum(dim=-1, keepdim=True)
    return MAD_TO_SIGMA * _middle(deviation, kept)[..., 0]


def _sorted(values: Tensor) -> Tensor:
    """Sort along the last axis, NaN last; on a CPU numpy does it seven times faster than torch."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(dim=-1).values


def _middle(ordered: Tensor, count: Tensor) -> Tensor:
    """Return the lower median of the first `count` (..., 1) of sorted values; NaN where there is none."""
    return ordered.gather(-1, (count - 1).clamp(min=0) // 2)


def normalise(images: Tensor, mask: Tensor | None, sigma: Tensor, softening: float) -> Tensor:
    """Return asinh(f / (k sigma)), 0 where masked or where sigma is unknown or zero.

    Parameters
    ----------
    images : Tensor, (n, C, S, S), float32
    mask : bool Tensor of the same shape, or None
    sigma : Tensor, (n, C)
    softening : float
        k of DESIGN section 2.
    """
    inverse = torch.where(sigma > 0, 1.0 / (softening * sigma), torch.zeros_like(sigma))
    scaled = images * inverse[:, :, None, None]
    if mask is not None:
        scaled = scaled.masked_fill(mask, 0.0)
    return scaled.square().add_(1.0).sqrt_().add_(scaled.abs()).log_().copysign_(scaled)


def scalar_inputs(sigma: Tensor, fwhm: Tensor, present: Tensor, pixel_scale: float | Tensor) -> Tensor:
    """Return the scalar inputs, (n, 4C + 1).

    Parameters
    ----------
    sigma : Tensor, (n, C)
        nJy per pixel; NaN or 0 where unknown.
    fwhm : Tensor, (n, C)
        Arcsec; NaN where unknown.
    present : bool Tensor, (n, C)
    pixel_scale : float or Tensor (n, 1)
        Arcsec per pixel.
    """
    zero = torch.zeros_like(sigma)
    log_sigma = torch.where(present & (sigma > 0), torch.log10(sigma / REFERENCE_SIGMA), zero)
    known = present & torch.isfinite(fwhm)
    seeing = torch.where(known, (fwhm - REFERENCE_FWHM) / REFERENCE_FWHM, zero)
    if not isinstance(pixel_scale, Tensor):
        pixel_scale = torch.full_like(sigma[:, :1], pixel_scale)
    scale = torch.log(pixel_scale / REFERENCE_SCALE)
    return torch.cat([log_sigma, seeing, known.float(), present.float(), scale], dim=1)


def aperture_snr(images: Tensor, mask: Tensor | None, sigma: Tensor, present: Tensor, pixel_scale: float) -> Tensor:
    """Return the signal-to-noise ratio of a stamp in its best band, (n,).

    Flux summed over the unmasked pixels within 2" of the frame's centre, divided by sqrt(pixels) sigma.  It
    counts all light in the aperture, that of the lens galaxy included, and the sky noise only.
    """
    size = images.shape[-1]
    reach = min(math.ceil(APERTURE / pixel_scale) + 1, size // 2)
    low, high = size // 2 - reach, size - size // 2 + reach
    offset = torch.arange(low, high, device=images.device, dtype=torch.float32) - (size - 1) / 2
    inside = (offset[:, None] ** 2 + offset[None, :] ** 2) * pixel_scale**2 <= APERTURE**2
    pixels = images[..., low:high, low:high]
    weight = inside.expand_as(pixels)
    if mask is not None:
        weight = weight & ~mask[..., low:high, low:high]
    flux = torch.where(weight, pixels, torch.zeros_like(pixels)).flatten(2).sum(dim=-1)
    count = weight.flatten(2).sum(dim=-1)
    usable = present & (sigma > 0) & (count > 0)
    ratio = torch.where(usable, flux / (count.float().sqrt() * sigma), torch.full_like(sigma, -math.inf))
    best = ratio.amax(dim=1)
    return torch.where(torch.isfinite(best), best, torch.full_like(best, math.nan))
