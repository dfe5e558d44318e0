"""Rows of one batch while they are being filled: pixels, masks, seeing, noise, origin and sky position."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.config import Survey
from lensscan.errors import StampError
from lensscan.schema import Flag, Status
from lensscan.survey.placement import Placement
from lensscan.survey.quality import PIECE, check_piece, settle
from lensscan.survey.sky import Sky
from lensscan.survey.stamps import SCALE_TOLERANCE, Batch, Frame, Rows, StampReader

__all__ = ["Filling", "FillingReader"]

SAME_ORIGIN = 1e-6
"""Frame pixels by which the bands of a stamp may differ in their centres."""


class Filling:
    """Rows [at, at + n) of a batch under way; used by one call of `StampReader.read`."""

    def __init__(self, batch: Batch, at: int, n: int, frame: Frame, mask_value: float | None) -> None:
        self.batch, self.at, self.n, self.frame = batch, at, n, frame
        self.doubtful = np.zeros(n, np.bool_)
        self.fine = np.zeros((n, len(frame.bands)), np.bool_)
        self.checked = np.zeros(n, np.bool_)
        self.sky = Sky(n)
        self._mask_value = mask_value
        batch.open(at, at + n)

    def fail(self, row: int, status: int) -> None:
        """Record that a row failed; whatever was filled in is taken back."""
        self.batch.fail(self.at + row, int(status))
        self.doubtful[row] = False

    def absent(self, row: int, band: int) -> None:
        """Record that a row has no image in a band."""
        self.batch.images[self.at + row, band] = 0.0

    def unit(self, scale: float) -> float:
        """Return what the network takes for the size (arcsec) of an image pixel of the given true size."""
        return self.frame.pixel_scale if abs(scale / self.frame.pixel_scale - 1) <= SCALE_TOLERANCE else scale

    def first_band(self, row: int) -> bool:
        """Tell whether no band of the row has been filled yet."""
        return not self.batch.present[self.at + row].any()

    def band(
        self,
        row: int,
        band: int,
        image: NDArray[Any],
        place: Placement,
        factor: float,
        fwhm: float,
        bad: NDArray[np.bool_] | None = None,
        noise: float = math.nan,
        outside: bool = False,
    ) -> None:
        """Fill one band of one row.

        Parameters
        ----------
        image : (H, W) array
            Counts.
        factor : float
            nJy per count.
        fwhm : float
            Arcsec, NaN unknown.
        bad : (H, W) bool array, optional
            Pixels that planes declare bad.
        noise : float
            Counts per pixel from the planes, NaN unknown.
        outside : bool
            Padding is missing data (the rim of a tile), not just a small stamp.

        Raises
        ------
        StampError
            WRONG_SHAPE if the band's centre is not that of the row's other bands.
        """
        slot, batch = self.at + row, self.batch
        self._origin(slot, place, outside)
        place.put(image, factor, batch.images[slot, band])
        if self._mask_value is not None:
            bad = _join(bad, image == self._mask_value)
        resampled = place.resampling is not None
        if resampled:
            bad = _join(bad, ~np.isfinite(image))
            batch.flags[slot] |= Flag.RESAMPLED
        if place.padding or (bad is not None and bad.any()):
            place.put_mask(bad, batch.mask_of(slot)[band])
            self.doubtful[row] = True
        batch.present[slot, band] = True
        batch.fwhm[slot, band] = fwhm
        batch.sigma[slot, band] = noise * factor * (place.resampling.noise if place.resampling else 1.0)

    def _origin(self, slot: int, place: Placement, outside: bool) -> None:
        scale = self.frame.pixel_scale
        origin = place.offset[0] * scale, place.offset[1] * scale
        if self.batch.present[slot].any():
            known = self.batch.origin[slot]
            if max(abs(known[0] - origin[0]), abs(known[1] - origin[1])) > SAME_ORIGIN * scale + 1e-6:
                raise StampError(Status.WRONG_SHAPE, "the bands differ in size by an odd number of pixels")
            return
        self.batch.origin[slot] = origin
        if place.padding and outside:
            self.batch.flags[slot] |= Flag.EDGE
        elif place.padding:
            self.batch.padding[slot] = place.padding

    def finish(self, rows: Rows, start: int) -> None:
        """Settle every row and write the sky positions."""
        batch, stop = self.batch, self.at + self.n
        for slot in (self.at + np.flatnonzero(batch.status[self.at : stop])).tolist():
            batch.fail(slot, int(batch.status[slot]))  # takes back what was filled in after the failure
        self._check()
        settle(batch, self.at, stop, self.frame, self.doubtful, self.fine)
        self.sky.store(batch, self.at, rows.ra[start : start + self.n], rows.dec[start : start + self.n])
        batch.close(stop)

    def _check(self) -> None:
        """Check the pixels of the rows that the reader has not checked while they were in the cache."""
        step = max(1, PIECE // max(1, self.batch.images[0].nbytes))
        for low in range(0, self.n, step):
            piece = slice(low, min(low + step, self.n))
            if not self.checked[piece].all():
                self.fine[piece] = check_piece(self.batch.images[self.at + piece.start : self.at + piece.stop])


class FillingReader(StampReader):
    """What readers of packs, tiles and loose stamps share: rows are read in runs and settled together."""

    def __init__(self, survey: Survey, frame: Frame, resample: bool) -> None:
        self._survey, self._frame, self._resample = survey, frame, resample

    def read(self, rows: Rows, start: int, stop: int, batch: Batch, at: int = 0) -> None:
        """Fill the batch, see `StampReader.read`."""
        filling = Filling(batch, at, stop - start, self._frame, self._survey.mask_value)
        status = rows.status[start:stop]
        for row in np.flatnonzero(status != Status.PENDING).tolist():
            filling.fail(row, int(status[row]))
        with np.errstate(all="ignore"):
            for low, high in self._runs(rows, start, stop):
                self._read_run(rows, start, low, high, filling)
            filling.finish(rows, start)

    @abstractmethod
    def _runs(self, rows: Rows, start: int, stop: int) -> Iterable[tuple[int, int]]:
        """Return the runs [low, high) of readable rows, counted from `start`, that are read in one go."""

    @abstractmethod
    def _read_run(self, rows: Rows, start: int, low: int, high: int, filling: Filling) -> None:
        """Read one run; a row that cannot be read is failed, never raised."""


def _join(one: NDArray[np.bool_] | None, other: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return other if one is None else one | other
