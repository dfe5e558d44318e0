"""Rays through a lens to the brightness of a source: coefficients once a row, then few operations a ray.

Everything happens in the frame of the lens's axes, where the deflection needs no angles.  What belongs to a row
(axes, shear, the source's quadratic form, logarithms of its normalisation) is worked out once before; a ray then
costs a root, two inverse functions and the exponentials of the profile.  Formulae: `lensscan.lens.sie`,
`lensscan.lens.epl` and `lensscan.lens.light`, which the tests compare with.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lensscan.lens.ellipse import TINY, axes
from lensscan.lens.light import sersic_b, sersic_flux
from lensscan.mocks.library import SourceLibrary

__all__ = [
    "ISOTHERMAL",
    "axis_table",
    "coordinates",
    "image_light",
    "lens_table",
    "light_table",
    "source_light",
    "source_positions",
]

FRAME = 13  # columns of every lens table: four maps of three numbers, and q^2
ISOTHERMAL = FRAME + 2  # columns of a lens table without a series
FLOOR = 1e-6  # smallest squared radius, in half-light radii squared: no cusp is finer
FAINT = -126.0  # log2 of what counts as dark: smaller numbers are denormal, and ten times slower


def coordinates(pixels: int, rays: int, pixel_scale: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the rays' positions along an axis, arcsec from the grid's centre, shape (rays * pixels,).

    Ray k of pixel p comes at ``k * pixels + p``: the sum over the rays of a pixel then runs over outer axes.
    """
    centres = torch.arange(pixels, dtype=torch.float64) - (pixels - 1) / 2
    offsets = (torch.arange(rays, dtype=torch.float64) - (rays - 1) / 2) / rays
    return ((offsets[:, None] + centres).flatten() * pixel_scale).to(device, dtype)


def lens_table(mass: Tensor, sx: Tensor, sy: Tensor, terms: int = 0) -> Tensor:
    """Return the coefficients of lenses whose rays are measured from the sources' centres.

    Parameters
    ----------
    mass : Tensor, shape (m, 7) or (m, 8)
        theta_E, e1, e2, x, y, gamma1, gamma2 and, if `terms`, the slope; arcsec.
    sx, sy : Tensor, shape (m,)
        Source centres, arcsec, same origin as x, y.
    terms : int
        Terms of the angular series of power laws; 0 = isothermal.

    Returns
    -------
    Tensor, shape (m, 15) or (m, 15 + terms)
    """
    theta_E, e1, e2, x, y, gamma1, gamma2 = mass[:, :7].unbind(1)
    q, cos, sin = axes(e1, e2)
    cos2, sin2 = (cos - sin) * (cos + sin), 2 * cos * sin
    along, across = gamma1 * cos2 + gamma2 * sin2, gamma2 * cos2 - gamma1 * sin2
    major = cos, sin, -(cos * x + sin * y)
    minor = -sin, cos, sin * x - cos * y
    su, sv = cos * (sx - x) + sin * (sy - y), cos * (sy - y) - sin * (sx - x)
    u = [(1 - along) * a - across * b for a, b in zip(major, minor, strict=True)]
    v = [(1 + along) * b - across * a for a, b in zip(major, minor, strict=True)]
    u[2], v[2] = u[2] - su, v[2] - sv
    columns = [*major, *minor, *u, *v, q * q]
    if not terms:
        f = torch.sqrt((1 - q) * (1 + q)).clamp(1e-12, 1 - 1e-6)
        return torch.stack([*columns, f, theta_E * torch.sqrt(q) / f], dim=1)
    e, t = (1 - q) / (1 + q), mass[:, 7] - 1
    size = torch.sqrt((1 - e) * (1 + e)) * q ** (0.5 * (t - 1)) * theta_E**t
    columns += [q, size, 0.5 * (1 - t)]
    coefficient = torch.ones_like(e)
    for n in range(1, terms):
        coefficient = coefficient * -e * ((2 * n - 2 + t) / (2 * n + 2 - t))
        columns.append(coefficient)
    return torch.stack(columns, dim=1)


def light_table(mass: Tensor, source: Tensor) -> Tensor:
    """Return the coefficients of Sersic sources with Gaussian clumps, in the frame of the lenses' axes.

    Parameters
    ----------
    mass : Tensor, shape (m, 7) or (m, 8)
        As `lens_table`.
    source : Tensor, shape (m, 6 + 4 K)
        sx, sy, radius, n, e1, e2, then K times (x, y, size, share).

    Returns
    -------
    Tensor, shape (m, 6 + 4 K)
    """
    _, cos, sin = axes(mass[:, 1], mass[:, 2])
    cos2, sin2 = (cos - sin) * (cos + sin), 2 * cos * sin
    sx, sy, radius, n, s1, s2 = source[:, :6].unbind(1)
    e1, e2, ee = s1 * cos2 + s2 * sin2, s2 * cos2 - s1 * sin2, s1 * s1 + s2 * s2
    w = 1 / ((1 - ee) * radius * radius)
    b = sersic_b(n)
    share = 1 - source[:, 9::4].sum(dim=1)
    peak = b / math.log(2) + torch.log2(share / sersic_flux(radius, n))
    columns = [w * (1 + ee - 2 * e1), -4 * w * e2, w * (1 + ee + 2 * e1), 0.5 / n, -b / math.log(2), peak]
    for at in range(6, source.shape[1], 4):
        x, y, size, part = source[:, at : at + 4].unbind(1)
        columns += [cos * (x - sx) + sin * (y - sy), cos * (y - sy) - sin * (x - sx)]
        columns += [-0.5 / math.log(2) / size**2, torch.log2(part / (2 * math.pi * size**2))]
    return torch.stack(columns, dim=1)


