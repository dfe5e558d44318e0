"""Early-type galaxies: luminosity and size by velocity dispersion, colours by redshift (numpy, float64)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lensscan.mocks import sed
from lensscan.mocks.tables import GalaxyPrior

__all__ = ["absolute_magnitude", "log_size", "track"]

Array = NDArray[np.float64]


def absolute_magnitude(log_sigma: Array) -> Array:
    """Return the absolute r magnitude (AB, H0 = 70) from log10 of the dispersion in km/s.

    Hyde & Bernardi 2009 (Table 6), inverted: ``log sigma = -2.97 - 0.37 M_r - 0.006 M_r^2``.
    """
    return (-0.37 + np.sqrt(0.37**2 - 0.024 * (2.97 + log_sigma))) / 0.012


def log_size(log_sigma: Array) -> Array:
    """Return log10 of the half-light radius (kpc); Hyde & Bernardi 2009: ``2.46 - 2.79 v + 0.84 v^2``."""
    return 2.46 - 2.79 * log_sigma + 0.84 * log_sigma * log_sigma


def track(galaxy: GalaxyPrior, key: str, z: Array) -> Array:
    """Return a column of the colour track (``g-r`` ..., or ``k_i``); beyond its end as the passive spectrum goes on."""
    grid = np.asarray(galaxy.track["z"])
    value = np.interp(z, grid, np.asarray(galaxy.track[key]))
    beyond = z > grid[-1]
    if not np.any(beyond):
        return value
    change = _passive(key, np.asarray(z)) - _passive(key, np.asarray(grid[-1]))
    return np.where(beyond, value + change, value)


def _passive(key: str, z: Array) -> Array:
    mags = sed.table().magnitudes(np.zeros_like(z), z, np.zeros_like(z))
    order = list(sed.BANDS)
    if key == "k_i":
        return mags[..., order.index("i")]
    blue, red = key.split("-")
    return mags[..., order.index(blue)] - mags[..., order.index(red)]
