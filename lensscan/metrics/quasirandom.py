"""Quasi-random points: Sobol sequences (Sobol 1967), and what the normal distribution makes of them.

scipy.stats takes most of a second to import, and a scan may never need it: so it is imported where it is used.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["cube_points", "mirrored_normals", "to_unit_covariance"]

Array = NDArray[np.float64]
EDGE = 1e-6
"""Least distance of a scrambled point from 0 and 1, in each coordinate, before it goes through the inverse normal."""


def cube_points(count: int, dimensions: int, seed: int | None = None) -> Array:
    """Return the first points of a Sobol sequence in the unit cube, (count, dimensions).

    Parameters
    ----------
    count, dimensions : int
    seed : int, optional
        Scramble the sequence; without one it begins at the origin.
    """
    from scipy.stats import qmc

    return np.asarray(qmc.Sobol(dimensions, scramble=seed is not None, seed=seed).random(count))


def mirrored_normals(count: int, dimensions: int, seed: int | None = None) -> Array:
    """Return quasi-random standard normal points (count, dimensions) of mean zero.

    Half of a Sobol sequence through the inverse normal, centred, and its mirror image at the origin: so that means and
    medians of linear maps are exact.

    Parameters
    ----------
    count : int
        Even.
    dimensions : int
    seed : int, optional
        Scramble the sequence.
    """
    from scipy.special import ndtri

    cube = cube_points(count // 2, dimensions, seed)
    cube = cube + 0.5 / (count // 2) if seed is None else cube.clip(EDGE, 1 - EDGE)
    half = ndtri(cube)
    half -= half.mean(axis=0)
    return np.concatenate([half, -half])


def to_unit_covariance(points: Array) -> Array:
    """Return points (n, d) of mean zero mapped linearly to unit covariance; n must exceed 2 d."""
    scale = np.linalg.cholesky(points.T @ points / len(points))
    return np.asarray(np.linalg.solve(scale, points.T).T)
