"""Converters between ellipticity and Einstein-radius conventions, each both ways (docs/datamodel.md).

Ours: theta_E is the product average sqrt(a b) of the critical ellipse; ``e1, e2 = (1-q)/(1+q) (cos 2 phi,
sin 2 phi)`` with q = b/a and phi the angle of the major axis, radians, counter-clockwise from +x.  All
functions take and return numpy arrays (or floats) that broadcast.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "from_axis_ratio",
    "from_hezaveh",
    "from_holismokes",
    "from_major_axis",
    "from_position_angle",
    "from_pyautolens",
    "mean_to_product",
    "product_to_mean",
    "to_axis_ratio",
    "to_hezaveh",
    "to_holismokes",
    "to_major_axis",
    "to_position_angle",
    "to_pyautolens",
]

Array = NDArray[np.float64]


def from_axis_ratio(q: Any, phi: Any) -> tuple[Array, Array]:
    """Return e1, e2 of axis ratio `q` and major-axis angle `phi` (radians)."""
    q, phi = np.asarray(q, dtype=np.float64), np.asarray(phi, dtype=np.float64)
    e = (1 - q) / (1 + q)
    return e * np.cos(2 * phi), e * np.sin(2 * phi)


def to_axis_ratio(e1: Any, e2: Any) -> tuple[Array, Array]:
    """Return q and phi (radians, in (-pi/2, pi/2]) of `e1`, `e2`."""
    e1, e2 = np.asarray(e1, dtype=np.float64), np.asarray(e2, dtype=np.float64)
    e = np.hypot(e1, e2)
    return (1 - e) / (1 + e), 0.5 * np.arctan2(e2, e1)


def product_to_mean(theta_E: Any, q: Any) -> Array:
    """Return the radius theta_E (1+q) / (2 sqrt q): half the sum of the critical ellipse's half axes."""
    q = np.asarray(q, dtype=np.float64)
    return np.asarray(theta_E) * (1 + q) / (2 * np.sqrt(q))


def mean_to_product(theta_E: Any, q: Any) -> Array:
    """Return our theta_E of the mean radius (a + b) / 2; inverse of `product_to_mean`."""
    q = np.asarray(q, dtype=np.float64)
    return np.asarray(theta_E) * 2 * np.sqrt(q) / (1 + q)


def to_hezaveh(theta_E: Any, e1: Any, e2: Any) -> tuple[Array, Array, Array]:
    """Return theta_E and the pair (1-q)(cos t, sin t) of Hezaveh+2017 (their code, Ensai), t the minor axis' angle.

    The pair is defined up to a common sign; the one with t in (0, pi] is returned.
    """
    q, phi = to_axis_ratio(e1, e2)
    t = phi + np.pi / 2
    return np.asarray(theta_E, dtype=np.float64), (1 - q) * np.cos(t), (1 - q) * np.sin(t)


def from_hezaveh(theta_E: Any, ex: Any, ey: Any) -> tuple[Array, Array, Array]:
    """Return theta_E, e1, e2 of Hezaveh+2017's parameters; (ex, ey) and (-ex, -ey) give the same."""
    ex, ey = np.asarray(ex, dtype=np.float64), np.asarray(ey, dtype=np.float64)
    e1, e2 = from_axis_ratio(1 - np.hypot(ex, ey), np.arctan2(ey, ex) - np.pi / 2)
    return np.asarray(theta_E, dtype=np.float64), e1, e2


def to_holismokes(theta_E: Any, e1: Any, e2: Any) -> tuple[Array, Array, Array]:
    """Return theta_E and (1-q^2)/(1+q^2) (cos 2 phi, sin 2 phi) of HOLISMOKES IV (Schuldt+2021, with GLEE's SIE).

    The radius is GLEE's, as lenstronomy converts it; the form of the ellipticity is remembered, not read in the
    paper (docs/decisions.md, Lensing).
    """
    e1, e2 = np.asarray(e1, dtype=np.float64), np.asarray(e2, dtype=np.float64)
    factor = 2 / (1 + e1 * e1 + e2 * e2)
    return product_to_mean(theta_E, to_axis_ratio(e1, e2)[0]), factor * e1, factor * e2


def from_holismokes(theta_E: Any, ex: Any, ey: Any) -> tuple[Array, Array, Array]:
    """Return our theta_E, e1, e2 of HOLISMOKES IV parameters."""
    ex, ey = np.asarray(ex, dtype=np.float64), np.asarray(ey, dtype=np.float64)
    factor = 1 / (1 + np.sqrt(np.maximum(1 - ex * ex - ey * ey, 0.0)))
    e1, e2 = factor * ex, factor * ey
    return mean_to_product(theta_E, to_axis_ratio(e1, e2)[0]), e1, e2


def to_pyautolens(theta_E: Any, e1: Any, e2: Any) -> tuple[Array, Array, Array]:
    """Return PyAutoLens' einstein_radius and its two ell_comps, which are ordered (sin 2 phi, cos 2 phi)."""
    q, _ = to_axis_ratio(e1, e2)
    return product_to_mean(theta_E, q), np.asarray(e2, dtype=np.float64), np.asarray(e1, dtype=np.float64)


def from_pyautolens(theta_E: Any, comp0: Any, comp1: Any) -> tuple[Array, Array, Array]:
    """Return our theta_E, e1, e2 of PyAutoLens' einstein_radius and ell_comps (first the sine)."""
    e1, e2 = np.asarray(comp1, dtype=np.float64), np.asarray(comp0, dtype=np.float64)
    return mean_to_product(theta_E, to_axis_ratio(e1, e2)[0]), e1, e2


def to_major_axis(theta_E: Any, q: Any) -> Array:
    """Return the half major axis of the critical ellipse, theta_E / sqrt q."""
    return np.asarray(theta_E, dtype=np.float64) / np.sqrt(np.asarray(q))


def from_major_axis(radius: Any, q: Any) -> Array:
    """Return theta_E of the half major axis of the critical ellipse."""
    return np.asarray(radius, dtype=np.float64) * np.sqrt(np.asarray(q))


def to_position_angle(phi: Any, jacobian: Any) -> Array:
    """Return the position angle on the sky, degrees East of North, in [0, 180).

    Parameters
    ----------
    phi : array_like
        Angle from +x towards +y, radians.
    jacobian : array_like, shape (..., 4)
        d(East)/dx, d(East)/dy, d(North)/dx, d(North)/dy on the tangent plane, arcsec per arcsec.
    """
    phi, j = np.asarray(phi, dtype=np.float64), np.asarray(jacobian, dtype=np.float64)
    east = j[..., 0] * np.cos(phi) + j[..., 1] * np.sin(phi)
    north = j[..., 2] * np.cos(phi) + j[..., 3] * np.sin(phi)
    pa = np.degrees(np.arctan2(east, north)) % 180.0
    return np.where(pa >= 180.0, 0.0, pa)  # a tiny negative angle rounds to 180


def from_position_angle(pa: Any, jacobian: Any) -> Array:
    """Return the angle from +x, radians in [0, pi), of a position angle in degrees; inverse of `to_position_angle`."""
    pa, j = np.radians(np.asarray(pa, dtype=np.float64)), np.asarray(jacobian, dtype=np.float64)
    east, north = np.sin(pa), np.cos(pa)
    x = j[..., 3] * east - j[..., 1] * north
    y = j[..., 0] * north - j[..., 2] * east
    det = j[..., 0] * j[..., 3] - j[..., 1] * j[..., 2]
    return np.arctan2(y * np.sign(det), x * np.sign(det)) % np.pi
