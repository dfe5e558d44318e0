"""From the raw logits of several networks to one calibrated logit and its probabilities.

Mean over networks first, then the calibration of that mean: members calibrated one by one are uncalibrated
when combined.  The calibration is strictly monotone, so it never changes the ranking; the prevalence enters
only in the probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.candidates.ensemble import Ensemble
from lensscan.errors import ModelError
from lensscan.metrics.calibration import Calibration
from lensscan.nets.card import Card, LensDensity, voices

__all__ = [
    "MIN_SURVEY_ROWS",
    "Combination",
    "combine_cards",
    "theta_E_range",
    "unique_names",
]

MIN_SURVEY_ROWS = 100_000
"""Fewer scored rows than this make no survey histogram."""


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names made fit for columns ``logit_<name>``: no slash, none twice, none called std."""
    result: list[str] = []
    for name in names:
        plain = name.replace("/", "_") or "model"
        candidate, number = plain, 2
        while candidate in result or candidate == "std":
            candidate, number = f"{plain}_{number}", number + 1
        result.append(candidate)
    return tuple(result)


@dataclass(slots=True)
class Combination:
    """How the networks of one run become one score.

    Attributes
    ----------
    names : tuple of str
        Column names of the networks.
    calibration : Calibration
        Applied to the mean logit.
    prevalence : float or None
    edges, density : ndarray or None
        Histogram of the calibrated logits of lenses.
    theta_E : tuple of float, or None
        Range of theta_E (arcsec) in which every network was trained; None if a card does not say.
    notes : tuple of str
        What a reader of the output must know; goes into the provenance.
    calibrated : bool
        Whether the calibration is one of this very combination; else there are no probabilities.
    """

    names: tuple[str, ...]
    calibration: Calibration
    prevalence: float | None
    edges: NDArray[np.float64] | None = None
    density: NDArray[np.float64] | None = None
    theta_E: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    calibrated: bool = True
    counts: NDArray[np.int64] | None = None
    n_scored: int = field(default=0)

    def columns(self, raw: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return ``logit p_lens logit_std`` and ``logit_<model>`` of raw logits (n, M)."""
        n_networks = raw.shape[1]
        wide = np.ascontiguousarray(raw.T, dtype=np.float64)
        mean = wide[0].copy()
        for network in wide[1:]:
            mean += network
        mean /= n_networks
        std = np.full(len(raw), np.nan)
        if n_networks > 1:
            std[:] = 0.0
            for network in wide:
                std += (network - mean) ** 2
            std = np.sqrt(std / (n_networks - 1))
        logit = self.calibration(mean)
        columns: dict[str, NDArray[Any]] = {
            "logit": logit,
            "p_lens": self.calibration.p_lens(logit, self.prevalence if self.calibrated else None),
            "logit_std": std,
        }
        columns.update({f"logit_{name}": raw[:, k] for k, name in enumerate(self.names)})
        return columns

    def count(self, logit: NDArray[np.float64]) -> None:
        """Add the finite calibrated logits of a chunk to the survey's histogram."""
        logit = logit[~np.isnan(logit)]
        self.n_scored += len(logit)
        if self.edges is None:
            return
        if self.counts is None:
            self.counts = np.zeros(len(self.edges) - 1, dtype=np.int64)
        self.counts += np.bincount(self._bins(logit), minlength=len(self.counts))

    @property
    def has_survey(self) -> bool:
        """Whether `p_survey` gives numbers: a calibration, prevalence, histogram of lenses, and enough scored rows."""
        known = self.calibrated and self.prevalence is not None and self.edges is not None
        return known and self.n_scored >= MIN_SURVEY_ROWS

    def p_survey(self, logit: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return min(1, pi f_lens(logit) / f_survey(logit)), f_survey from the rows counted; else NaN.

        Logits beyond the histogram of lenses belong to its outermost bins.
        """
        result = np.full(len(logit), np.nan, dtype=np.float32)
        if not self.has_survey or self.edges is None or self.density is None or self.counts is None:
            return result
        fine = ~np.isnan(logit)
        survey = self.counts / (self.n_scored * np.diff(self.edges))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.minimum(1.0, (self.prevalence or 0.0) * self.density / survey)
        result[fine] = ratio[self._bins(logit[fine])]
        return result

    def _bins(self, logit: NDArray[np.float64]) -> NDArray[np.intp]:
        assert self.edges is not None
        return np.clip(np.searchsorted(self.edges, logit, side="right") - 1, 0, len(self.edges) - 2)


def combine_cards(cards: Sequence[Card], prevalence: float | None, ensemble: Ensemble | None = None) -> Combination:
    """Return the combination of the networks' cards.

    Parameters
    ----------
    cards : sequence of Card
        One per network, in the order of the shards' columns.
    prevalence : float or None
    ensemble : Ensemble, optional
        Several networks without one keep their raw mean: it ranks, but has no probabilities, and a note says so.

    Raises
    ------
    ModelError
        If the calibration is not strictly increasing.
    """
    names = unique_names([card.name for card in cards])
    notes: list[str] = []
    calibration, histogram = Calibration(), LensDensity()
    calibrated = len(cards) == 1 or ensemble is not None
    if len(cards) == 1:
        calibration, histogram = cards[0].calibration, cards[0].f_lens
        if calibration.kind == "none":
            notes.append(f"model {names[0]} carries no calibration: logit ranks, but p_lens is not calibrated")
    elif ensemble is not None:
        calibration, histogram = ensemble.calibration, ensemble.f_lens
    else:
        which = f"the mean of {len(cards)} networks"
        notes.append(
            f"{which} has no calibration of its own: logit ranks, but p_lens and p_survey are NaN; make a card with "
            "lensscan ensemble and give it as ensemble"
        )
    if prevalence is None:
        notes.append("no prevalence is stated (by the cut, or as prevalence): p_lens and p_survey are NaN")
    if not calibration.sound:
        raise ModelError(f"{calibration} is unknown or not strictly increasing; fit it again")
    combination = Combination(names, calibration, prevalence, notes=tuple(notes), calibrated=calibrated)
    combination.theta_E = theta_E_range(cards)
    if len(histogram.edges) > 1:
        combination.edges = np.asarray(histogram.edges, dtype=np.float64)
        combination.density = np.asarray(histogram.density, dtype=np.float64)
    return combination


def theta_E_range(cards: Sequence[Card]) -> tuple[float, float] | None:
    """Return the range of theta_E (arcsec) in which every network that regresses was trained; None if a card is mute.

    Where none regresses, all count.
    """
    ranges = [card.theta_E_prior.range for card in voices(cards)]
    known = [each for each in ranges if each]
    if len(known) < len(ranges):
        return None
    return max(low for low, _ in known), min(high for _, high in known)
