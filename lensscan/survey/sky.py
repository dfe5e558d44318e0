"""Sky positions of the rows of one batch, gathered while reading and evaluated together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lensscan.schema import Flag
from lensscan.survey.stamps import Batch
from lensscan.survey.wcs import General, Tan, separation, tan_frames

__all__ = ["Sky"]


class Sky:
    """Gathers a WCS and the pixel of the origin for some rows; rows without keep NaN."""

    def __init__(self, n: int) -> None:
        self._tan = np.full((n, 8), np.nan)
        self._pixel = np.zeros((n, 2))
        self._reach = np.full(n, np.inf)
        self._unit = np.ones(n)
        self._ready: dict[int, NDArray[np.float64]] = {}
        self._stale: list[int] = []
        self._any = False

    def add(self, row: int, wcs: Tan | General, x: float, y: float, unit: float, reach: float = np.inf) -> None:
        """Note a row's WCS and the pixel of its origin.

        Parameters
        ----------
        x, y : float
            0-based pixel of the origin in the image of the WCS.
        unit : float
            What the network takes for the size of one of that image's pixels, arcsec: the frame's pixel scale,
            or the image's own where it is resampled.
        reach : float
            A WCS that puts the origin farther than this (arcsec) from the catalog position is stale.
        """
        self._any = True
        self._pixel[row] = x, y
        self._reach[row] = reach
        self._unit[row] = unit
        if isinstance(wcs, Tan):
            self._tan[row] = wcs.parameters()
        else:
            self._ready[row] = wcs.frames(x, y)[0]

    def stale(self, row: int) -> None:
        """Note that a row has a WCS which cannot be used."""
        self._stale.append(row)

    def store(self, batch: Batch, at: int, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> None:
        """Write ``batch.wcs`` for rows that are still to be scored, and flag the stale ones."""
        for row in self._stale:
            batch.flags[at + row] |= Flag.STALE_WCS
        if not self._any:
            return
        found = tan_frames(self._tan, self._pixel[:, 0], self._pixel[:, 1])
        for row, values in self._ready.items():
            found[row] = values
        with np.errstate(invalid="ignore"):
            stale = separation(found[:, 0], found[:, 1], ra, dec) > self._reach
        known = np.isfinite(found).all(axis=1)
        rows = slice(at, at + len(found))
        batch.flags[rows][stale & known] |= np.uint32(Flag.STALE_WCS)
        found[:, 2:] /= self._unit[:, None]
        use = known & ~stale & (batch.status[rows] == 0)
        batch.wcs[rows][use] = found[use]
