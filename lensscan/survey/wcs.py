"""World coordinates of pixels: a light vectorised TAN for stamps, astropy for every other projection."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lensscan.survey.header import Header

__all__ = ["General", "Projection", "Tan", "read_wcs", "separation", "tan_frames"]

ARCSEC = 3600.0
Floats = NDArray[np.float64]


class Projection(Protocol):
    """A celestial WCS; pixels are 0-based."""

    def frames(self, x: ArrayLike, y: ArrayLike) -> Floats:
        """Return (n, 6): ra, dec (deg), then dxi/dx, dxi/dy, deta/dx, deta/dy in arcsec per pixel."""
        ...

    def pixels(self, ra: ArrayLike, dec: ArrayLike) -> tuple[Floats, Floats]:
        """Return the 0-based pixel positions; NaN where the sky position is not on the projection."""
        ...

    @property
    def scale(self) -> float:
        """Arcsec per pixel at the reference point: the square root of the pixel's area."""
        ...


@dataclass(frozen=True, slots=True)
class Tan:
    """Gnomonic projection without distortion (Calabretta & Greisen 2002, section 5.1.3).

    Attributes
    ----------
    ra, dec : float
        Reference point, deg.
    x, y : float
        Its 0-based pixel.
    cd : tuple of 4 float
        Degrees per pixel: CD1_1, CD1_2, CD2_1, CD2_2.
    """

    ra: float
    dec: float
    x: float
    y: float
    cd: tuple[float, float, float, float]

    @property
    def scale(self) -> float:
        """Arcsec per pixel."""
        a, b, c, d = self.cd
        return math.sqrt(abs(a * d - b * c)) * ARCSEC

    def parameters(self) -> tuple[float, ...]:
        """Return ra, dec, x, y and the CD matrix: a row of `tan_frames`' argument."""
        return (self.ra, self.dec, self.x, self.y, *self.cd)

    def frames(self, x: ArrayLike, y: ArrayLike) -> Floats:
        """Return sky positions and local Jacobians, see `Projection`."""
        x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
        return tan_frames(np.tile(self.parameters(), (len(x), 1)), x, y)

    def pixels(self, ra: ArrayLike, dec: ArrayLike) -> tuple[Floats, Floats]:
        """Return 0-based pixels of sky positions (deg); NaN on the far hemisphere."""
        lon = np.radians(np.asarray(ra, float) - self.ra)
        lat = np.radians(np.asarray(dec, float))
        dec0 = math.radians(self.dec)
        cosine = np.sin(lat) * math.sin(dec0) + np.cos(lat) * math.cos(dec0) * np.cos(lon)
        cosine = np.where(cosine > 1e-6, cosine, np.nan)
        xi = np.degrees(np.cos(lat) * np.sin(lon) / cosine)
        eta = np.degrees((np.sin(lat) * math.cos(dec0) - np.cos(lat) * math.sin(dec0) * np.cos(lon)) / cosine)
        a, b, c, d = self.cd
        det = a * d - b * c
        return self.x + (d * xi - b * eta) / det, self.y + (a * eta - c * xi) / det


def tan_frames(parameters: Floats, x: Floats, y: Floats) -> Floats:
    """Evaluate one TAN projection per row.

    Parameters
    ----------
    parameters : (n, 8) array
        `Tan.parameters` of each row; NaN rows give NaN.
    x, y : (n,) array
        0-based pixels.

    Returns
    -------
    (n, 6) array
        ra in [0, 360), dec (deg), then the Jacobian of the local tangent plane (East, North) at that very
        position: dxi/dx, dxi/dy, deta/dx, deta/dy in arcsec per pixel.
    """
    ra0, dec0 = np.radians(parameters[:, 0]), np.radians(parameters[:, 1])
    cd = np.radians(parameters[:, 4:8])
    dx, dy = x - parameters[:, 2], y - parameters[:, 3]
    xi, eta = cd[:, 0] * dx + cd[:, 1] * dy, cd[:, 2] * dx + cd[:, 3] * dy
    east, north = _basis(ra0, dec0)
    centre = _unit(ra0, dec0)
    vector = centre + xi[:, None] * east + eta[:, None] * north
    length = np.sqrt(1 + xi**2 + eta**2)[:, None]
    vector /= length
    ra, dec = np.arctan2(vector[:, 1], vector[:, 0]), np.arcsin(np.clip(vector[:, 2], -1, 1))
    here_east, here_north = _basis(ra, dec)
    along_xi = (east - vector * _dot(vector, east)[:, None]) / length
    along_eta = (north - vector * _dot(vector, north)[:, None]) / length
    per_radian = np.degrees(1.0) * ARCSEC
    result = np.empty((len(x), 6))
    result[:, 0] = np.degrees(ra) % 360.0
    result[:, 1] = np.degrees(dec)
    for row, basis in ((2, here_east), (4, here_north)):
        to_xi, to_eta = _dot(basis, along_xi), _dot(basis, along_eta)
        result[:, row] = (to_xi * cd[:, 0] + to_eta * cd[:, 2]) * per_radian
        result[:, row + 1] = (to_xi * cd[:, 1] + to_eta * cd[:, 3]) * per_radian
    return result


def _unit(ra: Floats, dec: Floats) -> Floats:
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def _basis(ra: Floats, dec: Floats) -> tuple[Floats, Floats]:
    east = np.stack([-np.sin(ra), np.cos(ra), np.zeros_like(ra)], axis=-1)
    north = np.stack([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)], axis=-1)
    return east, north


