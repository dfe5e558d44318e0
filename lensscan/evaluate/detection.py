"""Detection on a test set: ROC, calibration, purity in a survey."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from lensscan.evaluate.intervals import bounded, even_odds, too_few
from lensscan.metrics.bootstrap import Bootstrap, Counts, Estimate, resample
from lensscan.metrics.calibration import Calibration, Reliability, binned, class_weights, isotonic
from lensscan.metrics.detection import purity
from lensscan.metrics.ranking import FEWEST_FALSE, Population, Ranking, supported

__all__ = [
    "FPRS",
    "LARGE",
    "PREVALENCES",
    "Detection",
    "cut_words",
    "detect",
    "non_lenses",
]

FPRS = (1e-2, 1e-3, 1e-4)
PREVALENCES = (0.5, 1e-3, 1e-4)
TOP = (100, 1_000, 10_000)
SURVEY = 1_000_000
LARGE = 100_000
"""Objects of the lens finding challenge, for whose sets TPR0 and TPR10 are defined."""
BINS = 15
EVEN_ODDS = "even odds"


@dataclass(frozen=True, slots=True)
class Detection:
    """Detection by one model.

    Attributes
    ----------
    figures : dict of Estimate
        By name; see `detect`.
    omitted : dict of str
        Figures that the set cannot support, and why; ``intervals`` if it cannot support those.
    thresholds : dict of float
        Calibrated logit at each supported false positive rate.
    ranking : Ranking
    diagrams : dict of Reliability
        By prevalence.
    fitted : dict of Reliability
        Isotonic regression, by prevalence.
    ece_noise, isotonic_noise : float
        Below this lie 95 % of the expected calibration errors, and of the largest distances of the isotonic
        regression, (prevalence 1/2) of a perfectly calibrated model on a set of this size.
    """

    figures: dict[str, Estimate]
    omitted: dict[str, str]
    thresholds: dict[float, float]
    ranking: Ranking
    diagrams: dict[float, Reliability]
    fitted: dict[float, Reliability]
    ece_noise: float
    isotonic_noise: float

    def cuts(self) -> dict[str, float]:
        """Return calibrated logits by name: at each supported false positive rate, and last at even odds.

        The first is the one that pictures and galleries are made at, and the group "selected" unless it is even odds.
        """
        return {f"{fpr:g}": value for fpr, value in self.thresholds.items()} | {EVEN_ODDS: 0.0}


class _Statistic:
    """Every resampled figure of detection, with all sorting done once."""

    def __init__(
        self,
        logit: NDArray[np.float64],
        capped: NDArray[np.float64],
        is_lens: NDArray[np.bool_],
        surveyed: NDArray[np.bool_],
        wanted: _Wanted,
    ) -> None:
        self.ranking = Ranking(logit, is_lens)
        self._in_survey = Ranking(logit[surveyed], is_lens[surveyed])
        self._wanted, self._lens, self._logit, self._surveyed = wanted, is_lens, logit, surveyed
        self._order = np.argsort(logit, kind="stable")
        self._label = is_lens[self._order].astype(np.float64)
        worth = capped[self._order]
        self._probability = {pi: expit(worth + np.log(pi) - np.log1p(-pi)) for pi in PREVALENCES}
        self._loss = np.logaddexp(0.0, np.where(is_lens[self._order], -1.0, 1.0) * worth)

    def __call__(self, counts: Counts | None) -> dict[str, float]:
        selection = self.ranking.select(counts)
        if not selection.n_lens or not selection.n_other:
            return {}
        found = selection.figures(self._wanted.fprs, self._wanted.before) | self._called(counts)
        for fpr in self._wanted.fprs:
            tpr = found[f"tpr_at_fpr_{fpr:g}"]
            for pi in PREVALENCES[1:]:
                pure = purity(tpr, fpr, pi)
                found[f"purity_at_fpr_{fpr:g}_prevalence_{pi:g}"] = pure
                found[f"inspected_per_lens_at_fpr_{fpr:g}_prevalence_{pi:g}"] = 1 / pure if pure > 0 else float("inf")
        counts = self._surveyed.astype(np.int64) if counts is None else counts * self._surveyed
        stated = {pi: self._stated(pi, counts) for pi in dict(self._wanted.tops)}
        in_survey = self._in_survey.select(counts[self._surveyed])
        for pi, n in self._wanted.tops:
            pure, complete, _ = in_survey.inspected(Population(SURVEY, pi), n)
            expected = float(np.interp(n, *stated[pi]))
            found[f"stated_over_true_top_{n}_prevalence_{pi:g}"] = expected / (pure * n) if pure > 0 else float("inf")
            found[f"purity_top_{n}_prevalence_{pi:g}"] = pure
            found[f"completeness_top_{n}_prevalence_{pi:g}"] = complete
            found[f"inspected_per_lens_top_{n}_prevalence_{pi:g}"] = 1 / pure if pure > 0 else float("inf")
        for pi, p in self._probability.items():
            found |= self._calibration(pi, p, counts)
        return found

    def _stated(self, pi: float, counts: Counts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return objects, and the lenses that p_lens states among them, from the best of a survey downwards."""
        mass = SURVEY * class_weights(self._lens, pi, counts)[self._order][::-1]
        stated = mass * self._probability[pi][::-1]
        return np.append(0.0, np.cumsum(mass)), np.append(0.0, np.cumsum(stated))

    def _called(self, counts: Counts | None) -> dict[str, float]:
        """Return accuracy, precision, recall, F1 and Cohen's kappa of "p_lens >= 1/2", both classes equally heavy."""
        mass = class_weights(self._lens, 0.5, counts)
        called = self._logit >= 0
        return even_odds(*(min(2 * float(mass[called & kind].sum()), 1.0) for kind in (self._lens, ~self._lens)))

    def _calibration(self, pi: float, p: NDArray[np.float64], counts: Counts) -> dict[str, float]:
        mass = class_weights(self._lens, pi, counts)[self._order]
        rows = None if pi == PREVALENCES[0] else counts[self._order].astype(np.float64)
        diagram = binned(p, self._label, mass, BINS, rows)
        found = {f"ece_prevalence_{pi:g}": diagram.error()}
        if pi == PREVALENCES[0]:
            square = (p - self._label) ** 2
            found["isotonic_largest"] = isotonic(p, self._label, mass).largest()
            return found | {"brier": float((mass * square).sum()), "log_loss": float((mass * self._loss).sum())}
        if pi not in self._wanted.sure:
            return found
        sure = p >= 0.5
        share = float(mass[sure].sum()) or np.nan
        return found | {
            f"stated_purity_prevalence_{pi:g}": float((mass * p)[sure].sum() / share),
            f"true_purity_prevalence_{pi:g}": float((mass * self._label)[sure].sum() / share),
        }


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which figures the set supports."""

    fprs: tuple[float, ...]
    before: dict[str, int]
    tops: tuple[tuple[float, int], ...]
    sure: tuple[float, ...]
    omitted: dict[str, str]

    @classmethod
    def of(
        cls,
        logit: NDArray[np.float64],
        capped: NDArray[np.float64],
        is_lens: NDArray[np.bool_],
        surveyed: NDArray[np.bool_],
        cluster: NDArray[Any],
        objects: int,
    ) -> _Wanted:
        """Decide by the negatives' galaxies: ten false positives must be expected behind a figure."""
        n_other = len(np.unique(cluster[~is_lens]))
        others = non_lenses(n_other, int((~is_lens).sum()))
        omitted = {
            f"tpr_at_fpr_{fpr:g}": f"{others} show too few false positives; {10 / fpr:.0f} are needed"
            for fpr in FPRS
            if not supported(fpr, n_other)
        }
        before = {"tpr0": 0, "tpr10": 9} if objects >= LARGE else {}
        if not before:
            omitted["tpr0"] = omitted["tpr10"] = f"defined for sets of {LARGE} objects, this one has {objects}"
        selection = Ranking(logit[surveyed], is_lens[surveyed]).select()
        tops = []
        for pi in PREVALENCES[1:]:
            for n in TOP:
                fpr = selection.inspected(Population(SURVEY, pi), n)[2]
                if supported(fpr, n_other):
                    tops.append((pi, n))
                else:
                    omitted[f"purity_top_{n}_prevalence_{pi:g}"] = (
                        f"the best {n} of {SURVEY} reach a false positive rate of {fpr:.1g}, which {others} cannot show"
                    )
        sure = []
        for pi in PREVALENCES[1:]:
            above = len(np.unique(cluster[~is_lens & (capped >= np.log1p(-pi) - np.log(pi))]))
            if above >= FEWEST_FALSE:
                sure.append(pi)
            else:
                omitted[f"true_purity_prevalence_{pi:g}"] = (
                    f"{above} of {others} have p_lens above 1/2 there; ten are needed"
                )
        fprs = tuple(fpr for fpr in FPRS if supported(fpr, n_other))
        return cls(fprs, before, tuple(tops), tuple(sure), omitted)


