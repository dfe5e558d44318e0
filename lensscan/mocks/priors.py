"""Counter-based draws: every number is a pure function of (recipe, seed, variable name, index, attempt).

There is no generator state, so a row is the same whatever the batch, rank or order it is drawn in.  The hash
is splitmix64's finaliser (Steele, Lea & Flood 2014), applied twice: to key + index, then to that + counter.
Truth is drawn with numpy in float64; pixel noise with the same hash in torch, on the device of the images.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

__all__ = ["Draws", "pixel_normals", "row_keys"]

Array = NDArray[np.float64]
GOLDEN = 0x9E3779B97F4A7C15
ODD = 0xD1B54A32D192ED03
MIX1, MIX2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX2)
    return z ^ (z >> np.uint64(31))


def _key(digest: str, seed: int, name: str) -> np.uint64:
    text = f"{digest}/{seed}/{name}".encode()
    return np.uint64(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"))


def row_keys(digest: str, seed: int, name: str, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return one 64-bit key per row, for `pixel_normals`."""
    return _mix(_key(digest, seed, name) + index.astype(np.uint64) * np.uint64(GOLDEN)).view(np.int64)


class Draws:
    """The random numbers of a set of rows.

    Parameters
    ----------
    digest : str
        Hash of the recipe.
    seed : int
        The user's seed.
    index : ndarray of int64, shape (n,)
        Absolute index of each row.
    attempt : ndarray of int64, shape (n,), optional
        Number of the re-draw; rows that are drawn again get new, equally reproducible numbers.
    """

    def __init__(
        self, digest: str, seed: int, index: NDArray[np.int64], attempt: NDArray[np.int64] | None = None
    ) -> None:
        self.digest, self.seed = digest, seed
        self.index = np.asarray(index, dtype=np.int64)
        self.attempt = np.zeros_like(self.index) if attempt is None else np.asarray(attempt, dtype=np.int64)
        self.n = len(self.index)

    def uniform(self, name: str, low: Any = 0.0, high: Any = 1.0, k: int | None = None) -> Array:
        """Return uniforms in (low, high), shape (n,), or (n, k) for `k` independent ones per row."""
        row = _mix(_key(self.digest, self.seed, name) + self.index.astype(np.uint64) * np.uint64(GOLDEN))
        row = row + self.attempt.astype(np.uint64) * np.uint64(MIX1)
        counter = np.arange(1 if k is None else k, dtype=np.uint64)
        bits = _mix(row[:, None] + counter * np.uint64(ODD)) >> np.uint64(11)
        value = (bits.astype(np.float64) + 0.5) * 2.0**-53
        if k is None:
            value = np.ascontiguousarray(value[:, 0])
        return low + value * (np.asarray(high) - low)

    def normal(
        self, name: str, mean: Any = 0.0, sd: Any = 1.0, low: Any = -np.inf, high: Any = np.inf, k: int | None = None
    ) -> Array:
        """Return normals, truncated (not clipped) to [low, high]."""
        u = self.uniform(name, k=k)
        if np.any(np.isfinite(low)) or np.any(np.isfinite(high)):
            width = np.maximum(np.asarray(sd, dtype=np.float64), 1e-300)
            a, b = ndtr((low - np.asarray(mean)) / width), ndtr((high - np.asarray(mean)) / width)
            u = np.clip(a + u * (b - a), 1e-16, 1 - 1e-16)
        return mean + np.asarray(sd) * ndtri(u)

    def choice(self, name: str, weights: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return category numbers with the given relative weights."""
        edges = np.cumsum(np.asarray(weights, dtype=np.float64))
        return np.searchsorted(edges / edges[-1], self.uniform(name), side="right").astype(np.int64)

    def poisson(self, name: str, mean: Any, largest: int) -> NDArray[np.int64]:
        """Return Poisson counts, cut at `largest`, by inversion."""
        u, lam = self.uniform(name), np.broadcast_to(np.asarray(mean, dtype=np.float64), (self.n,))
        term = np.exp(-lam)
        total, count = term.copy(), np.zeros(self.n, dtype=np.int64)
        for value in range(1, largest + 1):
            count += u > total
            term = term * lam / value
            total = total + term
        return count

    def power_law(self, name: str, low: Any, high: Any, slope: float, k: int | None = None) -> Array:
        """Return magnitudes with counts growing as 10^(slope m) between `low` and `high`."""
        u = self.uniform(name, k=k)
        a, b = 10.0 ** (slope * np.asarray(low)), 10.0 ** (slope * np.asarray(high))
        return np.log10(a + u * (b - a)) / slope

    def spin2(self, name: str, e: Array) -> tuple[Array, Array]:
        """Return e1, e2 of ellipticity modulus `e` at a random angle."""
        phi2 = self.uniform(name, 0.0, 2 * math.pi, k=e.shape[1] if e.ndim == 2 else None)
        return e * np.cos(phi2), e * np.sin(phi2)

    def redraw(self, rows: NDArray[np.int64] | NDArray[np.bool_], attempt: int) -> Draws:
        """Return the draws of a subset of the rows at another attempt."""
        index = self.index[rows]
        return Draws(self.digest, self.seed, index, np.full(len(index), attempt, dtype=np.int64))


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _mix_tensor(z: Tensor) -> Tensor:
    """Splitmix64's finaliser on int64 tensors (shifts made logical by masks; works in place on `z`)."""
    for shift, factor in ((30, MIX1), (27, MIX2)):
        z = z.bitwise_xor_((z >> shift).bitwise_and_((1 << (64 - shift)) - 1)).mul_(_signed(factor))
    return z.bitwise_xor_((z >> 31).bitwise_and_((1 << 33) - 1))


def pixel_normals(keys: Tensor, count: int) -> Tensor:
    """Return standard normals, shape (n, count) float32, on the device of `keys` (int64, shape (n,)).

    Box-Muller on two 32-bit halves of one hash; equal on all devices up to the rounding of log and cosine.
    """
    half = (count + 1) // 2
    counter = torch.arange(half, device=keys.device, dtype=torch.int64) * _signed(ODD)
    bits = _mix_tensor(keys[:, None] + counter)
    radius = (bits >> 32).to(torch.float32).add_(2147483648.5).mul_(2.0**-32).clamp_(2.0**-33, 1.0)
    angle = (bits & 0xFFFFFFFF).to(torch.float32).mul_(2 * math.pi * 2.0**-32)
    radius = torch.sqrt(-2 * torch.log(radius))
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)[:, :count]
