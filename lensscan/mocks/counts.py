"""How many galaxies there are behind a lens: counts by magnitude and redshift, and their sizes (numpy, float64).

LSST Science Book (2009), section 3.7.2: ``N(<i) = 46 10^(0.31 (i - 25))`` per arcmin^2, with redshifts
``p(z; <i) = z^2 exp(-z / z0) / (2 z0^3)``, ``z0 = 0.0417 i - 0.744`` (there for 20.5 < i < 25.5; here
extrapolated to any i).  Their product, differentiated, is the joint density in i and z.  Sizes follow Mosleh
et al. 2012 as in Collett 2015: ``log10(r / kpc) = -(M_r + 18) / 4 - 1.2 log10((1 + z) / 1.6)``.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from lensscan.lens.cosmology import ARCSEC, distances
from lensscan.mocks import sed

__all__ = ["SourceCounts", "log_radius", "lsst_counts", "power_redshifts"]

Array = NDArray[np.float64]
Z_STEP = 0.02
STEPS = 128
LEAST_Z0 = 0.08  # keeps the formula meaningful at i < 20


class SourceCounts:
    """Counts of galaxies between two magnitudes, tabulated.

    Parameters
    ----------
    bright, faint : float
        Limits of the i magnitude.
    z_max : float
        Largest redshift.

    Attributes
    ----------
    z : ndarray, shape (Z,)
        Centres of redshift cells of width 0.02.
    number : ndarray, shape (Z,)
        Galaxies per arcmin^2 and unit redshift.
    """

    def __init__(self, bright: float, faint: float, z_max: float) -> None:
        self.z = np.arange(Z_STEP / 2, z_max, Z_STEP)
        i = np.linspace(bright, faint, 257)[:, None]
        z0 = np.maximum(0.0417 * i - 0.744, LEAST_Z0)
        below = 46 * 10.0 ** (0.31 * (i - 25)) * self.z**2 * np.exp(-self.z / z0) / (2 * z0**3)
        growth = np.cumsum(np.maximum(np.diff(below, axis=0), 0.0), axis=0)
        self.number = growth[-1]
        u, share = np.linspace(0, 1, STEPS + 1), growth / np.maximum(growth[-1], 1e-300)
        share = np.concatenate([np.zeros((1, len(self.z))), share])
        self._inverse = np.stack([np.interp(u, column, i[:, 0]) for column in share.T])

    def magnitude(self, u: Array, z: Array) -> Array:
        """Return i magnitudes from uniforms, given the redshifts."""
        row = np.clip((z / Z_STEP).astype(np.int64), 0, len(self.z) - 1)
        place = u * STEPS
        low = place.astype(np.int64)
        part = place - low
        return (1 - part) * self._inverse[row, low] + part * self._inverse[row, low + 1]


@functools.lru_cache(maxsize=16)
def lsst_counts(bright: float, faint: float, z_max: float) -> SourceCounts:
    """Return the table of `SourceCounts` for these limits."""
    return SourceCounts(bright, faint, z_max)


@functools.lru_cache(maxsize=4)
def _sizes(cosmology: str) -> Array:
    """Return log10 of the median half-light radius (arcsec) at i = 0, by type and redshift of the SED table."""
    table = sed.table()
    z = np.maximum(np.arange(table.base.shape[1]) * sed.Z_STEP, 0.01)
    grid = distances(cosmology)
    kpc = 1000 * grid.angular(z) * ARCSEC
    modulus = grid.modulus(z) + table.base[:, :, list(sed.BANDS).index("i")]
    return (modulus - 18) / 4 - 1.2 * np.log10((1 + z) / 1.6) - np.log10(kpc)


def log_radius(cosmology: str, i: Array, z: Array, kind: Array) -> Array:
    """Return log10 of the median half-light radius in arcsec of galaxies of magnitude `i` and type `kind`."""
    a, b = sed.table().nearest(kind, z)
    return _sizes(cosmology)[a, b] - i / 4


def power_redshifts(z: Array, median: float) -> Array:
    """Return the density of the lognormal redshifts (0.42 in ln z) of ``counts = "power"``, unnormalised."""
    return np.exp(-0.5 * (np.log(z / median) / 0.42) ** 2) / (z * math.sqrt(2 * math.pi) * 0.42)
