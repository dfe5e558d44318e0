"""Spectra of galaxies from passive to starburst, and their redshifted AB magnitudes (numpy, float64).

A galaxy is a mix of an old and a young population behind dust, described by one number, its type: 0 passive,
1 spiral, 2 star-forming, 3 starburst, and anything between.  The two spectra are straight lines between the
nodes below.  That of the old population was fitted to the colour track of the recipe ``des-griz`` (z < 1.1;
it follows it within 0.04 mag rms); that of the young one is a dust-free continuum of constant star formation
with a Balmer break.  Dust: Calzetti et al. 2000.  Hydrogen between the galaxies: Madau 1995.  Bands are
trapezoids between the half-power points of the real filters, so that magnitudes are those of no survey in
particular, to a few hundredths.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensscan.mocks.priors import Draws

__all__ = [
    "BANDS",
    "COLOURS",
    "SedTable",
    "draw_type",
    "dust",
    "near",
    "sed_colours",
    "spectrum",
    "table",
    "transmission",
]

Array = NDArray[np.float64]
BANDS = {  # half-power wavelengths, Angstrom
    "u": (3250.0, 3950.0),
    "g": (3950.0, 5430.0),
    "r": (5580.0, 6930.0),
    "i": (6930.0, 8300.0),
    "z": (8300.0, 9400.0),
    "y": (9400.0, 10500.0),
    "VIS": (5500.0, 9000.0),
    "F814W": (7050.0, 9300.0),
}
EDGE = 100.0  # half the width of a trapezoid's flanks
COLOURS = (("g", "r"), ("r", "i"), ("i", "z"), ("u", "g"), ("z", "y"))
Z_MAX, Z_STEP = 8.0, 0.02
TYPE_STEP = 0.1
# AB magnitudes per unit frequency, relative to 5200 Angstrom.
OLD = (
    (100.0, 12.0), (911.0, 12.0), (913.0, 7.5), (1216.0, 7.2), (1500.0, 6.9), (2000.0, 6.8), (2500.0, 4.57),
    (2800.0, 3.90), (3100.0, 2.82), (3400.0, 2.26), (3650.0, 2.10), (3850.0, 1.48), (4000.0, 1.29), (4150.0, 0.92),
    (4400.0, 0.61), (4800.0, 0.15), (5200.0, 0.0), (5800.0, -0.34), (6500.0, -0.55), (7300.0, -0.79),
    (8200.0, -1.00), (9500.0, -1.22), (16000.0, -1.75),
)  # fmt: skip
YOUNG = (
    (100.0, 6.0), (911.0, 3.2), (913.0, 0.7), (1216.0, 0.38), (1500.0, 0.40), (2000.0, 0.48), (2800.0, 0.55),
    (3600.0, 0.60), (3900.0, 0.15), (4500.0, 0.02), (5200.0, 0.0), (6500.0, -0.08), (8200.0, -0.12),
    (9500.0, -0.15), (16000.0, -0.10),
)  # fmt: skip
OLD_SHARE = (1.0, 0.65, 0.25, 0.03)  # of the old population at 5200 Angstrom, by type
REDDENING = (0.0, 0.12, 0.12, 0.05)  # E(B-V), by type
LYMAN = ((1215.67, 0.0036), (1025.72, 0.0017), (972.54, 0.0012), (949.74, 0.00093))  # Madau 1995, eq. 15


def near(band: str) -> str:
    """Return the band of `BANDS` that stands for `band`: itself, else its lower-case name."""
    return band if band in BANDS else band.lower()


def dust(wavelength: Array) -> Array:
    """Return A(wavelength) / E(B-V) of starbursts (Calzetti et al. 2000, eq. 4; wavelength in Angstrom)."""
    x = 1e4 / np.clip(wavelength, 1000.0, 22000.0)
    red = 2.659 * (-1.857 + 1.040 * x) + 4.05
    blue = 2.659 * (-2.156 + 1.509 * x - 0.198 * x**2 + 0.011 * x**3) + 4.05
    return np.where(x < 1 / 0.63, red, blue)


def transmission(wavelength: Array, z: Array) -> Array:
    """Return the share of light that intergalactic hydrogen lets pass (Madau 1995, eqs. 15 and footnote 3).

    Parameters
    ----------
    wavelength : ndarray
        Observed wavelength, Angstrom.
    z : ndarray
        Redshift of the galaxy; broadcasts.
    """
    wavelength, z = np.broadcast_arrays(np.asarray(wavelength, float), np.asarray(z, float))
    depth = np.zeros(wavelength.shape)
    for line, strength in LYMAN:
        depth = depth + np.where(wavelength < line * (1 + z), strength * (wavelength / line) ** 3.46, 0.0)
    absorber, galaxy = np.minimum(wavelength / 912.0, 1 + z), 1 + z
    edge = (
        0.25 * absorber**3 * (galaxy**0.46 - absorber**0.46)
        + 9.4 * absorber**1.5 * (galaxy**0.18 - absorber**0.18)
        - 0.7 * absorber**3 * (absorber**-1.32 - galaxy**-1.32)
        - 0.023 * (galaxy**1.68 - absorber**1.68)
    )
    return np.exp(-depth - np.maximum(edge, 0.0))


def spectrum(kind: float, wavelength: Array) -> Array:
    """Return the flux per unit frequency of a galaxy of type `kind` (0 to 3) without its dust, 1 at 5200 Angstrom."""
    share = np.interp(kind, range(4), OLD_SHARE)
    parts = []
    for nodes in (OLD, YOUNG):
        at, mag = np.array(nodes).T
        parts.append(10.0 ** (-0.4 * np.interp(np.log(wavelength), np.log(at), mag)))
    return share * parts[0] + (1 - share) * parts[1]


@dataclass(frozen=True, slots=True)
class SedTable:
    """Magnitudes minus distance modulus minus rest-frame r magnitude, by type, redshift and band.

    Attributes
    ----------
    base : ndarray, shape (types, redshifts, bands)
        At the mean reddening of the type.
    slope : ndarray, shape (types, redshifts, bands)
        Its change per unit E(B-V).
    """

    base: Array
    slope: Array

    def nearest(self, kind: Array, z: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows of the tables nearest to types and redshifts."""
        a = np.clip(np.rint(kind / TYPE_STEP).astype(np.int64), 0, len(self.base) - 1)
        return a, np.clip(np.rint(z / Z_STEP).astype(np.int64), 0, self.base.shape[1] - 1)

    def magnitudes(self, kind: Array, z: Array, more_dust: Array) -> Array:
        """Return m - DM - M_r in all `BANDS`, shape (..., 8), for E(B-V) larger than the type's mean by `more_dust`.

        Linear in redshift and in dust, nearest in type (0.1).
        """
        a = np.clip(np.rint(kind / TYPE_STEP).astype(np.int64), 0, len(self.base) - 1)
        place = np.clip(z / Z_STEP, 0.0, self.base.shape[1] - 1.001)
        low = place.astype(np.int64)
        part = (place - low)[..., None]
        base = (1 - part) * self.base[a, low] + part * self.base[a, low + 1]
        return base + more_dust[..., None] * self.slope[a, low]


