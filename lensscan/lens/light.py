"""Light profiles: Sersic with the product-average radius, as lenstronomy writes it.

I(r) = I_e exp(-b_n ((r / R)^(1/n) - 1)) with b_n = 1.9992 n - 0.3271 and r = sqrt(q x'^2 + y'^2 / q), so that
the ellipse that holds half of the light has the area pi R^2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["elliptical_radius2", "sersic", "sersic_b", "sersic_flux", "sersic_peak"]


def sersic_b(n: Tensor) -> Tensor:
    """Return b_n = 1.9992 n - 0.3271 (Capaccioli 1989), valid for 0.5 < n < 10."""
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
    return torch.exp(sersic_b(n) * (1 - power))


def sersic_flux(half_light: Tensor, n: Tensor) -> Tensor:
    """Return the total flux for I_e = 1: 2 pi n R^2 e^b b^(-2n) Gamma(2n) (Graham & Driver 2005, eq. 4)."""
    b = sersic_b(n)
    return 2 * math.pi * n * half_light * half_light * torch.exp(b - 2 * n * torch.log(b) + torch.lgamma(2 * n))


def sersic_peak(half_light: Tensor, n: Tensor) -> Tensor:
    """Return the central surface brightness of unit total flux, arcsec^-2."""
    return torch.exp(sersic_b(n)) / sersic_flux(half_light, n)
