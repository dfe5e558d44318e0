"""Groups of candidates on the sky: rows of one lens, found twice or more."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["GROUP_RADIUS", "group_on_sky", "unit_vectors"]

GROUP_RADIUS = 2.0
"""Arcsec; rows closer than this are one group."""


def unit_vectors(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return unit vectors (n, 3) of positions in degrees."""
    a, d = np.radians(ra), np.radians(dec)
    return np.column_stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])


def group_on_sky(
    ra: NDArray[np.float64], dec: NDArray[np.float64], radius: float = GROUP_RADIUS
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Group ranked rows by friends of friends.

    Parameters
    ----------
    ra, dec : ndarray, shape (n,)
        Degrees, best row first; a row without a position is a group of its own.
    radius : float
        Linking length, arcsec.

    Returns
    -------
    group : ndarray of int64, shape (n,)
        1 for the group of the best row, 2 for the group of the best row outside it, and so on.
    group_rank : ndarray of int32, shape (n,)
        1 for the best row of each group (its leader), 2 for the next.
    """
    label = _components(ra, dec, radius)
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    number = np.empty(len(first), dtype=np.int64)
    number[np.argsort(first, kind="stable")] = np.arange(1, len(first) + 1)
    group = number[inverse]
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    start = np.searchsorted(ordered, ordered, side="left")
    rank = np.empty(len(group), dtype=np.int32)
    rank[order] = np.arange(len(group)) - start + 1
    return group, rank


def _components(ra: NDArray[np.float64], dec: NDArray[np.float64], radius: float) -> NDArray[np.int64]:
    """Label connected rows; rows at the very same place are joined before pairs are counted."""
    n = len(ra)
    label = np.arange(n, dtype=np.int64)
    placed = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
    if len(placed) < 2:
        return label
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    places, inverse = np.unique(unit_vectors(ra[placed], dec[placed]), axis=0, return_inverse=True)
    chord = 2 * np.sin(np.radians(radius / 3600) / 2)
    pairs = cKDTree(places).query_pairs(chord, output_type="ndarray")
    links = coo_array((np.ones(len(pairs), np.uint8), (pairs[:, 0], pairs[:, 1])), shape=(len(places),) * 2)
    _, component = connected_components(links, directed=False)
    label[placed] = n + component[np.ravel(inverse)]
    return label
