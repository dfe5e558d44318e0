"""Models on the mocks of surveys they were not trained for: what carries over, and what does not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lensscan.errors import ConfigError
from lensscan.evaluate.detection import BINS
from lensscan.evaluate.posteriors import reduce_posteriors, truth_table
from lensscan.evaluate.predict import Predictions, Scored, Scoring
from lensscan.evaluate.report import clusters
from lensscan.evaluate.testsets import SEEDS, SealedSet
from lensscan.metrics.bootstrap import Bootstrap, Counts, Estimate, resample, trusted
from lensscan.metrics.calibration import binned, class_weights
from lensscan.metrics.detection import share_estimate
from lensscan.metrics.deviations import Deviations
from lensscan.metrics.ranking import Ranking, supported
from lensscan.metrics.sampled import central_coverage
from lensscan.mocks.labels import ambiguous
from lensscan.mocks.recipes import Recipe, load_recipe
from lensscan.nets.model import Model
from lensscan.nets.prior import natural_rows
from lensscan.survey.stamps import SCALE_TOLERANCE, Frame

__all__ = ["FPR", "SURVEYS", "Cell", "Transfer", "TransferSettings", "measure_cell", "measure_transfer", "widened"]

SURVEYS = ("des-griz", "hsc-griz", "kids", "lsst-gri", "euclid-vis")
"""Recipes of the default table."""
FPR = 1e-2
LEVEL = 0.68
EVEN = 0.5
"""Prevalence at which probabilities are judged."""
Floats = NDArray[np.float64]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class TransferSettings(Scoring):
    """What to measure; how is in `Scoring`.

    Attributes
    ----------
    models : sequence of Model
    recipes : sequence of str
        Shipped names or paths.
    n : int
        Mocks of each recipe, of the seed for tuning.
    """

    models: Sequence[Model]
    recipes: Sequence[str] = SURVEYS
    n: int = 4000


@dataclass(frozen=True, slots=True)
class Cell:
    """One model on one recipe.

    Attributes
    ----------
    model, recipe : str
    own : bool
        Whether the model was trained on this very recipe.
    refused : str
        Why a scan would not take the model; then nothing else is filled in.
    bands : tuple of str
        Of the model, that the recipe has.
    resampled : bool
        Whether the mocks were resampled to the model's pixels.
    figures : dict of Estimate
        ``auroc``, ``tpr`` (at `FPR`), ``ece`` (of p_lens at prevalence 1/2), ``theta_E_bias``, ``theta_E_68``
        (half-width, arcsec) and ``coverage_68`` of theta_E, as far as the model gives them.
    n_lens, n_other, failed : int
        Lenses, other objects, and rows that some model on this recipe could not score.
    out_of_range : float
        Share of rows outside the card's ranges.
    """

    model: str
    recipe: str
    own: bool = False
    refused: str = ""
    bands: tuple[str, ...] = ()
    resampled: bool = False
    figures: dict[str, Estimate] = field(default_factory=dict)
    n_lens: int = 0
    n_other: int = 0
    failed: int = 0
    out_of_range: float = 0.0


@dataclass(frozen=True, slots=True)
class Transfer:
    """The whole table: settings, the recipes as they were simulated, and a cell for each model and recipe."""

    settings: TransferSettings
    recipes: list[Recipe]
    cells: list[Cell]


def measure_transfer(settings: TransferSettings, progress: Progress = lambda what, done, total: None) -> Transfer:
    """Score the mocks of every recipe with every model that takes them; all models see the same galaxies.

    Raises
    ------
    ConfigError
        If two models share a name, a recipe cannot be used, or no model takes any.
    """
    names = [model.card.name for model in settings.models]
    if len(set(names)) < len(names):
        raise ConfigError(f"two models are called {next(n for n in names if names.count(n) > 1)}; leave one out")
    loaded = [load_recipe(name) for name in settings.recipes]
    recipes, cells = [], []
    for recipe in loaded:
        refusals = [_refusal(model.frame(), recipe) for model in settings.models]
        accepted = [model for model, refusal in zip(settings.models, refusals, strict=True) if not refusal]
        wide = widened(recipe, [model.frame() for model in accepted])
        found = iter(_score(settings, wide, recipe, accepted, progress) if accepted else [])
        recipes.append(wide)
        cells += [
            Cell(model.card.name, recipe.name, refused=refusal) if refusal else next(found)
            for model, refusal in zip(settings.models, refusals, strict=True)
        ]
    if all(cell.refused for cell in cells):
        raise ConfigError(f"no recipe has the bands of any model ({cells[0].refused}); give others with --recipes")
    return Transfer(settings, recipes, cells)


def _refusal(frame: Frame, recipe: Recipe) -> str:
    """Return why a scan would not score a survey of these bands; empty if it would."""
    found = [band for band in frame.bands if band in recipe.bands]
    if len(found) >= frame.min_bands:
        return ""
    return f"{len(found)} of the bands {', '.join(frame.bands)}, {frame.min_bands} are needed"


def widened(recipe: Recipe, frames: Sequence[Frame]) -> Recipe:
    """Return the recipe with stamps large enough to fill every frame: a survey's images do not end at the stamp."""
    sides = [frame.size * frame.pixel_scale / recipe.pixel_scale for frame in frames]
    needed = max((math.ceil(side - 1e-6) for side in sides), default=0)
    return recipe if needed <= recipe.size else dataclasses.replace(recipe, size=needed)


