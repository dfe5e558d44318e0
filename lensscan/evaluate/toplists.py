"""What the best-ranked objects of a mock survey hold: purity, completeness, false positives by class, stated lenses.

Two kinds of figures.  The count: what the lists of this very survey hold, with its few lenses.  The expectation: what
they would hold on average, from the survey's non-lenses and from all lenses that were scored, the many besides among
them, weighted so that they make up the prevalence (`lensscan.metrics.ranking.Selection.listed`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensscan.candidates.score import Combination, combine_cards, unique_names
from lensscan.errors import ConfigError
from lensscan.evaluate.detection import FPRS
from lensscan.evaluate.mocksurvey import Objects, SurveySettings
from lensscan.metrics.bootstrap import Bootstrap, Counts, Estimate, resample
from lensscan.metrics.detection import share_estimate
from lensscan.metrics.ranking import Population, Ranking, Selection, supported
from lensscan.mocks.recipes import CLASSES

__all__ = ["SHARES", "TOP", "Entrant", "Found", "entrants_of", "lengths", "measure_lists"]

Floats = NDArray[np.float64]
Progress = Callable[[str, int, int], None]
TOP = (100, 1_000, 10_000)
SHARES = {"first_list": 1_175 / 7.9e6, "two_lists": 21_175 / 7.9e6}
"""Fractions of its 7.9 million sources that Jacobs+2019b inspected."""
POINTS = 40


@dataclass(frozen=True, slots=True, eq=False)
class Entrant:
    """One way of ranking the objects.

    Attributes
    ----------
    name : str
    score : (n,) float64
        Calibrated logit; of a rule, the smallest among its members.
    stated : dict of (n,) arrays
        ``p_lens`` and ``p_survey``; without what is not calibrated or not known.
    """

    name: str
    score: Floats
    stated: Mapping[str, Floats]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What one entrant found.

    Attributes
    ----------
    entrant : Entrant
    order : (m,) int64
        Places of the survey's objects, best first; equal scores in the order of the survey.
    figures : dict of Estimate
        ``count_*`` of this very survey and ``expected_*``: ``purity completeness inspected_per_lens`` of the top N, and
        the sum of what is stated over the lenses there, ``p_lens_over_true p_survey_over_true``, each ``_top_<N>``;
        and ``tpr_at_fpr_<fpr>`` of all lenses, where the non-lenses support it.
    curve_n : (k,) array
    purity, completeness : list of Estimate
        Expected, along `curve_n`.
    classes : dict of dict of int
        False positives by class, for each N.
    lenses : dict of int
        Lenses of this very survey among the best N.
    """

    entrant: Entrant
    order: NDArray[np.int64]
    figures: dict[str, Estimate]
    curve_n: Floats
    purity: list[Estimate]
    completeness: list[Estimate]
    classes: dict[int, dict[str, int]]
    lenses: dict[int, int]


def lengths(n: int) -> dict[int, str]:
    """Return the lengths of the lists in a survey of n objects, each with the name in `SHARES` that it has, if any.

    A survey too small for all of them has one list: the whole.
    """
    found = {top: "" for top in TOP if top < n}
    found |= {round(share * n): name for name, share in SHARES.items() if round(share * n) > 0}
    return dict(sorted(found.items())) or {n: ""}


def entrants_of(settings: SurveySettings, objects: Objects) -> list[Entrant]:
    """Return single models, ensembles, and for each ensemble the rule that all of its members must agree.

    Who wants all members above a threshold ranks by the smallest of their calibrated logits.
    """
    lineup, survey = settings.lineup, ~objects.extra
    cards = [model.card for model in lineup.singles]
    names = unique_names([model.card.name for model in lineup.models])
    found = [
        _entrant(names[k], combine_cards([card], settings.prevalence), objects.raw[:, [k]], survey)
        for k, card in enumerate(cards)
    ]
    rules = []
    for name, group in zip(names[len(cards) :], lineup.groups, strict=True):
        members = list(group.members)
        combination = combine_cards([cards[k] for k in members], settings.prevalence, group.ensemble)
        rules.append(Entrant(f"{name}, all members agree", np.min([found[k].score for k in members], axis=0), {}))
        found.append(_entrant(name, combination, objects.raw[:, members], survey))
    return found + rules