def detect(
    logit: NDArray[np.float64],
    is_lens: NDArray[np.bool_],
    bootstrap: Bootstrap,
    objects: int | None = None,
    cap: float | None = None,
    surveyed: NDArray[np.bool_] | None = None,
) -> Detection:
    """Return the figures of detection.

    Parameters
    ----------
    logit : (n,) array
        Calibrated log likelihood ratio.
    is_lens : (n,) bool array
    bootstrap : Bootstrap
        Over the same rows.
    objects : int, optional
        Of the whole set, systems below the label rule included: TPR0 and TPR10 are defined for 100,000, as the
        lens-finding challenge counted its own.  Default: the rows given.
    cap : float, optional
        Largest log likelihood ratio that enters a probability, see `lensscan.metrics.calibration.Calibration`.
    surveyed : (n,) bool array, optional
        Rows as a survey has them, its lenses being nature's: what probabilities are measured on, and lists of the
        best.  Default: all.

    Returns
    -------
    Detection
        ``auroc tpr_at_fpr_* tpr0 tpr10``; ``accuracy precision recall f1 kappa`` at p_lens >= 1/2;
        ``ece_prevalence_* brier log_loss`` (errors at rare prevalences over bins of equally many rows, since one of
        equal mass holds all that could be a lens); ``isotonic_largest`` (distance of an isotonic regression from
        p_lens);
        ``stated_purity_* true_purity_*`` (of what has p_lens >= 1/2 at that prevalence);
        ``purity_at_fpr_* inspected_per_lens_at_fpr_*``; and for the best-ranked 100, 1,000 and 10,000
        of a survey of 1,000,000 ``purity_top_* completeness_top_* inspected_per_lens_top_*``, and the sum of their
        p_lens over the lenses among them, ``stated_over_true_top_*``.
    """
    capped = Calibration(cap=cap).capped(logit)
    surveyed = np.ones(len(logit), np.bool_) if surveyed is None else surveyed
    objects = len(is_lens) if objects is None else objects
    wanted = _Wanted.of(logit, capped, is_lens, surveyed, bootstrap.cluster, objects)
    statistic = _Statistic(logit, capped, is_lens, surveyed, wanted)
    figures = bounded(resample(statistic, bootstrap), logit, is_lens, bootstrap)
    omitted = wanted.omitted
    if reason := too_few(bootstrap.cluster[is_lens], bootstrap.cluster[~is_lens]):
        omitted = {**omitted, "intervals": reason}
    worth, label = capped[surveyed], is_lens[surveyed]
    diagrams, fitted = ({pi: make(worth, label, pi) for pi in PREVALENCES} for make in (_diagram, _fitted))
    thresholds = {fpr: statistic.ranking.select().threshold_at(fpr) for fpr in wanted.fprs}
    noise = _noise(worth, label, bootstrap.cluster[surveyed], bootstrap.seed)
    return Detection(figures, omitted, thresholds, statistic.ranking, diagrams, fitted, *noise)


