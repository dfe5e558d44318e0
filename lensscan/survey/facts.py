"""What the header of one band says, in our units; equal headers are looked at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lensscan.config import Band, Survey
from lensscan.survey.header import Header
from lensscan.survey.wcs import General, Tan, read_wcs
from lensscan.survey.zeropoint import header_fwhm, header_scale, njy_factor

__all__ = ["Facts", "facts_of"]

SCALE_SANITY = 5.0
"""A WCS whose pixels differ from the stated ones by more than this factor describes something else."""
PRIMARY_KEYS = (
    "BUNIT", "PHOTFLAM", "PHOTPLAM", "EXPTIME", "PIXSCALE", "PIXSCAL1", "CTYPE1", "CTYPE2", "CUNIT1",
    "LONPOLE", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "CD1_1", "CD1_2", "CD2_1", "CD2_2", "CDELT1",
    "CDELT2", "CROTA2", "PC1_1", "PC1_2", "PC2_1", "PC2_2",
)
MEMO = 64


@dataclass(frozen=True, slots=True)
class Facts:
    """One band of one file.

    Attributes
    ----------
    factor : float or None
        nJy per count; None without a zero point.
    scale : float
        Arcsec per pixel.
    fwhm : float
        Arcsec, NaN unknown.
    wcs : Tan, General or None
        None without one, or with one that is not to be used.
    stale : bool
        The header has a WCS that is not to be used.
    """

    factor: float | None
    scale: float
    fwhm: float
    wcs: Tan | General | None
    stale: bool


def facts_of(header: Header, primary: Header, survey: Survey, name: str) -> Facts:
    """Return the facts of band `name` from its own and the file's primary header, else from the survey."""
    inherited = () if primary is header else _inherited(primary, survey)
    key = ("facts", id(survey), name, inherited)
    known = header.memo.get(key)
    if known is None:
        if len(header.memo) >= MEMO:
            header.memo.clear()
        known = (_derive(header, primary, survey, survey.bands[name]), survey)  # keeps the id of `survey` taken
        header.memo[key] = known
    facts: Facts = known[0]
    return facts


def _inherited(primary: Header, survey: Survey) -> tuple[object, ...]:
    """Return what of a primary header can matter to its extensions: many differ in nothing but a name."""
    key = ("inherited", id(survey))
    known = primary.memo.get(key)
    if known is None:
        keys = (*PRIMARY_KEYS, *survey.zero_point_keywords, *survey.fwhm_keywords)
        known = (tuple(primary.card(word) for word in keys if word in primary), survey)
        primary.memo[key] = known
    values: tuple[object, ...] = known[0]
    return values


def _derive(header: Header, primary: Header, survey: Survey, band: Band) -> Facts:
    wcs: Tan | General | None = None
    stale = False
    try:
        wcs = read_wcs(header) or (read_wcs(primary) if primary is not header else None)
    except ValueError:
        stale = True
    scale = header_scale(header) or header_scale(primary) or survey.pixel_scale
    if wcs is not None and not 1 / SCALE_SANITY < wcs.scale / scale < SCALE_SANITY:
        wcs, stale = None, True
    if wcs is not None:
        scale = wcs.scale
    if wcs is not None and not survey.trust_wcs:
        wcs, stale = None, True
    fwhm = header_fwhm(header, survey, scale) or header_fwhm(primary, survey, scale) or band.fwhm or np.nan
    return Facts(njy_factor(header, primary, survey, band), scale, fwhm, wcs, stale)
