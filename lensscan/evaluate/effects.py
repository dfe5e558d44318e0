"""Errors and coverage of the parameters under other conditions: the same lenses, one effect or quantity at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lensscan.errors import ConfigError
from lensscan.evaluate.posteriors import LEVELS, PARAMETERS, REGIONS, coverage_shares, reduce_posteriors, truth_table
from lensscan.evaluate.predict import OneModel
from lensscan.evaluate.report import clusters
from lensscan.evaluate.testsets import SEEDS, SealedSet
from lensscan.metrics.bootstrap import Bootstrap, Counts, Estimate, difference, resample
from lensscan.metrics.detection import share_estimate
from lensscan.metrics.deviations import Deviations
from lensscan.mocks.conditions import Condition, conditions_of
from lensscan.mocks.simulate import Mocks, simulate

__all__ = ["Effects", "Outcome", "compare_conditions", "measure_effects"]

Floats = NDArray[np.float64]
Progress = Callable[[str, int, int], None]
FEWEST = 20
"""Lenses below which a half-width says nothing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One condition.

    Attributes
    ----------
    condition : Condition
    widths : dict of Estimate
        Half-width of the central 68 % of the errors, by parameter.
    differences : dict of Estimate
        The same minus that under ``everything``, paired: the same galaxies in every resample.
    bias : dict of Estimate
        Median error.
    coverage : dict of Estimate
        Share of the truths inside the stated intervals, and inside the joint region of all seven: keys such as
        ``0.68.theta_E`` and ``0.95.joint_7``.
    hidden : float
        Mean share of the light that masks hide; NaN where there are none.
    """

    condition: Condition
    widths: dict[str, Estimate]
    differences: dict[str, Estimate]
    bias: dict[str, Estimate]
    coverage: dict[str, Estimate]
    hidden: float


@dataclass(frozen=True, slots=True)
class Effects:
    """All conditions, ``everything`` first, and the number of lenses that could be measured under all of them."""

    settings: OneModel
    outcomes: list[Outcome]
    n_lens: int


class ConditionSet(SealedSet):
    """The systems of a recipe under other conditions, and what its masks hide."""

    def __init__(self, settings: OneModel, condition: Condition) -> None:
        name = f"{settings.recipe.name}, {condition.words}"
        super().__init__(name, settings.recipe, settings.n, SEEDS["tune"], device=settings.device)
        self.condition = condition
        self.shares: list[Floats] = []

    def make(self, start: int, n: int) -> Mocks:
        """Simulate the rows [start, start + n) under the condition."""
        mocks = simulate(
            self.recipe, seed=self.seed, start=start, n=n, device=self.device, conditions=self.condition.recipe
        )
        if self.condition.kind == "masks":
            self.shares.append(self._hidden(mocks, start, n))
        return mocks

    def _hidden(self, mocks: Mocks, start: int, n: int) -> Floats:
        """Return the share of the noise-free light that is missing, (n,)."""
        if mocks.missing is None:
            return np.zeros(n)
        light = simulate(self.recipe, seed=self.seed, start=start, n=n, device=self.device, noise=False).images
        light = light.clamp_min(0)
        whole = light.sum(dim=(1, 2, 3)).clamp_min(1e-30)
        return np.asarray(((light * mocks.missing).sum(dim=(1, 2, 3)) / whole).cpu().numpy(), np.float64)


def measure_effects(settings: OneModel, progress: Progress = lambda what, done, total: None) -> Effects:
    """Measure the errors of one model under every condition of a recipe (`lensscan.mocks.conditions`).

    Raises
    ------
    ConfigError
        If the recipe lacks what the model wants, the model does not regress, or too few lenses could be measured.
    """
    conditions = conditions_of(settings.recipe)
    estimates, contents, hidden = [], [], []
    truth: Floats | None = None
    galaxy = np.arange(settings.n)
    for number, condition in enumerate(conditions):
        testset = ConditionSet(settings, condition)
        scored = settings.predict([settings.model], testset, partial(_tell, progress, number, len(conditions)))
        posterior = scored.models[0].posterior
        rows = np.asarray(scored.truth["is_lens"], bool) & posterior.finite
        if not rows.any():
            raise ConfigError(f"model {settings.model.card.name} regresses no lens of {settings.recipe.name}")
        columns = posterior[rows].columns()
        found = np.full((settings.n, len(PARAMETERS)), np.nan)
        found[scored.rows[rows]] = np.stack([columns[name] for name in PARAMETERS], axis=1)
        true = truth_table(scored.truth, rows)
        galaxy[scored.rows] = clusters(scored)
        if truth is None:
            truth = np.full_like(found, np.nan)
            truth[scored.rows[rows]] = true
        inside = np.full((settings.n, len(REGIONS)), np.nan)
        inside[scored.rows[rows]] = reduce_posteriors(posterior[rows], true).contents()
        estimates.append(found)
        contents.append(inside)
        hidden.append(float(np.concatenate(testset.shares).mean()) if testset.shares else float("nan"))
    assert truth is not None
    return compare_conditions(settings, conditions, np.stack(estimates), np.stack(contents), truth, hidden, galaxy)


def _tell(progress: Progress, number: int, of: int, done: int, total: int) -> None:
    progress("stamps", number * total + done, of * total)


def compare_conditions(
    settings: OneModel,
    conditions: list[Condition],
    estimates: Floats,
    contents: Floats,
    truth: Floats,
    hidden: list[float],
    galaxy: NDArray[np.int64],
) -> Effects:
    """Summarise what was found under k conditions, ``everything`` first.

    Lenses count that have an estimate under every condition; the others are NaN.

    Parameters
    ----------
    settings : OneModel
    conditions : list of Condition
    estimates : (k, n, 7) array
    contents : (k, n, 8) array
        Content of the smallest interval (central) or region of the posterior that holds the truth, of `REGIONS`.
    truth : (n, 7) array
    hidden : list of float
        See `Outcome`.
    galaxy : (n,) int array
        Lenses on one galaxy share a number, and are resampled together.

    Raises
    ------
    ConfigError
        If they are too few.
    """
    good = np.isfinite(estimates).all(axis=(0, 2)) & np.isfinite(truth).all(axis=1)
    if good.sum() < FEWEST:
        raise ConfigError(f"{good.sum()} lenses could be measured, {FEWEST} are needed; give a larger -n")
    inside = contents[:, good]
    errors = [[Deviations(found[good, k], truth[good, k]) for k in range(len(PARAMETERS))] for found in estimates]

    def statistic(counts: Counts | None) -> dict[str, float]:
        values = {}
        for number, row in enumerate(errors):
            for name, each in zip(PARAMETERS, row, strict=True):
                found = each.widths(counts)
                values[f"{number}.width.{name}"] = found["half_width_68"]
                values[f"{number}.bias.{name}"] = found["bias"]
            values |= {f"{number}.{key}": share for key, share in coverage_shares(inside[number], counts).items()}
        return values

    figures = resample(statistic, Bootstrap(galaxy[good], settings.replicates))
    outcomes = []
    for number, condition in enumerate(conditions):
        widths, bias = ({name: figures[f"{number}.{kind}.{name}"] for name in PARAMETERS} for kind in ("width", "bias"))
        gaps = {name: difference(widths[name], figures[f"0.width.{name}"]) for name in PARAMETERS}
        coverage = {
            f"{level:g}.{name}": share_estimate(figures[f"{number}.{level:g}.{name}"], galaxy[good])
            for level in LEVELS
            for name in REGIONS
        }
        outcomes.append(Outcome(condition, widths, gaps, bias, coverage, hidden[number]))
    return Effects(settings, outcomes, int(good.sum()))
