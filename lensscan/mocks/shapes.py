"""The galaxy in the middle of real stamps: where it is, how bright, how large, how elongated (numpy, many at once).

Neighbours are told from the galaxy by symmetry: where a pixel is clearly brighter than its counterpart across the
galaxy's centre, the counterpart is taken instead.  Position and ellipticity are adaptive Gaussian-weighted moments
(Bernstein & Jarvis 2002, AJ 123, 583, section 3), those of a round Moffat PSF taken off; magnitudes
are those of a circle of 2.5 Kron radii (Kron 1980, ApJS 43, 305).  (Lens light behind arcs is another task:
`lensscan.lenslight.shape` bounds the weight, and hands on a first guess whatever the stamp holds.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

__all__ = ["KRON_MISSES", "Central", "measure_central"]

Array = NDArray[np.float64]
MOFFAT = 0.48  # adaptive standard deviation of a Moffat profile of beta 3, in FWHM
WINDOW = 6.0  # arcsec from the frame's centre: nothing beyond is looked at
SEARCH = 1.3  # arcsec about the expected position, for the peak
BRIGHTER = 4.0  # sigma of a difference: a neighbour
ROUNDS = (8, 20)  # of the moments, before and after neighbours are told from the measured centre
KRON = (2.5, 1.5, 5.0)  # Kron radii of the aperture, and its limits in arcsec
KRON_MISSES = 0.25  # mag beyond that aperture: the median of massive galaxies of mock DES stamps
SHORTEST = 0.25  # of the PSF's standard deviation: the smallest axis left after the PSF is taken off
DETECTED = 10.0  # signal-to-noise ratio in the Gaussian window


@dataclass(slots=True)
class Central:
    """Central galaxies: x, y, radius in arcsec, ellipticity in our convention, `flux` (n, C) in nJy; `found` (n,)."""

    x: Array
    y: Array
    radius: Array
    e1: Array
    e2: Array
    flux: Array
    found: NDArray[np.bool_]

    def take(self, keep: NDArray[np.bool_]) -> Central:
        """Return the galaxies to `keep` (n,)."""
        return Central(*(getattr(self, item.name)[keep] for item in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Central]) -> Central:
        """Return the galaxies of all `parts`, one after the other."""
        return cls(*(np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(cls)))


def measure_central(
    images: NDArray[np.float32],
    missing: NDArray[np.bool_] | None,
    sigma: Array,
    fwhm: Array,
    x: Array,
    y: Array,
    pixel_scale: float,
) -> Central:
    """Measure the galaxies at the expected positions.

    Parameters
    ----------
    images : ndarray, shape (n, C, S, S)
        nJy per pixel.
    missing : ndarray of bool, same shape, optional
    sigma, fwhm : ndarray, shape (n, C)
        Noise (nJy per pixel) and PSF width (arcsec); NaN where the band is absent, or the width unknown.
    x, y : ndarray, shape (n,)
        Expected position, arcsec from the frame's centre.
    pixel_scale : float
        Arcsec per pixel.
    """
    side = images.shape[-1]
    half = min(side // 2, math.ceil(WINDOW / pixel_scale))
    window = slice((side + 1) // 2 - half, side // 2 + half)
    pixels = images[..., window, window].astype(np.float64)
    weight = np.where(np.isfinite(sigma) & (sigma > 0), 1 / np.square(np.where(sigma > 0, sigma, 1.0)), 0.0)
    good = np.ones(pixels.shape, np.bool_) if missing is None else ~missing[..., window, window]
    weights = weight[:, :, None, None] * good
    depth = np.sqrt(weights.sum(axis=1))
    signal = (weights * pixels).sum(axis=1) / np.maximum(depth, 1e-30)  # of unit noise
    axis = np.arange(pixels.shape[-1]) - (pixels.shape[-1] - 1) / 2
    px, py = _peak(signal, axis, x / pixel_scale, y / pixel_scale, SEARCH / pixel_scale)
    for rounds in ROUNDS:
        mirror = _mirror(px, py, pixels.shape[-1])
        excess = _excess(signal, depth, mirror)
        clean = np.where(excess, _reflect(signal, mirror), signal)
        moments = _Moments(clean, axis, px, py)
        moments.settle(rounds)
        moved = np.hypot(moments.x - x / pixel_scale, moments.y - y / pixel_scale)
        sane = moments.good & (moved * pixel_scale < SEARCH + 1.0)
        px, py = np.where(sane, moments.x, px), np.where(sane, moments.y, py)
    fluxes = np.where(excess[:, None], _reflect(pixels, mirror), np.where(good, pixels, 0.0))
    flux, radius = _aperture(fluxes, clean, axis, px, py, pixel_scale)
    psf = _psf_width(weight, flux, fwhm) / pixel_scale
    e1, e2 = moments.ellipticity(MOFFAT * psf)
    # Half of a Gaussian PSF's light lies within half its FWHM.
    true = np.sqrt(np.maximum(radius**2 - (0.5 * psf) ** 2, (0.2 * psf) ** 2))
    found = sane & (moments.snr > DETECTED) & np.isfinite(true)
    return Central(px * pixel_scale, py * pixel_scale, true * pixel_scale, e1, e2, flux, found)


def _peak(signal: Array, axis: Array, x: Array, y: Array, reach: float) -> tuple[Array, Array]:
    """Return the pixel position of the highest smoothed signal within `reach` pixels of (x, y)."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(signal, (0, 1.0, 1.0))
    distance2 = (axis - x[:, None])[:, None, :] ** 2 + (axis - y[:, None])[:, :, None] ** 2
    place = np.where(distance2 <= reach**2, smooth, -np.inf).reshape(len(signal), -1).argmax(axis=1)
    return axis[place % len(axis)], axis[place // len(axis)]


def _mirror(x: Array, y: Array, side: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns (n, side) of the counterparts across the nearest half pixel to (x, y)."""
    steps = np.arange(side)
    columns, rows = (np.rint(2 * (v + (side - 1) / 2)).astype(np.int64)[:, None] - steps for v in (x, y))
    return rows, columns


def _reflect(values: Array, mirror: tuple[NDArray[np.int64], NDArray[np.int64]]) -> Array:
    """Return images (n, ..., S, S) reflected, 0 where the counterpart lies outside."""
    rows, columns = mirror
    side = values.shape[-1]
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None, :]
    which = np.arange(len(values))[:, None, None]
    place = rows.clip(0, side - 1)[:, :, None], columns.clip(0, side - 1)[:, None, :]
    if values.ndim == 3:
        return np.where(inside, values[which, place[0], place[1]], 0.0)
    return np.stack([np.where(inside, values[which, c, place[0], place[1]], 0.0) for c in range(values.shape[1])], 1)


def _excess(signal: Array, depth: Array, mirror: tuple[NDArray[np.int64], NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Return which pixels are a neighbour's, or missing: far brighter than their counterpart, or without data."""
    from scipy.ndimage import gaussian_filter

    thin = depth < 0.9 * depth.max(axis=(1, 2), keepdims=True)  # missing in one of the bands: not comparable
    filled = np.where(thin, _reflect(signal, mirror), signal)
    smooth = gaussian_filter(filled, (0, 1.0, 1.0)) / 0.28  # noise of unit white noise after smoothing
    noise = math.sqrt(2.0) + 0.1 * np.abs(_reflect(smooth, mirror))  # real galaxies are not quite symmetric
    return np.asarray((smooth - _reflect(smooth, mirror) > BRIGHTER * noise) | thin)


class _Moments:
    """Adaptive moments of images of unit noise (n, S, S) about (x, y), pixels."""

    def __init__(self, signal: Array, axis: Array, x: Array, y: Array) -> None:
        self._signal, self._axis = signal, axis
        self.x, self.y = x.copy(), y.copy()
        start = np.full(len(x), 4.0)
        self.xx, self.yy, self.xy = start, start.copy(), np.zeros(len(x))
        self.snr = np.zeros(len(x))
        self.good = np.ones(len(x), np.bool_)

    def settle(self, rounds: int) -> None:
        """Iterate so many times; what runs away is marked as not good."""
        largest = (len(self._axis) / 4) ** 2
        for _ in range(rounds):
            dx = (self._axis - self.x[:, None])[:, None, :]
            dy = (self._axis - self.y[:, None])[:, :, None]
            det = self.xx * self.yy - self.xy**2
            a, b, c = (v[:, None, None] for v in (self.yy / det, -self.xy / det, self.xx / det))
            window = np.exp(-0.5 * (a * dx * dx + 2 * b * dx * dy + c * dy * dy))
            light = self._signal * window
            total = light.sum(axis=(1, 2))
            self.snr = total / np.sqrt(np.maximum((window**2).sum(axis=(1, 2)), 1e-30))
            total = np.where(total > 0, total, np.inf)
            mx, my = (light * dx).sum(axis=(1, 2)) / total, (light * dy).sum(axis=(1, 2)) / total
            xx = 2 * ((light * dx * dx).sum(axis=(1, 2)) / total - mx * mx)
            yy = 2 * ((light * dy * dy).sum(axis=(1, 2)) / total - my * my)
            xy = 2 * ((light * dx * dy).sum(axis=(1, 2)) / total - mx * my)
            fine = np.isfinite(total) & (xx > 0.2) & (yy > 0.2) & (xx + yy < largest) & (xx * yy - xy**2 > 0.05)
            self.good &= fine
            self.xx, self.yy, self.xy = (
                np.where(self.good, new, old) for new, old in ((xx, self.xx), (yy, self.yy), (xy, self.xy))
            )
            self.x, self.y = np.where(self.good, self.x + 2 * mx, self.x), np.where(self.good, self.y + 2 * my, self.y)

    def ellipticity(self, psf: Array) -> tuple[Array, Array]:
        """Return e1, e2 after the moments of a round Gaussian PSF (standard deviation, pixels) are taken off."""
        mean, half = 0.5 * (self.xx + self.yy), np.hypot(0.5 * (self.xx - self.yy), self.xy)
        floor = np.maximum(SHORTEST * psf, 0.1) ** 2
        long, short = np.maximum(mean + half - psf**2, floor), np.maximum(mean - half - psf**2, floor)
        q = np.sqrt(short / long)
        e = np.where(half > 0, (1 - q) / (1 + q), 0.0)
        turn = np.arctan2(self.xy, 0.5 * (self.xx - self.yy))
        return e * np.cos(turn), e * np.sin(turn)


def _psf_width(weight: Array, flux: Array, fwhm: Array) -> Array:
    """Return the FWHM (arcsec) of the bands' weighted sum, 0 where unknown."""
    known = np.isfinite(fwhm) & (weight > 0)
    share = np.where(known, weight * np.maximum(flux, 0.0), 0.0)
    return np.asarray((share * np.where(known, fwhm, 0.0)).sum(axis=1) / np.maximum(share.sum(axis=1), 1e-30))


def _aperture(fluxes: Array, signal: Array, axis: Array, x: Array, y: Array, pixel: float) -> tuple[Array, Array]:
    """Return the flux of every band (n, C) within the Kron aperture, and its half-light radius in pixels (n,)."""
    n, size = len(signal), len(axis) ** 2
    r = np.hypot((axis - x[:, None])[:, None, :], (axis - y[:, None])[:, :, None])
    inner = signal * (r < 0.5 * KRON[2] / pixel)
    kron = (inner * r).sum(axis=(1, 2)) / np.maximum(inner.sum(axis=(1, 2)), 1e-30)
    edge = np.clip(KRON[0] * kron, KRON[1] / pixel, KRON[2] / pixel)
    share = np.clip(edge[:, None, None] - r + 0.5, 0.0, 1.0)  # of a pixel within the circle
    flux = (fluxes * share[:, None]).sum(axis=(2, 3))
    order = np.argsort(r.reshape(n, size), axis=1, kind="stable")
    growth = np.cumsum(np.take_along_axis((signal * share).reshape(n, size), order, axis=1), axis=1)
    half = 0.5 * growth[:, -1:]
    first = (growth < half).argmin(axis=1)
    before = np.take_along_axis(growth, np.maximum(first - 1, 0)[:, None], 1)[:, 0] * (first > 0)
    at = np.take_along_axis(growth, first[:, None], 1)[:, 0]
    part = (half[:, 0] - before) / np.where(at > before, at - before, 1.0)
    # Pixels count as a whole: the circle's area is the number of pixels within.
    radius = np.sqrt(np.maximum(first + part, 0.0) / math.pi)
    return flux, np.where(growth[:, -1] > 0, radius, np.nan)
