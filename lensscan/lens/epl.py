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
from dataclasses import dataclass

import torch
from torch import Tensor

from lensscan.lens.ellipse import TINY, axes, elliptical_frame, magnification, sheared, sheared_potential

__all__ = ["EPL", "series_terms"]

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


@dataclass(frozen=True, slots=True)
class EPL:
    """A batch of elliptical power laws with external shear about their centres.

    Parameters
    ----------
    theta_E, e1, e2, x, y : Tensor
        Einstein radius (arcsec), ellipticity, centre (arcsec); they broadcast against the positions.
    gamma1, gamma2 : Tensor or float
        External shear.
    slope : Tensor or float
        Exponent of the density in space, between 1 and 3.
    terms : int, optional
        Terms of the angular series.  None: as `series_terms` of the largest ellipticity, which is read back
        from the device; give a number to avoid that wait.

    Examples
    --------
    >>> one, zero = torch.tensor(1.0), torch.tensor(0.0)
    >>> lens = EPL(one, zero, zero, zero, zero, slope=1.5)
    >>> [float(a) for a in lens.deflection(torch.tensor(4.0), zero)]
    [2.0, 0.0]
    """

    theta_E: Tensor
    e1: Tensor
    e2: Tensor
    x: Tensor
    y: Tensor
    gamma1: Tensor | float = 0.0
    gamma2: Tensor | float = 0.0
    slope: Tensor | float = 2.0
    terms: int | None = None

    def _bare_deflection(self, dx: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        """Return the deflection without shear at positions about the centre."""
        terms, theta_E = self.terms, self.theta_E
        if terms is None:
            e = torch.sqrt(self.e1 * self.e1 + self.e2 * self.e2)
            terms = series_terms(float(torch.nan_to_num(e, nan=0.0).max()) if e.numel() else 0.0, dx.dtype)
        q, turn_cos, turn_sin = axes(self.e1, self.e2)
        major, minor, radius = elliptical_frame(dx, dy, q, turn_cos, turn_sin)
        e, t = (1 - q) / (1 + q), self.slope - 1
        cos, sin = q * major / radius, minor / radius
        real, imaginary = _series(cos, sin, e, t, max(terms, 2))
        size = torch.sqrt((1 - e) * (1 + e)) * theta_E * (torch.sqrt(q) * theta_E / radius) ** (t - 1)
        a_major, a_minor = size * (cos * real - sin * imaginary), size * (sin * real + cos * imaginary)
        return turn_cos * a_major - turn_sin * a_minor, turn_sin * a_major + turn_cos * a_minor

    def deflection(self, px: Tensor, py: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha_x, alpha_y (arcsec) at image positions `px`, `py` (arcsec); zero at the very centre."""
        dx, dy = px - self.x, py - self.y
        return sheared(*self._bare_deflection(dx, dy), dx, dy, self.gamma1, self.gamma2)

    def potential(self, px: Tensor, py: Tensor) -> Tensor:
        """Return the potential (arcsec^2, zero at the centre) at `px`, `py` (arcsec).

        Without shear it is theta . alpha / (3 - slope), because it scales as radius^(3 - slope).
        """
        dx, dy = px - self.x, py - self.y
        ax, ay = self._bare_deflection(dx, dy)
        return sheared_potential((dx * ax + dy * ay) / (3 - self.slope), dx, dy, self.gamma1, self.gamma2)

    def convergence(self, px: Tensor, py: Tensor) -> Tensor:
        """Return kappa, the surface density in units of the critical one, at `px`, `py` (arcsec)."""
        q, cos, sin = axes(self.e1, self.e2)
        radius = elliptical_frame(px - self.x, py - self.y, q, cos, sin)[2]
        return 0.5 * (3 - self.slope) * (self.theta_E * torch.sqrt(q) / radius) ** (self.slope - 1)

    def hessian(self, px: Tensor, py: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the second derivatives f_xx, f_xy, f_yy of the potential at `px`, `py` (arcsec).

        The lens's own shear at polar angle theta and distance r is
        ``(2 - slope) exp(i theta) alpha / r - kappa exp(2 i theta)``: closed, given alpha.
        """
        dx, dy = px - self.x, py - self.y
        ax, ay = self._bare_deflection(dx, dy)
        kappa = self.convergence(px, py)
        r2 = (dx * dx + dy * dy).clamp_min(TINY)
        tilt = (2 - self.slope) / r2
        own1 = tilt * (ax * dx - ay * dy) - kappa * ((dx - dy) * (dx + dy) / r2)
        own2 = tilt * (ay * dx + ax * dy) - kappa * (2 * dx * dy / r2)
        return kappa + own1 + self.gamma1, own2 + self.gamma2, kappa - own1 - self.gamma1

    def magnification(self, px: Tensor, py: Tensor) -> Tensor:
        """Return the signed point-source magnification (negative = saddle) at `px`, `py` (arcsec)."""
        return magnification(*self.hessian(px, py))
