"""The total order of candidates, and the K best of a stream in memory that does not grow with it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TopK", "rank_order"]

KEYS = ("logit", "id", "plan_row")


def rank_order(logit: NDArray[np.float64], ids: NDArray[Any], plan_row: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the permutation into rank order: logit descending, id ascending, plan row ascending.

    NaN logits come last.  Probabilities are never compared: they saturate.
    """
    return np.lexsort((plan_row, ids, -logit))


class TopK:
    """Keeps the best rows of a stream of records.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the records; has the fields ``logit``, ``id`` and ``plan_row``.
    top : int
        Number of rows to keep; 0 keeps all (memory then grows with them).
    min_logit : float or None
        Keep only rows whose logit is above.
    """

    def __init__(self, dtype: np.dtype[Any], top: int, min_logit: float | None = None) -> None:
        self.dtype = dtype
        self.top = top
        self.min_logit = -np.inf if min_logit is None else float(min_logit)
        self.worst = -np.inf
        self._parts: list[NDArray[Any]] = []
        self._held = 0

    def wanted(self, logit: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the positions of the rows that may still be among the best; ties with the worst count."""
        possible = (logit > self.min_logit) & (logit >= self.worst)
        if self.top and np.count_nonzero(possible) > self.top:
            values = logit[possible]
            possible &= logit >= np.partition(values, len(values) - self.top)[len(values) - self.top]
        return np.flatnonzero(possible)

    def add(self, records: NDArray[Any]) -> None:
        """Add records chosen by `wanted`."""
        if not len(records):
            return
        self._parts.append(records)
        self._held += len(records)
        if self.top and self._held > 2 * self.top:
            self._compact()

    def finish(self) -> NDArray[Any]:
        """Return the kept records in rank order."""
        self._compact()
        return self._parts[0]

    def _compact(self) -> None:
        keys = [np.concatenate([np.empty(0, self.dtype[name]), *(part[name] for part in self._parts)]) for name in KEYS]
        order = rank_order(*keys)
        if self.top:
            order = order[: self.top]
        records = np.concatenate([np.empty(0, self.dtype), *self._parts])
        self._parts = []
        opaque = np.dtype(f"V{self.dtype.itemsize}")  # copies whole records instead of field by field
        records = records.view(opaque)[order].view(self.dtype)
        if self.top and len(records) == self.top:
            self.worst = float(records["logit"][-1])
        self._parts, self._held = [records], len(records)
