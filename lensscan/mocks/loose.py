"""Loose FITS stamps: one multi-extension file per object, as a cut-out service would deliver it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.survey.zeropoint import NJY_ZERO_POINT

__all__ = ["stamp_bytes"]

BLOCK = 2880


def _card(key: str, value: Any, comment: str = "") -> str:
    if isinstance(value, bool):
        text = f"{'T' if value else 'F':>20}"
    elif isinstance(value, str):
        text = f"'{value:<8}'".ljust(20)
    elif isinstance(value, (int, np.integer)):
        text = f"{int(value):>20}"
    else:
        text = f"{float(value):>20.12G}"
    return f"{key:<8}= {text}{' / ' + comment if comment else ''}"[:80].ljust(80)


def _header(cards: list[tuple[Any, ...]]) -> bytes:
    text = "".join(_card(*card) for card in cards) + "END".ljust(80)
    return text.ljust(-(-len(text) // BLOCK) * BLOCK).encode("ascii")


def stamp_bytes(
    image: NDArray[np.float32],
    bands: tuple[str, ...],
    present: NDArray[np.bool_],
    fwhm: NDArray[np.float64],
    pixel_scale: float,
    zero_point: float,
    sky: tuple[float, float],
) -> bytes:
    """Return the bytes of one stamp file.

    Parameters
    ----------
    image : ndarray, shape (C, S, S)
        nJy per pixel; written as counts of the given zero point, one extension per present band.
    bands : tuple of str
    present : ndarray of bool, shape (C,)
    fwhm : ndarray, shape (C,)
        Seeing, arcsec, for the header.
    pixel_scale, zero_point : float
        Arcsec per pixel; AB magnitude of one count.
    sky : tuple of float
        RA and Dec of the stamp's centre, degrees; North is up, East left.
    """
    pieces = [_header([("SIMPLE", True, "mock survey stamp"), ("BITPIX", 8), ("NAXIS", 0), ("EXTEND", True)])]
    counts = (image * np.float32(10 ** (0.4 * (zero_point - NJY_ZERO_POINT)))).astype(">f4")
    size, step = image.shape[-1], pixel_scale / 3600
    for k, band in enumerate(bands):
        if not present[k]:
            continue
        pieces.append(
            _header(
                [
                    ("XTENSION", "IMAGE"),
                    ("BITPIX", -32),
                    ("NAXIS", 2),
                    ("NAXIS1", size),
                    ("NAXIS2", size),
                    ("PCOUNT", 0),
                    ("GCOUNT", 1),
                    ("EXTNAME", band.upper()),
                    ("BAND", band),
                    ("BUNIT", "count"),
                    ("MAGZERO", zero_point, "AB magnitude of one count"),
                    ("PIXSCALE", pixel_scale, "arcsec"),
                    ("PSF_FWHM", float(fwhm[k]), "arcsec"),
                    ("CTYPE1", "RA---TAN"),
                    ("CTYPE2", "DEC--TAN"),
                    ("CRVAL1", sky[0]),
                    ("CRVAL2", sky[1]),
                    ("CRPIX1", (size + 1) / 2),
                    ("CRPIX2", (size + 1) / 2),
                    ("CD1_1", -step),
                    ("CD1_2", 0.0),
                    ("CD2_1", 0.0),
                    ("CD2_2", step),
                    ("RADESYS", "ICRS"),
                    ("EQUINOX", 2000.0),
                ]
            )
        )
        data = counts[k].tobytes()
        pieces.append(data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0"))
    return b"".join(pieces)
