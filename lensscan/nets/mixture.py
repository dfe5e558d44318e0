"""Posteriors as weighted mixtures in latent space: of one model, and of all the networks of a scan.

A component is a Gaussian, or with the tail of its network's card a scale mixture of Gaussians of one centre
(`lensscan.metrics.scalemixture`).  Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lensscan.metrics.scalemixture import GAUSSIAN, ScaleMixture
from lensscan.nets.card import Card
from lensscan.nets.latent import TRIANGLE, unpack_triangle
from lensscan.nets.posterior import posterior_columns

__all__ = ["Mixture", "Pooling", "widen"]

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Mixture:
    """Posteriors of n rows by one model, K components each.

    Attributes
    ----------
    mean, cov : (n, K, 7) and (n, K, 28)
        Latent; NaN where the model has none.
    weight : (n, K)
        Of sum 1.
    tail : ScaleMixture
        Of every component.
    """

    mean: Floats
    cov: Floats
    weight: Floats
    tail: ScaleMixture = field(default_factory=ScaleMixture)

    @classmethod
    def single(cls, mean: Floats, cov: Floats, tail: ScaleMixture = GAUSSIAN) -> Mixture:
        """Return posteriors of one component: mean (n, 7), cov (n, 28)."""
        return cls(mean[:, None], cov[:, None], np.ones((len(mean), 1)), tail)

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, rows: Any) -> Mixture:
        """Return some rows."""
        return Mixture(self.mean[rows], self.cov[rows], self.weight[rows], self.tail)

    @property
    def finite(self) -> npt.NDArray[np.bool_]:
        """Rows (n,) that have a posterior."""
        good = np.isfinite(self.mean).all(axis=(1, 2)) & np.isfinite(self.cov).all(axis=(1, 2))
        return np.asarray(good & np.isfinite(self.weight).all(axis=1))

    @property
    def centre(self) -> npt.NDArray[np.float64]:
        """Latent mean of the whole mixture, (n, 7)."""
        return np.asarray((self.weight[..., None] * self.mean).sum(axis=1, dtype=np.float64))

    @property
    def matrices(self) -> npt.NDArray[np.float64]:
        """Latent covariances of the components, before their tail's factors, (n, K, 7, 7)."""
        return unpack_triangle(self.cov)

    def plain(self) -> Mixture:
        """Return the same posteriors as mixtures of Gaussians: one for each component and factor of its tail."""
        if self.tail.gaussian:
            return self
        n, _, width = self.cov.shape
        factors, shares = np.array(self.tail.factors), np.array(self.tail.weights)
        return Mixture(
            np.repeat(self.mean, len(factors), axis=1),
            (self.cov[:, :, None] * factors[:, None]).reshape(n, -1, width),
            (self.weight[:, :, None] * shares).reshape(n, -1),
        )

    def columns(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the catalog's columns; see `lensscan.nets.posterior.posterior_columns`."""
        return posterior_columns(self.mean, self.cov, self.weight, (self.tail,) * self.mean.shape[1])


@dataclass(frozen=True, slots=True)
class Pooling:
    """How the components of all networks of a scan form one posterior: each network that regresses counts alike.

    Attributes
    ----------
    counts : tuple of int
        Components of each network.
    tails : tuple of ScaleMixture
        Of each network.
    scale : tuple of 7 float, or empty
        Factors on the standard deviations of all.
    silent : tuple of bool, or empty
        Which networks learned to classify only: their components are left out; empty: none.
    """

    counts: tuple[int, ...]
    tails: tuple[ScaleMixture, ...]
    scale: tuple[float, ...] = ()
    silent: tuple[bool, ...] = ()

    @classmethod
    def of(
        cls, cards: Sequence[Card], views: int = 0, scale: tuple[float, ...] = (), tail: ScaleMixture = GAUSSIAN
    ) -> Pooling:
        """Return the pooling of models scored with a number of dihedral views; 0 = each card's own.

        With a `scale`, that of an ensemble, its `tail` takes the place of the models' own.
        """
        each = [views or card.views for card in cards]
        counts = tuple(card.components(v) for card, v in zip(cards, each, strict=True))
        own = tuple(card.tail_of(v) for card, v in zip(cards, each, strict=True))
        silent = tuple(not card.regresses for card in cards)
        mixed = any(silent) and not all(silent)
        return cls(counts, (tail,) * len(own) if scale else own, scale, silent if mixed else ())

    @property
    def total(self) -> int:
        """Components of all networks together."""
        return sum(self.counts)

    @property
    def weighted(self) -> bool:
        """Whether components come with weights, `post_weight`; else each network has one."""
        return self.total > len(self.counts)

    @property
    def voices(self) -> int:
        """Networks that form the posterior."""
        return len(self.counts) - sum(self.silent)

    @property
    def heard(self) -> npt.NDArray[np.intp]:
        """Places of the components that form the posterior."""
        silent = self.silent or (False,) * len(self.counts)
        return np.flatnonzero(~np.repeat(np.array(silent, bool), self.counts))

    def complete(self, mean: Floats, cov: Floats) -> npt.NDArray[np.bool_]:
        """Return which rows (n,) have all the components that form the posterior."""
        heard = self.heard
        return np.asarray(
            np.isfinite(mean[:, heard]).all(axis=(1, 2)) & np.isfinite(cov[:, heard]).all(axis=(1, 2)), bool
        )

    def columns(self, mean: Floats, cov: Floats, weight: Floats | None = None) -> dict[str, npt.NDArray[np.float32]]:
        """Return the catalog's columns of all networks that regress together.

        Parameters
        ----------
        mean, cov : (n, K, 7) and (n, K, 28) arrays
            Components, network after network.
        weight : (n, K) array
            Of sum 1 for each network; only if `weighted`.
        """
        tails = [tail for tail, count in zip(self.tails, self.counts, strict=True) for _ in range(count)]
        if self.silent:
            heard = self.heard
            tails, mean, cov = [tails[k] for k in heard], mean[:, heard], cov[:, heard]
            weight = None if weight is None else weight[:, heard]
        return posterior_columns(mean, widen(cov, self.scale), weight, tails)


def widen(cov: Floats, scale: Sequence[float]) -> Floats:
    """Return packed covariances (..., 28) with factors on the standard deviations; none: as they are."""
    return np.asarray(cov * np.array([scale[i] * scale[j] for i, j in TRIANGLE])) if scale else cov
