"""The card of several networks together: calibration of their mean logit and of their pooled posterior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lensscan.config import LATE, build, content, late, read_toml
from lensscan.errors import ConfigError, ModelError
from lensscan.metrics.calibration import Calibration
from lensscan.metrics.scalemixture import GAUSSIAN, ScaleMixture
from lensscan.nets.card import Card, LensDensity
from lensscan.nets.latent import N_LATENT
from lensscan.nets.mixture import Pooling

__all__ = ["Ensemble", "read_ensemble"]


@dataclass(frozen=True, slots=True)
class Ensemble:
    """The card of several networks together, all of it fitted on these very networks.

    Attributes
    ----------
    calibration : Calibration
        Of the mean logit.
    f_lens : LensDensity
    name : str
    models, hashes : tuple of str
        Shipped names or paths of the members, and the SHA-256 of their files; empty in a card written by hand.
    views : tuple of int
        Dihedral views of each member that it was fitted with.
    posterior_scale : tuple of 7 float, or empty
        Factors on the standard deviations of all members' posteriors, beyond their own.
    posterior_tail : ScaleMixture
        Shape of all tails, in place of the members' own; acts where `posterior_scale` is given.
    recipes : tuple of str
        Of the mocks that it was fitted on, in equal numbers.
    seed, n : int
        Seed of these mocks, and their number.
    others : int
        Non-lenses besides, on which the logit was fitted.
    """

    calibration: Calibration
    f_lens: LensDensity = field(default_factory=LensDensity)
    name: str = late("ensemble")
    models: tuple[str, ...] = late(())
    hashes: tuple[str, ...] = late(())
    views: tuple[int, ...] = late(())
    posterior_scale: tuple[float, ...] = late(())
    posterior_tail: ScaleMixture = field(default=GAUSSIAN, metadata=LATE)
    recipes: tuple[str, ...] = late(())
    seed: int = late(0)
    n: int = late(0)
    others: int = late(0)

    def stored(self) -> dict[str, Any]:
        """Return the card as plain values; what came later is left out where it says nothing."""
        return content(self)

    def checked(self, where: str) -> Ensemble:
        """Return self, or raise a `ConfigError` for values that make no sense."""
        if not self.calibration.sound:
            raise ConfigError(f"{where}: {self.calibration} is unknown or not strictly increasing; fit it again")
        if len(self.posterior_scale) not in (0, N_LATENT) or not all(value > 0 for value in self.posterior_scale):
            raise ConfigError(f"{where}: posterior_scale needs {N_LATENT} positive factors, or none")
        if not self.posterior_tail.sound:
            raise ConfigError(f"{where}: weights and factors of posterior_tail must be positive, the weights of sum 1")
        if not len(self.models) == len(self.hashes) == len(self.views):
            raise ConfigError(f"{where}: models, hashes and views must be equally many; make it by lensscan ensemble")
        return self

    def require(self, cards: Sequence[Card], views: int, where: str) -> None:
        """Raise a `ModelError` if it was fitted on other networks, or on other views of them.

        Parameters
        ----------
        cards : sequence of Card
        views : int
            Dihedral views they are scored with; 0: each card's own.
        where : str
            The file, for the message.
        """
        if not self.hashes:
            return
        ours = sorted(zip(self.hashes, self.views, strict=True))
        theirs = sorted((card.hash, views or card.views) for card in cards)
        if ours == theirs:
            return
        what = "views of its models" if sorted(self.hashes) == sorted(card.hash for card in cards) else "models"
        raise ModelError(f"{where} was fitted on other {what}; make it anew with lensscan ensemble")

    def pooling(self, cards: Sequence[Card], views: int) -> Pooling:
        """Return how the posteriors of its networks form one."""
        return Pooling.of(cards, views, self.posterior_scale, self.posterior_tail)


def read_ensemble(path: str) -> Ensemble:
    """Read an ensemble's card.

    Raises
    ------
    ConfigError
        If the file is none.
    """
    return build(Ensemble, read_toml(path), path).checked(path)
