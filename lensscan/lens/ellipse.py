"""What elliptical mass profiles share: axes, elliptical radius, external shear, magnification."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["TINY", "axes", "elliptical_frame", "magnification", "sheared", "sheared_potential"]

TINY = 1e-30


def axes(e1: Tensor, e2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the axis ratio q = (1-e)/(1+e) and the cosine and sine of the major axis' angle."""
    e = torch.sqrt(e1 * e1 + e2 * e2)
    phi = 0.5 * torch.atan2(e2, e1)
    return (1 - e) / (1 + e), torch.cos(phi), torch.sin(phi)


def elliptical_frame(dx: Tensor, dy: Tensor, q: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return x' and y' along the axes (arcsec, about the centre) and sqrt(q^2 x'^2 + y'^2), never zero."""
    major = cos * dx + sin * dy
    minor = cos * dy - sin * dx
    return major, minor, torch.sqrt((q * major) ** 2 + minor * minor).clamp_min(TINY)


def sheared(
    ax: Tensor, ay: Tensor, dx: Tensor, dy: Tensor, gamma1: Tensor | float, gamma2: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Return a deflection (arcsec) with that of an external shear about the centre, from which `dx`, `dy` count."""
    return ax + gamma1 * dx + gamma2 * dy, ay + gamma2 * dx - gamma1 * dy


def sheared_potential(psi: Tensor, dx: Tensor, dy: Tensor, gamma1: Tensor | float, gamma2: Tensor | float) -> Tensor:
    """Return a potential (arcsec^2) with that of an external shear; the other arguments as `sheared`."""
    return psi + 0.5 * gamma1 * (dx * dx - dy * dy) + gamma2 * dx * dy


def magnification(f_xx: Tensor, f_xy: Tensor, f_yy: Tensor) -> Tensor:
    """Return the signed magnification 1 / det A of a point source (negative = saddle) from the potential's hessian."""
    return 1 / ((1 - f_xx) * (1 - f_yy) - f_xy * f_xy)
