"""Light profiles: Sersic with the product-average radius, as lenstronomy writes it; sums of them, clumps, points.

I(r) = I_e exp(-b_n ((r / R)^(1/n) - 1)) with b_n = 1.9992 n - 0.3271 and r = sqrt(q x'^2 + y'^2 / q), so that
the ellipse that holds half of the light has the area pi R^2.  The composite profiles are surface brightnesses
(arcsec^-2) of total flux 1; evaluated at source positions behind a lens they give its lensed image.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from lensscan.lens.sie import SIE

__all__ = [
    "clumpy_sersic",
    "double_sersic",
    "elliptical_radius2",
    "gaussian",
    "point_images",
    "sersic",
    "sersic_b",
    "sersic_flux",
    "sersic_peak",
]

Number = TypeVar("Number", Tensor, NDArray[np.float64], float)
LEAST = -87.0  # smallest exponent: below it float32 is denormal, and exp ten times slower


def sersic_b(n: Number) -> Number:
    """Return b_n = 1.9992 n - 0.3271 (Capaccioli 1989), valid for 0.5 < n < 10; of tensors, arrays and numbers."""
    return 1.9992 * n - 0.3271


def elliptical_radius2(px: Tensor, py: Tensor, e1: Tensor, e2: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return q x'^2 + y'^2 / q (arcsec^2) about the centre `x`, `y`; x' runs along the major axis.

    Written without angles: with ``u = 1 / (1 - e^2)`` it is
    ``u ((1 + e^2) (dx^2 + dy^2) - 2 e1 (dx^2 - dy^2) - 4 e2 dx dy)``.
    """
    ee = e1 * e1 + e2 * e2
    u = 1 / (1 - ee)
    dx, dy = px - x, py - y
    return ((u * (1 + ee - 2 * e1)) * dx - (4 * u * e2) * dy) * dx + (u * (1 + ee + 2 * e1)) * dy * dy


def sersic(radius2: Tensor, half_light: Tensor, n: Tensor, floor: float = 1e-12) -> Tensor:
    """Return the Sersic profile in units of I_e.

    Parameters
    ----------
    radius2 : Tensor
        Squared elliptical radius, arcsec^2.
    half_light : Tensor
        Half-light radius R (product average), arcsec.
    n : Tensor
        Sersic index.
    floor : float
        Smallest squared radius (in units of R^2).
    """
    power = torch.exp(torch.log((radius2 / (half_light * half_light)).clamp_min(floor)) * (0.5 / n))
    return torch.exp((sersic_b(n) * (1 - power)).clamp_min(LEAST))


def sersic_flux(half_light: Tensor, n: Tensor) -> Tensor:
    """Return the total flux for I_e = 1: 2 pi n R^2 e^b b^(-2n) Gamma(2n) (Graham & Driver 2005, eq. 4)."""
    b = sersic_b(n)
    return 2 * math.pi * n * half_light * half_light * torch.exp(b - 2 * n * torch.log(b) + torch.lgamma(2 * n))


def sersic_peak(half_light: Tensor, n: Tensor) -> Tensor:
    """Return the central surface brightness of unit total flux, arcsec^-2."""
    return torch.exp(sersic_b(n)) / sersic_flux(half_light, n)


def gaussian(radius2: Tensor, size: Tensor) -> Tensor:
    """Return a round Gaussian of total flux 1 (arcsec^-2) at squared radii (arcsec^2); `size` is sigma, arcsec."""
    variance = size * size
    return torch.exp(-0.5 * radius2 / variance) / (2 * math.pi * variance)


def double_sersic(
    px: Tensor,
    py: Tensor,
    x: Tensor,
    y: Tensor,
    e1: Tensor,
    e2: Tensor,
    half_light: Tensor,
    n: Tensor,
    share: Tensor | float,
    floor: float = 1e-12,
) -> Tensor:
    """Return two Sersic profiles about one centre, as bulge and disc of a galaxy.

    Parameters
    ----------
    px, py : Tensor
        Positions, arcsec.
    x, y : Tensor
        Centre, arcsec; they broadcast against the positions.
    e1, e2, half_light, n : Tensor, shape (..., 2)
        Ellipticity, half-light radius (arcsec) and index of both; without the last axis they broadcast like `x`.
    share : Tensor or float
        Fraction of the flux in the first.
    floor : float
        As in `sersic`.
    """
    light = []
    for a, b, radius, index in zip(*(v.unbind(-1) for v in (e1, e2, half_light, n)), strict=True):
        profile = sersic(elliptical_radius2(px, py, a, b, x, y), radius, index, floor)
        light.append(profile / sersic_flux(radius, index))
    return share * light[0] + (1 - share) * light[1]


def clumpy_sersic(
    px: Tensor,
    py: Tensor,
    x: Tensor,
    y: Tensor,
    e1: Tensor,
    e2: Tensor,
    half_light: Tensor,
    n: Tensor,
    clumps: tuple[Tensor, Tensor, Tensor, Tensor],
    floor: float = 1e-12,
) -> Tensor:
    """Return a Sersic profile with round Gaussian clumps, as a galaxy that forms stars.

    Parameters
    ----------
    px, py : Tensor
        Positions, arcsec.
    x, y, e1, e2, half_light, n : Tensor
        Centre (arcsec), ellipticity, half-light radius (arcsec) and index; they broadcast against the positions.
    clumps : tuple of Tensor, each of shape (..., K)
        x, y (arcsec from the centre of the Sersic), sigma (arcsec) and fraction of the total flux of K clumps;
        without the last axis they broadcast like `x`.  The Sersic has what the clumps leave; K may be 0.
    floor : float
        As in `sersic`.
    """
    share = 1 - clumps[3].sum(dim=-1)
    light = sersic(elliptical_radius2(px, py, e1, e2, x, y), half_light, n, floor) * (
        share / sersic_flux(half_light, n)
    )
    dx, dy = px - x, py - y
    for cx, cy, size, part in zip(*(v.unbind(-1) for v in clumps), strict=True):
        light = light + part * gaussian((dx - cx) ** 2 + (dy - cy) ** 2, size)
    return light


def point_images(
    lens: SIE, sx: Tensor, sy: Tensor, flux: Tensor | float = 1.0, limit: float = math.inf
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the images of point sources, ready to be multiplied into a PSF.

    Parameters
    ----------
    lens : SIE
        Lenses; their parameters broadcast against the sources.
    sx, sy : Tensor
        Source positions, arcsec.
    flux : Tensor or float
        Unlensed flux; broadcasts against the sources.
    limit : float
        Largest magnification of an image; a real source has a size, which bounds it (beside a caustic a point's
        diverges).

    Returns
    -------
    tuple of Tensor, each of shape (..., `lensscan.lens.solver.MOST_IMAGES`)
        x, y (arcsec) and flux of the images by order of arrival, in the precision of `sx`.  Unused places have
        flux 0 and the position of the lens: they add nothing.  So has a source exactly behind a round lens.
    """
    images = lens.images(sx, sy)
    found = torch.isfinite(images.x)
    brightness = images.magnification.abs().clamp(max=limit) * (flux[..., None] if isinstance(flux, Tensor) else flux)
    x = torch.where(found, images.x, lens.x[..., None].to(images.x))
    y = torch.where(found, images.y, lens.y[..., None].to(images.y))
    return x.to(sx.dtype), y.to(sx.dtype), torch.where(found, brightness, 0.0).to(sx.dtype)
