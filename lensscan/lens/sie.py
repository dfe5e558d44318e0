"""Singular isothermal ellipsoid with external shear, in closed form.

Convention (docs/datamodel.md): kappa = (theta_E / 2) / sqrt(q x'^2 + y'^2 / q) with x' along the major axis,
theta_E the product-average Einstein radius, ``e1, e2 = (1-q)/(1+q) (cos 2 phi, sin 2 phi)``, all lengths in
arcsec.  The shear acts about the centre of the lens, so that a shift of lens and source shifts everything.

Formulae: Kormann, Schneider & Bartelmann 1994 (A&A 284, 285), in the form of Keeton 2001
(arXiv:astro-ph/0102341, section 3.3 with zero core).  Every function broadcasts its arguments and works in
the precision of the positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lensscan.lens import ellipse
from lensscan.lens.ellipse import TINY, axes, elliptical_frame, sheared, sheared_potential

if TYPE_CHECKING:
    from astropy.cosmology import FLRW

    from lensscan.lens.solver import Images

__all__ = ["SIE", "convergence", "deflection", "hessian", "magnification", "potential"]


def deflection(
    px: Tensor,
    py: Tensor,
    theta_E: Tensor,
    e1: Tensor,
    e2: Tensor,
    x: Tensor,
    y: Tensor,
    gamma1: Tensor | float = 0.0,
    gamma2: Tensor | float = 0.0,
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

    Returns
    -------
    tuple of Tensor
        alpha_x, alpha_y in arcsec; source position = image position - alpha.  Zero at the very centre.
    """
    q, cos, sin = axes(e1, e2)
    dx, dy = px - x, py - y
    major, minor, psi = elliptical_frame(dx, dy, q, cos, sin)
    f = torch.sqrt((1 - q) * (1 + q)).clamp_min(1e-12)  # atan(f u) / f -> u: exact in floating point for round lenses
    scale = theta_E * torch.sqrt(q) / f
    a_major = scale * torch.atan(f * major / psi)
    a_minor = scale * torch.atanh((f * minor / psi).clamp(-1 + 1e-15, 1 - 1e-15))
    return sheared(cos * a_major - sin * a_minor, sin * a_major + cos * a_minor, dx, dy, gamma1, gamma2)


def potential(
    px: Tensor,
    py: Tensor,
    theta_E: Tensor,
    e1: Tensor,
    e2: Tensor,
    x: Tensor,
    y: Tensor,
    gamma1: Tensor | float = 0.0,
    gamma2: Tensor | float = 0.0,
) -> Tensor:
    """Return the lensing potential in arcsec^2 (zero at the centre); arguments as `deflection`."""
    ax, ay = deflection(px, py, theta_E, e1, e2, x, y)
    dx, dy = px - x, py - y
    return sheared_potential(dx * ax + dy * ay, dx, dy, gamma1, gamma2)


def convergence(px: Tensor, py: Tensor, theta_E: Tensor, e1: Tensor, e2: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return kappa, the surface density in units of the critical one; arguments as `deflection`."""
    q, cos, sin = axes(e1, e2)
    psi = elliptical_frame(px - x, py - y, q, cos, sin)[2]
    return 0.5 * theta_E * torch.sqrt(q) / psi


def hessian(
    px: Tensor,
    py: Tensor,
    theta_E: Tensor,
    e1: Tensor,
    e2: Tensor,
    x: Tensor,
    y: Tensor,
    gamma1: Tensor | float = 0.0,
    gamma2: Tensor | float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the second derivatives f_xx, f_xy, f_yy of the potential; arguments as `deflection`.

    The shear of an isothermal ellipse is -kappa exp(2 i theta) with theta the polar angle about the centre.
    """
    dx, dy = px - x, py - y
    kappa = convergence(px, py, theta_E, e1, e2, x, y)
    scale = 2 * kappa / (dx * dx + dy * dy).clamp_min(TINY)
    return scale * dy * dy + gamma1, -scale * dx * dy + gamma2, scale * dx * dx - gamma1


def magnification(
    px: Tensor,
    py: Tensor,
    theta_E: Tensor,
    e1: Tensor,
    e2: Tensor,
    x: Tensor,
    y: Tensor,
    gamma1: Tensor | float = 0.0,
    gamma2: Tensor | float = 0.0,
) -> Tensor:
    """Return the signed point-source magnification 1 / det A (negative = saddle); arguments as `deflection`."""
    return ellipse.magnification(*hessian(px, py, theta_E, e1, e2, x, y, gamma1, gamma2))


def _tensor(value: object, dtype: torch.dtype) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=dtype)


