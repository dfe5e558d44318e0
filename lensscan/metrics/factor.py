"""Cholesky factors of covariances, also of those that rounding has made singular."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["WEAKEST", "nearest_positive", "stable_cholesky"]

WEAKEST = 1e-7
"""Smallest eigenvalue of a repaired correlation matrix, over the largest: the rounding of float32."""
SMALLEST = 1e-12
"""Smallest variance."""
Array = NDArray[np.float64]


def nearest_positive(cov: NDArray[np.floating]) -> Array:
    """Return covariances whose correlation matrices have no eigenvalue below `WEAKEST` times their largest.

    Parameters
    ----------
    cov : (n, p, p) array
        Symmetric, finite.

    Returns
    -------
    (n, p, p) array, float64
        Each as far from the given one as the least eigenvalues are from the bound, in units of the diagonal.
    """
    cov = np.asarray(cov, np.float64)
    scale = np.sqrt(np.maximum(np.einsum("nii->ni", cov), SMALLEST))
    units = scale[:, :, None] * scale[:, None, :]
    values, vectors = np.linalg.eigh(cov / units)
    values = np.maximum(values, WEAKEST * np.maximum(values[:, -1:], 1.0))
    fixed = (vectors * values[:, None, :]) @ np.swapaxes(vectors, -1, -2)
    return np.asarray(0.5 * (fixed + np.swapaxes(fixed, -1, -2)) * units)


def stable_cholesky(cov: NDArray[np.floating]) -> Array:
    """Return the lower Cholesky factors (..., p, p) of covariances (..., p, p).

    Those of `numpy.linalg.cholesky`, bit by bit, where there are any; else of `nearest_positive`, row by row; NaN where
    a matrix is not finite.
    """
    try:
        return np.asarray(np.linalg.cholesky(cov))
    except np.linalg.LinAlgError:
        if cov.ndim > 2:
            return np.stack([stable_cholesky(each) for each in cov])
    if not np.isfinite(cov).all():
        return np.full(cov.shape, np.nan)
    return np.asarray(np.linalg.cholesky(nearest_positive(cov[None])[0]))
