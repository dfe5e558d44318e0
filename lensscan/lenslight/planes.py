"""FITS files of stamps taken apart: an image of the lens and one of the arcs for every band."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lensscan.files import ascii_text, replacing
from lensscan.lenslight.stage import LensLight

__all__ = ["write_planes"]

NUMBERS = ("x", "y", "e1", "e2")


def write_planes(
    path: str | Path,
    bands: Sequence[str],
    light: LensLight,
    row: int,
    *,
    pixel_scale: float,
    wcs: ArrayLike | None = None,
    origin: ArrayLike = (0.0, 0.0),
    source: str = "",
) -> Path:
    """Write the stamp `row` of a result: HDUs ``<BAND>_LENS`` and ``<BAND>_ARCS`` in nJy, NaN where missing.

    ``<BAND>_DENOISED`` too, of a method that takes the noise off.

    Parameters
    ----------
    bands : sequence of str
        Names of the result's bands; those without a pixel are left out.
    light : LensLight
        With numpy arrays.
    pixel_scale : float
        Arcsec.
    wcs, origin : array_like, optional
        Of the stamp, as in `lensscan.survey.stamps.Batch`; NaN without one.
    source : str
        Name of the stamp's file, for the header.

    Raises
    ------
    DiskError, OutputError
        If the file cannot be written.
    """
    from astropy.io import fits

    primary = fits.PrimaryHDU()
    primary.header["ORIGIN"] = ("lensscan", "lens light removed")
    primary.header["METHOD"] = (str(light.method[row]), "how lens and arcs were told apart")
    primary.header["SOURCE"] = (ascii_text(source)[-60:], "stamp")
    for name in (each for each in NUMBERS if each in light.diagnostics):
        value = float(light.diagnostics[name][row])
        if np.isfinite(value):
            unit = "arcsec from the centre" if name in "xy" else "(1-q)/(1+q), major axis"
            primary.header[f"LENS_{name.upper()}"] = (round(value, 5), f"lens, {unit}")
    hdus: list[fits.hdu.base.ExtensionHDU] = [primary]
    height, width = light.arcs.shape[2:]
    sky = _projection(wcs, origin, height, width, pixel_scale)
    for k, band in enumerate(bands):
        missing = light.missing[row, k]
        if missing.all():
            continue
        planes = {"LENS": light.lens, "ARCS": light.arcs}
        planes |= {} if light.denoised is None else {"DENOISED": light.denoised}
        for name, plane in ((name, values[row, k]) for name, values in planes.items()):
            hdu = fits.ImageHDU(np.where(missing, np.nan, plane).astype(np.float32), name=f"{band}_{name}")
            hdu.header["BUNIT"] = "nJy"
            hdu.header["PIXSCALE"] = (pixel_scale, "arcsec")
            if np.isfinite(light.fwhm[row, k]):
                hdu.header["PSF_FWHM"] = (round(float(light.fwhm[row, k]), 5), "arcsec")
            hdu.header.update(sky)
            hdus.append(hdu)
    with replacing(path) as temporary:
        fits.HDUList(hdus).writeto(temporary, overwrite=True)
    return Path(path)


def _projection(
    wcs: ArrayLike | None, origin: ArrayLike, height: int, width: int, pixel_scale: float
) -> dict[str, str | float]:
    """Return the cards of a tangential projection about the stamp's origin; none without a WCS."""
    values: NDArray[np.float64] = np.asarray(np.nan if wcs is None else wcs, dtype=np.float64)
    if not np.isfinite(values).all():
        return {}
    shift = np.asarray(origin, dtype=np.float64) / pixel_scale
    cards: dict[str, str | float] = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg"}
    cards |= {"CRVAL1": float(values[0]), "CRVAL2": float(values[1])}
    cards |= {"CRPIX1": (width + 1) / 2 - float(shift[0]), "CRPIX2": (height + 1) / 2 - float(shift[1])}
    names = ("CD1_1", "CD1_2", "CD2_1", "CD2_2")
    return cards | {name: float(v) * pixel_scale / 3600 for name, v in zip(names, values[2:], strict=True)}
