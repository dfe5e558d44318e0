"""The card of a model: everything but the weights, kept as JSON in the model file's metadata."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lensscan.config import build
from lensscan.errors import ConfigError, ModelError
from lensscan.metrics.calibration import Calibration
from lensscan.metrics.scalemixture import ScaleMixture
from lensscan.mocks.seeds import PURPOSES
from lensscan.nets.latent import FLOW_COMPONENTS

__all__ = ["CLASSIFY_ONLY", "FORMAT", "Card", "LensDensity", "ThetaPrior", "voices"]

FORMAT = 1
FLATTERING = ("training", "validation", "calibration")
"""Purposes of mocks on which a model looks better than on others."""
CLASSIFY_ONLY = ("trivial", "argonne", "deeplens", "jacobs-3", "jacobs-4", "resnet50")
"""Kinds of networks without a posterior."""


@dataclass(frozen=True, slots=True)
class LensDensity:
    """f_lens: histogram density of the calibrated logit of lenses.

    Attributes
    ----------
    edges : tuple of float, length k + 1
    density : tuple of float, length k
        Per unit logit; integrates to 1.
    """

    edges: tuple[float, ...] = ()
    density: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ThetaPrior:
    """Densities of theta_E among lenses (the training's label), per unit of ln theta_E, on an even grid of it.

    Attributes
    ----------
    low, high : float
        Ends of the grid, arcsec: the range in which there were training lenses.
    training : tuple of float
        In training: the prior of the posterior.
    natural : tuple of float
        With theta_E as the recipe's population has it, all else given theta_E unchanged; empty where the recipe
        has no such population.
    """

    low: float = 0.0
    high: float = 0.0
    training: tuple[float, ...] = ()
    natural: tuple[float, ...] = ()

    @property
    def range(self) -> tuple[float, float] | None:
        """Range of theta_E (arcsec) in which there were training lenses; None if nothing is said of it."""
        return (self.low, self.high) if self.training else None


@dataclass(frozen=True, slots=True)
class Card:
    """Card of one model.

    Attributes
    ----------
    name, version : str
    architecture : mapping
        ``kind`` and the arguments that rebuild the network.
    bands : tuple of str
        In the order of the network's channels.
    size : int
        Side of the network's frame, pixels.
    pixel_scale : float
        Arcsec per pixel.
    min_bands : int
        Fewest bands that must be present; absent bands are zero with their bit unset.
    softening : float
        k in asinh(f / (k sigma)).
    sigma_range, fwhm_range : mapping of band to (low, high)
        Noise per pixel (nJy) and seeing (arcsec) seen in training; outside, a row is flagged out_of_range.
    calibration : Calibration
    f_lens : LensDensity
    prior : mapping of str
        The distributions of the parameters in training, in words, by parameter.
    theta_E_prior : ThetaPrior
        The distribution of theta_E in numbers; empty in files of older trainings.
    posterior_scale : tuple of 7 float
        Factors on the posterior's standard deviations in latent space, from a calibration split.
    posterior_scale_views : tuple of 7 float, or empty
        The same for the mixture over the eight dihedral views, which is wider; empty: as for one.
    posterior_tail, posterior_tail_views : ScaleMixture
        Shape of the posterior's tails, of one view and of eight, fitted together with the scales: the covariance
        times these factors with these weights.  The default is the plain Gaussian.
    ood_distances, ood_distances_views : tuple of 4 float, or empty
        Distances among the features that half, a tenth, a hundredth and a thousandth of held-out mocks exceed, with one
        and with eight views (`lensscan.nets.novelty`); empty: the model gives no ``ood``.
    views : int
        Dihedral views to average, 1 or 8.
    label : str
        What "lens" means: the recipe's label.
    training, evaluation : mapping
        Provenance of the training; a short evaluation on a seed of its own.
    notes : str
    hash : str
        SHA-256 of the file; filled on loading, not stored.
    """

    name: str
    architecture: Mapping[str, Any]
    bands: tuple[str, ...]
    size: int
    pixel_scale: float
    min_bands: int = 1
    version: str = "1"
    softening: float = 2.0
    sigma_range: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    fwhm_range: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    calibration: Calibration = field(default_factory=Calibration)
    f_lens: LensDensity = field(default_factory=LensDensity)
    prior: Mapping[str, str] = field(default_factory=dict)
    theta_E_prior: ThetaPrior = field(default_factory=ThetaPrior)
    posterior_scale: tuple[float, ...] = (1.0,) * 7
    posterior_scale_views: tuple[float, ...] = ()
    posterior_tail: ScaleMixture = field(default_factory=ScaleMixture)
    posterior_tail_views: ScaleMixture = field(default_factory=ScaleMixture)
    ood_distances: tuple[float, ...] = ()
    ood_distances_views: tuple[float, ...] = ()
    views: int = 1
    label: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    notes: str = ""
    hash: str = ""

    def to_mapping(self) -> dict[str, Any]:
        """Return the card as plain values, without `hash`."""
        mapping = dataclasses.asdict(self)
        del mapping["hash"]
        return mapping

    def scale_of(self, views: int) -> tuple[float, ...]:
        """Return the factors on the posterior's standard deviations for a number of views."""
        return self.posterior_scale_views if views > 1 and self.posterior_scale_views else self.posterior_scale

    def tail_of(self, views: int) -> ScaleMixture:
        """Return the shape of the posterior's tails for a number of views."""
        return self.posterior_tail_views if views > 1 and self.posterior_scale_views else self.posterior_tail

    @property
    def regresses(self) -> bool:
        """Whether its posterior means anything: the network has one, and its training taught it."""
        return self.architecture.get("kind") not in CLASSIFY_ONLY and "posterior" not in self.evaluation

    def components(self, views: int) -> int:
        """Return the components of the posterior for a number of views.

        The views of a single Gaussian are joined to one; those of a mixture head are all kept.  A flow is given by
        `lensscan.nets.latent.FLOW_COMPONENTS`, whatever the views.
        """
        if self.architecture.get("head") == "flow":
            return FLOW_COMPONENTS
        count = int(self.architecture.get("components", 1))
        return count * views if count > 1 else 1

    def ood_edges(self, views: int) -> tuple[float, ...]:
        """Return the distances that scale ``ood`` for a number of views; empty if the model gives none."""
        return self.ood_distances_views if views > 1 else self.ood_distances

    def learnt_from(self, recipe_digest: str, seed: int, content: str = "") -> str:
        """Return what mocks were to this model that flatter it: its training, validation or calibration; else nothing.

        Parameters
        ----------
        recipe_digest, seed
            Of the mocks.
        content : str
            Of the folder that holds them (`lensscan.mocks.folder.MockFolder`), if one does.
        """
        said = self.training
        folder = said.get("folder")
        if folder and content == folder.get("content"):
            return "training"
        if said.get("recipe_digest") != recipe_digest:
            return ""
        if "mocks_of_seed" in said:  # of a calibrator of difficulty, which has one set for both
            return "training" if seed == said["mocks_of_seed"] else ""
        purposes = [purpose for purpose in FLATTERING if not (folder and purpose == "training")]
        known = {10 * said["seed"] + PURPOSES[purpose]: purpose for purpose in purposes} if "seed" in said else {}
        return known.get(seed, "")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str) -> Card:
        """Build a card from plain values, as read from JSON.

        Raises
        ------
        ModelError
            If they are not those of a card.
        """
        try:
            return build(cls, mapping, f"{where}: card").checked(where)
        except (TypeError, AttributeError) as error:
            raise ModelError(f"{where}: its card is damaged ({error}); get the file anew") from None
        except ConfigError as error:
            raise ModelError(f"{error} (the file was written by another version of lensscan)") from None

    def checked(self, where: str) -> Card:
        """Return self, or raise a `ModelError` for values that make no sense."""
        if not self.bands or self.size < 8 or not self.pixel_scale > 0:
            raise ModelError(f"{where}: card without bands, size or pixel scale; the file is damaged")
        if not 1 <= self.min_bands <= len(self.bands):
            raise ModelError(f"{where}: min_bands {self.min_bands} does not fit {len(self.bands)} bands")
        if not self.calibration.sound:
            raise ModelError(f"{where}: {self.calibration} is unknown or not strictly increasing; fit it again")
        scales = (self.posterior_scale, self.posterior_scale_views or self.posterior_scale)
        if any(len(scale) != 7 for scale in scales) or self.views not in (1, 8):
            raise ModelError(f"{where}: needs 7 posterior scales and 1 or 8 views")
        if not all(0 < factor < math.inf for scale in scales for factor in scale):
            raise ModelError(f"{where}: factors of posterior_scale must be positive and finite; the file is damaged")
        if not (self.posterior_tail.sound and self.posterior_tail_views.sound):
            raise ModelError(f"{where}: weights and factors of posterior_tail must be positive, the weights of sum 1")
        if any(len(edges) not in (0, 4) for edges in (self.ood_distances, self.ood_distances_views)):
            raise ModelError(f"{where}: needs 4 distances to tell what is out of distribution, or none")
        return self


def voices(cards: Sequence[Card]) -> list[Card]:
    """Return the cards whose posteriors count where several networks stand together: all, if none regresses."""
    return [card for card in cards if card.regresses] or list(cards)
