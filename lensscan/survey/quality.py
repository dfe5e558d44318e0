"""Which pixels and rows of a freshly filled batch are usable.

A row whose pixels are all finite takes the fast path: two reductions and no mask.  All others are settled
one by one: non-finite pixels join the mask; a band without any good pixel, or with one value only (the
zero-filled rim of a coadd), is absent; and a row with too little left fails with its reason.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lensscan.schema import Flag, Status
from lensscan.survey.stamps import Batch, Frame

__all__ = ["MAX_MASKED", "PIECE", "check_piece", "settle"]

MAX_MASKED = 0.5
"""A row fails as ``masked`` if more than this of its supplied pixels (padding apart) is missing."""
PIECE = 1 << 19
"""Bytes checked at a time: half of a typical second-level cache."""
FIRST = 16


def check_piece(images: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return for (k, C, S, S) images which bands (k, C) are finite everywhere and clearly not constant.

    The inner product with zeros is 0 if and only if all pixels are finite, and is the fastest such test
    numpy has (1.1 us for 65 kB against 1.6 for isfinite and 2.1 for maximum and minimum).  A band whose
    first pixels are equal counts as doubtful; `settle` looks at it closely.
    """
    pixels = images.reshape(images.shape[0], images.shape[1], -1)
    finite = np.vecdot(pixels, _zeros(pixels.shape[2])) == 0.0
    varied: NDArray[np.bool_] = (pixels[:, :, 1:FIRST] != pixels[:, :, :1]).any(axis=2)
    return finite & varied


@lru_cache(maxsize=8)
def _zeros(n: int) -> NDArray[np.float32]:
    return np.zeros(n, np.float32)


def settle(
    batch: Batch,
    start: int,
    stop: int,
    frame: Frame,
    doubtful: NDArray[np.bool_],
    fine: NDArray[np.bool_],
) -> None:
    """Decide on rows [start, stop) of a filled batch.

    Parameters
    ----------
    doubtful : (stop - start,) bool array
        Rows whose mask was written: never the fast path.
    fine : (stop - start, C) bool array
        Result of `check_piece`.
    """
    pending = batch.status[start:stop] == Status.PENDING
    slow = pending & (doubtful | ~fine.all(axis=1) | ~batch.present[start:stop].all(axis=1))
    for row in np.flatnonzero(slow):
        _settle_row(batch, start + int(row), frame, bool(doubtful[row]))


def _settle_row(batch: Batch, row: int, frame: Frame, masked: bool) -> None:
    images = batch.images[row]
    bad = ~np.isfinite(images)
    present = batch.present[row].copy()
    if present.sum() < frame.min_bands:
        return batch.fail(row, Status.WRONG_BANDS)
    bare = not (~bad[present]).any()
    if masked:
        bad |= batch.mask[row]
    padding = int(batch.padding[row])
    supplied = images[0].size - padding
    lost, blank = 0, 0
    for band in np.flatnonzero(present):
        values = images[band][~bad[band]]
        empty = values.size == 0
        constant = not empty and values.min() == values.max()
        lost += int(empty)
        blank += int(constant)
        if empty or constant:
            batch.present[row, band] = False
    count = int(batch.present[row].sum())
    if not count:
        reason = Status.BLANK if blank else Status.NOT_FINITE if bare else Status.MASKED
        return batch.fail(row, reason)
    if count < frame.min_bands:
        return batch.fail(row, Status.WRONG_BANDS)
    good = batch.present[row]
    missing = int(bad[good].sum()) - padding * count
    if missing > MAX_MASKED * supplied * count:
        return batch.fail(row, Status.MASKED)
    return _store(batch, row, bad, good)


def _store(batch: Batch, row: int, bad: NDArray[np.bool_], good: NDArray[np.bool_]) -> None:
    bad[~good] = False
    images = batch.images[row]
    images[~good] = 0.0
    batch.fwhm[row][~good] = np.nan
    batch.sigma[row][~good] = np.nan
    if not good.all():
        batch.flags[row] |= Flag.MISSING_BAND
    if bad.any():
        batch.flags[row] |= Flag.MASKED
        images[bad] = 0.0
        batch.mask_of(row)[...] = bad
    elif batch.masked:
        batch.mask[row] = False
