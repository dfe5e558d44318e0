"""Where the highest of so many scores lies, of which resamples know nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["highest_thresholds"]

Floats = NDArray[np.float64]
TAIL = 10
"""Highest scores whose spacings tell how steeply the tail falls."""


def highest_thresholds(score: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """Draw (draws,) thresholds that the highest of n independent scores exceeds in half of all such samples.

    A bootstrap cannot do this: no resample goes beyond the highest score, and two in three have it.  With U_i the
    share of the population above the i-th highest score, n U_i is a sum of i exponential variables, whatever the
    distribution.  The threshold wanted has ln 2 scores above it in the mean (none in half of the samples).  Each draw
    takes such sums G_1 < G_2 < ...: where G_1 < ln 2 the threshold lies between the two scores whose sums bracket ln 2
    (in log G); else above the highest one, by ln(G_1 / ln 2) times the scale of the tail, taken as exponential: the
    mean distance of the `TAIL` highest scores from the next, over the mean of ln(G_k+1 / G_i) of the same draw.  The
    central 95 % of the draws are an interval that is exact where tails are exponential; with lenses drawn anew
    beside, TPR0 of scores with Gaussian, logistic and bounded tails, and of a mixture of two Gaussians, is covered in
    94 to 96 % of simulated sets, and with the heavy tail of Student's t of three degrees in 88 % (the bootstrap
    alone: 46 % for Gaussians).

    Parameters
    ----------
    score : (n,) array
        Independent: of each cluster the highest.
    draws : int
    rng : Generator

    Returns
    -------
    (draws,) array
        NaN if there are fewer than two scores.

    References
    ----------
    Renyi 1953 for the spacings, Weissman 1978 for the tail.
    """
    depth = min(TAIL, len(score) - 1)
    if depth < 1:
        return np.full(draws, np.nan)
    top = np.sort(score)[::-1][: depth + 1]
    above = np.log(np.cumsum(rng.exponential(size=(draws, depth + 1)), axis=1) / np.log(2))
    scale = (top[:depth] - top[depth]).mean() / (above[:, depth:] - above[:, :depth]).mean(axis=1)
    between = np.array([np.interp(0.0, each, top) for each in above])
    return np.where(above[:, 0] > 0, top[0] + scale * above[:, 0], between)
