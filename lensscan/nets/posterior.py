"""Summaries of a posterior: from latent Gaussians, one per network, to the columns of the catalog.

The posterior of a row is the mixture, with equal weights, of its networks' Gaussians in latent space.
Everything is elementwise in float64 on blocks of a constant shape, so that a row gives the same bits
whatever rows stand beside it and however the caller cuts its chunks.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri
from scipy.stats import qmc

from lensscan.nets.latent import N_COV, N_LATENT, PARAMETERS, TRIANGLE, cholesky_packed

__all__ = ["COLUMNS", "normal_points", "posterior_columns"]

Array = npt.NDArray[np.float64]

BLOCK = 4096
STRIP = 64
BISECTIONS = 36
POINTS = 128
LEVELS = (("", 0.5), ("_q16", 0.16), ("_q84", 0.84))
THETA_E_LEVELS = (("_q025", 0.025), ("_q16", 0.16), ("_q84", 0.84), ("_q975", 0.975))
COLUMNS = (
    *PARAMETERS,
    *(f"{name}_err" for name in PARAMETERS),
    *(f"theta_E{suffix}" for suffix, _ in THETA_E_LEVELS),
    "cov",
)


@cache
def normal_points() -> Array:
    """Return `POINTS` fixed, quasi-random, standard normal points in the plane, (POINTS, 2).

    Half of a Sobol sequence through the inverse normal, mirrored at the origin (so that medians of linear
    maps are exact) and scaled to unit covariance.
    """
    half = qmc.Sobol(2, scramble=False).random(POINTS // 2) + 0.5 / (POINTS // 2)
    points = ndtri(half)
    points -= points.mean(axis=0)
    points = np.concatenate([points, -points])
    scale = np.linalg.cholesky(points.T @ points / len(points))
    return np.asarray(np.linalg.solve(scale, points.T).T)


def posterior_columns(
    mean: npt.NDArray[np.floating], cov: npt.NDArray[np.floating]
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the catalog's posterior columns of n rows and M networks.

    Parameters
    ----------
    mean : (n, M, 7) array
        Latent means ``(log theta_E, u1, u2, x, y, sx, sy)``, arcsec.
    cov : (n, M, 28) array
        Latent covariances, packed lower triangles.

    Returns
    -------
    dict of float32 arrays
        Medians ``theta_E e1 e2 x y sx sy`` (n,), ``<parameter>_err`` = (q84 - q16)/2 (n,), ``theta_E_q025``,
        ``_q16``, ``_q84``, ``_q975`` (n,), and ``cov`` (n, 28), the packed covariance of the physical
        parameters by spherical cubature.  Rows with a NaN in any network are NaN throughout.
    """
    n, n_networks = mean.shape[:2]
    if mean.shape != (n, n_networks, N_LATENT) or cov.shape != (n, n_networks, N_COV):
        raise ValueError(f"mean {mean.shape} and cov {cov.shape} are not (n, M, 7) and (n, M, 28)")
    result = {name: np.empty((n, N_COV) if name == "cov" else n, dtype=np.float32) for name in COLUMNS}
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        block_mean = np.zeros((n_networks, N_LATENT, BLOCK))
        block_cov = np.ones((n_networks, N_COV, BLOCK))
        block_mean[:, :, : stop - start] = mean[start:stop].transpose(1, 2, 0)
        block_cov[:, :, : stop - start] = cov[start:stop].transpose(1, 2, 0)
        for name, column in _block_columns(block_mean, block_cov).items():
            result[name][start:stop] = column[: stop - start]
    return result


def _block_columns(mean: Array, cov: Array) -> dict[str, Array]:
    """Summarise one block: mean (M, 7, BLOCK), cov (M, 28, BLOCK)."""
    bad = ~(np.isfinite(mean).all(axis=(0, 1)) & np.isfinite(cov).all(axis=(0, 1)))
    mean[:, :, bad] = 0.0
    cov[:, :, bad] = 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        factor = np.stack([cholesky_packed(network) for network in cov])
        columns = _marginals(mean, cov)
        columns.update(_ellipticities(mean, factor))
        columns["cov"] = _covariance(mean, factor)
    for column in columns.values():
        column[bad] = np.nan
    return columns


def _marginals(mean: Array, cov: Array) -> dict[str, Array]:
    """Quantiles of theta_E and of the positions: exact for one network, by bisection for several."""
    columns: dict[str, Array] = {}
    for index, name in enumerate(PARAMETERS):
        if name in ("e1", "e2"):
            continue
        centre = np.ascontiguousarray(mean[:, index])
        spread = np.sqrt(np.maximum(cov[:, TRIANGLE.index((index, index))], 1e-12))
        warp = np.exp if name == "theta_E" else np.asarray
        quantile = {suffix: warp(_mixture_quantile(centre, spread, level)) for suffix, level in LEVELS}
        columns[name] = quantile[""]
        columns[f"{name}_err"] = 0.5 * (quantile["_q84"] - quantile["_q16"])
        if name == "theta_E":
            for suffix, level in THETA_E_LEVELS:
                known = quantile.get(suffix)
                if known is None:
                    known = np.exp(_mixture_quantile(centre, spread, level))
                columns[f"theta_E{suffix}"] = known
    return columns