def _entrant(name: str, combination: Combination, raw: NDArray[np.float32], survey: NDArray[np.bool_]) -> Entrant:
    """Return what a merge would make of the raw logits (n, M), the survey's own giving the histogram."""
    columns = combination.columns(raw)
    logit = np.asarray(columns["logit"], np.float64)
    stated = {"p_lens": np.asarray(columns["p_lens"], np.float64)}
    combination.count(logit[survey])
    if combination.has_survey:
        stated["p_survey"] = combination.p_survey(logit).astype(np.float64)
    if combination.calibration.kind == "none":
        stated = {}
    return Entrant(name, logit, stated)


class _Statistic:
    """All resampled figures of one entrant, with the sorting done once; the survey's own objects come first.

    Its non-lenses are of so many `galaxies`.
    """

    def __init__(
        self, entrant: Entrant, lens: NDArray[np.bool_], n_own: int, population: Population, galaxies: int
    ) -> None:
        self.lens, self.population, self.entrant = lens, population, entrant
        others = int((~lens).sum())
        self.tops = np.array(list(lengths(population.n)), np.float64)
        self.fprs = [fpr for fpr in FPRS if supported(fpr, galaxies)]
        longest = 2 * int(self.tops.max())
        depth = int(lens.sum()) + max(2 * longest, int(2 * FPRS[0] * others))
        self.curve = np.unique(np.rint(np.geomspace(1, min(longest, population.n), POINTS)))
        order = np.argsort(-entrant.score, kind="stable")
        self.own_order = order[order < n_own]
        self.heads = {"expected": order[:depth], "count": self.own_order[:depth]}
        self.every = Ranking(entrant.score, lens, depth)
        own = lens[:n_own]
        self.own = Ranking(entrant.score[:n_own], own, depth) if own.any() else None

    def __call__(self, counts: Counts | None) -> dict[str, float]:
        selection = self.every.select(counts)
        found = {f"tpr_at_fpr_{fpr:g}": selection.tpr_at(fpr) for fpr in self.fprs}
        found |= self._lists("expected", selection, self.population, counts)
        pure, complete, _ = selection.listed(self.population, self.curve)
        found |= {f"curve_purity_{k}": float(value) for k, value in enumerate(pure)}
        found |= {f"curve_completeness_{k}": float(value) for k, value in enumerate(complete)}
        if self.own is not None:
            chosen = self.own.select(None if counts is None else counts[: len(self.own_order)])
            objects = int(chosen.n_lens + chosen.n_other)
            found |= self._lists("count", chosen, Population(objects, chosen.n_lens / objects), counts)
        return found

    def _lists(
        self, kind: str, selection: Selection, population: Population, counts: Counts | None
    ) -> dict[str, float]:
        """Return the figures of the lists that a selection makes of a population."""
        pure, complete, _ = selection.listed(population, self.tops)
        found = {}
        for k, n in enumerate(self.tops.astype(int)):
            found[f"{kind}_purity_top_{n}"] = float(pure[k])
            found[f"{kind}_completeness_top_{n}"] = float(complete[k])
        head = self.heads[kind]
        with np.errstate(divide="ignore", invalid="ignore"):
            worth = population.n * population.prevalence / np.float64(selection.n_lens)
            other = population.n * (1 - population.prevalence) / np.float64(selection.n_other)
        mass = np.where(self.lens[head], worth, other) * (1 if counts is None else counts[head])
        objects = np.cumsum(mass)
        for name, values in self.entrant.stated.items():
            total = np.interp(self.tops, objects, np.cumsum(mass * values[head]))
            for k, n in enumerate(self.tops.astype(int)):
                found[f"{kind}_true_over_{name}_top_{n}"] = float(pure[k] * n / max(total[k], 1e-300))
        return found

    def bounded(self, figures: dict[str, Estimate], cluster: NDArray[np.int64]) -> dict[str, Estimate]:
        """Return the figures with `share_estimate` applied to what is counted, but in a list of all."""
        order = self.own_order
        lenses = cluster[order[self.lens[order]]]
        behind = {f"tpr_at_fpr_{fpr:g}": cluster[self.lens] for fpr in self.fprs}
        for n in self.tops.astype(int):
            if n < len(order):
                behind |= {f"count_purity_top_{n}": cluster[order[:n]], f"count_completeness_top_{n}": lenses}
        return {name: share_estimate(each, behind[name]) if name in behind else each for name, each in figures.items()}


