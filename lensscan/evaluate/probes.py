"""Probes: fits so simple that what they can tell apart is a leak, with the limits that a set must keep.

Every probe is a few features and a logistic regression, always scored on galaxies that it has not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensscan.metrics.bootstrap import Bootstrap, Counts, Estimate, resample
from lensscan.metrics.ranking import Ranking
from lensscan.nets.baseline import BASELINES, fill_missing
from lensscan.nets.logistic import cross_scores

__all__ = ["LIGHT", "LIMITS", "LINEAR", "Probe", "Verdict", "plain_features", "run_probe"]

LINEAR = "linear"
"""Name of the probe that works on the model's own features."""
LIGHT = "galaxy-light"
"""Name of the probe that works on the true light of the massive galaxies, without arcs."""
LIMITS: Mapping[str, float] = {
    "core": 0.55,
    "radial": 0.60,
    "total-flux": 0.60,
    "central-colour": 0.60,
    LIGHT: 0.60,
}
"""Area under the ROC curve that lenses against non-lenses must stay below; of HOG and the linear probe none is
asked: they see arcs.  Core and radial profile: Balaji & Johnson 2026; for the others the radial profile's is taken."""
MIXED = 0.60
"""What mock against real must stay below, unless the probe has a limit of its own."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a figure keeps its limit, and whether its interval leaves a doubt.

    Attributes
    ----------
    kept : bool
    certain : bool
        Whether the whole 95 % interval lies on the same side.
    """

    kept: bool
    certain: bool

    @classmethod
    def below(cls, figure: Estimate, limit: float) -> Verdict:
        """Judge a figure that must stay below `limit`."""
        kept = figure.value < limit
        return cls(kept, bool(figure.high < limit if kept else figure.low >= limit))

    @classmethod
    def within(cls, figure: Estimate, limit: float) -> Verdict:
        """Judge a difference that must stay within +- `limit`."""
        kept = abs(figure.value) <= limit
        inside = figure.low >= -limit and figure.high <= limit
        outside = figure.low > limit or figure.high < -limit
        return cls(kept, bool(inside if kept else outside))

    def text(self, good: str, bad: str) -> str:
        """Return the verdict in words."""
        return (good if self.kept else bad) + ("" if self.certain else ", uncertain")


@dataclass(frozen=True, slots=True)
class Probe:
    """What one probe found.

    Attributes
    ----------
    name : str
        A key of `lensscan.nets.baseline.BASELINES`, or `LINEAR`.
    auroc : Estimate
        Of the held-out scores; resampled by galaxy.
    limit : float or None
    """

    name: str
    auroc: Estimate
    limit: float | None

    @property
    def verdict(self) -> Verdict | None:
        """The verdict; None where nothing is asked."""
        return None if self.limit is None else Verdict.below(self.auroc, self.limit)


def plain_features(images: NDArray[np.float32]) -> dict[str, NDArray[np.floating]]:
    """Return the features (n, f) of every probe but the linear one; stamps (n, C, S, S) in nJy, NaN = missing."""
    filled = fill_missing(images)
    return {name: np.asarray(baseline.features(filled), np.float32) for name, baseline in BASELINES.items()}


def run_probe(
    name: str,
    features: NDArray[np.floating],
    labels: NDArray[np.bool_],
    galaxy: NDArray[np.int64],
    limit: float | None,
    replicates: int = 1000,
) -> Probe:
    """Let one probe tell two kinds of stamps apart.

    Parameters
    ----------
    name : str
    features : (n, f) array
    labels : (n,) bool array
    galaxy : (n,) int array
        Rows of one galaxy are never split between fit and score.  All rows of a galaxy that share a label count
        as one object, with their mean score; so views of a few galaxies do not pass for many.
    limit : float or None
    replicates : int
        Resamples of galaxies; they do not refit.
    """
    weights = np.where(labels, 0.5 / labels.mean(), 0.5 / (~labels).mean())
    scores = cross_scores(features, labels, groups=galaxy, weights=weights)
    _, first, inverse = np.unique(
        np.stack([galaxy, labels.astype(np.int64)], axis=1), axis=0, return_index=True, return_inverse=True
    )
    inverse = inverse.reshape(-1)
    mean = np.bincount(inverse, scores) / np.bincount(inverse)
    ranking = Ranking(mean, labels[first])

    def statistic(counts: Counts | None) -> dict[str, float]:
        return {"auroc": ranking.select(counts).auroc()}

    return Probe(name, resample(statistic, Bootstrap(galaxy[first], replicates))["auroc"], limit)
