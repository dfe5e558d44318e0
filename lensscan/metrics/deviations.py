"""Deviations of estimates from truth, sorted once and summarised under any resampling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lensscan.metrics.bootstrap import Counts

__all__ = ["Deviations", "weighted_quantiles"]

Floats = NDArray[np.float64]
LEVELS = (0.025, 0.16, 0.5, 0.84, 0.975)
TO_SIGMA = 1.482602218505602
"""Standard deviation of a Gaussian whose median absolute deviation is one."""


def weighted_quantiles(ordered: Floats, counts: Counts | None, levels: Sequence[float]) -> Floats:
    """Return quantiles (linear interpolation) of a sorted sample (n,) whose rows count `counts` times each."""
    values = ordered if counts is None else np.repeat(ordered, counts)
    if not len(values):
        return np.full(len(levels), np.nan)
    place = np.asarray(levels) * (len(values) - 1)
    below = place.astype(np.int64)
    above = np.minimum(below + 1, len(values) - 1)
    return np.asarray(values[below] + (place - below) * (values[above] - values[below]))


class Deviations:
    """Estimate minus truth of one parameter.

    Parameters
    ----------
    estimate, truth : (n,) arrays
        In the same unit, finite.
    """

    def __init__(self, estimate: NDArray[np.floating], truth: NDArray[np.floating]) -> None:
        self._truth = np.asarray(truth, np.float64)
        difference = np.asarray(estimate, np.float64) - self._truth
        self._order = np.argsort(difference, kind="stable")
        self._sorted = difference[self._order]
        self._square = difference**2
        self._by_size = np.argsort(np.abs(difference), kind="stable")
        self._sizes = np.abs(difference)[self._by_size]

    def widths(self, counts: Counts | None = None) -> dict[str, float]:
        """Return ``bias`` (median), ``half_width_68`` and ``half_width_95`` (of the central range) and ``rms``."""
        low95, low68, middle, high68, high95 = self._levels(counts)
        return {
            "bias": middle,
            "half_width_68": (high68 - low68) / 2,
            "half_width_95": (high95 - low95) / 2,
            "rms": float(np.sqrt(_mean(self._square, counts))),
        }

    def _levels(self, counts: Counts | None) -> list[float]:
        weight = None if counts is None else counts[self._order]
        return [float(value) for value in weighted_quantiles(self._sorted, weight, LEVELS)]

    def figures(self, counts: Counts | None = None) -> dict[str, float]:
        """Return `widths` and more, by name.

        ``low_68 high_68`` (16 and 84 %), ``abs_68`` (68 % of the deviations are smaller than this), ``nmad``
        (1.4826 times the median absolute deviation) and ``r2`` (1 minus the ratio of mean square deviation and
        variance of the truth).
        """
        found, (_, low, _, high, _) = self.widths(counts), self._levels(counts)
        drawn = self._sorted if counts is None else np.repeat(self._sorted, counts[self._order])
        size = weighted_quantiles(self._sizes, None if counts is None else counts[self._by_size], (0.68,))[0]
        centre = _mean(self._truth, counts)
        variance = _mean((self._truth - centre) ** 2, counts)
        return found | {
            "low_68": low,
            "high_68": high,
            "abs_68": float(size),
            "nmad": TO_SIGMA * _median(np.abs(drawn - found["bias"])),
            "r2": 1 - found["rms"] ** 2 / variance if variance > 0 else float("nan"),
        }


def _mean(values: Floats, counts: Counts | None) -> float:
    if counts is None:
        return float(values.mean()) if len(values) else float("nan")
    total = counts.sum()
    return float((counts * values).sum() / total) if total else float("nan")


def _median(values: Floats) -> float:
    return float(np.median(values)) if len(values) else float("nan")