def _inverse(value: Estimate) -> Estimate:
    """Return one over an estimate that is not negative; infinite where it is 0."""
    with np.errstate(divide="ignore"):
        best, low, high = (float(np.float64(1) / each) for each in (value.value, value.high, value.low))
        return Estimate(best, low, high, 1 / value.replicates)


def measure_lists(
    settings: SurveySettings, objects: Objects, progress: Progress = lambda what, done, total: None
) -> list[Found]:
    """Measure every entrant on the same objects, with the same resamples.

    Galaxies are resampled: objects made of the same real stamp are drawn together.

    Raises
    ------
    ConfigError
        If no lens, or no other object, could be scored.
    """
    lens, n_own = np.asarray(objects.truth["is_lens"], bool), int((~objects.extra).sum())
    if not lens.any() or lens.all():
        raise ConfigError("the mock survey holds no lens, or lenses only; give a larger -n, or --lenses")
    population = Population(settings.n, settings.prevalence)
    stamp = np.asarray(objects.truth["stamp"], np.int64)
    bootstrap = Bootstrap(np.where(stamp >= 0, -1 - stamp, np.arange(len(lens))), settings.replicates)
    galaxies = len(np.unique(bootstrap.cluster[~lens]))
    entrants = [_Statistic(entrant, lens, n_own, population, galaxies) for entrant in entrants_of(settings, objects)]
    steps = itertools.count()

    def statistic(counts: Counts | None) -> dict[str, float]:
        progress("resamples", next(steps), settings.replicates)
        return {f"{k}.{name}": value for k, each in enumerate(entrants) for name, value in each(counts).items()}

    figures = resample(statistic, bootstrap)
    klass, found = np.asarray(objects.truth["klass"]), []
    for k, each in enumerate(entrants):
        own = {name.partition(".")[2]: value for name, value in figures.items() if name.startswith(f"{k}.")}
        found.append(_collect(each, each.bounded(own, bootstrap.cluster), klass))
    return found


def _collect(statistic: _Statistic, figures: dict[str, Estimate], klass: NDArray[np.int8]) -> Found:
    """Sort the resampled figures of one entrant, and count what its lists hold."""
    points = range(len(statistic.curve))
    purity, completeness = ([figures.pop(f"curve_{name}_{k}") for k in points] for name in ("purity", "completeness"))
    for name in list(figures):
        kind, _, rest = name.partition("_")
        if rest.startswith("purity"):
            figures[name.replace("purity", "inspected_per_lens")] = _inverse(figures[name])
        if rest.startswith("true_over_"):
            what, _, top = rest.removeprefix("true_over_").partition("_top_")
            figures[f"{kind}_{what}_over_true_top_{top}"] = _inverse(figures.pop(name))
    order = statistic.own_order
    lens, ranked = statistic.lens[order], klass[order]
    tops = [n for n in lengths(statistic.population.n) if n <= len(order)]
    return Found(
        statistic.entrant,
        order,
        figures,
        statistic.curve,
        purity,
        completeness,
        {n: _by_class(ranked[:n][~lens[:n]]) for n in tops},
        {n: int(lens[:n].sum()) for n in tops},
    )


def _by_class(klass: NDArray[np.int8]) -> dict[str, int]:
    """Return how many objects are of each class, the most frequent first."""
    counts = {name: int((klass == number).sum()) for number, name in enumerate(CLASSES)}
    return {name: count for name, count in sorted(counts.items(), key=lambda item: -item[1]) if count}
