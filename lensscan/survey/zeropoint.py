"""From image counts to nJy: units, zero points, seeing and pixel scale as headers and survey files state them."""

from __future__ import annotations

import math

from lensscan.config import Survey
from lensscan.survey.header import Header

__all__ = ["NJY_ZERO_POINT", "counts_to_njy", "header_fwhm", "header_scale", "njy_factor"]

NJY_ZERO_POINT = 31.4
"""AB magnitude of 1 nJy."""
JANSKY = {"NJY": 1.0, "UJY": 1e3, "MJY": 1e6, "JY": 1e9}
MAGGY = {"MAGGY": 0.0, "MAGGIES": 0.0, "NANOMAGGY": 22.5, "NANOMAGGIES": 22.5, "NMGY": 22.5}
LIGHT_SPEED = 2.99792458e18
"""Angstrom per second."""
MAX_FWHM = 30.0
"""Arcsec; a header that claims more does not speak of seeing."""


def counts_to_njy(zero_point: float) -> float:
    """Return nJy per count for an AB zero point (magnitude of one count)."""
    return float(10.0 ** (-0.4 * (zero_point - NJY_ZERO_POINT)))


def njy_factor(header: Header, primary: Header, survey: Survey) -> float | None:
    """Return the factor from an image's pixel values to nJy, or None if the headers state none.

    In this order: a BUNIT of the Jansky family; a zero-point keyword of the image's HDU, then of the
    primary; BUNIT maggy or nanomaggy; HST's PHOTFLAM and PHOTPLAM.
    """
    unit = (header.text("BUNIT") or primary.text("BUNIT")).replace("µ", "u").upper()
    if unit in JANSKY:
        return JANSKY[unit]
    for source in (header, primary):
        for key in survey.zero_point_keywords:
            zero_point = source.number(key)
            if zero_point is not None:
                return counts_to_njy(zero_point)
    if unit in MAGGY:
        return counts_to_njy(MAGGY[unit])
    for source in (header, primary):
        factor = _hst_factor(source, unit, header.number("EXPTIME") or primary.number("EXPTIME"))
        if factor is not None:
            return factor
    return None


def _hst_factor(header: Header, unit: str, exposure: float | None) -> float | None:
    """f_nu = PHOTFLAM PHOTPLAM^2 / c per e/s (HST Data Handbook, section on photometry)."""
    flam, pivot = header.number("PHOTFLAM"), header.number("PHOTPLAM")
    if flam is None or pivot is None or flam <= 0 or pivot <= 0:
        return None
    factor = flam * pivot**2 / LIGHT_SPEED * 1e23 * 1e9
    if unit in ("ELECTRONS", "ELECTRON", "COUNTS", "COUNT", "DN") and exposure:
        factor /= exposure
    return factor


def header_fwhm(header: Header, survey: Survey, pixel_scale: float) -> float | None:
    """Return the seeing (arcsec) that a header states, or None; a comment that says pixels is believed."""
    for key in survey.fwhm_keywords:
        value = header.number(key)
        if value is None:
            continue
        if "pix" in header.card(key)[1].lower():
            value *= pixel_scale
        if 0 < value < MAX_FWHM:
            return value
    return None


def header_scale(header: Header) -> float | None:
    """Return the pixel scale (arcsec) of the PIXSCALE or PIXSCAL1 keyword, or None."""
    for key in ("PIXSCALE", "PIXSCAL1"):
        value = header.number(key)
        if value is not None and value > 0 and math.isfinite(value):
            return value
    return None
