"""Summaries of a posterior: from a mixture of latent Gaussians to the columns of the catalog.

The posterior of a row is a mixture of Gaussians in latent space: one of each network, or several with
weights.  Everything is elementwise in float64 on blocks of a constant shape, so that a row gives
the same bits whatever rows stand beside it and however the caller cuts its chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from lensscan.metrics.quasirandom import cube_points
from lensscan.metrics.scalemixture import GAUSSIAN, ScaleMixture
from lensscan.nets.latent import N_COV, N_LATENT, PARAMETERS, TRIANGLE, cholesky_packed

__all__ = ["COLUMNS", "even_points", "posterior_columns"]

Array = npt.NDArray[np.float64]
Tails = tuple[ScaleMixture, ...]

BLOCK = 4096
STRIP = 64
BISECTIONS = 36
POINTS = 256
SHIFT = 53 / 128
"""Turns the sequence so that the two coordinates of `POINTS` points are uncorrelated (of 1,024: to .005)."""
WINDOW = 1 / 32
"""Quantiles of e1 and e2 are means over shares so far to both sides: less noise, and a bias of 0.3 % of a width."""
LEVELS = (("", 0.5), ("_q16", 0.16), ("_q84", 0.84))
THETA_E_LEVELS = (("_q025", 0.025), ("_q16", 0.16), ("_q84", 0.84), ("_q975", 0.975))
COLUMNS = (
    *PARAMETERS,
    *(f"{name}_err" for name in PARAMETERS),
    *(f"theta_E{suffix}" for suffix, _ in THETA_E_LEVELS),
    "cov",
)


@cache
def even_points(tail: ScaleMixture, count: int = POINTS) -> Array:
    """Return fixed points of a component with this tail for the quantiles of one axis of a plane, (count, 2).

    The first coordinate, along that axis, has the quantiles in the middle of `count` equal shares; the second, across,
    is spread evenly given the first, and the points are their own mirror image at the origin.  `count` is a power of 2.
    """
    half = count // 2
    level = (np.arange(half) + 0.5) / count
    along = np.array([tail.quantile(float(value)) for value in level])
    share = (cube_points(half, 1)[:, 0] + SHIFT + 0.5 / half) % 1.0
    across = tail.quantile_across(share, along)
    points = np.stack([along, across], axis=1)
    return np.concatenate([points, -points[::-1]])


def posterior_columns(
    mean: npt.NDArray[np.floating],
    cov: npt.NDArray[np.floating],
    weight: npt.NDArray[np.floating] | None = None,
    tails: Sequence[ScaleMixture] | None = None,
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the catalog's posterior columns of n rows and K components.

    Parameters
    ----------
    mean : (n, K, 7) array
        Latent means ``(log theta_E, u1, u2, x, y, sx, sy)``, arcsec.
    cov : (n, K, 28) array
        Latent covariances, packed lower triangles.
    weight : (n, K) array, optional
        Weights of the components, not negative, in any unit; without them each component counts alike.
    tails : sequence of K ScaleMixture, optional
        Shape of each component, of which mean and cov are the centre and the covariance before its factors.

    Returns
    -------
    dict of float32 arrays
        Medians ``theta_E e1 e2 x y sx sy`` (n,), ``<parameter>_err`` = (q84 - q16)/2 (n,), ``theta_E_q025``,
        ``_q16``, ``_q84``, ``_q975`` (n,), and ``cov`` (n, 28), the packed covariance of the physical
        parameters by spherical cubature.  Rows with a NaN in any component, or without a positive weight, are NaN
        throughout.

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    """
    n, count = mean.shape[:2]
    if mean.shape != (n, count, N_LATENT) or cov.shape != (n, count, N_COV):
        raise ValueError(f"mean {mean.shape} and cov {cov.shape} are not (n, K, 7) and (n, K, 28)")
    if weight is not None and weight.shape != (n, count):
        raise ValueError(f"weight {weight.shape} is not (n, K) = ({n}, {count})")
    shapes = tuple(tails or (GAUSSIAN,) * count)
    if len(shapes) != count:
        raise ValueError(f"{len(shapes)} tails for {count} components")
    result = {name: np.empty((n, N_COV) if name == "cov" else n, dtype=np.float32) for name in COLUMNS}
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        block_mean = np.zeros((count, N_LATENT, BLOCK))
        block_cov = np.ones((count, N_COV, BLOCK))
        block_mean[:, :, : stop - start] = mean[start:stop].transpose(1, 2, 0)
        block_cov[:, :, : stop - start] = cov[start:stop].transpose(1, 2, 0)
        block_weight = None
        if weight is not None:
            block_weight = np.ones((count, BLOCK))
            block_weight[:, : stop - start] = weight[start:stop].T
        for name, column in _block_columns(block_mean, block_cov, block_weight, shapes).items():
            result[name][start:stop] = column[: stop - start]
    return result


