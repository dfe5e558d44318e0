"""Logistic regression with a quadratic penalty, fast where features outnumber rows.

The solution is a combination of the rows, so with f features and n < f rows the problem is turned, without any
loss, into one of n features: the rows of the Cholesky factor of their scalar products.  Penalties are tried from
the strongest on, each fit starting where the one before ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.linalg.blas import dsyrk
from scipy.optimize import minimize
from scipy.special import expit

from lensscan.metrics.detection import auroc

__all__ = ["PENALTIES", "Logistic", "cross_scores", "deal_folds", "fit_logistic", "solve_logistic"]

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse strengths of the penalty: C of ``C sum(loss) + |w|^2 / 2``."""
JITTER = 1e-6
COLUMNS = 4_096
ENDING: Mapping[str, float] = {"maxiter": 500, "ftol": 1e-9, "gtol": 1e-6}
MANY = 8_000
"""Rows from which on one held-out fold chooses the penalty: a quarter of them is enough."""


@dataclass(frozen=True, slots=True, eq=False)
class Logistic:
    """A fitted logistic regression.

    Attributes
    ----------
    mean, scale : (f,) arrays
        Of the features it was fitted on; constant features have scale 1.
    weight : (f,) array
        Per standardised feature.
    intercept : float
    penalty : float
        The inverse strength chosen.
    cross_validated : float
        Mean area under the ROC curve of the held-out folds with it.
    """

    mean: Floats
    scale: Floats
    weight: Floats
    intercept: float
    penalty: float
    cross_validated: float

    def score(self, features: Floats) -> NDArray[np.float64]:
        """Return the log odds (n,) of rows (n, f)."""
        slope = self.weight / self.scale
        return np.asarray((np.asarray(features, np.float64) - self.mean) @ slope + self.intercept)


