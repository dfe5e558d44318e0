"""Whether a stated uncertainty knows which stamps are misclassified, and what rejecting the most uncertain gains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lensscan.metrics.bootstrap import Counts
from lensscan.metrics.ranking import Ranking

__all__ = ["Misclassified", "ambiguity"]

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]


def ambiguity(logit: Floats) -> NDArray[np.float64]:
    """Return 1 - |2 p - 1| (n,) of logits: 1 where both classes are alike, 0 where one is certain."""
    return np.asarray(1 - np.tanh(np.abs(np.asarray(logit, np.float64)) / 2))


class Misclassified:
    """How well uncertainties (n,) predict what is wrong (n,), with all sorting done once.

    Parameters
    ----------
    uncertainty : (n,) array
        Higher means less certain; finite.
    wrong : (n,) bool array
    """

    def __init__(self, uncertainty: Floats, wrong: Bools) -> None:
        self._ranking = Ranking(uncertainty, wrong) if wrong.any() and not wrong.all() else None
        self._order = np.argsort(uncertainty, kind="stable")
        self._right = ~wrong[self._order]

    def auroc(self, counts: Counts | None = None) -> float:
        """Return the area under the ROC curve; NaN where nothing, or everything, is wrong."""
        return float("nan") if self._ranking is None else self._ranking.select(counts).auroc()

    def accuracy_after(self, rejected: float, counts: Counts | None = None) -> float:
        """Return the accuracy of what is left when a share of all, the most uncertain, is rejected."""
        weight = np.ones(len(self._order), np.int64) if counts is None else counts[self._order]
        left = round((1 - rejected) * float(weight.sum()))
        kept = np.clip(left - (np.cumsum(weight) - weight), 0, weight)
        return float((kept * self._right).sum() / kept.sum()) if kept.sum() else float("nan")

    def figures(self, rejected: Sequence[float], counts: Counts | None = None) -> dict[str, float]:
        """Return ``auroc``, and ``accuracy.R`` for each rejected share R, by name."""
        shares = {f"accuracy.{share:g}": self.accuracy_after(share, counts) for share in rejected}
        return {"auroc": self.auroc(counts)} | shares
