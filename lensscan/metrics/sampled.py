"""Metrics of posteriors given by samples: ranks, CRPS, expected coverage of random regions (TARP)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lensscan.metrics.bootstrap import Counts

__all__ = [
    "Uniformity",
    "central_coverage",
    "crps",
    "expected_coverage",
    "ks_noise",
    "ks_statistic",
    "rank",
    "tarp_fraction",
]

Floats = NDArray[np.float64]


def rank(samples: NDArray[np.floating], truth: NDArray[np.floating], rng: np.random.Generator) -> Floats:
    """Return the randomised rank of the truth among its samples; uniform on (0, 1) if they are calibrated.

    This is the probability integral transform of a posterior given by samples (Talts+2018, simulation-based
    calibration): (number below + u) / (S + 1), u uniform, is exactly uniform for any S.

    Parameters
    ----------
    samples : (n, S, ...) array
    truth : (n, ...) array
    rng : Generator
    """
    below = (samples < np.expand_dims(truth, 1)).sum(axis=1)
    return np.asarray((below + rng.random(below.shape)) / (samples.shape[1] + 1))


def crps(samples: NDArray[np.floating], truth: NDArray[np.floating]) -> Floats:
    """Return the continuous ranked probability score, in the unit of the parameter; smaller is better.

    E|X - y| - E|X - X'| / 2, with the unbiased estimate of the second term (Gneiting & Raftery 2007, eq. 21).

    Parameters
    ----------
    samples : (n, S, ...) array
    truth : (n, ...) array
    """
    count = samples.shape[1]
    weight = (2.0 * np.arange(1, count + 1) - count - 1).reshape(1, -1, *(1,) * (samples.ndim - 2))
    spread = (weight * np.sort(samples, axis=1)).sum(axis=1) / (count * (count - 1))
    return np.asarray(np.abs(samples - np.expand_dims(truth, 1)).mean(axis=1) - spread)


def tarp_fraction(
    samples: NDArray[np.floating],
    truth: NDArray[np.floating],
    reference: NDArray[np.floating],
    rng: np.random.Generator,
) -> Floats:
    """Return, per row, the share of samples nearer to a random reference point than the truth is.

    Uniform on (0, 1) if the joint posterior is calibrated (Lemos+2023, algorithm 2, eq. 5); sees
    over-confidence and bias in any direction of the joint space.

    Parameters
    ----------
    samples : (n, S, p) array
        In units in which a distance makes sense.
    truth, reference : (n, p) arrays
        The references must not depend on the truth of their row.
    rng : Generator
        Randomises the rank among the S samples.
    """
    far = ((truth - reference) ** 2).sum(axis=-1)
    return rank(((samples - reference[:, None]) ** 2).sum(axis=-1), far, rng)


def expected_coverage(fraction: Floats, level: Floats, counts: Counts | None = None) -> Floats:
    """Return the share of rows whose `fraction` (n,) is below each credibility `level` (k,)."""
    order = np.argsort(fraction, kind="stable")
    weight = np.ones(len(order)) if counts is None else counts[order]
    total = np.append(0.0, np.cumsum(weight))
    return np.asarray(total[np.searchsorted(fraction[order], level, side="right")] / total[-1])


class Uniformity:
    """How far values in (0, 1) are from uniform ones (Kolmogorov), with all sorting done once.

    Parameters
    ----------
    values : (k, n) array
        Each row a sample of its own; all rows are resampled alike.
    """

    def __init__(self, values: Floats) -> None:
        self._order = np.argsort(values, axis=1, kind="stable")
        self._sorted = np.take_along_axis(values, self._order, axis=1)

    def distances(self, counts: Counts | None = None) -> Floats:
        """Return the largest distances (k,) of the distributions from the uniform one; NaN where nothing counts."""
        weight = np.ones(self._order.shape) if counts is None else counts[self._order]
        total = np.cumsum(weight, axis=1)
        if not total[0, -1:].any():
            return np.full(len(total), np.nan)
        above = total / total[:, -1:] - self._sorted
        below = weight / total[:, -1:] - above
        return np.asarray(np.maximum(above.max(axis=1), below.max(axis=1)))


def ks_statistic(values: Floats, counts: Counts | None = None) -> float:
    """Return the largest distance of the distribution of values in (0, 1) from the uniform one (Kolmogorov)."""
    return float(Uniformity(values[None]).distances(counts)[0])


def ks_noise(n: int) -> float:
    """Return what `ks_statistic` of n independent uniform values stays below in 95 % of all cases."""
    return 1.358 / float(np.sqrt(n))


def central_coverage(ranks: Floats, level: float) -> NDArray[np.bool_]:
    """Return which truths, by their rank, lie in the central interval of a level."""
    return np.asarray(np.abs(ranks - 0.5) <= level / 2)
