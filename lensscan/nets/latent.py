"""The latent space of the posterior, in which every sample is a legal lens.

The seven latent parameters are ``(log theta_E, u1, u2, x, y, sx, sy)`` with ``u = atanh|e| e / |e|``, a
spin-2 vector; positions are arcsec from the centre of the network's frame.  Covariances travel as the 28
elements of the lower triangle, row by row.  Nothing here needs torch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lensscan.metrics.factor import WEAKEST, nearest_positive

__all__ = [
    "FLOW_COMPONENTS",
    "N_COV",
    "N_LATENT",
    "PARAMETERS",
    "TRIANGLE",
    "cholesky_packed",
    "ellipticity_stretch",
    "from_latent",
    "to_latent",
    "unpack_triangle",
]

PARAMETERS = ("theta_E", "e1", "e2", "x", "y", "sx", "sy")
N_LATENT = 7
N_COV = 28
FLOW_COMPONENTS = 5
"""Gaussians that stand for a normalising flow in shards and catalogs, see `lensscan.nets.bridge`."""
FLOOR = 1e-9
TRIANGLE = tuple((i, j) for i in range(N_LATENT) for j in range(i + 1))


def to_latent(physical: npt.NDArray[np.float64], largest: float = 1 - FLOOR) -> npt.NDArray[np.float64]:
    """Return latent vectors (..., 7) of physical parameters (..., 7); |e| counts as `largest` at the most."""
    latent = np.array(physical, dtype=np.float64)
    stretch = ellipticity_stretch(np.minimum(np.hypot(latent[..., 1], latent[..., 2]), largest))
    latent[..., 0] = np.log(latent[..., 0])
    latent[..., 1] *= stretch
    latent[..., 2] *= stretch
    return latent


def ellipticity_stretch(size: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return atanh|e| / |e| of sizes |e| below 1; 1 at |e| = 0."""
    return np.where(size > FLOOR, np.arctanh(size) / np.maximum(size, FLOOR), 1.0)


def from_latent(latent: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return physical parameters (..., 7) of latent vectors (..., 7); the inverse of `to_latent`."""
    physical = np.array(latent, dtype=np.float64)
    size = np.sqrt(physical[..., 1] ** 2 + physical[..., 2] ** 2)
    shrink = np.where(size > FLOOR, np.tanh(size) / np.maximum(size, FLOOR), 1.0)
    physical[..., 0] = np.exp(physical[..., 0])
    physical[..., 1] *= shrink
    physical[..., 2] *= shrink
    return physical


def unpack_triangle(packed: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return symmetric matrices (..., 7, 7) of packed lower triangles (..., 28)."""
    matrix = np.empty((*packed.shape[:-1], N_LATENT, N_LATENT), dtype=np.float64)
    for index, (i, j) in enumerate(TRIANGLE):
        matrix[..., i, j] = packed[..., index]
        matrix[..., j, i] = packed[..., index]
    return matrix


def cholesky_packed(packed: npt.NDArray[np.float64], floor: float = 1e-12) -> npt.NDArray[np.float64]:
    """Return the packed Cholesky factors of packed covariances, element by element.

    Rows with a pivot below the bound, or below `lensscan.metrics.factor.WEAKEST` of its variance, where rounding would
    be divided by next to nothing, are factored as `lensscan.metrics.factor.nearest_positive`.

    Parameters
    ----------
    packed : (28, n) array
        Lower triangles, one per column.
    floor : float
        Smallest pivot (variance), so that rounding in float32 never breaks a row.

    Returns
    -------
    (28, n) array; NaN where a row is NaN.
    """
    factor, weak = _factor(packed, floor)
    weak &= np.isfinite(packed).all(axis=0)
    if weak.any():
        fixed = nearest_positive(unpack_triangle(packed[:, weak].T))
        factor[:, weak] = _factor(np.stack([fixed[:, i, j] for i, j in TRIANGLE]), floor)[0]
    return factor


def _factor(packed: npt.NDArray[np.float64], floor: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return packed factors (28, n), and which rows (n,) have a pivot too small to divide by."""
    place = {pair: index for index, pair in enumerate(TRIANGLE)}
    factor = np.empty_like(packed)
    weak = np.zeros(packed.shape[1:], bool)
    for i, j in TRIANGLE:
        rest = packed[place[i, j]].copy()
        for k in range(j):
            rest -= factor[place[i, k]] * factor[place[j, k]]
        if i == j:
            weak |= rest < np.maximum(floor, WEAKEST * packed[place[i, i]])
            factor[place[i, j]] = np.sqrt(np.where(rest < floor, floor, rest))
        else:
            factor[place[i, j]] = rest / factor[place[j, j]]
    return factor, weak