def _block_columns(mean: Array, cov: Array, weight: Array | None, tails: Tails) -> dict[str, Array]:
    """Summarise one block: mean (K, 7, BLOCK), cov (K, 28, BLOCK), weight (K, BLOCK) or None where all are alike."""
    bad = ~(np.isfinite(mean).all(axis=(0, 1)) & np.isfinite(cov).all(axis=(0, 1)))
    if weight is not None:
        bad |= ~(np.isfinite(weight).all(axis=0) & (weight >= 0).all(axis=0) & (weight.sum(axis=0) > 0))
        weight[:, bad] = 1.0
        weight = weight / weight.sum(axis=0) if len(weight) > 1 else None
    mean[:, :, bad] = 0.0
    cov[:, :, bad] = 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        factor = np.stack([cholesky_packed(component) for component in cov])
        columns = _marginals(mean, cov, weight, tails)
        columns.update(_ellipticities(mean, factor, weight, tails))
        columns["cov"] = _covariance(mean, factor, weight, tails)
    for column in columns.values():
        column[bad] = np.nan
    return columns


def _marginals(mean: Array, cov: Array, weight: Array | None, tails: Tails) -> dict[str, Array]:
    """Quantiles of theta_E and of the positions: exact for one component, by bisection for several."""
    columns: dict[str, Array] = {}
    for index, name in enumerate(PARAMETERS):
        if name in ("e1", "e2"):
            continue
        centre = np.ascontiguousarray(mean[:, index])
        spread = np.sqrt(np.maximum(cov[:, TRIANGLE.index((index, index))], 1e-12))
        warp = np.exp if name == "theta_E" else np.asarray
        quantile = {suffix: warp(_mixture_quantile(centre, spread, weight, tails, level)) for suffix, level in LEVELS}
        columns[name] = quantile[""]
        columns[f"{name}_err"] = 0.5 * (quantile["_q84"] - quantile["_q16"])
        if name == "theta_E":
            for suffix, level in THETA_E_LEVELS:
                known = quantile.get(suffix)
                if known is None:
                    known = np.exp(_mixture_quantile(centre, spread, weight, tails, level))
                columns[f"theta_E{suffix}"] = known
    return columns


def _mixture_quantile(centre: Array, spread: Array, weight: Array | None, tails: Tails, level: float) -> Array:
    """Return the quantile of weighted 1-D components (K, n); bisection to 2^-36 of the bracket."""
    each = centre + np.array([[tail.quantile(level)] for tail in tails]) * spread
    if len(centre) == 1:
        return each[0]
    low, high = each.min(axis=0), each.max(axis=0)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        shares = (tail.cdf((middle - c) / s) for c, s, tail in zip(centre, spread, tails, strict=True))
        if weight is None:
            below = sum(shares) < level * len(centre)
        else:
            below = sum(w * share for w, share in zip(weight, shares, strict=True)) < level
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray(0.5 * (low + high))


def _ellipticities(mean: Array, factor: Array, weight: Array | None, tails: Tails) -> dict[str, Array]:
    """Medians and half-widths of e1, e2 from fixed points for each, pooled over the components.

    The points of a row lie side by side, and few rows are worked on at a time: sorting in cache takes a third
    of the time of sorting across rows.
    """
    count, _, n = mean.shape
    samples = np.empty((2, n, count * POINTS))
    for k in range(count):
        along, across = even_points(tails[k]).T
        place = slice(k * POINTS, (k + 1) * POINTS)
        for start in range(0, n, STRIP):
            rows = slice(start, start + STRIP)
            centre = mean[k, 1:3, rows]
            root = _plane(factor[k, :, rows])
            for which, (first, second) in enumerate(_axes(centre, root)):
                u1, u2 = (
                    middle[:, None] + one[:, None] * along + other[:, None] * across
                    for middle, one, other in zip(centre, first, second, strict=True)
                )
                size = np.sqrt(u1 * u1 + u2 * u2)
                shrink = np.where(size > 1e-9, np.tanh(size) / np.maximum(size, 1e-9), 1.0)
                samples[which, rows, place] = (u1, u2)[which] * shrink
    if weight is None:
        samples.sort(axis=-1)
    columns: dict[str, Array] = {}
    for name, values in zip(("e1", "e2"), samples, strict=True):
        if weight is None:
            quantile = {suffix: _sorted_quantile(values.T, level) for suffix, level in LEVELS}
        else:
            quantile = _weighted_quantiles(values, weight)
        columns[name] = quantile[""]
        columns[f"{name}_err"] = 0.5 * (quantile["_q84"] - quantile["_q16"])
    return columns


def _plane(factor: Array) -> tuple[Array, Array, Array]:
    """Return the Cholesky factor of the covariance of u1 and u2, each (n,), from that of all parameters (28, n)."""
    l10, l11 = factor[TRIANGLE.index((1, 0))], factor[TRIANGLE.index((1, 1))]
    l20, l21, l22 = (factor[TRIANGLE.index((2, j))] for j in range(3))
    s11 = np.sqrt(l10 * l10 + l11 * l11)
    s21 = (l20 * l10 + l21 * l11) / s11
    return s11, s21, np.sqrt(np.maximum(l20 * l20 + l21 * l21 + l22 * l22 - s21 * s21, 1e-12))