def _isothermal(major: Tensor, minor: Tensor, radius2: Tensor, own: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    f, scale = own
    inverse = f * torch.rsqrt(radius2)
    v = minor * inverse
    # atanh(v), exact for small v also where a compiler spells it out
    return scale * torch.atan(major * inverse), 0.5 * scale * torch.log1p(2 * v / (1 - v))


def _power_law(major: Tensor, minor: Tensor, radius2: Tensor, own: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    q, size, exponent, *series = own
    inverse = torch.rsqrt(radius2)
    cos, sin = q * major * inverse, minor * inverse
    cos2, sin2 = (cos - sin) * (cos + sin), 2 * sin * cos
    double, below, here = 2 * cos2, torch.zeros_like(cos2), series[-1]
    for a in reversed(series[:-1]):  # Clenshaw
        below, here = here, double * here + (a - below)
    real, imaginary = 1 + cos2 * here - below, sin2 * here
    size = size * torch.exp2(exponent * torch.log2(radius2))
    return size * (cos * real - sin * imaginary), size * (sin * real + cos * imaginary)


def source_positions(lens: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Trace rays back to the source plane.

    Parameters
    ----------
    lens : Tensor, shape (m, k)
        From `lens_table`.
    at : Tensor, shape (R,)
        From `coordinates`, for both axes.

    Returns
    -------
    tuple of Tensor, shape (m, R, R)
        u, v in arcsec from the source's centre, along and across the lens's major axis.
    """
    c = [column[:, None, None] for column in lens.unbind(1)]
    px, py = at, at[:, None]
    major, minor, u, v = (c[k] * px + (c[k + 1] * py + c[k + 2]) for k in (0, 3, 6, 9))
    radius2 = (c[12] * major * major + minor * minor).clamp_min(TINY)
    bend = _isothermal if lens.shape[1] == ISOTHERMAL else _power_law
    along, across = bend(major, minor, radius2, tuple(c[FRAME:]))
    return u - along, v - across


def source_light(lens: Tensor, light: Tensor, at: Tensor) -> Tensor:
    """Return the brightness (arcsec^-2, for unit flux) that every ray meets, (m, R, R); `light` from `light_table`."""
    u, v = source_positions(lens, at)
    c = [column[:, None, None] for column in light.unbind(1)]
    radius2 = ((c[0] * u + c[1] * v) * u + c[2] * v * v).clamp_min(FLOOR)
    total = torch.exp2((c[5] + c[4] * torch.exp2(c[3] * torch.log2(radius2))).clamp_min(FAINT))
    for k in range(6, len(c), 4):
        du, dv = u - c[k], v - c[k + 1]
        total = total + torch.exp2((c[k + 3] + c[k + 2] * (du * du + dv * dv)).clamp_min(FAINT))
    return total


def axis_table(mass: Tensor, radius: Tensor, turn: Tensor) -> Tensor:
    """Return the coefficients of galaxy images, shape (m, 2).

    Cosine and sine of the angle from the lens's major axis to the images' columns, over the half-light `radius`
    (arcsec); the images are turned by `turn` (radians).
    """
    _, cos, sin = axes(mass[:, 1], mass[:, 2])
    c, s = torch.cos(turn), torch.sin(turn)
    return torch.stack([c * cos + s * sin, s * cos - c * sin], dim=1) / radius[:, None]


def image_light(lens: Tensor, axis: Tensor, library: SourceLibrary, number: Tensor, at: Tensor) -> Tensor:
    """Return the brightness (arcsec^-2, for unit flux) of galaxy images along every ray, shape (m, R, R).

    Parameters
    ----------
    lens : Tensor, shape (m, k)
        From `lens_table`.
    axis : Tensor, shape (m, 2)
        From `axis_table`.
    library : SourceLibrary
        The images.
    number : Tensor, shape (m,), int64
        Which of them.
    at : Tensor, shape (R,)
        From `coordinates`.
    """
    u, v = source_positions(lens, at)
    cos, sin = (column[:, None, None] for column in axis.unbind(1))
    return library.brightness(number, cos * u + sin * v, cos * v - sin * u) * (cos * cos + sin * sin)
