"""Metrics of posteriors: bias, widths, outliers, coverage of marginal and joint regions, PIT.

Posteriors are Gaussians, or with a `ScaleMixture` Gaussians with a tail, or weighted mixtures of such components.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from lensscan.metrics.deviations import Deviations
from lensscan.metrics.factor import stable_cholesky
from lensscan.metrics.sampled import rank
from lensscan.metrics.scalemixture import GAUSSIAN, ScaleMixture

__all__ = [
    "Residuals",
    "credibility",
    "draw_mixture",
    "joint_coverage",
    "log_density",
    "mahalanobis",
    "marginal_coverage",
    "pit",
    "residuals",
]

Floats = NDArray[np.floating]
SAMPLES = 400
TOGETHER = 500
"""Rows whose draws are in memory at once."""


@dataclass(frozen=True, slots=True)
class Residuals:
    """Residuals of one parameter, estimate minus truth; see `lensscan.metrics.deviations.Deviations`.

    Attributes
    ----------
    bias : float
        Median.
    half_width_68, half_width_95 : float
        Half of the central 68 and 95 % range.
    rms : float
    nmad : float
        1.4826 times the median absolute deviation.
    """

    bias: float
    half_width_68: float
    half_width_95: float
    rms: float
    nmad: float


def residuals(estimate: Floats, truth: Floats) -> Residuals:
    """Summarise estimate minus truth, both (n,), in the same unit.

    Raises
    ------
    ValueError
        If there is nothing to compare.
    """
    if not len(estimate):
        raise ValueError("no residuals: the arrays are empty")
    found = Deviations(estimate, truth).figures()
    return Residuals(**{item.name: found[item.name] for item in dataclasses.fields(Residuals)})


def pit(
    truth: Floats, mean: Floats, sigma: Floats, tail: ScaleMixture = GAUSSIAN, weight: Floats | None = None
) -> NDArray[np.float64]:
    """Return the probability integral transform of marginals; uniform if they are calibrated.

    Parameters
    ----------
    truth : (n,) or (n, p) array
    mean, sigma : arrays of truth's shape; with weights (n, K) or (n, K, p)
    tail : ScaleMixture
    weight : (n, K) array, optional
        Of K components, of sum 1.
    """
    truth, mean, sigma = (np.asarray(values, np.float64) for values in (truth, mean, sigma))
    if weight is None:
        return tail.cdf((truth - mean) / sigma)
    shares = np.asarray(weight, np.float64).reshape(*mean.shape[:2], *(1,) * (mean.ndim - 2))
    return np.asarray((shares * tail.cdf((truth[:, None] - mean) / sigma)).sum(axis=1))


def marginal_coverage(
    truth: Floats,
    mean: Floats,
    sigma: Floats,
    level: float,
    tail: ScaleMixture = GAUSSIAN,
    weight: Floats | None = None,
) -> NDArray[np.float64]:
    """Return the fraction of truths within the central `level` interval of marginals, 0-d or (p,).

    Parameters
    ----------
    truth, mean, sigma, tail, weight
        As of `pit`.
    level : float
        Such as 0.68.
    """
    return np.asarray((np.abs(pit(truth, mean, sigma, tail, weight) - 0.5) <= level / 2).mean(axis=0))


def mahalanobis(truth: Floats, mean: Floats, cov: Floats) -> NDArray[np.float64]:
    """Return the squared Mahalanobis distances (n,) of truths (n, p) under means (n, p), covariances (n, p, p)."""
    difference = np.asarray(truth, np.float64) - np.asarray(mean, np.float64)
    solved = np.linalg.solve(np.asarray(cov, np.float64), difference[..., None])[..., 0]
    return np.asarray((difference * solved).sum(axis=-1))


def log_density(
    points: Floats, mean: Floats, cov: Floats, weight: Floats, tail: ScaleMixture = GAUSSIAN
) -> NDArray[np.float64]:
    """Return log densities (n, S), nats, of points under mixtures.

    Parameters
    ----------
    points : (n, S, p) array
    mean, cov, weight : (n, K, p), (n, K, p, p) and (n, K) arrays
    tail : ScaleMixture
    """
    inverse, log_det = np.linalg.inv(cov), np.linalg.slogdet(cov)[1]
    parts = np.empty((*mean.shape[:2], points.shape[1]))
    for k in range(mean.shape[1]):
        difference = points - mean[:, k, None]
        square = ((difference @ inverse[:, k]) * difference).sum(axis=-1)
        parts[:, k] = tail.log_density(square, log_det[:, k, None], points.shape[-1])
    return np.asarray(logsumexp(parts, axis=1, b=np.asarray(weight, np.float64)[..., None]))


def draw_mixture(
    mean: Floats, cov: Floats, weight: Floats, tail: ScaleMixture, rng: np.random.Generator, count: int = SAMPLES
) -> NDArray[np.float64]:
    """Return `count` draws (n, S, p) of mixtures; parameters as of `log_density`."""
    n, n_components, p = mean.shape
    factor = stable_cholesky(cov + 1e-12 * np.eye(p))
    normal = rng.standard_normal((n, count, p))
    if not tail.gaussian:
        normal *= np.asarray(tail.radii(rng, (n, count)))[..., None]
    if n_components == 1:
        return np.asarray(mean[:, :1] + np.einsum("nsj,nij->nsi", normal, factor[:, 0]))
    edges = np.cumsum(weight, axis=1)[:, None, :-1]
    which = (rng.random((n, count, 1)) * np.sum(weight, axis=1)[:, None, None] > edges).sum(axis=-1)
    result = np.empty((n, count, p))
    for k in range(n_components):
        drawn = mean[:, k, None] + np.einsum("nsj,nij->nsi", normal, factor[:, k])
        result[which == k] = drawn[which == k]
    return result


def credibility(
    truth: Floats,
    mean: Floats,
    cov: Floats,
    weight: Floats,
    tail: ScaleMixture = GAUSSIAN,
    rng: np.random.Generator | None = None,
) -> NDArray[np.float64]:
    """Return the content (n,) of the smallest region that holds the truth; uniform if posteriors are calibrated.

    Exact for one component, whose regions are ellipsoids; the randomised rank of the density among `SAMPLES` draws
    for several.

    Parameters
    ----------
    truth : (n, p) array
    mean, cov, weight, tail
        As of `log_density`.
    rng : Generator, optional
        Of the draws.
    """
    if mean.shape[1] == 1:
        return tail.content(mahalanobis(truth, mean[:, 0], cov[:, 0]), mean.shape[-1])
    rng = rng or np.random.default_rng(0)
    content = np.empty(len(mean))
    for start in range(0, len(mean), TOGETHER):
        rows = slice(start, start + TOGETHER)
        parts = mean[rows], cov[rows], weight[rows]
        level = log_density(draw_mixture(*parts, tail, rng), *parts, tail)
        content[rows] = 1.0 - rank(level, log_density(np.asarray(truth)[rows, None], *parts, tail)[:, 0], rng)
    return content


def joint_coverage(truth: Floats, mean: Floats, cov: Floats, level: float, tail: ScaleMixture = GAUSSIAN) -> float:
    """Return the fraction of truths (n, p) within the `level` ellipsoid of single components."""
    return float((tail.content(mahalanobis(truth, mean, cov), np.asarray(truth).shape[-1]) <= level).mean())