def _score(
    settings: TransferSettings, wide: Recipe, recipe: Recipe, models: Sequence[Model], progress: Progress
) -> list[Cell]:
    seed = SEEDS["tune"]
    testset = SealedSet(f"{recipe.name}:tune", wide, settings.n, seed, device=settings.device, resample=True)
    scored = settings.predict(models, testset, lambda done, total: progress(recipe.name, done, total))
    cells = []
    for model, predictions in zip(models, scored.models, strict=True):
        own = model.card.training.get("recipe_digest") == recipe.digest
        cell = measure_cell(scored, predictions, settings.replicates, natural=own)
        frame = model.frame()
        cells.append(
            dataclasses.replace(
                cell,
                recipe=recipe.name,
                own=own,
                bands=tuple(band for band in frame.bands if band in recipe.bands),
                resampled=abs(recipe.pixel_scale / frame.pixel_scale - 1) > SCALE_TOLERANCE,
            )
        )
    return cells


class _Statistic:
    """The figures of one cell under any resampling, with all sorting done once."""

    def __init__(
        self,
        logit: Floats,
        probability: Floats,
        lens: NDArray[np.bool_],
        clear: NDArray[np.bool_],
        surveyed: NDArray[np.bool_],
        galaxies: NDArray[np.int64],
    ) -> None:
        self.clear, self._lens = clear, lens[clear]
        self.scores = bool(np.isfinite(logit).all()) and self._lens.any() and not self._lens.all()
        if self.scores:
            self._ranking = Ranking(logit[clear], self._lens)
            places = np.flatnonzero(clear & surveyed)
            self._judged = places[np.argsort(logit[places], kind="stable")]
            self._probability, self._label = probability[self._judged], lens[self._judged]
        self._supported = supported(FPR, len(np.unique(galaxies[clear & ~lens])))
        self.rows = np.zeros(len(lens), bool)
        self._errors: Deviations | None = None

    def regress(self, rows: NDArray[np.bool_], estimate: Floats, truth: Floats, ranks: Floats) -> None:
        """Add theta_E (k,) of the chosen rows (n,): medians, truths and ranks of the truths."""
        self.rows, self._errors = rows, Deviations(estimate, truth)
        self._covered = central_coverage(ranks, LEVEL)

    def __call__(self, counts: Counts | None) -> dict[str, float]:
        found: dict[str, float] = {}
        if self.scores:
            found |= self._detection(counts)
        if self._errors is not None:
            drawn = None if counts is None else counts[self.rows]
            widths = self._errors.widths(drawn)
            found |= {"theta_E_bias": widths["bias"], "theta_E_68": widths["half_width_68"]}
            weight = np.ones(len(self._covered)) if drawn is None else drawn
            found["coverage_68"] = float((weight * self._covered).sum() / (weight.sum() or np.nan))
        return found

    def _detection(self, counts: Counts | None) -> dict[str, float]:
        selection = self._ranking.select(None if counts is None else counts[self.clear])
        if not selection.n_lens or not selection.n_other:
            return {}
        found = {"auroc": selection.auroc()}
        if self._supported:
            found["tpr"] = selection.tpr_at(FPR)
        mass = class_weights(self._label, EVEN, None if counts is None else counts[self._judged])
        return found | {"ece": binned(self._probability, self._label.astype(np.float64), mass, BINS).error()}


def measure_cell(
    scored: Scored, predictions: Predictions, replicates: int, seed: int = 0, natural: bool = False
) -> Cell:
    """Return the figures of one model on a scored set; its recipe is left to the caller.

    Systems below the label rule count neither as lenses nor as others.  With `natural` the calibration error is that
    among lenses of nature's theta_E, whom the probabilities are for: where the set's lenses are those of the training.
    """
    lens, clear = np.asarray(scored.truth["is_lens"], bool), ~ambiguous(scored.truth)
    logit = predictions.logit
    galaxies = clusters(scored)
    prior = predictions.card.theta_E_prior
    surveyed = np.ones(len(lens), bool)
    if natural and prior.natural:
        surveyed = ~lens | natural_rows(prior, np.asarray(scored.truth["theta_E"], np.float64))
    probability = predictions.card.calibration.p_lens(logit, EVEN)
    statistic = _Statistic(logit, probability, lens, clear, surveyed, galaxies)
    rows = lens & predictions.posterior.finite
    if rows.any():
        truth = truth_table(scored.truth, rows)
        posteriors = reduce_posteriors(predictions.posterior[rows], truth, seed)
        statistic.regress(rows, posteriors.median[:, 0], truth[:, 0], posteriors.ranks["theta_E"])
    kinds = dict.fromkeys(("theta_E_bias", "theta_E_68", "coverage_68"), (galaxies[rows],))
    both = galaxies[lens & clear], galaxies[~lens & clear]
    figures = {
        name: trusted(each, *kinds.get(name, both))
        for name, each in resample(statistic, Bootstrap(galaxies, replicates, seed)).items()
    }
    behind = {"coverage_68": rows, "tpr": lens & clear}
    return Cell(
        model=predictions.card.name,
        recipe="",
        figures={
            name: share_estimate(e, galaxies[behind[name]]) if name in behind else e for name, e in figures.items()
        },
        n_lens=int(lens.sum()),
        n_other=int((~lens & clear).sum()),
        failed=scored.failed,
        out_of_range=predictions.out_of_range,
    )
