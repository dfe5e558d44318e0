"""Scores and posteriors of models on a test set, by the scan's own scorer; nothing is kept between runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lensscan.errors import ConfigError
from lensscan.evaluate.lightonly import Features
from lensscan.evaluate.testsets import SEEDS, TestSet, Truth
from lensscan.evaluate.written import header
from lensscan.mocks.recipes import Recipe
from lensscan.nets.card import Card
from lensscan.nets.flowposterior import FlowPosteriors
from lensscan.nets.latent import N_COV, N_LATENT
from lensscan.nets.mixture import Mixture
from lensscan.nets.model import Model
from lensscan.nets.scorer import Scorer
from lensscan.schema import Flag, Status
from lensscan.survey.stamps import Batch, Frame

__all__ = ["Judge", "OneModel", "Predictions", "Scored", "Scoring", "predict"]

Columns = dict[str, NDArray[Any]]

KEPT = (
    "logit",
    "post_mean",
    "post_cov",
    "post_weight",
    "sigma",
    "snr",
    "flags",
    "fwhm",
    "status",
    "post_flow",
    "origin",
)


class Judge(Protocol):
    """What gives a logit without a network, and no posterior."""

    @property
    def card(self) -> Card:
        """Name, bands and calibration."""

    def frame(self) -> Frame:
        """Return what it wants to see."""

    def logits(self, batch: Batch) -> NDArray[np.float64]:
        """Return the raw logits (n,) of the used rows of a batch."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """What one model says of the rows that could be scored.

    Attributes
    ----------
    card : Card
    logit : (n,) float64
        Calibrated; NaN of a network that never saw anything but lenses.
    posterior : Mixture
        Latent, arcsec from the centre of the supplied stamp; NaN where the model has none.
    flags : (n,) uint32
    fwhm : (n, C) arcsec
    views : int
    raw : (n,) float64
        Logit before its calibration.
    flow : FlowPosteriors, optional
        The posteriors of a normalising flow as such.
    """

    card: Card
    logit: NDArray[np.float64]
    posterior: Mixture
    flags: NDArray[np.uint32]
    fwhm: NDArray[np.float32]
    views: int
    raw: NDArray[np.float64]
    flow: FlowPosteriors | None = None

    @property
    def out_of_range(self) -> float:
        """Share of rows outside the card's ranges."""
        return float(((self.flags & np.uint32(Flag.OUT_OF_RANGE)) != 0).mean())


@dataclass(frozen=True, slots=True)
class Scored:
    """A test set and what every model says of it.

    Attributes
    ----------
    rows : (n,) int64
        Row of the set of each scored row.
    failed : int
        Rows that at least one model could not score; left out for all.
    truth : dict of (n,) arrays
    features : (n, k) array
        Simple measurements of the stamps, see `lensscan.evaluate.lightonly`.
    models : list of Predictions
    """

    rows: NDArray[np.int64]
    failed: int
    truth: Truth
    features: NDArray[np.float64]
    models: list[Predictions]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """How test sets are scored, and how often figures are resampled: what the settings of several measurements share.

    Attributes
    ----------
    replicates : int
        Resamples of the bootstrap.
    views : int, optional
        Dihedral views; default each card's own.
    device : str
    batch : int
        Rows scored at once.
    """

    replicates: int = 1000
    views: int | None = None
    device: str = "cpu"
    batch: int = 64

    def notes(self, cards: Sequence[Card]) -> dict[str, str]:
        """Return, by name, which models are scored with other views than their cards were calibrated with."""
        others = [card for card in cards if self.views is not None and card.views != self.views]
        return {
            card.name: f"{card.name}: scored with {self.views} views, the logit was calibrated with {card.views}: "
            "probabilities may be a little off"
            for card in others
        }

    def predict(
        self,
        models: Sequence[Model],
        testset: TestSet,
        progress: Callable[[int, int], None],
        judges: Sequence[Judge] = (),
    ) -> Scored:
        """Return `predict` of these models, judges and this set."""
        return predict(
            models,
            testset,
            judges=judges,
            device=self.device,
            batch=self.batch,
            views=self.views,
            progress=progress,
        )


@dataclass(frozen=True, slots=True)
class OneModel(Scoring):
    """One model on mocks of one recipe, where its errors are looked at; how is in `Scoring`.

    Attributes
    ----------
    model : Model
    recipe : Recipe
    n : int
        Mocks, of the seed for tuning; the lenses among them count.
    """

    model: Model
    recipe: Recipe
    n: int

    def remarks(self) -> list[str]:
        """Return what the figures are to be read with."""
        return list(self.notes([self.model.card]).values())

    def header(self, kind: str) -> dict[str, Any]:
        """Return what the JSON file of such a measurement begins with."""
        card = self.model.card
        return {
            **header(kind, self.n, SEEDS["tune"], self.replicates, self.recipe),
            "model": {"name": card.name, "version": card.version, "hash": card.hash},
            "notes": self.remarks(),
        }


