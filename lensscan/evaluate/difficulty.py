"""The difficulty of a recipe: how far two published baselines get on its mocks, beside what their papers say.

The 17-layer network of the Argonne slides (2017), trained as published on one fixed set, anchors the recipe; histograms
of oriented gradients with logistic regression (Avestruz+2019) stand beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lensscan.evaluate.anchors import load_anchors
from lensscan.evaluate.samples import draw_labelled
from lensscan.metrics.bootstrap import Bootstrap, Counts, Estimate, resample
from lensscan.metrics.detection import wilson
from lensscan.metrics.ranking import Ranking
from lensscan.mocks.recipes import Recipe, held_out
from lensscan.mocks.seeds import DIFFICULTY, DIFFICULTY_NEW
from lensscan.nets.baseline import BASELINES

__all__ = [
    "BATCH",
    "NEW_SEED",
    "SEED",
    "Difficulty",
    "DifficultySettings",
    "Run",
    "Trained",
    "Trainer",
    "measure_difficulty",
    "parting",
    "published",
]

SEED = DIFFICULTY
NEW_SEED = DIFFICULTY_NEW
SMOOTH = 5
BATCH = 256
Floats = NDArray[np.float64]
Stamps = NDArray[np.float32]
Labels = NDArray[np.bool_]
Groups = NDArray[np.int64]


class Progress(Protocol):
    """Told how far a stage is: its name, what is done of what in all, and what of that this very run has done."""

    def __call__(self, what: str, done: int, total: int, new: int | None = None) -> None:
        """Take the state."""


class Line(Protocol):
    """One epoch of a training's history."""

    epoch: int
    train_accuracy: float
    validation_accuracy: float


