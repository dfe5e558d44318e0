"""One model on skies that differ from its recipe's in one thing each, and what its intervals still hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lensscan.errors import ConfigError
from lensscan.evaluate.posteriors import coverage_shares, reduce_posteriors, truth_table
from lensscan.evaluate.predict import OneModel
from lensscan.evaluate.report import clusters
from lensscan.evaluate.testsets import SEEDS, SealedSet
from lensscan.evaluate.transfer import Cell, measure_cell
from lensscan.metrics.bootstrap import Bootstrap, Estimate, resample, trusted
from lensscan.metrics.detection import share_estimate
from lensscan.mocks.conditions import other_skies
from lensscan.mocks.realsky import takes_real

__all__ = ["ALLOWED", "Shifted", "Sky", "measure_shifted", "widest"]

Floats = NDArray[np.float64]
Progress = Callable[[str, int, int], None]
ALLOWED = 0.05
"""By how much a coverage may miss its level under another sky: the goal that lensscan set itself."""


@dataclass(frozen=True, slots=True)
class Sky:
    """One sky.

    Attributes
    ----------
    words : str
        What is changed; ``nothing`` first.
    cell : Cell
        Detection, and theta_E, as in the transfer table.
    coverage : dict of Estimate
        Share of the truths inside the stated intervals, and inside the joint region of all seven: keys such as
        ``0.68.theta_E`` and ``0.95.joint_7``.
    """

    words: str
    cell: Cell
    coverage: dict[str, Estimate]


@dataclass(frozen=True, slots=True)
class Shifted:
    """The settings, and all skies, the recipe's own first."""

    settings: OneModel
    skies: list[Sky]


def measure_shifted(settings: OneModel, progress: Progress = lambda what, done, total: None) -> Shifted:
    """Measure what a model finds, and what its posteriors hold, where the sky is not that of its recipe.

    Each sky (`lensscan.mocks.conditions.other_skies`) has systems of its own, and the label chooses its lenses anew.
    The model is told noise and seeing as they are.

    Raises
    ------
    ConfigError
        If the recipe lacks what the model wants or has real stamps, or the model regresses none of its lenses.
    """
    if takes_real(settings.recipe):
        raise ConfigError(f"recipe {settings.recipe.name} has real stamps, whose sky cannot be changed; give another")
    skies = []
    for words, recipe in other_skies(settings.recipe).items():
        name = f"{settings.recipe.name} (changed: {words})"
        testset = SealedSet(name, recipe, settings.n, SEEDS["tune"], device=settings.device)
        scored = settings.predict([settings.model], testset, partial(progress, words))
        predictions = scored.models[0]
        rows = np.asarray(scored.truth["is_lens"], bool) & predictions.posterior.finite
        if not rows.any():
            raise ConfigError(f"model {settings.model.card.name} regresses no lens of {settings.recipe.name}")
        reduced = reduce_posteriors(predictions.posterior[rows], truth_table(scored.truth, rows))
        coverage = _coverage(reduced.contents(), Bootstrap(clusters(scored)[rows], settings.replicates))
        cell = measure_cell(scored, predictions, settings.replicates, natural=True)
        skies.append(Sky(words, cell, coverage))
    return Shifted(settings, skies)


def _coverage(contents: Floats, rows: Bootstrap) -> dict[str, Estimate]:
    """Return the shares of contents (n, 8) that the levels hold, with intervals as far as galaxies allow."""
    figures = resample(lambda counts: coverage_shares(contents, counts), rows).items()
    return {name: share_estimate(trusted(each, rows.cluster), rows.cluster) for name, each in figures}


def widest(sky: Sky) -> tuple[str, float, Estimate]:
    """Return the region, the level and the coverage that misses its level most."""
    key = max(sky.coverage, key=lambda name: abs(sky.coverage[name].value - float(name.rpartition(".")[0])))
    level, _, region = key.rpartition(".")
    return region, float(level), sky.coverage[key]