def _dot(a: Floats, b: Floats) -> Floats:
    return np.einsum("ij,ij->i", a, b)


class General:
    """Any celestial projection, through astropy; a lock lets reader threads share one (wcslib keeps state)."""

    def __init__(self, header_text: str) -> None:
        from astropy.io import fits
        from astropy.wcs import WCS

        self._lock = threading.Lock()
        self._wcs: Any = WCS(fits.Header.fromstring(header_text), naxis=2, fix=True)
        if not self._wcs.has_celestial:
            raise ValueError("no celestial axes")

    @property
    def scale(self) -> float:
        """Arcsec per pixel."""
        return float(math.sqrt(abs(np.linalg.det(self._wcs.pixel_scale_matrix)))) * ARCSEC

    def frames(self, x: ArrayLike, y: ArrayLike) -> Floats:
        """Return sky positions and local Jacobians (central differences over one pixel), see `Projection`."""
        x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
        here = np.radians(np.stack(self._world(x, y)))
        result = np.empty((len(x), 6))
        result[:, 0], result[:, 1] = np.degrees(here[0]) % 360.0, np.degrees(here[1])
        bases = _basis(here[0], here[1])
        for column, (dx, dy) in enumerate(((0.5, 0.0), (0.0, 0.5))):
            ahead = _unit(*np.radians(np.stack(self._world(x + dx, y + dy))))
            behind = _unit(*np.radians(np.stack(self._world(x - dx, y - dy))))
            step = np.degrees(ahead - behind) * ARCSEC
            result[:, 2 + column], result[:, 4 + column] = _dot(bases[0], step), _dot(bases[1], step)
        return result

    def _world(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        with self._lock:
            ra, dec = self._wcs.all_pix2world(x, y, 0)
        return np.asarray(ra, float), np.asarray(dec, float)

    def pixels(self, ra: ArrayLike, dec: ArrayLike) -> tuple[Floats, Floats]:
        """Return 0-based pixels of sky positions (deg); NaN where the inversion fails."""
        ra, dec = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
        with self._lock:
            x, y = self._wcs.all_world2pix(ra, dec, 0, quiet=True)
        return np.asarray(x, float), np.asarray(y, float)


def read_wcs(header: Header) -> Tan | General | None:
    """Return a header's celestial WCS, None if it has none.

    Raises
    ------
    ValueError
        If the header has one that cannot be used: values missing, not finite, or a singular matrix.
    """
    types = header.text("CTYPE1").upper(), header.text("CTYPE2").upper()
    if not any(types):
        return None
    if types == ("RA---TAN", "DEC--TAN") and _plain(header):
        return _read_tan(header)
    try:
        return General(header.padded())
    except Exception as error:  # astropy and wcslib raise many kinds
        raise ValueError(f"WCS not usable: {' '.join(str(error).split())[:200]}") from None


def _plain(header: Header) -> bool:
    if header.text("CUNIT1").lower() not in ("", "deg", "degree", "degrees"):
        return False
    if "A_ORDER" in header or "PV2_1" in header or "PV1_1" in header:
        return False
    pole = header.number("LONPOLE")
    return pole is None or pole == 180.0


def _read_tan(header: Header) -> Tan:
    values = [header.number(key) for key in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2")]
    if any(value is None for value in values):
        raise ValueError("WCS without CRVAL or CRPIX")
    ra, dec, x, y = (float(value) for value in values if value is not None)
    cd = _matrix(header)
    if not all(map(math.isfinite, cd)) or cd[0] * cd[3] - cd[1] * cd[2] == 0 or not -90 <= dec <= 90:
        raise ValueError("WCS with a singular matrix or an impossible position")
    return Tan(ra, dec, x - 1, y - 1, cd)


def _matrix(header: Header) -> tuple[float, float, float, float]:
    """CDi_j, else PCi_j with CDELTi, else CROTA2 with CDELTi (Greisen & Calabretta 2002)."""
    if any(f"CD{i}_{j}" in header for i in (1, 2) for j in (1, 2)):
        a, b, c, d = (header.number(f"CD{i}_{j}") or 0.0 for i in (1, 2) for j in (1, 2))
        return a, b, c, d
    step1, step2 = header.number("CDELT1"), header.number("CDELT2")
    if step1 is None or step2 is None:
        raise ValueError("WCS without pixel scale")
    turn = math.radians(header.number("CROTA2") or 0.0)
    if turn and not any(f"PC{i}_{j}" in header for i in (1, 2) for j in (1, 2)):
        cosine, sine = math.cos(turn), math.sin(turn)
        return step1 * cosine, -step2 * sine, step1 * sine, step2 * cosine
    pc = [header.number(f"PC{i}_{j}") for i in (1, 2) for j in (1, 2)]
    a, b, c, d = (unit if value is None else value for value, unit in zip(pc, (1.0, 0.0, 0.0, 1.0), strict=True))
    return step1 * a, step1 * b, step2 * c, step2 * d


def separation(ra1: ArrayLike, dec1: ArrayLike, ra2: ArrayLike, dec2: ArrayLike) -> Floats:
    """Return the angular distance in arcsec of positions in degrees (haversine)."""
    lat1, lat2 = np.radians(np.asarray(dec1, float)), np.radians(np.asarray(dec2, float))
    turn = np.radians(np.asarray(ra2, float) - np.asarray(ra1, float))
    chord = np.sin((lat2 - lat1) / 2) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin(turn / 2) ** 2
    return np.asarray(np.degrees(2 * np.arcsin(np.sqrt(np.clip(chord, 0, 1)))) * ARCSEC)