@functools.lru_cache(maxsize=1)
def table() -> SedTable:
    """Return the table of all types, redshifts (0 to 8) and `BANDS`."""
    kinds = np.arange(0.0, 3.0 + TYPE_STEP / 2, TYPE_STEP)
    z = np.arange(0.0, Z_MAX + Z_STEP / 2, Z_STEP)
    fine = np.exp(np.linspace(np.log(300.0), np.log(11000.0), 3000))
    bare = np.stack([spectrum(kind, fine) for kind in kinds])
    mean = np.interp(kinds, range(4), REDDENING)
    step = 0.1
    faces = [bare * 10.0 ** (-0.4 * (mean[:, None] + extra) * dust(fine)) for extra in (0.0, step)]
    rest = [-2.5 * np.log10(_through("r", fine, face, np.zeros(1))[:, 0]) for face in faces]
    mags = []
    for face, zero in zip(faces, rest, strict=True):
        flux = np.stack([_through(band, fine, face, z) * (1 + z) for band in BANDS], axis=-1)
        mags.append(-2.5 * np.log10(np.maximum(flux, 1e-12)) - zero[:, None, None])
    return SedTable(mags[0], (mags[1] - mags[0]) / step)


def _through(band: str, wavelength: Array, spectra: Array, z: Array) -> Array:
    """Return the mean flux (photon-counting, per unit frequency) in a band, shape (types, redshifts)."""
    low, high = BANDS[band]
    observed = np.exp(np.linspace(np.log(low - EDGE), np.log(high + EDGE), 120))
    weight = np.clip(np.minimum(observed - low + EDGE, high + EDGE - observed) / (2 * EDGE), 0.0, 1.0)
    seen = weight / weight.sum() * transmission(observed[None], z[:, None])
    place = np.log(observed[None] / (1 + z[:, None]))
    return np.stack([(np.interp(place, np.log(wavelength), one) * seen).sum(axis=1) for one in spectra])


def draw_type(u: Array, z: Array) -> Array:
    """Return types of faint galaxies from uniforms: ``3 u^p``, later types at higher redshift (ASSUMED)."""
    return 3.0 * u ** np.clip(0.9 - 0.3 * z, 0.3, 0.75)


def sed_colours(draws: Draws, name: str, z: Array, kind: Array) -> Array:
    """Return the colours (see `COLOURS`), shape (n, 5), of galaxies, with scatter in dust and 0.04 mag in each."""
    more = np.maximum(draws.normal(f"{name}.dust", 0.0, 0.06), -np.interp(kind, range(4), REDDENING))
    mags = table().magnitudes(kind, z, more)
    order = list(BANDS)
    colours = np.stack([mags[:, order.index(a)] - mags[:, order.index(b)] for a, b in COLOURS], axis=-1)
    return np.minimum(colours, 4.0) + draws.normal(f"{name}.sed", 0.0, 0.04, k=len(COLOURS))