def predict(
    models: Sequence[Model],
    testset: TestSet,
    *,
    judges: Sequence[Judge] = (),
    device: str = "cpu",
    batch: int = 64,
    views: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scored:
    """Score a test set with several models, each stamp made or read once.

    Parameters
    ----------
    models : sequence of Model
    testset : TestSet
    judges : sequence of Judge
        Asked besides; their predictions follow those of the models.
    device : str
    batch : int
        Rows per batch.
    views : int, optional
        Dihedral views, 1 or 8; default: each card's own.
    progress : callable
        Told (done, total) rows.

    Raises
    ------
    ConfigError
        If the set is empty, lacks a band of a model or has other pixels.
    VerificationError
        If the set is not the sealed one.
    """
    if not testset.n:
        raise ConfigError(f"test set {testset.name} holds no stamps; take another set")
    frames = (*(model.frame() for model in models), *(judge.frame() for judge in judges))
    for frame in frames:
        testset.check(frame)
    scorers = [Scorer([model], device, batch, views=views, keep_flow=True) for model in models]
    ask = [*(partial(_score, scorer) for scorer in scorers), *(partial(_ask, judge) for judge in judges)]
    parts: list[list[Columns]] = [[] for _ in ask]
    truths: list[Truth] = []
    features = Features(frames[0])
    done = 0
    for slots, truth in testset.batches(frames, batch):
        n = slots[0].n
        for kept, answer, slot in zip(parts, ask, slots, strict=True):
            kept.append(answer(slot, n))
        features.add(slots[0], parts[0][-1]["sigma"])
        truths.append({key: np.array(column) for key, column in truth.items()})
        done += n
        progress(done, testset.n)
    joined = {key: np.concatenate([part[key] for part in truths]) for key in truths[0]}
    testset.verify(joined)
    columns = [{key: np.concatenate([part[key] for part in kept]) for key in KEPT} for kept in parts]
    good = _scored_by_all(columns)
    predictions = [
        _of_model(model, scorer.networks[0].views, found, good)
        for model, scorer, found in zip(models, scorers, columns, strict=False)
    ]
    predictions += [_of(judge.card, found, good) for judge, found in zip(judges, columns[len(models) :], strict=True)]
    kept_truth = {key: column[good] for key, column in joined.items()}
    return Scored(np.flatnonzero(good), int((~good).sum()), kept_truth, features.table()[good], predictions)


def _score(scorer: Scorer, slot: Batch, n: int) -> Columns:
    found = scorer.submit(slot).result()
    mean = found["post_mean"].astype(np.float64)
    mean[..., 3:5] += slot.origin[:, None]
    mean[..., 5:7] += slot.origin[:, None]
    columns: Columns = {"post_weight": np.ones(mean.shape[:2])} | found
    columns |= {"post_mean": mean, "logit": found["logit"][:, 0], "fwhm": slot.fwhm, "status": slot.status}
    columns["post_flow"] = found.get("post_flow", np.zeros((len(mean), 0), np.float32))
    columns["origin"] = slot.origin
    return {key: columns[key][:n].copy() for key in KEPT}


def _ask(judge: Judge, slot: Batch, n: int) -> Columns:
    """Return the columns of `_score`, without noise and posterior."""
    columns: Columns = {
        "logit": judge.logits(slot),
        "post_mean": np.full((n, 1, N_LATENT), np.nan),
        "post_cov": np.full((n, 1, N_COV), np.nan),
        "post_weight": np.ones((n, 1)),
        "sigma": slot.sigma,
        "snr": np.full(n, np.nan),
        "post_flow": np.zeros((n, 0), np.float32),
    }
    columns |= {key: getattr(slot, key) for key in ("flags", "fwhm", "status", "origin")}
    return {key: columns[key][:n].copy() for key in KEPT}


def _flow(model: Model, packed: NDArray[np.float32], origin: NDArray[np.floating], views: int) -> FlowPosteriors | None:
    """Return the posteriors of a normalising flow in the frame of the stamps, if the model has one."""
    if model.module.flow is None:
        return None
    shift = np.zeros((len(packed), N_LATENT))
    shift[:, 3:5] = shift[:, 5:7] = origin
    return FlowPosteriors(model.module.flow, packed.reshape(len(packed), views, -1), shift)


def _scored_by_all(columns: Sequence[Columns]) -> NDArray[np.bool_]:
    """Return the rows (n,) that nobody failed to score."""
    good = np.ones(len(columns[0]["status"]), bool)
    for found in columns:
        good &= found["status"] == Status.PENDING
        if np.isfinite(found["logit"]).any():  # else it only regresses
            good &= np.isfinite(found["logit"])
    return good


def _of_model(model: Model, views: int, found: Columns, good: NDArray[np.bool_]) -> Predictions:
    """Return what a network with so many views says of the rows kept."""
    flow = _flow(model, found["post_flow"][good], found["origin"][good], views)
    if not model.scores:
        found = found | {"logit": np.full_like(found["logit"], np.nan)}
    return dataclasses.replace(_of(model.card, found, good, views), flow=flow)


def _of(card: Card, found: Columns, good: NDArray[np.bool_], views: int = 1) -> Predictions:
    """Return what the columns say of the rows kept, but for a normalising flow."""
    mean, cov, weight = (found[f"post_{name}"][good].astype(np.float64) for name in ("mean", "cov", "weight"))
    return Predictions(
        card=card,
        logit=card.calibration(found["logit"][good]),
        posterior=Mixture(mean, cov, weight, card.tail_of(views)),
        flags=found["flags"][good],
        fwhm=found["fwhm"][good],
        views=views,
        raw=found["logit"][good].astype(np.float64),
    )
