"""Which rows of a truth table are lenses, and which are neither lenses nor anything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.mocks.recipes import CLASSES

__all__ = ["UNDETECTABLE", "ambiguous", "galaxies"]

UNDETECTABLE = CLASSES.index("undetectable")
STAMP = "stamp"
"""Column of the truth that names the real stamp under a row, -1 without one; painted and unpainted twins share it."""


def ambiguous(truth: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Return the lensed systems (n,) below the label rule: neither lenses nor false positives.

    Parameters
    ----------
    truth : mapping of (n,) arrays
        With ``is_lens``; without ``klass`` (a user's own table) no row is ambiguous.
    """
    klass = truth.get("klass")
    return np.zeros(len(truth["is_lens"]), bool) if klass is None else np.asarray(klass) == UNDETECTABLE


def galaxies(truth: Mapping[str, Any], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a number for the galaxy of each row (n,): below zero its real stamp's where it has one, else the row's.

    Parameters
    ----------
    truth : mapping of (n,) arrays
        With ``stamp``, the real stamp painted on or -1, if there are any.
    rows : (n,) int array
    """
    if STAMP not in truth:
        return rows
    stamp = np.asarray(truth[STAMP]).astype(np.int64)
    return np.where(stamp >= 0, -1 - stamp, rows)
