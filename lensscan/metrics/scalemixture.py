"""Scale mixtures of Gaussians: one shape of tail for a posterior in any number of dimensions, and its fit.

A point drawn from ``sum_t w_t N(mean, f_t C)`` lies on ellipsoids of C, so that every marginal is the same mixture in
one dimension, and the smallest region of a given content is an ellipsoid (Andrews & Mallows 1974).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainc, logsumexp, ndtr, ndtri

__all__ = ["GAUSSIAN", "ScaleMixture", "fit_scale_mixture"]

Floats = NDArray[np.float64]
START_WEIGHTS = (1.0, 0.2, 0.03)
START_FACTORS = (1.0, 3.0, 10.0)
BOUND_WEIGHTS, BOUND_FACTORS = (-4.6, 3.0), (0.0, 2.5)
"""Of the logarithms, relative to the first Gaussian: no tail for the sake of a handful of outliers."""
DIGITS = 4
LEVELS = (0.68, 0.95)


@dataclass(frozen=True, slots=True)
class ScaleMixture:
    """Gaussians of one centre whose covariances are multiples of one another.

    Attributes
    ----------
    weights : tuple of float
        Positive, of sum 1.
    factors : tuple of float
        Positive; on the covariance.  The default is the plain Gaussian.
    """

    weights: tuple[float, ...] = (1.0,)
    factors: tuple[float, ...] = (1.0,)

    @property
    def gaussian(self) -> bool:
        """Whether this is the plain Gaussian, which nothing needs to be computed for."""
        return self == GAUSSIAN

    @property
    def sound(self) -> bool:
        """Whether weights and factors can be what the attributes say."""
        return (
            len(self.weights) == len(self.factors) > 0
            and all(0 < value < np.inf for value in (*self.weights, *self.factors))
            and abs(sum(self.weights) - 1) < 1e-6
        )

    @property
    def variance(self) -> float:
        """Mean of the factors: the covariance over the one stated."""
        return sum(w * f for w, f in zip(self.weights, self.factors, strict=True))

    def cdf(self, z: Floats | np.float64) -> Floats:
        """Return the share below z, in standard deviations of the stated covariance, in one dimension."""
        if self.gaussian:
            return np.asarray(ndtr(z))
        return np.asarray(sum(w * ndtr(z / np.sqrt(f)) for w, f in zip(self.weights, self.factors, strict=True)))

    def quantile(self, level: float) -> float:
        """Return the inverse of `cdf` at a level in (0, 1)."""
        return float(ndtri(level)) if self.gaussian else _quantile(self, level)

    def content(self, square: Floats, freedom: int) -> Floats:
        """Return the content of the ellipsoids of squared Mahalanobis distances, in `freedom` dimensions."""
        pairs = zip(self.weights, self.factors, strict=True)
        return np.asarray(sum(w * gammainc(0.5 * freedom, 0.5 * np.asarray(square) / f) for w, f in pairs))

    def quantile_across(self, level: Floats, along: Floats) -> Floats:
        """Return the quantiles at levels (n,) of one coordinate, given another uncorrelated one, `along` (n,).

        Both in standard deviations of the stated covariance.
        """
        if self.gaussian:
            return np.asarray(ndtri(level))
        factors = np.array(self.factors)[:, None]
        share = np.array(self.weights)[:, None] * np.exp(-0.5 * along**2 / factors) / np.sqrt(factors)
        share /= share.sum(axis=0)
        edge = np.abs(ndtri(level)) * np.sqrt(factors.max())
        low, high = -edge, edge
        for _ in range(60):
            middle = 0.5 * (low + high)
            below = (share * ndtr(middle / np.sqrt(factors))).sum(axis=0) < level
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return np.asarray(0.5 * (low + high))

    def log_density(self, square: Floats, log_det: Floats, freedom: int) -> Floats:
        """Return log densities (nats) at squared distances, under covariances of log determinant `log_det`."""
        parts = [
            np.log(w) - 0.5 * (square / f + freedom * np.log(f))
            for w, f in zip(self.weights, self.factors, strict=True)
        ]
        return np.asarray(logsumexp(parts, axis=0) - 0.5 * (log_det + freedom * np.log(2 * np.pi)))

    def radii(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats | float:
        """Return what draws of the standard normal are to be multiplied by, of a shape; 1 for the Gaussian."""
        if self.gaussian:
            return 1.0
        return np.asarray(np.sqrt(rng.choice(self.factors, shape, p=np.array(self.weights) / sum(self.weights))))


GAUSSIAN = ScaleMixture()


@cache
def _quantile(mixture: ScaleMixture, level: float) -> float:
    if level <= 0.5:
        return -_quantile(mixture, 1.0 - level) if level < 0.5 else 0.0
    from scipy.optimize import brentq  # here and below, because every rank of a scan imports this module

    reach = float(ndtri(level)) * np.sqrt(max(mixture.factors))
    return float(brentq(lambda z: float(mixture.cdf(np.float64(z))) - level, 0.0, reach, xtol=1e-13))


def fit_scale_mixture(
    residual: NDArray[np.floating],
    cov: NDArray[np.floating],
    weight: NDArray[np.floating],
    groups: Sequence[Sequence[int]],
    count: int = 2,
) -> tuple[Floats, ScaleMixture]:
    """Fit factors on the standard deviations together with the tail.

    The truths are taken as draws of mixtures whose components are scale mixtures of covariance ``D C D``, D diagonal
    with one factor for each group of parameters: all by maximum likelihood.  With the tail so found the factors are
    moved to where the marginal intervals and the joint region (of single components) of `LEVELS` miss least, in the
    sum of squares: hardly at all if every group has this tail.  The tail's `variance` is 1.

    Parameters
    ----------
    residual : (n, K, p) array
        Truth minus the centre of each component.
    cov : (n, K, p, p) array
        Stated covariances C.
    weight : (n, K) array
        Of the components, of sum 1.
    groups : sequence of sequences of int
        Parameters that share a factor.
    count : int
        Gaussians of the tail, at most 3; 1 fits the factors alone.

    Returns
    -------
    scale : (p,) array
    tail : ScaleMixture
        Rounded to `DIGITS` digits, with factors in growing order.
    """
    problem = _Problem.of(residual, cov, weight, groups)
    n_groups = len(groups)
    start = [np.zeros(n_groups), np.log(START_WEIGHTS[1:count]), np.log(START_FACTORS[1:count])]
    bounds = [(-3.0, 3.0)] * n_groups + [BOUND_WEIGHTS] * (count - 1) + [BOUND_FACTORS] * (count - 1)

    def loss(point: Floats) -> float:
        return problem.loss(point[:n_groups], *_unit_mixture(point[n_groups:]))

    from scipy.optimize import minimize

    likely = minimize(loss, np.concatenate(start), method="L-BFGS-B", bounds=bounds).x
    tail, log_scale = _rounded(*_unit_mixture(likely[n_groups:])), likely[:n_groups]
    simplex = log_scale + 0.02 * np.concatenate([np.zeros((1, n_groups)), np.eye(n_groups)])
    options = {"initial_simplex": simplex, "xatol": 1e-4, "fatol": 1e-9}
    log_scale = minimize(problem.miss, log_scale, (tail,), method="Nelder-Mead", options=options).x
    return np.exp(log_scale)[problem.group], tail


@dataclass(frozen=True, slots=True)
class _Problem:
    """The data of a fit: residuals over standard deviations (n, K, p), and the sums that make Mahalanobis distances.

    ``pairs`` (n, K, g, g) holds the terms of the squared distance by the groups of their two parameters.
    """

    group: NDArray[np.int_]
    pull: Floats
    pairs: Floats
    log_det: Floats
    weight: Floats

    @classmethod
    def of(
        cls,
        residual: NDArray[np.floating],
        cov: NDArray[np.floating],
        weight: NDArray[np.floating],
        groups: Sequence[Sequence[int]],
    ) -> _Problem:
        group = np.zeros(residual.shape[-1], int)
        for number, members in enumerate(groups):
            group[list(members)] = number
        cov = np.asarray(cov, np.float64)
        products = residual[..., :, None] * np.linalg.inv(cov) * residual[..., None, :]
        indicator = np.eye(len(groups))[group]
        pairs = indicator.T @ products @ indicator
        pull = residual / np.sqrt(np.diagonal(cov, axis1=-2, axis2=-1))
        return cls(group, pull, pairs, np.linalg.slogdet(cov)[1], np.asarray(weight, np.float64))

    def square(self, log_scale: Floats) -> Floats:
        """Return the squared Mahalanobis distances (n, K)."""
        shrink = np.exp(-log_scale)
        return np.asarray((self.pairs @ shrink) @ shrink)

    def loss(self, log_scale: Floats, weights: Floats, factors: Floats) -> float:
        """Return the mean negative log likelihood."""
        log_det = self.log_det + 2 * log_scale[self.group].sum()
        tail = ScaleMixture(tuple(weights), tuple(factors))
        density = tail.log_density(self.square(log_scale), log_det, len(self.group))
        return -float(logsumexp(density, axis=1, b=self.weight).mean())

    def miss(self, log_scale: Floats, tail: ScaleMixture) -> float:
        """Return the squared distance of the coverages from `LEVELS`, summed over groups and the joint region."""
        below = tail.cdf(self.pull * np.exp(-log_scale)[self.group])
        off = np.abs((self.weight[..., None] * below).sum(axis=1) - 0.5)
        total = 0.0
        for level in LEVELS:
            covered = (off <= level / 2).mean(axis=0)
            total += sum((covered[self.group == number].mean() - level) ** 2 for number in range(len(log_scale)))
            if self.weight.shape[1] == 1:
                content = tail.content(self.square(log_scale)[:, 0], len(self.group))
                total += ((content <= level).mean() - level) ** 2
        return float(total)


def _unit_mixture(point: Floats) -> tuple[Floats, Floats]:
    """Return weights and factors, of mean 1, from the logs of all but the first, relative to it."""
    logs, growth = np.append(0.0, point[: len(point) // 2]), np.append(0.0, point[len(point) // 2 :])
    weights, factors = np.exp(logs - logsumexp(logs)), np.exp(growth)
    return weights, factors / (weights * factors).sum()


def _rounded(weights: Floats, factors: Floats) -> ScaleMixture:
    """Round to `DIGITS` digits, with weights of sum 1 and factors of mean 1; a fit without tail is the Gaussian."""
    if len(weights) == 1 or factors.max() - factors.min() < 10**-DIGITS:
        return GAUSSIAN
    order = np.argsort(factors)
    shares = np.round(weights[order], DIGITS)
    shares[0] = round(1 - shares[1:].sum(), DIGITS)
    kept = shares > 0
    shares, wide = shares[kept], np.round(factors[order][kept], DIGITS)
    return ScaleMixture(tuple(shares.tolist()), tuple(wide.tolist()))
