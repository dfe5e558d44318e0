"""Posterior samples of candidates, drawn again from what the ranked table holds.

The table keeps medians, half-widths, quantiles of theta_E and the covariance of the physical parameters.  The
networks' posteriors are Gaussians in latent space (`lensscan.nets.latent`), where every sample is a legal lens, or
mixtures of them.  So first the latent Gaussian is sought whose median and whose covariance, by the same spherical
cubature as in `lensscan.nets.posterior`, are the stored ones.  Then each of its parameters is stretched, piece by piece
and monotonically, until its quantiles are the table's (a Gaussian copula): one network without a tail has its
posterior back; of tails and mixtures the marginals are kept as far as the table has them, and the linear correlations,
but not what couples them beyond that.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from lensscan.metrics.factor import stable_cholesky
from lensscan.metrics.scalemixture import GAUSSIAN
from lensscan.nets.latent import N_LATENT, from_latent, to_latent, unpack_triangle
from lensscan.nets.posterior import even_points
from lensscan.schema import ENDPOINTS, PARAMETERS

__all__ = ["Posteriors", "Summaries", "covariance_by_cubature", "draw", "latent_gaussian"]

ROUNDS = 60
ENOUGH = 1e-6
LARGEST_E = 0.999
SMALLEST = 1e-12
WIDEST = (4.0, 3.0, 3.0)
"""Bounds of the latent standard deviations of log theta_E, u1 and u2; beyond, nothing is known anyway."""
HALF, WIDE = float(ndtri(0.84)), float(ndtri(0.975))
BREAKS = (-np.inf, -WIDE, -HALF, 0.0, HALF, WIDE, np.inf)
"""Of a standard normal: a sample is stretched by one factor between two of them."""
STEEPEST = 20.0
"""Bound of the stretch beyond the 68 % interval over that within."""
PASSES = 4
PLANE = 1024
"""Points in the plane of e1 and e2 on which these are fitted."""
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Summaries:
    """What the table says of n posteriors.

    Attributes
    ----------
    median, half : ndarray, shape (n, 7)
        Medians of theta_E, e1, e2, x, y, sx, sy (arcsec where lengths), and half of their 68 % intervals.
    ends : ndarray, shape (n, 4)
        Quantiles 0.025, 0.16, 0.84 and 0.975 of theta_E.
    packed : ndarray, shape (n, 28)
        Covariances, lower triangle row by row.
    """

    median: Array
    half: Array
    ends: Array
    packed: Array

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Summaries:
        """Return those of a ranked table, or of the columns of `lensscan.nets.posterior.posterior_columns`."""

        def stack(names: tuple[str, ...]) -> Array:
            columns = (table[name] for name in names)
            return np.stack([np.asarray(getattr(c, "value", c), np.float64) for c in columns], axis=1)

        errors = tuple(f"{name}_err" for name in PARAMETERS)
        return cls(stack(PARAMETERS), stack(errors), stack(ENDPOINTS), np.asarray(table["cov"], np.float64))

    def __len__(self) -> int:
        return len(self.median)

    def __getitem__(self, rows: Any) -> Summaries:
        """Return some rows."""
        return Summaries(self.median[rows], self.half[rows], self.ends[rows], self.packed[rows])


@dataclass(frozen=True, slots=True)
class Posteriors:
    """Latent posteriors with the marginals that a table states: a Gaussian copula.

    Attributes
    ----------
    centre : ndarray, shape (n, 7)
        Latent medians; NaN where there is no posterior.
    root : ndarray, shape (n, 7, 7)
        Cholesky factors of the correlations.
    slope : ndarray, shape (n, 7, 6)
        Latent units per standard deviation, between `BREAKS`.
    """

    centre: Array
    root: Array
    slope: Array

    @classmethod
    def of(cls, summaries: Summaries) -> Posteriors:
        """Return the posteriors of candidates."""
        centre, cov = latent_gaussian(summaries.median, summaries.packed)
        spread = np.sqrt(np.einsum("nii->ni", cov))
        result = cls(centre, np.full_like(cov, np.nan), np.repeat(spread[..., None], len(BREAKS) - 1, axis=2))
        for row in np.array_split(result.known, max(1, len(result.known) // 256)):
            if len(row):
                unit = cov[row] / (spread[row][:, :, None] * spread[row][:, None, :])
                result.root[row] = stable_cholesky(unit)
                _fit_slopes(summaries[row], spread[row], unit[:, 2, 1], centre, result.slope, row)
        return result

    @property
    def known(self) -> NDArray[np.intp]:
        """Rows that have a posterior."""
        return np.flatnonzero(np.isfinite(self.slope).all(axis=(1, 2)))

    def latent(self, rows: Any, normal: Array) -> Array:
        """Return latent samples (m, S, 7) of some rows from independent standard normal numbers, (m or 1, S, 7)."""
        z = normal @ np.swapaxes(self.root[rows], -1, -2)
        return self.centre[rows][:, None] + _stretched(_pieces(z), self.slope[rows][:, None])


def _pieces(z: Array) -> list[Array]:
    """Return how far standard normal numbers reach, from zero, into each piece between `BREAKS`."""
    return [np.clip(z, low, high) - np.clip(0.0, low, high) for low, high in itertools.pairwise(BREAKS)]


def _stretched(pieces: list[Array], slope: Array) -> Array:
    """Return stretched numbers: the sum of what `_pieces` gave times the slopes, of one more axis."""
    total = pieces[0] * slope[..., 0]
    for k, piece in enumerate(pieces[1:], 1):
        total += piece * slope[..., k]
    return total


def _fit_slopes(
    said: Summaries, spread: Array, correlation: Array, centre: Array, slope: Array, rows: NDArray[np.intp]
) -> None:
    """Set centres and slopes so that the marginals of rows have the table's quantiles.

    Beyond the 68 % interval, where the table has none but of theta_E, slopes are such that the variance stays.
    """
    usable = np.isfinite(said.half) & (said.half > 0)
    half = np.where(usable, said.half, HALF * spread)
    half[:, 1:3] = HALF * spread[:, 1:3]
    inner = half / HALF
    for k in range(N_LATENT):
        slope[rows, k] = _with_tails(inner[:, k], spread[:, k])
    levels = np.insert(said.ends, 2, said.median[:, 0], axis=1)
    fine = np.isfinite(levels).all(axis=1) & (np.diff(levels, axis=1) > 0).all(axis=1) & (levels[:, 0] > 0)
    steps = np.diff(np.log(np.where(fine[:, None], levels, np.arange(1.0, 6.0)))) / np.diff(BREAKS[1:-1])
    slope[rows[fine], 0] = np.concatenate([steps[:, :1], steps, steps[:, -1:]], axis=1)[fine]
    wanted = usable[:, 1:3].all(axis=1)
    points = even_points(GAUSSIAN, PLANE)
    rest = np.sqrt(np.maximum(1 - correlation**2, 0.0))[:, None] * points[:, 1] + correlation[:, None] * points[:, 0]
    pieces = _pieces(points[:, 0]), _pieces(rest)
    for _ in range(PASSES):
        for k, (first, second) in ((1, pieces), (2, pieces[::-1])):
            here, there = (
                centre[rows, j, None] + _stretched(part, slope[rows, j, None])
                for j, part in ((k, first), (3 - k, second))
            )
            size = np.maximum(np.sqrt(here * here + there * there), 1e-9)
            ordered = np.sort(here * np.tanh(size) / size, axis=1)
            low, middle, high = (_hazen(ordered, level) for level in (0.16, 0.5, 0.84))
            ratio = np.where(wanted, np.clip(said.half[:, k] / (0.5 * (high - low)), 0.25, 4.0), 1.0)
            inner[:, k] *= ratio
            centre[rows, k] += np.where(wanted, said.median[:, k] - middle, 0.0)
            slope[rows, k] = _with_tails(inner[:, k], spread[:, k])


def _hazen(ordered: Array, level: float) -> Array:
    """Return the quantile of sorted rows, midpoint rule."""
    place = level * ordered.shape[1] - 0.5
    below = int(place)
    return np.asarray(ordered[:, below] + (place - below) * (ordered[:, below + 1] - ordered[:, below]))


def _with_tails(inner: Array, spread: Array) -> Array:
    """Return slopes (n, 6): `inner` in the 68 % interval, beyond it such that the standard deviation is `spread`."""
    density = np.exp(-0.5 * HALF**2) / np.sqrt(2 * np.pi)
    beyond = 2 * float(ndtr(-HALF))
    square = HALF**2 * beyond + (1 - beyond) - 2 * HALF * density  # mean of min(|z|, HALF)^2
    mixed = HALF * (2 * density - HALF * beyond)  # of HALF (|z| - HALF), beyond
    last = 1.0 - square - 2 * mixed  # of (|z| - HALF)^2, beyond
    rest = (spread / inner) ** 2 - square
    outer = (-mixed + np.sqrt(np.maximum(mixed**2 + last * rest, 0.0))) / last
    outer = inner * np.clip(outer, 1 / STEEPEST, STEEPEST)
    return np.stack([outer, outer, inner, inner, outer, outer], axis=1)


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


def draw(posteriors: Posteriors, names: list[str], samples: int, seed: int = 0) -> Array:
    """Draw posterior samples, the same for a candidate whatever stands beside it.

    Parameters
    ----------
    posteriors : Posteriors
    names : list of str
        Identifiers; with `seed` they choose the random numbers.
    samples : int
    seed : int

    Returns
    -------
    ndarray, shape (n, samples, 7)
        Physical parameters; each sample has theta_E > 0 and |e| < 1.  NaN where there is no posterior.
    """
    result = np.full((len(names), samples, N_LATENT), np.nan)
    for k in posteriors.known:
        key = hashlib.sha256(f"{seed} {names[k]}".encode()).digest()
        normal = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))
        latent = posteriors.latent(slice(k, k + 1), normal.standard_normal((1, samples, N_LATENT)))
        result[k] = from_latent(latent[0])
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
