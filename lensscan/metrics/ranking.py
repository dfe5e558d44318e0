"""A ranked list of lenses and others, summarised under any resampling of its rows.

Sorted once; every resample then costs one cumulative sum.  Thresholds belong to the resample: the one at a
fixed false-positive rate is found anew among the negatives that were drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensscan.metrics.bootstrap import Counts

__all__ = ["FEWEST_FALSE", "Population", "Ranking", "Selection", "supported"]

Floats = NDArray[np.float64]
FEWEST_FALSE = 10
"""Fewest false positives that must be expected before a rate is worth printing."""


@dataclass(frozen=True, slots=True)
class Population:
    """A survey to be searched: objects, and the fraction of lenses among them."""

    n: int
    prevalence: float


@dataclass(frozen=True, slots=True)
class Selection:
    """Rates of everything at or above a distinct score, falling; ties enter together.

    Attributes
    ----------
    threshold : (k,) array
        The distinct scores.
    tpr, fpr : (k,) arrays
        All NaN if a resample drew no lens, or lenses only: no figure can be made of it.
    n_lens, n_other : float
    """

    threshold: Floats
    tpr: Floats
    fpr: Floats
    n_lens: float
    n_other: float

    def auroc(self) -> float:
        """Return the area under the ROC curve; a tie counts one half."""
        tpr, fpr = np.append(0.0, self.tpr), np.append(0.0, self.fpr)
        return float((np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2).sum())

    def tpr_at(self, fpr: float) -> float:
        """Return the true positive rate at the lowest threshold that keeps the false positive rate."""
        last = self._last(fpr)
        return float(self.tpr[last]) if last >= 0 else self._none

    def threshold_at(self, fpr: float) -> float:
        """Return the lowest score that keeps the false positive rate, inclusive; infinite if none does."""
        last = self._last(fpr)
        return float(self.threshold[last]) if last >= 0 else self._none + float("inf")

    def tpr_before(self, n: int) -> float:
        """Return the true positive rate before false positive number `n + 1`; ties are broken pessimistically.

        ``n = 0`` is TPR0 and ``n = 9`` is TPR10 (fewer than ten false positives) of the lens-finding challenge
        (Metcalf+2019); both depend on the number of non-lenses.
        """
        last = self._last((n + 0.5) / max(self.n_other, 1.0))
        return float(self.tpr[last]) if last >= 0 else self._none

    def _last(self, fpr: float) -> int:
        """Return the place of the lowest score that keeps the false positive rate; -1 if none does."""
        return int(np.searchsorted(self.fpr, fpr, side="right")) - 1

    @property
    def _none(self) -> float:
        """The rate where nothing may be selected: 0, NaN if there are no rates at all."""
        return 0.0 if self.n_lens and self.n_other else float("nan")

    def figures(self, fprs: Sequence[float], before: Mapping[str, int]) -> dict[str, float]:
        """Return ``auroc``, ``tpr_at_fpr_<fpr>`` and the rates ``before`` n + 1 false positives, by name."""
        found = {"auroc": self.auroc()} | {f"tpr_at_fpr_{fpr:g}": self.tpr_at(fpr) for fpr in fprs}
        return found | {name: self.tpr_before(n) for name, n in before.items()}

    def inspected(self, population: Population, n: int) -> tuple[float, float, float]:
        """Return what the best-ranked `n` objects of a population hold, on average.

        Returns
        -------
        purity, completeness, fpr : float
            Lens fraction of the n, fraction of all lenses among them, and the false positive rate there; between
            two distinct scores the list is taken as shuffled.
        """
        pure, complete, fpr = self.listed(population, np.array([n], np.float64))
        return float(pure[0]), float(complete[0]), float(fpr[0])

    def listed(self, population: Population, n: Floats) -> tuple[Floats, Floats, Floats]:
        """Return `inspected` for lists of many lengths `n` (k,) at once: purity, completeness, fpr, (k,) each."""
        if not self.n_lens or not self.n_other:
            none = np.full(len(n), self._none)
            return none, none, none
        lenses, others = population.n * population.prevalence, population.n * (1 - population.prevalence)
        tpr, fpr = np.append(0.0, self.tpr), np.append(0.0, self.fpr)
        total = lenses * tpr + others * fpr
        found = np.interp(n, total, tpr)
        return found * lenses / n, found, np.interp(n, total, fpr)


class Ranking:
    """Scores and labels, sorted.

    Parameters
    ----------
    score : (n,) array
        Higher means more lens-like; no NaN.
    is_lens : (n,) bool array
    depth : int, optional
        Take all that ranks below so many rows as one tie: what a resample costs then grows with the depth only.

    Raises
    ------
    ValueError
        If a score is NaN or only one class is there.
    """

    def __init__(self, score: NDArray[np.floating], is_lens: NDArray[np.bool_], depth: int | None = None) -> None:
        score, is_lens = np.asarray(score, np.float64), np.asarray(is_lens, bool)
        if np.isnan(score).any():
            raise ValueError("scores hold NaN")
        if is_lens.all() or not is_lens.any():
            raise ValueError("a ranking needs lenses and non-lenses")
        self._order = np.argsort(-score, kind="stable")[:depth]
        ranked = score[self._order]
        self._hit = is_lens[self._order]
        self._last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
        self._threshold = ranked[self._last]
        self._lenses = None if len(ranked) == len(score) else np.flatnonzero(is_lens)
        self._n = len(score)
        if self._lenses is not None:
            self._threshold = np.append(self._threshold, score.min())

    def select(self, counts: Counts | None = None) -> Selection:
        """Return the rates under a resample (rows counted `counts` times), by default of the sample itself."""
        weight = np.ones(len(self._hit), np.int64) if counts is None else counts[self._order]
        true = np.cumsum(np.where(self._hit, weight, 0))
        both = np.cumsum(weight)
        n_lens, n_other = true[-1], both[-1] - true[-1]
        true, false = true[self._last], (both - true)[self._last]
        if self._lenses is not None:
            n_lens = len(self._lenses) if counts is None else counts[self._lenses].sum()
            n_other = (self._n if counts is None else counts.sum()) - n_lens
            true, false = np.append(true, n_lens), np.append(false, n_other)
        n_lens, n_other = float(n_lens), float(n_other)
        if not n_lens or not n_other:
            none = np.full(len(true), np.nan)
            return Selection(self._threshold, none, none, n_lens, n_other)
        return Selection(self._threshold, true / n_lens, false / n_other, n_lens, n_other)


def supported(fpr: float, n_other: float) -> bool:
    """Return whether a sample of `n_other` independent negatives (galaxies) can show a false positive rate."""
    return fpr * n_other >= FEWEST_FALSE * (1 - 1e-9)
