"""Metrics of posteriors: bias, widths, outliers, coverage of marginal and joint regions, PIT."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import chi2

__all__ = ["Residuals", "joint_coverage", "mahalanobis", "marginal_coverage", "pit", "residuals"]

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Residuals:
    """Residuals of one parameter, estimate minus truth.

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
    difference = np.asarray(estimate, np.float64) - np.asarray(truth, np.float64)
    if not len(difference):
        raise ValueError("no residuals: the arrays are empty")
    low95, low68, middle, high68, high95 = np.quantile(difference, [0.025, 0.16, 0.5, 0.84, 0.975])
    return Residuals(
        bias=float(middle),
        half_width_68=float(high68 - low68) / 2,
        half_width_95=float(high95 - low95) / 2,
        rms=float(np.sqrt((difference**2).mean())),
        nmad=float(1.482602218505602 * np.median(np.abs(difference - middle))),
    )


def pit(truth: Floats, mean: Floats, sigma: Floats) -> NDArray[np.float64]:
    """Return the probability integral transform of Gaussian marginals; uniform if they are calibrated."""
    values = (np.asarray(truth, np.float64) - np.asarray(mean, np.float64)) / np.asarray(sigma, np.float64)
    return np.asarray(ndtr(values))


def marginal_coverage(truth: Floats, mean: Floats, sigma: Floats, level: float) -> NDArray[np.float64]:
    """Return the fraction of truths within the central `level` interval of Gaussian marginals.

    Parameters
    ----------
    truth, mean, sigma : (n,) or (n, p) arrays
    level : float
        Such as 0.68.

    Returns
    -------
    0-d or (p,) array
    """
    reach = ndtri(0.5 + level / 2)
    return np.asarray((np.abs(np.asarray(truth) - mean) <= reach * np.asarray(sigma)).mean(axis=0))


def mahalanobis(truth: Floats, mean: Floats, cov: Floats) -> NDArray[np.float64]:
    """Return the squared Mahalanobis distances (n,) of truths (n, p) under means (n, p), covariances (n, p, p)."""
    difference = np.asarray(truth, np.float64) - np.asarray(mean, np.float64)
    solved = np.linalg.solve(np.asarray(cov, np.float64), difference[..., None])[..., 0]
    return np.asarray((difference * solved).sum(axis=-1))


def joint_coverage(truth: Floats, mean: Floats, cov: Floats, level: float) -> float:
    """Return the fraction of truths (n, p) within the `level` ellipsoid of Gaussians."""
    limit = chi2.ppf(level, np.asarray(truth).shape[-1])
    return float((mahalanobis(truth, mean, cov) <= limit).mean())
