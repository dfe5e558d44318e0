"""Metrics of detection: ROC curve and its area, completeness at fixed contamination, purity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Roc", "auroc", "purity", "roc", "tpr_at_fpr", "tpr_before_fp", "wilson"]

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Roc:
    """An ROC curve: what is selected by ``score >= threshold``.

    Attributes
    ----------
    threshold : (k,) array
        Distinct scores, falling.
    tpr, fpr : (k,) arrays
        True and false positive rates; ties enter together.
    n_lens, n_other : int
    """

    threshold: NDArray[np.float64]
    tpr: NDArray[np.float64]
    fpr: NDArray[np.float64]
    n_lens: int
    n_other: int


def roc(score: Floats, is_lens: Bools) -> Roc:
    """Return the ROC curve.

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
    score, is_lens = np.asarray(score, np.float64), np.asarray(is_lens, bool)
    n_lens = int(is_lens.sum())
    n_other = len(is_lens) - n_lens
    if np.isnan(score).any():
        raise ValueError("scores hold NaN")
    if not n_lens or not n_other:
        raise ValueError("an ROC curve needs lenses and non-lenses")
    order = np.argsort(-score, kind="stable")
    score, hit = score[order], is_lens[order]
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    true = np.cumsum(hit)[last]
    return Roc(score[last], true / n_lens, (last + 1 - true) / n_other, n_lens, n_other)


def auroc(score: Floats, is_lens: Bools) -> float:
    """Return the area under the ROC curve; a tie counts one half."""
    curve = roc(score, is_lens)
    tpr, fpr = np.append(0.0, curve.tpr), np.append(0.0, curve.fpr)
    return float((np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2).sum())


def tpr_at_fpr(score: Floats, is_lens: Bools, fpr: float) -> tuple[float, float]:
    """Return the largest true positive rate whose false positive rate is at most `fpr`, and its threshold.

    The threshold is inclusive; it is infinite, and the rate zero, where the highest score is already a false
    positive too many.
    """
    curve = roc(score, is_lens)
    allowed = np.flatnonzero(curve.fpr <= fpr)
    if not len(allowed):
        return 0.0, float("inf")
    return float(curve.tpr[allowed[-1]]), float(curve.threshold[allowed[-1]])


def tpr_before_fp(score: Floats, is_lens: Bools, n: int) -> float:
    """Return the true positive rate before false positive number `n + 1`; ties are broken pessimistically.

    ``n = 0`` is TPR0 and ``n = 9`` is TPR10 (fewer than ten false positives) of the lens-finding challenge
    (Metcalf+2019); both depend on the number of non-lenses.
    """
    score, is_lens = np.asarray(score, np.float64), np.asarray(is_lens, bool)
    others = np.sort(score[~is_lens])[::-1]
    if n >= len(others):
        return 1.0
    return float((score[is_lens] > others[n]).mean())


def purity(tpr: float, fpr: float, prevalence: float) -> float:
    """Return the fraction of lenses among the selected at a prevalence; NaN if nothing is selected."""
    true, false = tpr * prevalence, fpr * (1 - prevalence)
    return true / (true + false) if true + false > 0 else float("nan")


def wilson(hits: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return Wilson's interval of a rate, by default at 95 % (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    rate, square = hits / n, z * z
    centre = (rate + square / (2 * n)) / (1 + square / n)
    half = z * np.sqrt(rate * (1 - rate) / n + square / (4 * n * n)) / (1 + square / n)
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))
