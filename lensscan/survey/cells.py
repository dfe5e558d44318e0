"""Cells of the sky, to split catalogs by: neighbours share seeing, depth and sometimes pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["sky_cells"]


def sky_cells(ra: NDArray[np.floating], dec: NDArray[np.floating], side: float = 1.0) -> NDArray[np.int64]:
    """Return the number of the equal-area cell of sky that each position lies in.

    Cells are bands of equal steps in sin(dec), cut at equal steps in right ascension.

    Parameters
    ----------
    ra, dec : (n,) arrays
        Degrees; right ascensions that differ by 360 are one.
    side : float
        Side of a cell at the equator, degrees.

    Raises
    ------
    ValueError
        If a position is not finite: such rows would all fall into one cell, on one side of a split.
    """
    ra, dec = np.asarray(ra, np.float64), np.asarray(dec, np.float64)
    wrong = ~(np.isfinite(ra) & np.isfinite(dec))
    if wrong.any():
        raise ValueError(f"{wrong.sum()} of {len(ra)} positions are not finite (first in row {np.argmax(wrong)})")
    columns = max(1, round(360 / side))
    rows = max(1, round(2 / np.sin(np.radians(side))))
    column = np.floor(np.mod(ra, 360.0) / 360.0 * columns).astype(np.int64) % columns
    row = np.minimum(np.floor((np.sin(np.radians(dec)) + 1) / 2 * rows).astype(np.int64), rows - 1)
    return np.asarray(row * columns + column)