def _diagram(logit: NDArray[np.float64], is_lens: NDArray[np.bool_], prevalence: float) -> Reliability:
    """Return the reliability diagram at a prevalence, in bins of equally many rows of the set."""
    return binned(*_stated(logit, is_lens, prevalence), BINS, np.ones(len(logit)))


def _fitted(logit: NDArray[np.float64], is_lens: NDArray[np.bool_], prevalence: float) -> Reliability:
    """Return the same by isotonic regression."""
    return isotonic(*_stated(logit, is_lens, prevalence))


def _stated(
    logit: NDArray[np.float64], is_lens: NDArray[np.bool_], prevalence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return probabilities, labels and masses (n,) at a prevalence, by rising probability."""
    order = np.argsort(logit, kind="stable")
    p = expit(logit[order] + np.log(prevalence) - np.log1p(-prevalence))
    return p, is_lens[order].astype(np.float64), np.asarray(class_weights(is_lens, prevalence)[order], np.float64)


def _noise(
    logit: NDArray[np.float64], is_lens: NDArray[np.bool_], cluster: NDArray[np.int64], seed: int, draws: int = 100
) -> tuple[float, float]:
    """Return the 95 % quantiles of calibration error and isotonic distance if labels are drawn as stated.

    Rows of one cluster are drawn together, as alike as they can be.
    """
    prior, order = float(is_lens.mean()), np.argsort(logit, kind="stable")
    ordered, (names, place) = logit[order], np.unique(cluster[order], return_inverse=True)
    inside, p = expit(ordered + np.log(prior) - np.log1p(-prior)), expit(ordered)
    rng = np.random.default_rng(seed)
    errors, largest = [], []
    for _ in range(draws):
        label = rng.random(len(names))[place] < inside
        rows = p, label.astype(np.float64), class_weights(label, 0.5)
        errors.append(binned(*rows, BINS).error())
        largest.append(isotonic(*rows).largest())
    return float(np.quantile(errors, 0.95)), float(np.quantile(largest, 0.95))


def non_lenses(galaxies: int, rows: int) -> str:
    """Return in words how many non-lenses there are, and of how many galaxies if that is fewer."""
    return f"{rows} non-lenses" + (f" of {galaxies} galaxies" if galaxies < rows else "")


def cut_words(name: str) -> str:
    """Return one of `Detection.cuts` in words."""
    return name if name == EVEN_ODDS else f"a false positive rate of {name}"
