"""Between stamps and the sky: positions, and the position angle of a lens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["deproject", "lens_on_sky", "project"]

ARCSEC = np.pi / 180 / 3600


def deproject(
    ra0: NDArray[np.float64], dec0: NDArray[np.float64], xi: NDArray[np.float64], eta: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sky position of tangent-plane offsets; exact at any declination.

    Parameters
    ----------
    ra0, dec0 : ndarray
        Tangent point, degrees.
    xi, eta : ndarray
        Offsets towards East and North in the tangent plane, arcsec.

    Returns
    -------
    ra, dec : ndarray
        Degrees, 0 <= ra < 360.

    References
    ----------
    Calabretta & Greisen 2002, A&A 395, 1077, section 5.1.3 (gnomonic projection).
    """
    x, y, d = xi * ARCSEC, eta * ARCSEC, np.radians(dec0)
    depth = np.cos(d) - y * np.sin(d)
    ra = np.mod(ra0 + np.degrees(np.arctan2(x, depth)), 360.0)
    dec = np.degrees(np.arctan2(np.sin(d) + y * np.cos(d), np.hypot(x, depth)))
    return np.where(ra == 360.0, 0.0, ra), dec


def project(
    wcs: NDArray[np.float64], ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x, y (arcsec, stamp axes) of sky positions; the inverse of `deproject`.

    Parameters
    ----------
    wcs : ndarray, shape (n, 6)
        As `Batch.wcs`; NaN gives NaN.
    ra, dec : ndarray, shape (n,)
        Degrees, less than 90 from the tangent point.

    References
    ----------
    Calabretta & Greisen 2002, A&A 395, 1077, section 5.1.3 (gnomonic projection).
    """
    ra0, dec0, xi_x, xi_y, eta_x, eta_y = np.asarray(wcs, dtype=np.float64).T
    turn, d0, d = np.radians(ra - ra0), np.radians(dec0), np.radians(dec)
    depth = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(turn)
    xi = np.cos(d) * np.sin(turn) / depth / ARCSEC
    eta = (np.cos(d0) * np.sin(d) - np.sin(d0) * np.cos(d) * np.cos(turn)) / depth / ARCSEC
    det = xi_x * eta_y - xi_y * eta_x
    return (eta_y * xi - xi_y * eta) / det, (xi_x * eta - eta_x * xi) / det


def lens_on_sky(
    wcs: NDArray[np.float64],
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    e1: NDArray[np.floating],
    e2: NDArray[np.floating],
) -> dict[str, NDArray[np.floating]]:
    """Return ``ra_lens``, ``dec_lens`` and ``pa`` of lenses measured in stamps.

    Parameters
    ----------
    wcs : ndarray, shape (n, 6)
        ``ra0 dec0`` (deg) of the origin of x and y, then the tangent-plane Jacobian ``dxi/dx dxi/dy deta/dx
        deta/dy`` (arcsec per arcsec); NaN without a WCS.
    x, y : ndarray, shape (n,)
        Lens centre, arcsec from the origin.
    e1, e2 : ndarray, shape (n,)
        Ellipticity, major axis at phi counter-clockwise from +x.

    Returns
    -------
    dict
        ``ra_lens``, ``dec_lens`` (float64, deg) and ``pa`` (float32, deg East of North, 0 <= pa < 180), all
        (n,), NaN without a WCS or a posterior.  For a rotation, mirrored or not, ``pa = PA(+x) + s phi`` with
        s = +1 where the Jacobian's determinant is negative (East left) and -1 where it is positive.
    """
    ra0, dec0, xi_x, xi_y, eta_x, eta_y = np.asarray(wcs, dtype=np.float64).T.copy()
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    ra, dec = deproject(ra0, dec0, xi_x * x + xi_y * y, eta_x * x + eta_y * y)
    phi = 0.5 * np.arctan2(np.asarray(e2, dtype=np.float64), np.asarray(e1, dtype=np.float64))
    sign = np.where(xi_x * eta_y - xi_y * eta_x < 0, 1.0, -1.0)
    pa = np.mod(np.degrees(np.arctan2(xi_x, eta_x) + sign * phi), 180.0).astype(np.float32)
    return {"ra_lens": ra, "dec_lens": dec, "pa": np.where(pa == 180, np.float32(0), pa)}
