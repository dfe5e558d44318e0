"""Histograms of gradients with logistic regression, trained while a model is evaluated: the baseline of several papers.

The stamps are fresh mocks of the test set's own recipe, all its bands and its whole frame, as Avestruz+2019
(arXiv:1704.02322) and the lens finding challenge (Metcalf+2019, arXiv:1802.03609) had them; features and fit are those
of ``lensscan evaluate --difficulty``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.errors import ConfigError
from lensscan.evaluate.samples import labelled_stamps
from lensscan.evaluate.testsets import TestSet
from lensscan.metrics.calibration import Calibration
from lensscan.mocks.recipes import Recipe, kinds_of
from lensscan.mocks.seeds import DIFFICULTY
from lensscan.nets.baseline import BASELINES, FittedBaseline, fill_missing
from lensscan.nets.card import Card
from lensscan.nets.model import Model
from lensscan.nets.trivial import Trivial
from lensscan.survey.stamps import Batch, Frame

__all__ = ["HOG", "Gradients", "GradientsTraining", "plan_gradients"]

HOG = "hog"
"""Name of the baseline, among `lensscan.nets.baseline.BASELINES` and among the models of published figures."""


@dataclass(frozen=True, slots=True)
class GradientsTraining:
    """How the baseline is trained.

    Attributes
    ----------
    recipe : Recipe
    n : int
        Mocks, lensed systems below the label rule left out and drawn again.
    device : str
        Where they are made.
    """

    recipe: Recipe
    n: int = 20_000
    device: str = "cpu"

    def describe(self) -> dict[str, Any]:
        """Return what a report says of the training, and what the result depends on."""
        return {
            "baseline": HOG,
            "mocks": self.n,
            "seed": DIFFICULTY,
            "recipe": self.recipe.name,
            "recipe_digest": self.recipe.digest,
        }

    def card(self) -> Card:
        """Return the card that stands in reports; its hash is that of `describe`, known before the training."""
        recipe = self.recipe
        stated = json.dumps(self.describe() | {"recipe": ""}, sort_keys=True)
        return Card(
            HOG,
            {"kind": HOG},
            recipe.bands,
            recipe.size,
            recipe.pixel_scale,
            hash=hashlib.sha256(stated.encode()).hexdigest(),
        )

    def train(
        self,
        progress: Callable[[int, int], None] = lambda done, total: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> Gradients:
        """Simulate and fit; only features are held in memory, and a chunk of stamps.

        Parameters
        ----------
        progress : callable
            Told (done, total) mocks.
        say : callable
            Told what is done, in lines.

        Raises
        ------
        ConfigError
            If the mocks are of one kind, or nearly all below the label rule.
        """
        baseline = BASELINES[HOG]
        features: NDArray[np.floating] | None = None
        labels, galaxies, done = np.zeros(self.n, bool), np.zeros(self.n, np.int64), 0
        for images, lens, galaxy in labelled_stamps(self.recipe, self.n, DIFFICULTY, self.device, progress):
            found = baseline.features(fill_missing(images))
            if features is None:
                features = np.empty((self.n, found.shape[1]), found.dtype)
            rows = slice(done, done + len(found))
            features[rows], labels[rows], galaxies[rows] = found, lens, galaxy
            done = rows.stop
        assert features is not None
        say(f"{HOG}: fitting {features.shape[1]:,} features of {self.n:,} mocks")
        begun = time.monotonic()
        fitted = baseline.fit_features(features, labels, galaxies)
        say(
            f"{HOG}: fitted in {time.monotonic() - begun:.0f} s, C = {fitted.estimator.penalty:g}, AUROC in "
            f"cross-validation {fitted.estimator.cross_validated:.3f} (its own mocks, no interval)"
        )
        return Gradients(self, fitted, int(labels.sum()))


@dataclass(frozen=True, slots=True)
class Gradients:
    """The trained baseline, as `lensscan.evaluate.predict.predict` takes it beside networks.

    Attributes
    ----------
    training : GradientsTraining
    fitted : FittedBaseline
    lenses : int
        Among its mocks; the prior odds that are taken off its log odds.
    """

    training: GradientsTraining
    fitted: FittedBaseline
    lenses: int

    @property
    def card(self) -> Card:
        """Its card: nothing is calibrated, the prior odds of its mocks are taken off."""
        prior = np.log(self.lenses) - np.log(self.training.n - self.lenses)
        calibration = Calibration("platt", 1.0, -float(prior))
        return dataclasses.replace(self.training.card(), calibration=calibration, training=self.describe())

    @property
    def model(self) -> Model:
        """Its card and frame, as pictures take them; there is no network behind them."""
        return Model(self.card, Trivial())

    def frame(self) -> Frame:
        """Return what it sees: every band and pixel of its recipe."""
        return self.model.frame()

    def logits(self, batch: Batch) -> NDArray[np.float64]:
        """Return the log odds (n,) of the used rows of a batch."""
        images = batch.images[: batch.n]
        return self.fitted.score(np.where(batch.mask[: batch.n], np.nan, images) if batch.masked else images)

    def describe(self) -> dict[str, Any]:
        """Return what its card says of the training and the fit."""
        estimator = self.fitted.estimator
        return self.training.describe() | {
            "lenses": self.lenses,
            "features": len(estimator.weight),
            "penalty": estimator.penalty,
            "cross_validated": estimator.cross_validated,
        }


def plan_gradients(testset: TestSet, n: int, device: str = "cpu") -> GradientsTraining:
    """Return the training of the baseline for a test set, checked before any work.

    Raises
    ------
    ConfigError
        If nobody knows the set's recipe, the recipe makes no lenses or nothing else, or the set's mocks are those that
        the baseline is trained on.
    """
    recipe = testset.origin()
    lenses, others = kinds_of(recipe)
    if not (lenses and others):
        made = "no lenses" if others else "lenses only"
        raise ConfigError(f"--baseline {HOG}: recipe {recipe.name} makes {made}; take a set of lenses and others")
    if testset.describe()["seed"] == DIFFICULTY:
        raise ConfigError(
            f"--baseline {HOG}: test set {testset.name} has the seed {DIFFICULTY} of the baseline's own mocks; "
            "simulate it with another"
        )
    return GradientsTraining(recipe, n, device)