@dataclass(frozen=True, slots=True, init=False)
class SIE:
    """A batch of isothermal ellipsoids with external shear about their centres.

    Parameters
    ----------
    theta_E : Tensor, array or float
        Product-average Einstein radius, arcsec.
    e1, e2 : Tensor, array or float
        Ellipticity (1-q)/(1+q) along and at 45 degrees to +x, of the major axis.
    x, y : Tensor, array or float
        Centre, arcsec.
    gamma1, gamma2 : Tensor, array or float
        External shear.

    Notes
    -----
    Parameters broadcast against each other and against the positions.  Floats and arrays become float64.

    Examples
    --------
    >>> lens = SIE(1.0, 0.0, 0.0, 0.0, 0.0)
    >>> [float(a) for a in lens.deflection(2.0, 0.0)]
    [1.0, 0.0]
    """

    theta_E: Tensor
    e1: Tensor
    e2: Tensor
    x: Tensor
    y: Tensor
    gamma1: Tensor
    gamma2: Tensor

    def __init__(
        self, theta_E: object, e1: object, e2: object, x: object, y: object, gamma1: object = 0.0, gamma2: object = 0.0
    ) -> None:
        values = (theta_E, e1, e2, x, y, gamma1, gamma2)
        dtype = next((v.dtype for v in values if isinstance(v, Tensor)), torch.float64)
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, name, _tensor(value, dtype))

    def _arguments(self, px: object, py: object) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        dtype = self.theta_E.dtype
        return (_tensor(px, dtype), _tensor(py, dtype), self.theta_E, self.e1, self.e2, self.x, self.y)

    def deflection(self, px: object, py: object) -> tuple[Tensor, Tensor]:
        """Return alpha_x, alpha_y (arcsec) at image positions `px`, `py` (arcsec)."""
        return deflection(*self._arguments(px, py), self.gamma1, self.gamma2)

    def source(self, px: object, py: object) -> tuple[Tensor, Tensor]:
        """Return the source-plane position (arcsec) of image positions `px`, `py` (arcsec)."""
        px, py = self._arguments(px, py)[:2]
        ax, ay = self.deflection(px, py)
        return px - ax, py - ay

    def potential(self, px: object, py: object) -> Tensor:
        """Return the potential (arcsec^2) at `px`, `py` (arcsec)."""
        return potential(*self._arguments(px, py), self.gamma1, self.gamma2)

    def hessian(self, px: object, py: object) -> tuple[Tensor, Tensor, Tensor]:
        """Return f_xx, f_xy, f_yy at `px`, `py` (arcsec)."""
        return hessian(*self._arguments(px, py), self.gamma1, self.gamma2)

    def convergence(self, px: object, py: object) -> Tensor:
        """Return kappa at `px`, `py` (arcsec)."""
        return convergence(*self._arguments(px, py))

    def magnification(self, px: object, py: object) -> Tensor:
        """Return the signed magnification at `px`, `py` (arcsec)."""
        return magnification(*self._arguments(px, py), self.gamma1, self.gamma2)

    def images(self, sx: object, sy: object) -> Images:
        """Return all images of point sources at `sx`, `sy` (arcsec, source plane), ordered by arrival time."""
        from lensscan.lens.solver import solve

        return solve(self, _tensor(sx, self.theta_E.dtype), _tensor(sy, self.theta_E.dtype))

    def time_delays(
        self, sx: object, sy: object, z_lens: object, z_source: object, cosmology: FLRW | None = None
    ) -> Tensor:
        """Return delays t_i - t_1 in days (observer frame), NaN-padded, in the order of `images`."""
        from lensscan.lens.cosmology import time_delay_scale

        images = self.images(sx, sy)
        scale = _tensor(time_delay_scale(z_lens, z_source, cosmology), torch.float64).to(images.fermat)
        return (images.fermat - images.fermat[..., :1]) * scale[..., None]