def _axes(centre: Array, root: tuple[Array, Array, Array]) -> list[tuple[tuple[Array, Array], tuple[Array, Array]]]:
    """Return for e1 and for e2 the axes, in the plane of u, of the two coordinates of `even_points`; all (n,).

    At the centre (2, n) the component of e grows with the first coordinate and does not change with the second.
    Mirrored posteriors have mirrored axes.
    """
    u1, u2 = centre
    s11, s21, s22 = root
    size = np.sqrt(u1 * u1 + u2 * u2)
    safe = np.maximum(size, 1e-3)
    across = np.where(size > 1e-3, np.tanh(safe) / safe, 1.0)
    bend = np.where(size > 1e-3, (1 / np.cosh(safe) ** 2 - across) / (safe * safe), -2 / 3)
    result = []
    mixed = bend * u1 * u2
    for slope1, slope2 in ((across + bend * u1 * u1, mixed), (mixed, across + bend * u2 * u2)):
        t1, t2 = s11 * slope1 + s21 * slope2, s22 * slope2
        length = np.sqrt(t1 * t1 + t2 * t2)
        t1, t2 = t1 / length, t2 / length
        side = np.where(t1 * t2 < 0, -1.0, 1.0)
        result.append(((s11 * t1, s21 * t1 + s22 * t2), (-side * s11 * t2, side * (s22 * t1 - s21 * t2))))
    return result


def _sorted_quantile(ordered: Array, level: float) -> Array:
    """Return the quantile of samples sorted along axis 0: the mean of those within `WINDOW` of the level."""
    edge = np.arange(len(ordered) + 1) / len(ordered)
    inside = np.clip(edge[1:], level - WINDOW, level + WINDOW) - np.clip(edge[:-1], level - WINDOW, level + WINDOW)
    used = np.flatnonzero(inside)
    return np.asarray((inside[used, None] * ordered[used]).sum(axis=0) / (2 * WINDOW))


def _weighted_quantiles(values: Array, weight: Array) -> dict[str, Array]:
    """Return the quantiles of points (n, K * POINTS), component by component, of weights (K, n) that sum to 1.

    As `_sorted_quantile`, which it is for equal weights and for all weight on one component.
    """
    found = {suffix: np.empty(len(values)) for suffix, _ in LEVELS}
    for start in range(0, len(values), STRIP):
        strip, share = values[start : start + STRIP], weight[:, start : start + STRIP].T
        order = np.argsort(strip, axis=-1)
        ordered = np.take_along_axis(strip, order, axis=-1)
        top = np.cumsum(np.take_along_axis(share, order // POINTS, axis=-1), axis=-1) / POINTS
        bottom = np.concatenate([np.zeros((len(top), 1)), top[:, :-1]], axis=-1)
        for suffix, level in LEVELS:
            inside = np.minimum(top, level + WINDOW) - np.maximum(bottom, level - WINDOW)
            inside = np.maximum(inside, 0.0)
            found[suffix][start : start + STRIP] = (ordered * inside).sum(axis=-1) / inside.sum(axis=-1)
    return found


def _covariance(mean: Array, factor: Array, weight: Array | None, tails: Tails) -> Array:
    """Packed physical covariance (n, 28) of the mixture by spherical cubature.

    The 2 x 7 points ``mean +- sqrt(7) L_i`` (Arasaratnam & Haykin 2009, eq. 32) of each component, L of its covariance
    with its tail, are mapped to physical parameters and pooled.
    """
    count, _, n = mean.shape
    points = np.empty((count * 2 * N_LATENT, N_LATENT, n))
    for k, tail in enumerate(tails):
        reach = np.sqrt(N_LATENT) if tail.gaussian else np.sqrt(N_LATENT * tail.variance)
        for column in range(N_LATENT):
            step = np.zeros((N_LATENT, n))
            for i in range(column, N_LATENT):
                step[i] = reach * factor[k, TRIANGLE.index((i, column))]
            at = 2 * (k * N_LATENT + column)
            points[at], points[at + 1] = mean[k] + step, mean[k] - step
    size = np.sqrt(points[:, 1] ** 2 + points[:, 2] ** 2)
    shrink = np.where(size > 1e-9, np.tanh(size) / np.maximum(size, 1e-9), 1.0)
    points[:, 0] = np.exp(points[:, 0])
    points[:, 1] *= shrink
    points[:, 2] *= shrink
    packed = np.empty((n, N_COV))
    if weight is None:
        points -= points.mean(axis=0)
        for index, (i, j) in enumerate(TRIANGLE):
            packed[:, index] = (points[:, i] * points[:, j]).mean(axis=0)
        return packed
    share = np.repeat(weight / (2 * N_LATENT), 2 * N_LATENT, axis=0)
    points -= (share[:, None] * points).sum(axis=0)
    for index, (i, j) in enumerate(TRIANGLE):
        packed[:, index] = (share * points[:, i] * points[:, j]).sum(axis=0)
    return packed
