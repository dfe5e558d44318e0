"""Posterior samples of candidates, drawn again from what the ranked table holds.

The table keeps medians and the covariance of the physical parameters.  The networks' posteriors are Gaussian
in latent space (`lensscan.nets.latent`), where every sample is a legal lens.  So the latent Gaussian is sought
whose median and whose covariance, by the same spherical cubature as in `lensscan.nets.posterior`, are the
stored ones.  For one network this gives back its posterior; the mixture of several is matched in median and
covariance.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from lensscan.metrics.factor import stable_cholesky
from lensscan.nets.latent import N_LATENT, from_latent, to_latent, unpack_triangle

__all__ = ["covariance_by_cubature", "draw", "latent_gaussian"]

ROUNDS = 60
ENOUGH = 1e-6
LARGEST_E = 0.999
SMALLEST = 1e-12
WIDEST = (4.0, 3.0, 3.0)
"""Bounds of the latent standard deviations of log theta_E, u1 and u2; beyond, nothing is known anyway."""
Array = NDArray[np.float64]


def covariance_by_cubature(mean: Array, cov: Array) -> Array:
    """Return the covariance of the physical parameters of latent Gaussians.

    Parameters
    ----------
    mean : ndarray, shape (n, 7)
    cov : ndarray, shape (n, 7, 7)

    Returns
    -------
    ndarray, shape (n, 7, 7)
        From the points ``mean +- sqrt(7) L_i`` (Arasaratnam & Haykin 2009, eq. 32), as the table's ``cov``.
    """
    step = np.sqrt(N_LATENT) * np.swapaxes(stable_cholesky(cov), -1, -2)
    points = from_latent(mean[:, None] + np.concatenate([step, -step], axis=1))
    points = points - points.mean(axis=1, keepdims=True)
    return np.swapaxes(points, -1, -2) @ points / (2 * N_LATENT)


def latent_gaussian(median: NDArray[np.floating], packed: NDArray[np.floating]) -> tuple[Array, Array]:
    """Return the latent Gaussians of candidates.

    Parameters
    ----------
    median : ndarray, shape (n, 7)
        Medians of theta_E, e1, e2, x, y, sx, sy (arcsec where lengths).
    packed : ndarray, shape (n, 28)
        Their covariances, lower triangle row by row, as in the ranked table.

    Returns
    -------
    mean : ndarray, shape (n, 7)
    cov : ndarray, shape (n, 7, 7)
        Positive definite; NaN where the candidate has no posterior.
    """
    median = np.asarray(median, dtype=np.float64)
    target = unpack_triangle(np.asarray(packed, dtype=np.float64))
    fine = np.isfinite(median).all(axis=1) & np.isfinite(target).all(axis=(1, 2)) & (median[:, 0] > 0)
    mean, cov = np.full(median.shape, np.nan), np.full(target.shape, np.nan)
    if not fine.any():
        return mean, cov
    centre, target = to_latent(median[fine], LARGEST_E), target[fine]
    back = np.linalg.inv(_jacobian(centre))
    turn = np.swapaxes(back, -1, -2)
    now = _positive(back @ target @ turn)
    best, error = now.copy(), np.full(len(now), np.inf)
    size = np.sqrt(np.maximum(np.einsum("nii->ni", target), SMALLEST))
    for _ in range(ROUNDS):
        rest = target - covariance_by_cubature(centre, now)
        off = np.abs(rest / (size[:, :, None] * size[:, None, :])).max(axis=(1, 2))
        better = off < error
        best[better], error[better] = now[better], off[better]
        if (error < ENOUGH).all():
            break
        now = _positive(now + 0.7 * (back @ rest @ turn))
        now[error < ENOUGH] = best[error < ENOUGH]  # a finished row no longer depends on how long others take
    mean[fine], cov[fine] = centre, best
    return mean, cov


def draw(mean: Array, cov: Array, names: list[str], samples: int, seed: int = 0) -> Array:
    """Draw posterior samples, the same for a candidate whatever stands beside it.

    Parameters
    ----------
    mean, cov : ndarray, shapes (n, 7) and (n, 7, 7)
        From `latent_gaussian`.
    names : list of str
        Identifiers; with `seed` they choose the random numbers.
    samples : int
    seed : int

    Returns
    -------
    ndarray, shape (n, samples, 7)
        Physical parameters; each sample has theta_E > 0 and |e| < 1.  NaN where there is no posterior.
    """
    result = np.full((len(mean), samples, N_LATENT), np.nan)
    for k, name in enumerate(names):
        if np.isfinite(cov[k]).all():
            key = hashlib.sha256(f"{seed} {name}".encode()).digest()
            normal = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))
            root = stable_cholesky(cov[k])
            result[k] = from_latent(mean[k] + normal.standard_normal((samples, N_LATENT)) @ root.T)
    return result


def _jacobian(latent: Array) -> Array:
    """Return d physical / d latent, (n, 7, 7); e has the slopes sech^2|u| along u and tanh|u| / |u| across."""
    matrix = np.tile(np.eye(N_LATENT), (len(latent), 1, 1))
    matrix[:, 0, 0] = np.exp(latent[:, 0])
    size = np.maximum(np.hypot(latent[:, 1], latent[:, 2]), 1e-9)
    along, across = 1 / np.cosh(size) ** 2, np.tanh(size) / size
    unit = latent[:, 1:3] / size[:, None]
    outer = unit[:, :, None] * unit[:, None, :]
    matrix[:, 1:3, 1:3] = across[:, None, None] * np.eye(2) + (along - across)[:, None, None] * outer
    return matrix


def _positive(cov: Array) -> Array:
    """Return the nearest covariances that are positive definite and not wider than `WIDEST`."""
    values, vectors = np.linalg.eigh(0.5 * (cov + np.swapaxes(cov, -1, -2)))
    fixed = (vectors * np.maximum(values, SMALLEST)[:, None, :]) @ np.swapaxes(vectors, -1, -2)
    spread = np.sqrt(np.einsum("nii->ni", fixed))
    scale = np.ones_like(spread)
    scale[:, :3] = np.minimum(1.0, np.asarray(WIDEST) / spread[:, :3])
    return fixed * scale[:, :, None] * scale[:, None, :]
