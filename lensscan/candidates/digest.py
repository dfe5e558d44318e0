"""The content hash: what "the same bytes" means.

SHA-256 over one line per dataset of ``/candidates``, ``/cutflow``, ``/failures`` and ``/scores`` in the order
of their names, each line with name, dtype, shape and the SHA-256 of the data in C order.  Storage layout,
attributes, column descriptions and ``/provenance`` stay outside.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CHUNK_BYTES", "HASHED", "ContentDigest", "content_hash"]

HASHED = ("candidates", "cutflow", "failures", "scores")
CHUNK_BYTES = 8 << 20


class ContentDigest:
    """A content hash built while the datasets are written or read, each one front to back."""

    def __init__(self) -> None:
        self._running: dict[str, Any] = {}
        self._dtype: dict[str, str] = {}
        self._shape: dict[str, tuple[int, ...]] = {}

    def update(self, name: str, array: NDArray[Any]) -> None:
        """Append rows to the dataset `name`; the first call (zero rows will do) fixes dtype and row shape."""
        array = np.ascontiguousarray(array)
        if name not in self._running:
            self._running[name] = hashlib.sha256()
            self._dtype[name] = _describe(array.dtype)
            self._shape[name] = (0, *array.shape[1:])
        self._shape[name] = (self._shape[name][0] + len(array), *self._shape[name][1:])
        if array.size:
            self._running[name].update(array.view(np.uint8).data)

    def hexdigest(self) -> str:
        """Return the content hash of what was seen so far."""
        total = hashlib.sha256()
        for name in sorted(self._running):
            line = f"{name} {self._dtype[name]} {self._shape[name]} {self._running[name].hexdigest()}\n"
            total.update(line.encode())
        return total.hexdigest()


def _describe(dtype: np.dtype[Any]) -> str:
    if dtype.names is None:
        return dtype.str
    fields = ((name, dtype[name].base.str, dtype[name].shape) for name in dtype.names)
    return ";".join(f"{name}:{code}:{shape}" for name, code, shape in fields)


def content_hash(h5: Any) -> str:
    """Return the content hash of an open output file, streamed in chunks of `CHUNK_BYTES`."""
    digest = ContentDigest()
    for name in HASHED:
        node = h5[name]
        datasets = {f"{name}/{key}": item for key, item in node.items()} if hasattr(node, "items") else {name: node}
        for key, dataset in datasets.items():
            rows = max(1, CHUNK_BYTES // max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:]))))
            digest.update(key, dataset[:0])
            for start in range(0, dataset.shape[0], rows):
                digest.update(key, dataset[start : start + rows])
    return digest.hexdigest()
