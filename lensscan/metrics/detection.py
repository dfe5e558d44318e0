"""Metrics of detection: area under the ROC curve, completeness at fixed contamination, purity, intervals of rates.

For one look at a sample; `lensscan.metrics.ranking` has the same figures under resampling.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from lensscan.metrics.bootstrap import Estimate
from lensscan.metrics.ranking import Ranking

__all__ = ["auroc", "purity", "share_estimate", "tpr_at_fpr", "wilson"]

Floats = NDArray[np.floating]
ROUNDING = 1e-9
Bools = NDArray[np.bool_]


def auroc(score: Floats, is_lens: Bools) -> float:
    """Return the area under the ROC curve; a tie counts one half.

    Parameters
    ----------
    score : (n,) array
        Higher means more lens-like; no NaN.
    is_lens : (n,) bool array

    Raises
    ------
    ValueError
        If a score is NaN or only one class is there.
    """
    return Ranking(score, is_lens).select().auroc()


def tpr_at_fpr(score: Floats, is_lens: Bools, fpr: float) -> tuple[float, float]:
    """Return the largest true positive rate whose false positive rate is at most `fpr`, and its threshold.

    The threshold is inclusive; it is infinite, and the rate zero, where the highest score is already a false
    positive too many.  Parameters and errors as of `auroc`.
    """
    selection = Ranking(score, is_lens).select()
    return selection.tpr_at(fpr), selection.threshold_at(fpr)


def purity(tpr: float, fpr: float, prevalence: float) -> float:
    """Return the fraction of lenses among the selected at a prevalence; NaN if nothing is selected."""
    true, false = tpr * prevalence, fpr * (1 - prevalence)
    return true / (true + false) if true + false > 0 else float("nan")


def wilson(hits: float, n: float, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return Wilson's interval of a rate, by default at 95 % (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    rate, square = hits / n, z * z
    centre = (rate + square / (2 * n)) / (1 + square / n)
    half = z * np.sqrt(rate * (1 - rate) / n + square / (4 * n * n)) / (1 + square / n)
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def share_estimate(found: Estimate, cluster: NDArray[np.generic]) -> Estimate:
    """Return the estimate of a share, with Wilson's interval where all rows agree, of which resamples know nothing.

    Parameters
    ----------
    found : Estimate
        By resampling.
    cluster : (n,) array
        Cluster of each row behind the share: as many clusters count, not rows.
    """
    if not (found.value <= ROUNDING or found.value >= 1 - ROUNDING):
        return found
    n = len(np.unique(cluster))
    low, high = wilson(n if found.value > ROUNDING else 0, n)
    return dataclasses.replace(found, low=low, high=high)
