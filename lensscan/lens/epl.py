"""Elliptical power law with external shear (Tessore & Metcalf 2015, A&A 580, A79).

Convention: kappa = (3 - slope) / 2 (theta_E / sqrt(q x'^2 + y'^2 / q))^(slope - 1) with x'
along the major axis and `slope` the exponent of the density in space; slope 2 is the isothermal ellipsoid of
`lensscan.lens.sie`, to rounding.  theta_E is the product-average Einstein radius, ellipticity and shear are
those of the SIE, all lengths in arcsec.

With t = slope - 1, e = (1-q)/(1+q) and q x' + i y' = R exp(i phi) the deflection is (their eqs. 22 and 23)::

    alpha = sqrt(1 - e^2) theta_E (sqrt(q) theta_E / R)^(t - 1) exp(i phi) sum_n a_n exp(2 i n phi),
    a_n = -e (2n - 2 + t) / (2n + 2 - t) a_(n-1),  a_0 = 1.

The coefficients are real and belong to the lens, so the sum costs two operations a position and term by
Clenshaw's recurrence.  |a_n| < e^n, which fixes the number of terms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lensscan.lens.ellipse import TINY, axes, elliptical_frame

__all__ = ["convergence", "deflection", "hessian", "magnification", "potential", "series_terms"]

ACCURACY = {torch.float32: 1e-8, torch.float64: 1e-16}
"""What the terms left out may add up to, relative to the deflection."""
FLATTEST = 0.99
"""Ellipticity (q = 0.005) beyond which no more terms are taken."""


def series_terms(e: float, dtype: torch.dtype = torch.float64) -> int:
    """Return how many terms of the angular series serve ellipticities up to `e` in the precision of `dtype`.

    The rest of the series is below ``e^N / (1 - e)``.
    """
    e = min(e, FLATTEST)
    limit = ACCURACY.get(dtype, ACCURACY[torch.float32]) * (1 - e)
    return max(2, math.ceil(math.log(limit) / math.log(e))) if e > 0 else 2


def _series(cos: Tensor, sin: Tensor, e: Tensor, t: Tensor | float, terms: int) -> tuple[Tensor, Tensor]:
    """Return real and imaginary part of sum_n a_n exp(2 i n phi) at cos, sin of the angle phi."""
    factors = [-e * ((2 * n - 2 + t) / (2 * n + 2 - t)) for n in range(1, terms)]
    coefficients = [torch.ones_like(factors[0])]
    for factor in factors:
        coefficients.append(coefficients[-1] * factor)
    cos2, sin2 = (cos - sin) * (cos + sin), 2 * sin * cos
    double = 2 * cos2
    below, here = torch.zeros_like(double), coefficients[-1]
    for a in reversed(coefficients[1:-1]):
        below, here = here, torch.addcmul(a - below, double, here)
    return 1 + cos2 * here - below, sin2 * here


def _bare_deflection(
    dx: Tensor, dy: Tensor, theta_E: Tensor, e1: Tensor, e2: Tensor, slope: Tensor | float, terms: int | None
) -> tuple[Tensor, Tensor]:
    """Return the deflection without shear at positions about the centre."""
    if terms is None:
        e = torch.sqrt(e1 * e1 + e2 * e2)
        terms = series_terms(float(torch.nan_to_num(e, nan=0.0).max()) if e.numel() else 0.0, dx.dtype)
    q, turn_cos, turn_sin = axes(e1, e2)
    major, minor, radius = elliptical_frame(dx, dy, q, turn_cos, turn_sin)
    e, t = (1 - q) / (1 + q), slope - 1
    cos, sin = q * major / radius, minor / radius
    real, imaginary = _series(cos, sin, e, t, max(terms, 2))
    size = torch.sqrt((1 - e) * (1 + e)) * theta_E * (torch.sqrt(q) * theta_E / radius) ** (t - 1)
    a_major, a_minor = size * (cos * real - sin * imaginary), size * (sin * real + cos * imaginary)
    return turn_cos * a_major - turn_sin * a_minor, turn_sin * a_major + turn_cos * a_minor


def deflection(
    px: Tensor,
    py: Tensor,
    theta_E: Tensor,
    e1: Tensor,
    e2: Tensor,
    x: Tensor,
    y: Tensor,
    gamma1: Tensor | float,
    gamma2: Tensor | float,
    slope: Tensor | float,
    terms: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the deflection angle.

    Parameters
    ----------
    px, py : Tensor
        Image-plane positions, arcsec.
    theta_E, e1, e2, x, y : Tensor
        Einstein radius (arcsec), ellipticity, centre (arcsec); they broadcast against the positions.
    gamma1, gamma2 : Tensor or float
        External shear about the lens centre.
    slope : Tensor or float
        Exponent of the density in space, between 1 and 3.
    terms : int, optional
        Terms of the angular series.  None: as `series_terms` of the largest ellipticity, which is read back
        from the device; give a number to avoid that wait.

    Returns
    -------
    tuple of Tensor
        alpha_x, alpha_y in arcsec; source position = image position - alpha.  Zero at the very centre.
    """
    dx, dy = px - x, py - y
    ax, ay = _bare_deflection(dx, dy, theta_E, e1, e2, slope, terms)
    return ax + gamma1 * dx + gamma2 * dy, ay + gamma2 * dx - gamma1 * dy


