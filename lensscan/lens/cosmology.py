"""Distances of a lens system: Einstein radius from velocity dispersion, time-delay scale.

The default cosmology is astropy's Planck18.  Distances are tabulated once per cosmology, because mocks ask
for millions of them.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from astropy.cosmology import FLRW

__all__ = ["Distances", "distances", "einstein_radius", "time_delay_scale", "velocity_dispersion"]

ARCSEC = math.pi / 648000
LIGHT_SPEED = 299792.458  # km/s
MPC_KM = 3.0856775814913673e19
DAY = 86400.0
Array = NDArray[np.float64]


class Distances:
    """Comoving distances of one flat cosmology, tabulated in redshift.

    Parameters
    ----------
    cosmology : astropy.cosmology.FLRW
        A flat cosmology: angular-diameter distances between two redshifts follow by subtraction.
    z_max : float
        End of the table.
    """

    def __init__(self, cosmology: FLRW, z_max: float = 12.0, points: int = 6001) -> None:
        self.cosmology = cosmology
        self.z = np.linspace(0.0, z_max, points)
        self.comoving = np.asarray(cosmology.comoving_distance(self.z).to_value("Mpc"), dtype=np.float64)

    def transverse(self, z: Any) -> Array:
        """Return the comoving distance, Mpc (table, linear; relative error below 1e-5 above z = 0.05)."""
        return np.interp(np.asarray(z, dtype=np.float64), self.z, self.comoving)

    def angular(self, z: Any) -> Array:
        """Return the angular-diameter distance to `z`, Mpc."""
        return self.transverse(z) / (1 + np.asarray(z, dtype=np.float64))

    def modulus(self, z: Any) -> Array:
        """Return the distance modulus at `z`, mag."""
        return 5 * np.log10(self.transverse(z) * (1 + np.asarray(z, dtype=np.float64))) + 25

    def ratio(self, z_lens: Any, z_source: Any) -> Array:
        """Return D_ls / D_s; zero where the source is not behind the lens."""
        near, far = self.transverse(z_lens), self.transverse(z_source)
        return np.where(far > near, 1 - near / np.maximum(far, 1e-30), 0.0)


@functools.lru_cache(maxsize=8)
def _table(name: str) -> Distances:
    import astropy.cosmology

    return Distances(getattr(astropy.cosmology, name))


def distances(cosmology: FLRW | str | None = None) -> Distances:
    """Return the distance table of a cosmology: an object, the name of one of astropy's, or None for Planck18."""
    if cosmology is None or isinstance(cosmology, str):
        return _table(cosmology or "Planck18")
    return Distances(cosmology)


def einstein_radius(sigma_v: Any, ratio: Any) -> Array:
    """Return the Einstein radius 4 pi (sigma_v / c)^2 D_ls / D_s in arcsec; `sigma_v` in km/s."""
    return 4 * math.pi * (np.asarray(sigma_v, dtype=np.float64) / LIGHT_SPEED) ** 2 * ratio / ARCSEC


def velocity_dispersion(theta_E: Any, ratio: Any) -> Array:
    """Return sigma_v (km/s) of an isothermal sphere with Einstein radius `theta_E` (arcsec)."""
    return LIGHT_SPEED * np.sqrt(np.asarray(theta_E, dtype=np.float64) * ARCSEC / (4 * math.pi * np.asarray(ratio)))


def time_delay_scale(z_lens: Any, z_source: Any, cosmology: FLRW | None = None) -> Array:
    """Return (1 + z_l) D_l D_s / (c D_ls) in days per arcsec^2 of Fermat potential, NaN where z_source <= z_lens.

    Distances come straight from astropy, not from the table; in comoving ones the scale is D_l D_s / (c D_ls).
    """
    import astropy.cosmology

    flrw = cosmology if cosmology is not None else astropy.cosmology.Planck18
    z_l, z_s = np.broadcast_arrays(np.asarray(z_lens, dtype=np.float64), np.asarray(z_source, dtype=np.float64))
    behind = z_s > z_l
    z_s = np.where(behind, z_s, z_l + 1.0)
    near, far = (flrw.comoving_transverse_distance(z).to_value("Mpc") for z in (z_l, z_s))
    # Hogg 1999 (astro-ph/9905116), eq. 19: transverse distance between two redshifts, curvature included.
    curvature = float(flrw.Ok0) / flrw.hubble_distance.to_value("Mpc") ** 2
    between = far * np.sqrt(1 + curvature * near**2) - near * np.sqrt(1 + curvature * far**2)
    days = near * far / between * MPC_KM / LIGHT_SPEED / DAY * ARCSEC**2
    return np.where(behind, days, np.nan)
