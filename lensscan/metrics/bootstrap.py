"""Bootstrap by cluster: every number gets an interval, and two models share their resamples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["FEWEST_CLUSTERS", "Bootstrap", "Counts", "Estimate", "difference", "resample", "trusted"]

Counts = NDArray[np.int64]
Figures = Mapping[str, float]
LEVEL = 0.95
FEWEST_CLUSTERS = 20
"""Below so many clusters resamples are too alike for an interval of 95 %."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval.

    Attributes
    ----------
    value : float
        On the sample itself.
    low, high : float
        Central 95 % of the resamples; NaN without any.  `high` is infinite if more than 2.5 % of them are.
    replicates : (r,) array
        The resampled values, for paired differences.
    """

    value: float
    low: float
    high: float
    replicates: NDArray[np.float64] = field(repr=False, compare=False)

    @classmethod
    def of(cls, value: float, replicates: ArrayLike) -> Estimate:
        """Return the estimate of a value and its resamples; resamples that are NaN do not count."""
        values = np.asarray(replicates, np.float64)
        good = np.sort(values[~np.isnan(values)])
        if not len(good):
            return cls(float(value), float("nan"), float("nan"), values)
        tail = (1 - LEVEL) / 2
        if np.isinf(good[[0, -1]]).any():  # no line leads to infinity: the limits are resamples themselves
            outside = int(tail * len(good) + 1e-9)
            low, high = good[outside], good[-1 - outside]
        else:
            low, high = np.quantile(good, [tail, (1 + LEVEL) / 2])
        return cls(float(value), float(low), float(high), values)

    def bare(self) -> Estimate:
        """Return the same without an interval."""
        return replace(self, low=float("nan"), high=float("nan"))


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Resampling, with replacement, of clusters of rows (Efron 1979).

    Rows that are not independent (a galaxy with and without a painted arc, the views of one stamp) share a
    cluster and are drawn together.

    Parameters
    ----------
    cluster : (n,) array
        Cluster of each row, any hashable values; rows of their own have values of their own.
    n : int
        Number of resamples.
    seed : int
        Two models that are evaluated with the same clusters, number and seed share their resamples.
    """

    cluster: NDArray[Any]
    n: int = 1000
    seed: int = 0

    def counts(self) -> Iterator[Counts]:
        """Yield, per resample, how often each row (n,) was drawn."""
        _, inverse = np.unique(self.cluster, return_inverse=True)
        n_clusters = int(inverse.max(initial=-1)) + 1
        in_order = n_clusters == len(inverse) and bool((inverse == np.arange(len(inverse))).all())
        for number in range(self.n):
            rng = np.random.default_rng((self.seed, number))
            drawn = np.bincount(rng.integers(0, n_clusters, n_clusters), minlength=n_clusters)
            yield drawn if in_order else drawn[inverse]


def resample(statistic: Callable[[Counts | None], Figures], bootstrap: Bootstrap) -> dict[str, Estimate]:
    """Evaluate a statistic on the sample and on every resample.

    Parameters
    ----------
    statistic : callable
        Takes how often each row counts, (n,), or None for once each; returns numbers by name, always the same
        names, or none of them for a resample that cannot show them.
    bootstrap : Bootstrap
    """
    values = statistic(None)
    replicates = {name: np.full(bootstrap.n, np.nan) for name in values}
    for number, counts in enumerate(bootstrap.counts()):
        for name, value in statistic(counts).items():
            replicates[name][number] = value
    return {name: Estimate.of(value, replicates[name]) for name, value in values.items()}


def trusted(found: Estimate, *clusters: NDArray[Any]) -> Estimate:
    """Return the estimate; without its interval if rows of one kind are of fewer than `FEWEST_CLUSTERS` clusters.

    Parameters
    ----------
    found : Estimate
    *clusters : (n,) arrays
        Clusters of the rows of each kind behind it, such as lenses and others.
    """
    return found.bare() if any(len(np.unique(each)) < FEWEST_CLUSTERS for each in clusters) else found


def difference(ours: Estimate, other: Estimate) -> Estimate:
    """Return ours minus other; paired if both come from the same resamples, bare if either is.

    Raises
    ------
    ValueError
        If the numbers of resamples differ.
    """
    if ours.replicates.shape != other.replicates.shape:
        raise ValueError("a paired difference needs the same resamples on both sides")
    found = Estimate.of(ours.value - other.value, ours.replicates - other.replicates)
    return found.bare() if np.isnan([ours.low, other.low]).any() else found
