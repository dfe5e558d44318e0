"""Two classifiers on the same stamps: what one has right and the other wrong (McNemar 1947)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["McNemar", "mcnemar"]

Bools = NDArray[np.bool_]
Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class McNemar:
    """Two classifiers compared.

    Attributes
    ----------
    n : int
        Stamps.
    first_only, second_only : int
        Right by one alone.
    difference, low, high : float
        Accuracy of the first minus that of the second, and its 95 % interval (Bonett & Price 2012, J. Educ. Behav.
        Stat. 37, 479: Wald's with one added to each disagreement).
    p_value : float
        Two-sided and exact: how often a fair coin would share out the disagreements as unevenly.
    """

    n: int
    first_only: int
    second_only: int
    difference: float
    low: float
    high: float
    p_value: float


def mcnemar(first: Bools, second: Bools) -> McNemar:
    """Compare two classifiers by which of the same stamps (n,) each has right.

    Raises
    ------
    ValueError
        If there are no stamps, or not the same.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"a paired comparison needs the same stamps on both sides, not {first.shape}, {second.shape}")
    from scipy.stats import binomtest

    n, one, two = len(first), int((first & ~second).sum()), int((second & ~first).sum())
    low, high = ((one + 1) / (n + 2), (two + 1) / (n + 2))
    middle = low - high
    half = Z95 * np.sqrt((low + high - middle**2) / (n + 2))
    chance = float(binomtest(one, one + two).pvalue) if one + two else 1.0
    return McNemar(
        n, one, two, (one - two) / n, float(max(-1.0, middle - half)), float(min(1.0, middle + half)), chance
    )
