"""Normalisation of stamps: asinh(f / (k sigma)) per band, and the scalar inputs that undo the loss.

Everything here is a function of one stamp alone, the same bits for any neighbours, and never looks at the
brightest pixel (DESIGN section 2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lensscan.survey.noise import estimate_sigma

__all__ = ["aperture_snr", "estimate_sigma", "n_scalars", "normalise", "scalar_inputs"]

REFERENCE_SIGMA = 10.0
REFERENCE_FWHM = 1.0
REFERENCE_SCALE = 0.2
APERTURE = 2.0


def n_scalars(n_bands: int) -> int:
    """Return the number of scalars: log sigma, FWHM, its known bit and present bit per band; pixel scale."""
    return 4 * n_bands + 1


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