def _mixture_quantile(centre: Array, spread: Array, level: float) -> Array:
    """Return the quantile of equally weighted 1-D Gaussians (M, n); bisection to 2^-36 of the bracket."""
    each = centre + ndtri(level) * spread
    if len(centre) == 1:
        return each[0]
    low, high = each.min(axis=0), each.max(axis=0)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        below = sum(ndtr((middle - c) / s) for c, s in zip(centre, spread, strict=True)) < level * len(centre)
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray(0.5 * (low + high))


def _ellipticities(mean: Array, factor: Array) -> dict[str, Array]:
    """Medians and half-widths of e1, e2 from the fixed points, pooled over the networks.

    The points of a row lie side by side, and few rows are worked on at a time: sorting in cache takes a third
    of the time of sorting across rows.
    """
    z1, z2 = normal_points().T
    n_networks, _, n = mean.shape
    samples = np.empty((2, n, n_networks * POINTS))
    for network in range(n_networks):
        l10, l11 = factor[network, TRIANGLE.index((1, 0))], factor[network, TRIANGLE.index((1, 1))]
        l20, l21, l22 = (factor[network, TRIANGLE.index((2, j))] for j in range(3))
        s11 = np.sqrt(l10 * l10 + l11 * l11)
        s21 = (l20 * l10 + l21 * l11) / s11
        s22 = np.sqrt(np.maximum(l20 * l20 + l21 * l21 + l22 * l22 - s21 * s21, 1e-12))
        place = slice(network * POINTS, (network + 1) * POINTS)
        for start in range(0, n, STRIP):
            rows = slice(start, start + STRIP)
            u1 = mean[network, 1, rows, None] + s11[rows, None] * z1
            u2 = mean[network, 2, rows, None] + s21[rows, None] * z1 + s22[rows, None] * z2
            size = np.sqrt(u1 * u1 + u2 * u2)
            shrink = np.where(size > 1e-9, np.tanh(size) / np.maximum(size, 1e-9), 1.0)
            samples[0, rows, place] = u1 * shrink
            samples[1, rows, place] = u2 * shrink
    samples.sort(axis=-1)
    columns: dict[str, Array] = {}
    for name, ordered in zip(("e1", "e2"), samples, strict=True):
        quantile = {suffix: _sorted_quantile(ordered.T, level) for suffix, level in LEVELS}
        columns[name] = quantile[""]
        columns[f"{name}_err"] = 0.5 * (quantile["_q84"] - quantile["_q16"])
    return columns


def _sorted_quantile(ordered: Array, level: float) -> Array:
    """Return the quantile, midpoint rule (Hazen), of samples sorted along axis 0."""
    place = level * len(ordered) - 0.5
    below = int(np.floor(place))
    weight = place - below
    return np.asarray(ordered[below] * (1 - weight) + ordered[below + 1] * weight)


def _covariance(mean: Array, factor: Array) -> Array:
    """Packed physical covariance (n, 28) of the mixture by spherical cubature.

    The 2 x 7 points ``mean +- sqrt(7) L_i`` (Arasaratnam & Haykin 2009, eq. 32) of each network are mapped to
    physical parameters and pooled.
    """
    n_networks, _, n = mean.shape
    points = np.empty((n_networks * 2 * N_LATENT, N_LATENT, n))
    for network in range(n_networks):
        for column in range(N_LATENT):
            step = np.zeros((N_LATENT, n))
            for i in range(column, N_LATENT):
                step[i] = np.sqrt(N_LATENT) * factor[network, TRIANGLE.index((i, column))]
            at = 2 * (network * N_LATENT + column)
            points[at], points[at + 1] = mean[network] + step, mean[network] - step
    size = np.sqrt(points[:, 1] ** 2 + points[:, 2] ** 2)
    shrink = np.where(size > 1e-9, np.tanh(size) / np.maximum(size, 1e-9), 1.0)
    points[:, 0] = np.exp(points[:, 0])
    points[:, 1] *= shrink
    points[:, 2] *= shrink
    points -= points.mean(axis=0)
    packed = np.empty((n, N_COV))
    for index, (i, j) in enumerate(TRIANGLE):
        packed[:, index] = (points[:, i] * points[:, j]).mean(axis=0)
    return packed
