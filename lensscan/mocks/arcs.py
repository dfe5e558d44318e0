"""Truth of lensed arcs without an image: magnification, number of images, signal-to-noise, the label.

The deflection of an isothermal ellipse depends on the polar angle only, so along each ray from the lens
centre the source-plane position is a straight line; that of a power law of slope gamma also goes as r^(2 - gamma),
which bends the line a little.  Integrating the source along 128 such lines, with nodes gathered where the
isothermal line passes the source, gives the total magnification (median error half a percent for
sources of 0.3 arcsec, four percent at 0.06 arcsec) in float64 numpy, whose rows do not depend on each other:
truth is the same whatever the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from lensscan.lens.light import sersic_b
from lensscan.mocks.tables import LabelRule

__all__ = ["Arcs", "is_detectable", "log_sersic_peak", "measure", "signal_to_noise"]

Array = NDArray[np.float64]
ANGLES = 128
NODES = 15
BLOCK = 16  # rows at a time: temporaries stay in the cache
TERMS = 24  # of the power law's angular series: 1e-6 at axis ratio 0.25
ROUNDS = 6  # of the iteration for the radius of an image
REACH = 2.3  # asinh of the farthest node, in effective radii
GAUSSIAN_AREA = math.pi / (2 * math.log(2))  # noise-equivalent area 4 pi s^2 of a Gaussian, in FWHM^2


@dataclass(frozen=True, slots=True)
class Arcs:
    """What `measure` returns, all of shape (n,).

    Attributes
    ----------
    images : ndarray of int
        Number of images of the source's centre.
    magnification : ndarray
        Lensed over unlensed flux of the whole source.
    area : ndarray
        Noise-equivalent area (flux^2 over the integral of squared brightness) of all images, arcsec^2.
    """

    images: NDArray[np.int64]
    magnification: Array
    area: Array


def _unit_deflection(cos: Array, sin: Array, e1: Array, e2: Array, slope: Array | None) -> tuple[Array, Array]:
    """Return the deflection of theta_E = 1 in the directions (cos, sin) at unit radius.

    With a slope: the series of Tessore & Metcalf 2015 (A&A 580 A79, eqs. 13, 23 to 29).
    """
    e = np.hypot(e1, e2)
    q, phi = (1 - e) / (1 + e), 0.5 * np.arctan2(e2, e1)
    c, s = np.cos(phi), np.sin(phi)
    major, minor = c * cos + s * sin, c * sin - s * cos
    if slope is not None:
        t = slope - 1
        radius = np.hypot(q * major, minor)
        u, v = q * major / radius, minor / radius
        turn_u, turn_v = u * u - v * v, 2 * u * v
        a, b = u, v
        for n in range(1, TERMS):
            factor = -e * (2 * n - (2 - t)) / (2 * n + (2 - t))
            u, v = factor * (turn_u * u - turn_v * v), factor * (turn_u * v + turn_v * u)
            a, b = a + u, b + v
        scale = 2 * np.sqrt(q) / (1 + q) * (np.sqrt(q) / radius) ** (t - 1)
        a, b = scale * a, scale * b
        return c * a - s * b, s * a + c * b
    f = np.maximum(np.sqrt((1 - q) * (1 + q)), 1e-9)
    psi = np.hypot(q * major, minor)
    a = np.sqrt(q) / f * np.arctan(f * major / psi)
    b = np.sqrt(q) / f * np.arctanh(f * minor / psi)
    return c * a - s * b, s * a + c * b


def measure(
    theta_E: Array,
    e1: Array,
    e2: Array,
    gamma1: Array,
    gamma2: Array,
    bx: Array,
    by: Array,
    radius: Array,
    n: Array,
    s1: Array,
    s2: Array,
    slope: Array | None = None,
) -> Arcs:
    """Measure the images of Sersic sources.

    Parameters
    ----------
    theta_E, e1, e2, gamma1, gamma2 : ndarray, shape (n,)
        The lenses, shear about their centres.
    bx, by : ndarray, shape (n,)
        Source centre relative to the lens centre, arcsec.
    radius, n, s1, s2 : ndarray, shape (n,)
        Half-light radius (arcsec), Sersic index and ellipticity of the sources.
    slope : ndarray, shape (n,), optional
        Density slopes; without them all lenses are isothermal.
    """
    columns = [theta_E, e1, e2, gamma1, gamma2, bx, by, radius, n, s1, s2]
    table = np.stack(columns if slope is None else [*columns, slope])
    parts = [_measure(table[:, i : i + BLOCK, None]) for i in range(0, table.shape[1], BLOCK)]
    images, flux, area = (np.concatenate([p[k] for p in parts]) if parts else np.zeros(0) for k in range(3))
    return Arcs(images.astype(np.int64), flux, area)


def _measure(table: Array) -> tuple[NDArray[np.int64], Array, Array]:
    """Return images, magnification and area of a block that fits the cache; `table` is (11 or 12, n, 1)."""
    theta_E, e1, e2, g1, g2, bx, by, radius, n, s1, s2 = table[:11]
    slope = table[11] if len(table) > 11 else None
    phi = 2 * math.pi * (np.arange(ANGLES) + 0.5) / ANGLES
    cos, sin = np.cos(phi)[None], np.sin(phi)[None]
    ux, uy = _unit_deflection(cos, sin, e1, e2, slope)
    ax, ay = theta_E * ux, theta_E * uy
    wx, wy = bx + ax, by + ay
    images = _count_images(cos, sin, (bx, by, ax, ay, theta_E, slope), g1, g2)
    dx, dy = (1 - g1) * cos - g2 * sin, (1 + g1) * sin - g2 * cos
    ee = s1 * s1 + s2 * s2
    u = 1 / (1 - ee)
    qxx, qxy, qyy = u * (1 + ee - 2 * s1), -2 * u * s2, u * (1 + ee + 2 * s1)
    a = dx * (qxx * dx + qxy * dy) + dy * (qxy * dx + qyy * dy)
    b = dx * (qxx * wx + qxy * wy) + dy * (qxy * wx + qyy * wy)
    c = wx * (qxx * wx + qxy * wy) + wy * (qxy * wx + qyy * wy)
    closest = np.maximum(c - b * b / a, 0.0)
    step = 2 * REACH / (NODES - 1)
    nodes = -REACH + step * np.arange(NODES)
    scale = np.sqrt(radius * radius + 0.3 * closest)
    stretch = 1 / np.sqrt(a)
    along = scale[..., None] * np.sinh(nodes)
    r = (b / a)[..., None] + along * stretch[..., None]
    weight = np.maximum(r, 0.0) * (scale * stretch)[..., None] * (np.cosh(nodes) * (step * 2 * math.pi / ANGLES))
    radius2 = closest[..., None] + along * along
    if slope is not None:
        more = (np.maximum(r, 1e-6) / theta_E[..., None]) ** (2 - slope[..., None]) - 1
        ox = dx[..., None] * r - wx[..., None] - more * ax[..., None]
        oy = dy[..., None] * r - wy[..., None] - more * ay[..., None]
        radius2 = qxx[..., None] * ox * ox + 2 * qxy[..., None] * ox * oy + qyy[..., None] * oy * oy
    light = _sersic(radius2, radius[..., None], n[..., None])
    weight *= light
    flux = weight.reshape(len(weight), -1).sum(axis=1)
    weight *= light
    square = weight.reshape(len(weight), -1).sum(axis=1)
    return images, flux, flux * flux / np.maximum(square, 1e-300)


def log_sersic_peak(half: Array, n: Array) -> Array:
    """Return the logarithm of the central brightness of a round Sersic profile of unit flux (arcsec^-2)."""
    return 2 * n * np.log(sersic_b(n)) - np.log(2 * math.pi * n * half * half) - gammaln(2 * n)


def _sersic(radius2: Array, half: Array, n: Array) -> Array:
    """Return the Sersic profile of unit flux (arcsec^-2)."""
    value = np.log(np.maximum(radius2 * (1 / (half * half)), 1e-8))
    value *= 0.5 / n
    np.exp(value, out=value)
    value *= -sersic_b(n)
    value += log_sersic_peak(half, n)
    return np.exp(value, out=value)


def _count_images(
    cos: Array, sin: Array, lens: tuple[Array, Array, Array, Array, Array, Array | None], g1: Array, g2: Array
) -> NDArray[np.int64]:
    """Count directions in which (1 - Gamma)^-1 (beta + alpha) points outward along the direction itself.

    Where alpha depends on the radius, the radius is found by iteration; the faint central image of a lens
    shallower than isothermal is not counted.
    """
    bx, by, ax, ay, theta_E, slope = lens
    det = 1 - g1 * g1 - g2 * g2

    def project(scale: Array | float) -> tuple[Array, Array]:
        wx, wy = bx + scale * ax, by + scale * ay
        tx, ty = ((1 + g1) * wx + g2 * wy) / det, ((1 - g1) * wy + g2 * wx) / det
        return cos * ty - sin * tx, cos * tx + sin * ty

    cross, dot = project(1.0)
    for _ in range(0 if slope is None else ROUNDS):
        assert slope is not None
        cross, dot = project((np.maximum(dot, 0.02 * theta_E) / theta_E) ** (2 - slope))
    change = (cross > 0) != (np.roll(cross, -1, axis=1) > 0)
    outward = dot + np.roll(dot, -1, axis=1) > 0
    return (change & outward).sum(axis=1)


def signal_to_noise(
    flux: Array, area: Array, fwhm: Array, sigma: Array, pixel_scale: float, poisson: Array, background: Array
) -> Array:
    """Return the matched-filter S/N of the arcs in every band, shape (n, C).

    Parameters
    ----------
    flux : ndarray, shape (n, C)
        Total lensed flux, nJy.
    area : ndarray, shape (n,)
        Noise-equivalent area before the PSF, arcsec^2; that of the PSF is added (exact for Gaussians).
    fwhm, sigma : ndarray, shape (n, C)
        PSF width (arcsec) and noise per pixel (nJy).
    poisson : ndarray, shape (C,)
        nJy per electron.
    background : ndarray, shape (n, C)
        Surface brightness of the lens galaxy at theta_E, nJy arcsec^-2.
    """
    total = area[:, None] + GAUSSIAN_AREA * fwhm * fwhm
    variance = (sigma / pixel_scale) ** 2 * total + poisson * (flux + background * total)
    return flux / np.sqrt(np.maximum(variance, 1e-300))


def is_detectable(
    rule: LabelRule, arcs: Arcs, snr: Array, theta_E: Array, radius: Array, fwhm: Array
) -> NDArray[np.bool_]:
    """Apply the label rule; `snr` and `fwhm` are those of the best band.  Resolved as in Collett 2015, section 4."""
    resolved = (arcs.magnification * radius > fwhm) & (theta_E**2 > radius**2 + 0.25 * fwhm**2)
    bright = (snr >= rule.snr) & (snr <= rule.snr_max) & (arcs.magnification >= rule.magnification)
    number = (arcs.images >= rule.images[0]) & (arcs.images <= rule.images[1])
    return number & bright & (resolved | (not rule.resolved))