class Trained(Protocol):
    """A trained network: its history, the rows it was validated on, and its logits."""

    history: list[Any]
    held_back: NDArray[np.int64]

    def score(self, images: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the logit (n,) of stamps (n, C, S, S) in nJy."""


Trainer = Callable[[Stamps, Labels, Groups, int, Callable[[Any], bool], Callable[[int], None]], Trained]
"""Trains the published network on (stamps, labels, groups, seed); the stamps of a group, one galaxy, stay together.

The fifth argument is called after every epoch, and tells it to stop; the last one first of all, with the number of
epochs that stood from an earlier run.
"""


@dataclass(frozen=True, slots=True)
class DifficultySettings:
    """What to measure.

    Attributes
    ----------
    recipe : Recipe
    n : int
        Stamps of the network's fixed set; lensed systems below the label rule are left out and drawn again.
    hog : int
        Stamps for the histograms of gradients.
    new : int
        New images of another seed, seen by nothing before; on real galaxies that are held out, if any are.
    epochs : int
        What the trainer was told; for the progress line.
    seeds : int
        Trainings, with other weights, split and order, on the same stamps.
    patience : int or None
        Stop a training after so many epochs without a better validation accuracy; None = never.
    device : str
        Where the stamps are made.
    replicates : int
        Resamples behind the interval of the area under the ROC curve.
    """

    recipe: Recipe
    n: int = 16_000
    hog: int = 20_000
    new: int = 4_000
    epochs: int = 200
    seeds: int = 1
    patience: int | None = None
    device: str = "cpu"
    replicates: int = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One training.

    Attributes
    ----------
    seed : int
    train, validation : (epochs,) arrays
        Accuracy; of the training stamps with drop-out at work.
    parting : int or None
        Epoch from which on validation lies below training, see `parting`.
    new : float
        Accuracy on the new images, and its interval (Wilson).
    n_validation : int
    seconds : float
        Of this process; an interrupted training had others before.
    restored : int
        Epochs that those had done.
    """

    seed: int
    train: Floats
    validation: Floats
    parting: int | None
    new: float
    interval: tuple[float, float]
    n_validation: int
    seconds: float
    restored: int


@dataclass(frozen=True, slots=True, eq=False)
class Difficulty:
    """What was measured.

    Attributes
    ----------
    settings : DifficultySettings
    runs : list of Run
    ms_single, ms_batch : float
        Milliseconds an image of the network on one CPU core, alone and in batches of `BATCH`.
    hog : Estimate
        Area under the ROC curve of the histograms of gradients on the new images.
    hog_cross_validated, hog_penalty : float
        The same in cross-validation on their own stamps, and the inverse penalty chosen.
    hog_seconds : float
        Features and fit.
    band : (float, float) or None
        Published accuracy on new images.
    published_hog : float or None
    """

    settings: DifficultySettings
    runs: list[Run]
    ms_single: float
    ms_batch: float
    hog: Estimate
    hog_cross_validated: float
    hog_penalty: float
    hog_seconds: float
    band: tuple[float, float] | None = None
    published_hog: float | None = None
    names: dict[str, str] = field(default_factory=dict)


def measure_difficulty(
    settings: DifficultySettings, train: Trainer, progress: Progress = lambda what, done, total, new=None: None
) -> Difficulty:
    """Simulate, train, measure.

    Parameters
    ----------
    settings : DifficultySettings
    train : callable
        The published training.
    progress : callable
        Told (what, done, total).

    Raises
    ------
    ConfigError
        If the recipe does not make lenses and non-lenses.
    """
    recipe, device = settings.recipe, settings.device
    most = max(settings.n, settings.hog)
    stamps, labels, galaxies = draw_labelled(recipe, most, SEED, device, partial(progress, "stamps"))
    told = partial(progress, "new stamps")
    new, truth, others = draw_labelled(held_out(recipe), settings.new, NEW_SEED, device, told)
    begun = time.monotonic()
    baseline = BASELINES["hog"].fit(stamps[: settings.hog], labels[: settings.hog], galaxies[: settings.hog])
    hog_seconds = time.monotonic() - begun
    ranking = Ranking(baseline.score(new), truth)

    def statistic(counts: Counts | None) -> dict[str, float]:
        return {"auroc": ranking.select(counts).auroc()}

    hog = resample(statistic, Bootstrap(others, settings.replicates))["auroc"]
    runs, trained = [], None
    epochs = _Epochs(settings, progress)
    for number in range(settings.seeds):
        fixed = stamps[: settings.n], labels[: settings.n], galaxies[: settings.n]
        trained, run = _train(settings, train, number, fixed, (new, truth), epochs)
        runs.append(run)
    single, batch = _milliseconds(trained, new) if trained is not None else (float("nan"), float("nan"))
    band, area, names = published(recipe.name)
    return Difficulty(
        settings, runs, single, batch, hog, baseline.estimator.cross_validated, baseline.estimator.penalty,
        hog_seconds, band, area, names,
    )  # fmt: skip


class _Epochs:
    """Tells how far all trainings are together, and how much of that was trained now: not restored, not left out."""

    def __init__(self, settings: DifficultySettings, progress: Progress) -> None:
        self._n, self._each, self._seeds = settings.n, settings.epochs, settings.seeds
        self._progress = progress
        self._not_now = self.standing = 0

    def restored(self, epochs: int) -> None:
        """Note that so many epochs of the training at hand stood."""
        self.standing = epochs
        self._not_now += epochs

    def ended(self, epochs: int) -> None:
        """Note that a training ended after so many epochs."""
        self._not_now += self._each - epochs

    def tell(self, number: int, epoch: int) -> None:
        """Report the epoch of a training."""
        done = number * self._each + epoch
        total = self._seeds * self._each
        self._progress("images of all epochs", done * self._n, total * self._n, max(0, done - self._not_now) * self._n)


def _train(
    settings: DifficultySettings,
    train: Trainer,
    number: int,
    fixed: tuple[Stamps, Labels, Groups],
    new: tuple[Stamps, Labels],
    epochs: _Epochs,
) -> tuple[Trained, Run]:
    """Train once and score the new images."""
    best = [0.0, 0]

    def report(line: Line) -> bool:
        if line.validation_accuracy > best[0]:
            best[:] = [line.validation_accuracy, line.epoch]
        epochs.tell(number, line.epoch)
        return settings.patience is not None and line.epoch - best[1] >= settings.patience

    epochs.standing = 0
    epochs.tell(number, 0)
    begun = time.monotonic()
    trained = train(*fixed, number + 1, report, epochs.restored)
    seconds = time.monotonic() - begun
    epochs.ended(len(trained.history))
    right = (trained.score(new[0]) > 0) == new[1]
    curves = [
        np.array([getattr(line, name) for line in trained.history], np.float64)
        for name in ("train_accuracy", "validation_accuracy")
    ]
    n = len(trained.held_back)
    hits = int(right.sum())
    return trained, Run(
        number + 1, curves[0], curves[1], parting(curves[0], curves[1], n), hits / len(right),
        wilson(hits, len(right)), n, seconds, epochs.standing,
    )  # fmt: skip


def parting(train: Floats, validation: Floats, n: int) -> int | None:
    """Return the epoch from which on validation stays below training; None if it never does.

    Both are averaged over `SMOOTH` epochs, and the gap must exceed two standard errors of an accuracy measured on n
    stamps.
    """
    if len(train) < SMOOTH:
        return None
    mean = [np.convolve(each, np.ones(SMOOTH) / SMOOTH, mode="valid") for each in (train, validation)]
    error = np.sqrt(np.clip(mean[1] * (1 - mean[1]), 1e-9, None) / max(n, 1))
    apart = mean[0] - mean[1] > 2 * error
    together = np.flatnonzero(~apart)
    first = int(together[-1]) + 1 if len(together) else 0
    return None if first >= len(apart) else first + SMOOTH


def _milliseconds(trained: Trained, images: Stamps) -> tuple[float, float]:
    """Return the time an image takes on one core, alone and in batches; the fastest of several tries."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = []
        for batch, rounds in ((1, 50), (min(BATCH, len(images)), 5)):
            taken = []
            for _ in range(rounds):
                begun = time.perf_counter()
                trained.score(images[:batch])
                taken.append(time.perf_counter() - begun)
            found.append(1e3 * min(taken) / batch)
    finally:
        torch.set_num_threads(threads)
    return found[0], found[1]


def published(recipe: str) -> tuple[tuple[float, float] | None, float | None, dict[str, str]]:
    """Return the published band of accuracies, the published area, and their papers; None where there are none."""
    band, area, names = None, None, {}
    for anchor in load_anchors():
        if recipe not in anchor.recipes:
            continue
        baseline = anchor.baseline
        if baseline is not None and baseline.model == "argonne":
            middle = baseline.values["detection:accuracy"]
            band, names["accuracy"] = (middle - baseline.absolute, middle + baseline.absolute), anchor.source
        elif baseline is not None and baseline.model == "hog":
            area, names["hog"] = baseline.values["detection:auroc"], anchor.source
        elif baseline is None and "detection:auroc" in anchor.values:  # of the histograms themselves
            area, names["hog"] = anchor.values["detection:auroc"], anchor.source
    return band, area, names
