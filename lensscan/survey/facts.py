"""What the header of one band says, in our units; equal cards are looked at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lensscan.config import Survey
from lensscan.survey.header import Header
from lensscan.survey.wcs import General, Tan, read_wcs
from lensscan.survey.zeropoint import counts_to_njy, header_fwhm, header_scale, njy_factor

__all__ = ["Facts", "FactsBook"]

SCALE_SANITY = 5.0
"""A WCS whose pixels differ from the stated ones by more than this factor describes something else."""
KEYS = (
    "BUNIT",
    "PHOTFLAM",
    "PHOTPLAM",
    "EXPTIME",
    "PIXSCALE",
    "PIXSCAL1",
    "CTYPE1",
    "CTYPE2",
    "CUNIT1",
    "LONPOLE",
    "CRVAL1",
    "CRVAL2",
    "CRPIX1",
    "CRPIX2",
    "CD1_1",
    "CD1_2",
    "CD2_1",
    "CD2_2",
    "CDELT1",
    "CDELT2",
    "CROTA2",
    "PC1_1",
    "PC1_2",
    "A_ORDER",
    "PV1_1",
    "PV2_1",
    "PC2_1",
    "PC2_2",
)
BOOK = 256


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


class FactsBook:
    """Derives facts and remembers them by the cards they come from; one per reader.

    The headers of a stamp's bands mostly differ in names only, and those of a survey's stamps often in
    nothing that matters here.
    """

    def __init__(self, survey: Survey) -> None:
        self._survey = survey
        self._relevant = frozenset((*KEYS, *survey.zero_point_keywords, *survey.fwhm_keywords))
        self._known: dict[tuple[object, ...], Facts] = {}

    def of(self, header: Header, primary: Header, name: str) -> Facts:
        """Return the facts of band `name` from its own and the file's primary header, else from the survey."""
        key = (self._cards(header), () if primary is header else self._cards(primary))
        facts = self._known.get(key)
        if facts is None:
            if len(self._known) >= BOOK:
                self._known.clear()
            facts = self._known[key] = _derive(header, primary, self._survey)
        return self._with_band(facts, name)

    def _cards(self, header: Header) -> tuple[str, ...]:
        projection = header.text("CTYPE1")
        if projection and projection != "RA---TAN":
            return (header.padded(),)  # distortions may stand in any card
        return header.raw_cards(self._relevant)

    def _with_band(self, facts: Facts, name: str) -> Facts:
        band = self._survey.bands[name]
        factor, fwhm = facts.factor, facts.fwhm
        if factor is None and band.zero_point is not None:
            factor = counts_to_njy(band.zero_point)
        if fwhm != fwhm and band.fwhm:
            fwhm = band.fwhm
        if factor == facts.factor and fwhm is facts.fwhm:
            return facts
        return Facts(factor, facts.scale, fwhm, facts.wcs, facts.stale)


def _derive(header: Header, primary: Header, survey: Survey) -> Facts:
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
    fwhm = header_fwhm(header, survey, scale) or header_fwhm(primary, survey, scale) or np.nan
    return Facts(njy_factor(header, primary, survey), scale, fwhm, wcs, stale)
