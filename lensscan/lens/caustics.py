"""Critical curves, caustics and the cut of isothermal ellipses with shear, in closed form.

With Gamma the shear matrix, M = (1 - Gamma)^-1, e the unit vector of the polar angle phi about the lens and
e_perp at right angles to it, the Jacobian of an isothermal ellipse is ``1 - Gamma - (b / (psi r)) e_perp
e_perp^T`` (psi(phi) of Kormann et al. 1994, b = theta_E sqrt q).  The matrix determinant lemma gives
``det A = det(1 - Gamma) (1 - (b / (psi r)) e_perp^T M e_perp)``, so the critical curve is the single closed
curve ``r(phi) = (b / psi) e_perp^T M e_perp``, and the caustic is its image in the source plane.  The radial
caustic of a lens without a core is the cut, -alpha(phi): a source that crosses it gains or loses one image
at the centre.  All lengths are in arcsec; shears must be below 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lensscan.lens.sie import SIE

__all__ = ["caustic", "critical_curve", "cut", "image_number"]

POINTS = 361


def critical_curve(lens: SIE, points: int = POINTS) -> tuple[Tensor, Tensor]:
    """Return the critical curve, where the magnification is infinite.

    Parameters
    ----------
    lens : SIE
        Lenses of any shape (...).
    points : int
        Points of the curve; the last repeats the first.

    Returns
    -------
    tuple of Tensor, each (..., points)
        x, y in arcsec, counter-clockwise from +x.  Without shear: the ellipse with half axes theta_E / sqrt q
        along phi and theta_E sqrt q.
    """
    wide, cos, sin = _wide(lens, points)
    radius = _critical_radius(wide, cos, sin)
    return wide.x + radius * cos, wide.y + radius * sin


def caustic(lens: SIE, points: int = POINTS) -> tuple[Tensor, Tensor]:
    """Return the caustic (tangential, with four or more cusps; a point for a round lens without shear).

    Parameters and returned shapes as `critical_curve`, in the source plane.  A source that enters it gains
    two images.
    """
    wide, cos, sin = _wide(lens, points)
    radius = _critical_radius(wide, cos, sin)
    return wide.source(wide.x + radius * cos, wide.y + radius * sin)


def cut(lens: SIE, points: int = POINTS) -> tuple[Tensor, Tensor]:
    """Return the cut, the radial caustic of a lens without a core.

    Parameters and returned shapes as `critical_curve`, in the source plane.  A source outside has one image
    fewer than inside.  Shear about the lens leaves it as it is.
    """
    from lensscan.lens.sie import SIE

    wide, cos, sin = _wide(lens, points)
    alpha_x, alpha_y = SIE(wide.theta_E, wide.e1, wide.e2, 0.0, 0.0).deflection(cos, sin)
    return wide.x - alpha_x, wide.y - alpha_y


def image_number(lens: SIE, sx: Tensor, sy: Tensor, points: int = 4001) -> Tensor:
    """Return the number of images of sources, by how often caustic and cut wind round them.

    This needs no image position: a check of `lensscan.lens.solver`, which must agree wherever the source lies
    further from the curves than their polygons do (about theta_E / points^2).

    Parameters
    ----------
    lens : SIE
    sx, sy : Tensor
        Source positions, arcsec; they broadcast against the lenses.
    points : int
        Corners of the polygons.

    Returns
    -------
    Tensor of int64
        ``1 + w(cut) - 2 w(caustic)`` by degree theory; w counts turns, counter-clockwise.
    """
    turns = [_winding(curve(lens, points), sx, sy) for curve in (cut, caustic)]
    return 1 + turns[0] - 2 * turns[1]


def _wide(lens: SIE, points: int) -> tuple[SIE, Tensor, Tensor]:
    """Return the lenses with one more axis, and cosine and sine of the polar angles along it."""
    from lensscan.lens.sie import SIE

    names = ("theta_E", "e1", "e2", "x", "y", "gamma1", "gamma2")
    columns = torch.broadcast_tensors(*(getattr(lens, name) for name in names))
    wide = SIE(*(column[..., None] for column in columns))
    phi = torch.linspace(0, 2 * torch.pi, points, dtype=wide.theta_E.dtype, device=wide.theta_E.device)
    return wide, torch.cos(phi), torch.sin(phi)


def _critical_radius(lens: SIE, cos: Tensor, sin: Tensor) -> Tensor:
    """Return r(phi); 2 kappa of the unit circle is b / psi, because kappa falls as 1 / r."""
    bend = 2 * lens.convergence(lens.x + cos, lens.y + sin)
    det = 1 - lens.gamma1**2 - lens.gamma2**2
    across = (1 + lens.gamma1) * sin**2 - 2 * lens.gamma2 * sin * cos + (1 - lens.gamma1) * cos**2
    return bend * across / det


def _winding(curve: tuple[Tensor, Tensor], sx: Tensor, sy: Tensor) -> Tensor:
    x, y = curve[0] - sx[..., None], curve[1] - sy[..., None]
    cross = x[..., :-1] * y[..., 1:] - x[..., 1:] * y[..., :-1]
    dot = x[..., :-1] * x[..., 1:] + y[..., :-1] * y[..., 1:]
    turns = torch.atan2(cross, dot).sum(dim=-1) / (2 * torch.pi)
    return torch.round(turns).to(torch.int64)
