"""The planes beside an image: inverse variance, weight, rms, variance, mask and PSF."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.survey.header import Header

__all__ = ["IMAGE_NAMES", "PLANE_NAMES", "bad_pixels", "mask_bits", "plane_kind", "psf_fwhm", "typical_noise"]

IMAGE_NAMES = ("SCI", "IMAGE", "IMG", "BGSUB", "COADD", "FLUX", "DATA")
PLANE_NAMES = {
    "IVAR": "ivar",
    "INVVAR": "ivar",
    "WEIGHT": "ivar",
    "WHT": "ivar",
    "RMS": "rms",
    "ERR": "rms",
    "SIGMA": "rms",
    "VAR": "variance",
    "VARIANCE": "variance",
    "MASK": "mask",
    "MSK": "mask",
    "DQ": "mask",
    "FLAGS": "mask",
    "PSF": "psf",
}
"""What an extension's name says about it; WEIGHT is taken as inverse variance in 1/counts^2."""
BAD_PLANES = ("BAD", "SAT", "CR", "EDGE", "NO_DATA", "SUSPECT")
"""Of an LSST mask: DETECTED and the like mark sky positions, not damage."""
ABSURD = 1e6
"""An rms larger than the median by this factor marks a bad pixel (Euclid writes 1e16)."""
FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))


def plane_kind(name: str) -> str | None:
    """Return ivar, rms, variance, mask or psf for an extension name such as ``G_RMS`` or ``DQ``, else None."""
    for word in (name, name.rpartition("_")[2], name.partition("_")[0]):
        if word in PLANE_NAMES:
            return PLANE_NAMES[word]
    return None


def _rms(kind: str, plane: NDArray[Any]) -> NDArray[np.float64]:
    values = np.asarray(plane, np.float64)
    with np.errstate(all="ignore"):
        if kind == "ivar":
            values = 1 / np.sqrt(values)
        elif kind == "variance":
            values = np.sqrt(values)
    values[~(values > 0)] = np.nan
    values[~np.isfinite(values)] = np.nan
    return values


def mask_bits(header: Header) -> int | None:
    """Return the bits of an LSST-style mask plane (keywords ``MP_<name>``) that mean a bad pixel, else None."""
    keywords = header.keys()
    if not any(key.startswith("MP_") for key in keywords):
        return None
    return sum(1 << int(header.number(f"MP_{name}") or 0) for name in BAD_PLANES if f"MP_{name}" in header)


def bad_pixels(kind: str, plane: NDArray[Any], bits: int | None = None) -> NDArray[np.bool_]:
    """Return which pixels a plane declares bad: mask bits set (any, or `bits`), or no positive finite weight."""
    if kind == "mask":
        return np.asarray(plane != 0) if bits is None else np.asarray((plane.astype(np.int64) & bits) != 0)
    rms = _rms(kind, plane)
    typical = _median(rms)
    return np.asarray(~(rms <= ABSURD * typical))


def typical_noise(kind: str, plane: NDArray[Any]) -> float:
    """Return the median noise per pixel (counts) that a plane states, NaN if none is positive."""
    return _median(_rms(kind, plane))


def _median(values: NDArray[np.float64]) -> float:
    good = values[np.isfinite(values)]
    return float(np.median(good)) if good.size else math.nan


def psf_fwhm(psf: NDArray[Any], pixel_scale: float) -> float:
    """Return the FWHM (arcsec) of the Gaussian with a PSF image's noise-equivalent area; NaN if it has none.

    The area is (sum P)^2 / sum P^2 = 4 pi sigma^2 for a Gaussian (King 1983, PASP 95, 163).
    """
    values = np.asarray(psf, np.float64)
    total, square = float(values.sum()), float((values**2).sum())
    if not (math.isfinite(total) and total > 0 and square > 0):
        return math.nan
    return FWHM_PER_SIGMA * math.sqrt(total**2 / square / (4 * math.pi)) * pixel_scale