def potential(
    px: Tensor,
    py: Tensor,
    theta_E: Tensor,
    e1: Tensor,
    e2: Tensor,
    x: Tensor,
    y: Tensor,
    gamma1: Tensor | float,
    gamma2: Tensor | float,
    slope: Tensor | float,
    terms: int | None = None,
) -> Tensor:
    """Return the lensing potential in arcsec^2 (zero at the centre); arguments as `deflection`.

    Without shear it is theta . alpha / (3 - slope), because it scales as radius^(3 - slope).
    """
    dx, dy = px - x, py - y
    ax, ay = _bare_deflection(dx, dy, theta_E, e1, e2, slope, terms)
    return (dx * ax + dy * ay) / (3 - slope) + 0.5 * gamma1 * (dx * dx - dy * dy) + gamma2 * dx * dy


def convergence(
    px: Tensor, py: Tensor, theta_E: Tensor, e1: Tensor, e2: Tensor, x: Tensor, y: Tensor, slope: Tensor | float
) -> Tensor:
    """Return kappa, the surface density in units of the critical one; arguments as `deflection`."""
    q, cos, sin = axes(e1, e2)
    radius = elliptical_frame(px - x, py - y, q, cos, sin)[2]
    return 0.5 * (3 - slope) * (theta_E * torch.sqrt(q) / radius) ** (slope - 1)


def hessian(
    px: Tensor,
    py: Tensor,
    theta_E: Tensor,
    e1: Tensor,
    e2: Tensor,
    x: Tensor,
    y: Tensor,
    gamma1: Tensor | float,
    gamma2: Tensor | float,
    slope: Tensor | float,
    terms: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the second derivatives f_xx, f_xy, f_yy of the potential; arguments as `deflection`.

    The lens's own shear at polar angle theta and distance r is
    ``(2 - slope) exp(i theta) alpha / r - kappa exp(2 i theta)``: closed, given alpha.
    """
    dx, dy = px - x, py - y
    ax, ay = _bare_deflection(dx, dy, theta_E, e1, e2, slope, terms)
    kappa = convergence(dx, dy, theta_E, e1, e2, torch.zeros_like(x), torch.zeros_like(y), slope)
    r2 = (dx * dx + dy * dy).clamp_min(TINY)
    tilt = (2 - slope) / r2
    own1 = tilt * (ax * dx - ay * dy) - kappa * ((dx - dy) * (dx + dy) / r2)
    own2 = tilt * (ay * dx + ax * dy) - kappa * (2 * dx * dy / r2)
    return kappa + own1 + gamma1, own2 + gamma2, kappa - own1 - gamma1


def magnification(
    px: Tensor,
    py: Tensor,
    theta_E: Tensor,
    e1: Tensor,
    e2: Tensor,
    x: Tensor,
    y: Tensor,
    gamma1: Tensor | float,
    gamma2: Tensor | float,
    slope: Tensor | float,
    terms: int | None = None,
) -> Tensor:
    """Return the signed point-source magnification 1 / det A (negative = saddle); arguments as `deflection`."""
    f_xx, f_xy, f_yy = hessian(px, py, theta_E, e1, e2, x, y, gamma1, gamma2, slope, terms)
    return 1 / ((1 - f_xx) * (1 - f_yy) - f_xy * f_xy)