def deal_folds(labels: Bools, groups: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold (n,) of every row: groups stay whole, each fold gets its share of both classes.

    A group counts for the class of its first row.
    """
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    kind, rng = np.asarray(labels)[first], np.random.default_rng(seed)
    fold = np.empty(len(first), np.int64)
    for each in (True, False):
        members = rng.permutation(np.flatnonzero(kind == each))
        fold[members] = np.arange(len(members)) % folds
    return fold[inverse]


def fit_logistic(
    features: Floats,
    labels: Bools,
    *,
    penalties: Sequence[float] = PENALTIES,
    folds: int = 4,
    seed: int = 1,
    groups: NDArray[np.int64] | None = None,
    weights: Floats | None = None,
) -> Logistic:
    """Fit, with the penalty that gives the largest area under the ROC curve in cross-validation.

    Parameters
    ----------
    features : (n, f) array
    labels : (n,) bool array
        True = lens.
    penalties : sequence of float
        To choose from; with one there is nothing to choose, and `cross_validated` is still measured.
    folds : int
        Of the cross-validation; from `MANY` rows on, only one of them is held out.
    seed : int
    groups : (n,) int array, optional
        Rows of a group share a fold; default: each row on its own.
    weights : (n,) array, optional
        How much each row counts.

    Raises
    ------
    ValueError
        If labels do not fit the rows or hold one class only.
    """
    truth, group, weight = _checked(features, labels, groups, weights)
    mean, scale, rows = _standard(features)
    short, factor = _compact(rows)
    fold = deal_folds(truth, group, folds, seed)
    penalty, area = _choose(short, truth, weight, fold, penalties)
    solution = _solve(short, truth, weight, penalty)
    inner = solution[:-1]
    if factor is not None:
        inner = rows.T @ solve_triangular(factor, inner, lower=True, trans="T").astype(np.float32)
    return Logistic(mean, scale, np.asarray(inner, np.float64), float(solution[-1]), penalty, area)


def cross_scores(
    features: Floats,
    labels: Bools,
    *,
    penalties: Sequence[float] = PENALTIES,
    folds: int = 5,
    seed: int = 1,
    groups: NDArray[np.int64] | None = None,
    weights: Floats | None = None,
) -> NDArray[np.float64]:
    """Return the log odds (n,) of every row by fits that have not seen its group; parameters as in `fit_logistic`.

    One penalty serves all folds, so that their scores have one scale; it is chosen with another deal of the folds.
    """
    truth, group, weight = _checked(features, labels, groups, weights)
    short, _ = _compact(_standard(features)[2])
    penalty, _ = _choose(short, truth, weight, deal_folds(truth, group, folds, seed + 1), penalties)
    fold = deal_folds(truth, group, folds, seed)
    scores = np.zeros(len(short))
    for number in range(folds):
        out = fold == number
        solution = _solve(short[~out], truth[~out], weight[~out], penalty)
        scores[out] = short[out] @ solution[:-1].astype(np.float32) + solution[-1]
    return scores


def _checked(
    features: Floats, labels: Bools, groups: NDArray[np.int64] | None, weights: Floats | None
) -> tuple[Bools, NDArray[np.int64], NDArray[np.float64]]:
    n, truth = len(features), np.asarray(labels, bool)
    if truth.shape != (n,) or truth.all() or not truth.any():
        raise ValueError(f"{n} stamps need as many labels, of both classes")
    group = np.arange(n) if groups is None else np.asarray(groups)
    return truth, group, np.ones(n) if weights is None else np.asarray(weights, np.float64)


def _standard(features: Floats) -> tuple[Floats, Floats, NDArray[np.float32]]:
    """Return mean, scale and the standardised rows; a few columns at a time, for there may be gigabytes of them."""
    mean, scale = np.empty(features.shape[1]), np.empty(features.shape[1])
    rows = np.empty(features.shape, np.float32)
    for first in range(0, features.shape[1], COLUMNS):
        some = slice(first, first + COLUMNS)
        part = features[:, some].astype(np.float64)
        mean[some], spread = part.mean(axis=0), part.std(axis=0)
        scale[some] = np.where(spread > 1e-6 * np.maximum(np.abs(mean[some]), 1e-6), spread, 1.0)
        rows[:, some] = (part - mean[some]) / scale[some]
    return mean, scale, rows


def _compact(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float64] | None]:
    """Return rows with the same scalar products and no more than n columns, and the factor that made them."""
    if rows.shape[1] <= len(rows):
        return rows, None
    # In double precision: features that go together leave eigenvalues that single precision cannot tell from negative.
    # Only the lower half is made, and the factor takes its place: with 20,000 rows each such array is 3 GB.
    products = np.zeros((len(rows), len(rows)), order="F")
    for first in range(0, rows.shape[1], COLUMNS):
        part = rows[:, first : first + COLUMNS].astype(np.float64)
        products = dsyrk(1.0, part.T, beta=1.0, c=products, trans=True, lower=True, overwrite_c=True)
    products[np.diag_indices_from(products)] += JITTER * rows.shape[1]
    factor = np.asarray(cholesky(products, lower=True, overwrite_a=True, check_finite=False), np.float64)
    return np.ascontiguousarray(factor, np.float32), factor


def _choose(
    rows: NDArray[np.float32],
    truth: Bools,
    weight: NDArray[np.float64],
    fold: NDArray[np.int64],
    penalties: Sequence[float],
) -> tuple[float, float]:
    """Return the penalty with the largest mean area under the ROC curve of the held-out folds, and that area."""
    ordered = sorted(penalties)
    used = range(1 if len(rows) >= MANY else int(fold.max()) + 1)
    areas = np.full((len(used), len(ordered)), np.nan)
    for number in used:
        out = fold == number
        if truth[out].all() or not truth[out].any() or truth[~out].all() or not truth[~out].any():
            continue
        kept, solution = rows[~out], None
        for place, penalty in enumerate(ordered):
            solution = _solve(kept, truth[~out], weight[~out], penalty, solution)
            areas[number, place] = auroc(rows[out] @ solution[:-1].astype(np.float32), truth[out])
    known = areas[np.isfinite(areas).all(axis=1)]
    if not len(known):
        return float(ordered[0]), float("nan")
    mean = known.mean(axis=0)
    best = int(mean.argmax())
    return float(ordered[best]), float(mean[best])


def solve_logistic(
    rows: Floats,
    truth: Bools,
    weight: NDArray[np.float64],
    ridge: float,
    start: NDArray[np.float64] | None = None,
    options: Mapping[str, float] | None = None,
) -> NDArray[np.float64]:
    """Return weights and intercept (f + 1,) that minimise the mean loss and half the ridge times their square.

    Parameters
    ----------
    rows : (n, f) array
        Products are taken in its precision.
    truth : (n,) bool array
    weight : (n,) array
    ridge : float
        On the weights; the intercept is free of it.
    start : (f + 1,) array, optional
    options : mapping, optional
        When the search ends, see ``scipy.optimize.minimize(method="L-BFGS-B")``; default: the library's own.
    """
    sign, share = np.where(truth, -1.0, 1.0), weight / weight.sum()

    def loss(solution: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        argument = sign * (rows @ solution[:-1].astype(rows.dtype) + solution[-1])
        pull = share * sign * expit(argument)
        slope = (pull.astype(rows.dtype) @ rows).astype(np.float64) + ridge * solution[:-1]
        value = share @ np.logaddexp(0.0, argument) + 0.5 * ridge * solution[:-1] @ solution[:-1]
        return float(value), np.append(slope, pull.sum())

    begin = np.zeros(rows.shape[1] + 1) if start is None else start
    return np.asarray(minimize(loss, begin, jac=True, method="L-BFGS-B", options=options).x)


def _solve(
    rows: NDArray[np.float32],
    truth: Bools,
    weight: NDArray[np.float64],
    penalty: float,
    start: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return `solve_logistic` for an inverse strength of the penalty as in `PENALTIES`."""
    return solve_logistic(rows, truth, weight, 1.0 / (penalty * weight.sum()), start, ENDING)
