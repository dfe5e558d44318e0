"""Where sources lie behind isothermal ellipses without shear: uniform in the cut, or about the centre of the astroid.

In units of theta_E and axes of the lens, with psi = sqrt(q^2 cos^2 phi + sin^2 phi) and f = sqrt(1 - q^2)
(Kormann et al. 1994, section 4): the cut is the deflection's curve (negative),
``u(phi) = sqrt(q) / f (arctan(f cos phi / psi), arctanh(f sin phi / psi))``, and the astroid
``sqrt(q) / psi (cos phi, sin phi) - u(phi)``.  Since the deflection changes at right angles to the direction,
du / dphi = (sqrt q / psi) (-sin phi, cos phi), the normal of the cut at u(phi) is the direction phi itself.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lensscan.mocks.priors import Draws

__all__ = ["astroid", "caustic_positions", "cut"]

Array = NDArray[np.float64]
POINTS = 96
GROWN = 0.15  # arcsec; this and the next two: Hezaveh, Perreault Levasseur & Marshall 2017
INNER = 0.7
SHARE = 0.5
SPREAD = 0.5  # standard deviation of the inner sources, in units of 0.7 of the astroid (ASSUMED)


def _curve(q: Array, phi: Array) -> tuple[Array, Array, Array]:
    f = np.sqrt(np.maximum((1 - q) * (1 + q), 1e-12))
    cos, sin = np.cos(phi), np.sin(phi)
    psi = np.sqrt((q * cos) ** 2 + sin**2)
    scale = np.sqrt(q) / f
    return scale * np.arctan(f * cos / psi), scale * np.arctanh(f * sin / psi), np.sqrt(q) / psi


def cut(q: Array, phi: Array, theta_E: Array, grown: float = 0.0) -> tuple[Array, Array]:
    """Return the cut, moved outward by `grown` (arcsec); arguments broadcast, x along the major axis."""
    x, y, _ = _curve(q, phi)
    return theta_E * x + grown * np.cos(phi), theta_E * y + grown * np.sin(phi)


def astroid(q: Array, phi: Array, theta_E: Array) -> tuple[Array, Array]:
    """Return the tangential caustic (arcsec); arguments broadcast, x along the major axis."""
    x, y, radius = _curve(q, phi)
    return theta_E * (radius * np.cos(phi) - x), theta_E * (radius * np.sin(phi) - y)


def caustic_positions(draws: Draws, theta_E: Array, e1: Array, e2: Array) -> tuple[Array, Array]:
    """Draw source positions about the lens centre, arcsec, shape (n,) each.

    Half are uniform within the cut grown by 0.15 arcsec; half are Gaussian about the centre, with standard
    deviation 0.35 of the astroid in every direction, and cut off at 0.7 of it (Hezaveh+2017; shear is left out).
    """
    e = np.hypot(e1, e2)
    q, turn = ((1 - e) / (1 + e))[:, None], 0.5 * np.arctan2(e2, e1)
    phi = np.linspace(0, 2 * math.pi, POINTS + 1)
    inner = draws.uniform("source.inner") < SHARE
    curves = (
        np.where(inner[:, None], INNER * a, b)
        for a, b in zip(astroid(q, phi, theta_E[:, None]), cut(q, phi, theta_E[:, None], GROWN), strict=True)
    )
    x, y = curves
    # Triangles from the centre, chosen by area, make the direction uniform by area.
    area = np.abs(x[:, :-1] * y[:, 1:] - x[:, 1:] * y[:, :-1])
    edges = np.cumsum(area, axis=1) / np.maximum(area.sum(axis=1, keepdims=True), 1e-300)
    choice = np.minimum((edges < draws.uniform("source.direction")[:, None]).sum(axis=1), POINTS - 1)
    rows, along = np.arange(draws.n), draws.uniform("source.along")
    px, py = ((1 - along) * v[rows, choice] + along * v[rows, choice + 1] for v in (x, y))
    u = draws.uniform("source.b")
    within = SPREAD * np.sqrt(-2 * np.log(1 - u * (1 - math.exp(-0.5 / SPREAD**2))))
    radius = np.where(inner, within, np.sqrt(u))
    px, py = radius * px, radius * py
    return px * np.cos(turn) - py * np.sin(turn), px * np.sin(turn) + py * np.cos(turn)
