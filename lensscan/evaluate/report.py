"""The report of one model on one test set, as plain values: every number with its interval."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan import __version__
from lensscan.errors import ConfigError
from lensscan.evaluate.detection import EVEN_ODDS, Detection, detect
from lensscan.evaluate.flows import flow_figures
from lensscan.evaluate.images import Images, measure_images
from lensscan.evaluate.intervals import too_few
from lensscan.evaluate.lightonly import GROUPS, columns_of, linear_scores
from lensscan.evaluate.posteriors import PARAMETERS, Posteriors, reduce_posteriors, truth_table
from lensscan.evaluate.predict import Predictions, Scored
from lensscan.evaluate.rates import completeness_table, false_positives
from lensscan.evaluate.regression import Regression, groups_of, regress
from lensscan.evaluate.testsets import TestSet, Truth
from lensscan.evaluate.written import FORMAT, plain
from lensscan.metrics.bootstrap import Bootstrap, Counts, Estimate, difference, resample, trusted
from lensscan.metrics.ranking import Ranking
from lensscan.metrics.sampled import ks_noise
from lensscan.mocks.labels import ambiguous, galaxies
from lensscan.mocks.recipes import CLASSES
from lensscan.nets.prior import natural_rows
from lensscan.scan.provenance import git_revision

__all__ = [
    "LIKELY",
    "NATURAL",
    "Assessment",
    "Outcome",
    "assess",
    "clusters",
    "compare",
    "make_report",
]

LIKELY = "p_lens > 0.5 at even odds"
"""Group of the lenses that have this probability at prevalence 1/2: nearly all of them."""
NATURAL = "natural theta_E"
"""Group of lenses drawn from the set so that theta_E is distributed as in the population of the model's recipe."""
COMPARED = (
    "detection:auroc",
    "detection:tpr_at_fpr_0.01",
    "detection:tpr_at_fpr_0.001",
    "detection:tpr_at_fpr_0.0001",
    "detection:ece_prevalence_0.5",
    "detection:log_loss",
    *(f"regression:errors.{name}.abs_68" for name in PARAMETERS),
    *(f"regression:errors.{name}.rms" for name in PARAMETERS[:5]),
    "regression:coverage.0.68.joint_7",
    "regression:nll.joint_5",
    "regression:nll.joint_7",
    "images:first_image.above_0.8.right_number",
    "images:first_image.above_0.8.dx.half_width_68",
    "images:first_image.above_0.8.delay.half_width_68",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything measured of one model.

    Attributes
    ----------
    predictions : Predictions
    detection, regression, posteriors, images
        None where it has none.
    regressed : (n,) bool array
        Scored rows behind `regression` and `posteriors`.
    bootstrap : Bootstrap
        Of the detection: systems below the label rule are left out.
    flow : dict of Estimate
        See `lensscan.evaluate.flows.flow_figures`; empty without a normalising flow.
    """

    predictions: Predictions
    detection: Detection | None
    regression: Regression | None
    posteriors: Posteriors | None
    images: Images | None
    regressed: NDArray[np.bool_]
    bootstrap: Bootstrap
    flow: dict[str, Estimate] = field(default_factory=dict)

    def estimate(self, name: str) -> Estimate | None:
        """Return the figure ``section:key``, None if it was not measured."""
        section, _, key = name.partition(":")
        part = {"detection": self.detection, "regression": self.regression, "images": self.images}.get(section)
        return None if part is None else part.figures.get(key)


@dataclass(frozen=True, slots=True)
class Assessment:
    """A scored test set and the outcomes of all models, in their order."""

    scored: Scored
    outcomes: list[Outcome]

    @property
    def lens(self) -> NDArray[np.bool_]:
        """Labels (n,)."""
        return np.asarray(self.scored.truth["is_lens"], bool)

    def pair(self, ours: int, other: int, figure: str) -> tuple[Estimate, Estimate] | None:
        """Return a figure of two models, on the same resamples; None if one of them lacks it."""
        left, right = (self.outcomes[number].estimate(figure) for number in (ours, other))
        return None if left is None or right is None else (left, right)


def assess(
    scored: Scored,
    pixel_scale: float,
    replicates: int,
    seed: int = 0,
    recipe_digest: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> Assessment:
    """Measure every model on the same rows, with the same resamples.

    Parameters
    ----------
    scored : Scored
    pixel_scale : float
        Arcsec, of the stamps.
    replicates, seed : int
        Of the bootstrap.
    recipe_digest : str
        Of the set's recipe: a model trained on it knows which of the set's lenses make nature's population.
    say : callable
        Told in a line what is measured next: each takes a while.

    Raises
    ------
    ConfigError
        If the set has no lenses, or a model neither scores nor regresses.
    """
    lens = np.asarray(scored.truth["is_lens"], bool)
    if not lens.any():
        raise ConfigError("the test set holds no lens that could be scored; take another set")
    clear, regressed, galaxies = ~ambiguous(scored.truth), _regressed(scored, lens), clusters(scored)
    found = Bootstrap(galaxies[clear], replicates, seed)
    surveyed = (~lens | _natural(scored, recipe_digest))[clear]
    outcomes = []
    for predictions in scored.models:
        name, detection = predictions.card.name, None
        scores = bool(np.isfinite(predictions.logit).all())
        if scores and not lens[clear].all():
            say(f"{name}: detection and its calibration")
            objects, cap = len(lens) + scored.failed, predictions.card.calibration.cap
            detection = detect(predictions.logit[clear], lens[clear], found, objects, cap, surveyed)
        rows = regressed & predictions.posterior.finite
        selected = _selected(predictions, detection, scored.truth, recipe_digest)
        if rows.any():
            say(f"{name}: parameters of {rows.sum()} lenses and their posteriors")
        regression, posteriors, flow = _regression(scored, predictions, rows, selected, pixel_scale, replicates, seed)
        if detection is None and regression is None:
            raise ConfigError(
                f"model {name} gives scores only, the test set holds lenses only; take a set with non-lenses"
                if scores
                else f"model {name} gives neither scores nor posteriors; train it anew"
            )
        images = None
        if regression:
            say(f"{name}: images and time delays")
            images = measure_images(predictions.posterior, scored.truth, rows, galaxies, replicates, seed)
        outcomes.append(Outcome(predictions, detection, regression, posteriors, images, rows, found, flow))
    return Assessment(scored, outcomes)


def _natural(scored: Scored, recipe_digest: str) -> NDArray[np.bool_]:
    """Return the lenses (n,) that make nature's population, as a model of the set's recipe knows it; else all rows."""
    for predictions in scored.models:
        prior = predictions.card.theta_E_prior
        if prior.natural and predictions.card.training.get("recipe_digest") == recipe_digest:
            return natural_rows(prior, scored.truth["theta_E"])
    return np.ones(len(scored.truth["is_lens"]), np.bool_)


def _regressed(scored: Scored, lens: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the lenses (n,) for which every model that regresses has a posterior: paired, all share their rows."""
    rows = lens.copy()
    for predictions in scored.models:
        known = predictions.posterior.finite
        if (known & lens).any():
            rows &= known
    return rows


def _selected(
    predictions: Predictions, detection: Detection | None, truth: Truth, recipe_digest: str
) -> dict[str, NDArray[np.bool_]]:
    """Return the groups (n,) that a model makes: what its score selects, and lenses as its population has them."""
    selected: dict[str, NDArray[np.bool_]] = {}
    if detection is not None:
        if detection.thresholds:
            selected["selected"] = predictions.logit >= next(iter(detection.thresholds.values()))
        selected[LIKELY] = predictions.logit > detection.cuts()[EVEN_ODDS]
    prior = predictions.card.theta_E_prior
    if prior.natural and predictions.card.training.get("recipe_digest") == recipe_digest:
        selected[NATURAL] = natural_rows(prior, truth["theta_E"])
    return selected


def clusters(scored: Scored) -> NDArray[np.int64]:
    """Return the galaxy of each row (n,): its real stamp where it has one, else the row itself."""
    return galaxies(scored.truth, scored.rows)


def _regression(
    scored: Scored,
    predictions: Predictions,
    rows: NDArray[np.bool_],
    selected: Mapping[str, NDArray[np.bool_]],
    pixel_scale: float,
    replicates: int,
    seed: int,
) -> tuple[Regression | None, Posteriors | None, dict[str, Estimate]]:
    if not rows.any() or any(name not in scored.truth for name in PARAMETERS):
        return None, None, {}
    truth = truth_table(scored.truth, rows)
    posteriors = reduce_posteriors(predictions.posterior[rows], truth, seed)
    groups = groups_of(scored.truth, rows, selected)
    bootstrap = Bootstrap(clusters(scored)[rows], replicates, seed)
    found = regress(posteriors, truth, groups, pixel_scale, scored.features[rows], bootstrap)
    flow = predictions.flow
    return found, posteriors, flow_figures(flow[rows], posteriors, truth, bootstrap) if flow else {}


def compare(assessment: Assessment, ours: int) -> list[dict[str, Any]]:
    """Return the paired differences of one model to every other: ours minus theirs on the same resamples."""
    rows = []
    for number, other in enumerate(assessment.outcomes):
        if number == ours:
            continue
        for name in COMPARED:
            pair = assessment.pair(ours, number, name)
            if pair is not None:
                gap, theirs = plain(difference(*pair)), plain(pair[1])
                rows.append({"other": other.predictions.card.name, "figure": name, "theirs": theirs} | gap)
    return rows


def make_report(
    assessment: Assessment, number: int, testset: TestSet, opened: Sequence[Mapping[str, Any]], device: str
) -> dict[str, Any]:
    """Return the report of one model; `opened` are all openings of the set, see `lensscan.evaluate.run`."""
    scored, outcome = assessment.scored, assessment.outcomes[number]
    card, detection, regression = outcome.predictions.card, outcome.detection, outcome.regression
    report: dict[str, Any] = {
        "format": FORMAT,
        "model": {
            "name": card.name,
            "version": card.version,
            "kind": str(card.architecture.get("kind", "")),
            "hash": card.hash,
            "label": card.label,
            "bands": list(card.bands),
            "views": outcome.predictions.views,
            "training": dict(card.training),
        },
        "testset": testset.describe() | _contents(scored, outcome.predictions),
        "opened": list(opened),
        "bootstrap": {"resamples": outcome.bootstrap.n, "level": 0.95, "seed": outcome.bootstrap.seed},
        "software": {
            "lensscan": __version__,
            "git": git_revision(),
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("numpy", "scipy", "torch")},
            "device": device,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        "trivial": trivial_scores(scored, len(assessment.outcomes[0].predictions.card.bands), outcome.bootstrap)
        if detection
        else {},
    }
    if detection is not None:
        report |= _detection_parts(scored, outcome.predictions, detection)
    if regression is not None:
        report["regression"] = {name: plain(value) for name, value in regression.figures.items()}
        report["groups"] = regression.counts
        report["group_galaxies"] = regression.galaxies
        report["curves"] = {name: values.tolist() for name, values in regression.curves.items()}
        report["flow"] = {name: plain(value) for name, value in outcome.flow.items()}
        if reason := too_few(clusters(scored)[outcome.regressed]):
            report["omitted"] = report.get("omitted", {}) | {"regression intervals": reason}
        report["noise"] = {"ks_95": ks_noise(regression.galaxies["all"])}
    if outcome.images is not None:
        report["images"] = {name: plain(value) for name, value in outcome.images.figures.items()}
        report["image_systems"] = outcome.images.systems | {"isothermal": outcome.images.isothermal}
    report["comparisons"] = compare(assessment, number)
    return report


def _detection_parts(scored: Scored, predictions: Predictions, detection: Detection) -> dict[str, Any]:
    cuts = detection.cuts()
    masks = {name: predictions.logit >= value for name, value in cuts.items()}
    has_arcs, galaxy = "snr_arc" in scored.truth, clusters(scored)
    return {
        "detection": {name: plain(value) for name, value in detection.figures.items()},
        "omitted": detection.omitted,
        "ece_noise_95": detection.ece_noise,
        "isotonic_noise_95": detection.isotonic_noise,
        "thresholds": cuts,
        "reliability": {
            f"{pi:g}": {"predicted": d.predicted.tolist(), "observed": d.observed.tolist(), "mass": d.count.tolist()}
            for pi, d in detection.diagrams.items()
        },
        "completeness": {
            name: completeness_table(found, scored.truth, predictions.fwhm, galaxy) for name, found in masks.items()
        }
        if has_arcs
        else {},
        "false_positives": {name: false_positives(found, scored.truth, galaxy) for name, found in masks.items()},
    }


def _contents(scored: Scored, predictions: Predictions) -> dict[str, Any]:
    """Return what a set holds: numbers, classes and the prior of its lenses."""
    lens = np.asarray(scored.truth["is_lens"], bool)
    vague = ambiguous(scored.truth)
    contents: dict[str, Any] = {
        "n_scored": len(lens),
        "n_failed": scored.failed,
        "n_lens": int(lens.sum()),
        "n_other": int((~lens & ~vague).sum()),
        "n_undetectable": int(vague.sum()),
        "out_of_range": predictions.out_of_range,
        "clusters": len(np.unique(clusters(scored))),
    }
    if "klass" in scored.truth:
        number = np.asarray(scored.truth["klass"])
        contents["classes"] = {name: int((number == k).sum()) for k, name in enumerate(CLASSES) if (number == k).any()}
    contents["prior"] = {
        name: [float(v) for v in np.nanquantile(np.asarray(scored.truth[name], np.float64)[lens], [0.05, 0.5, 0.95])]
        for name in (*PARAMETERS, "snr_arc")
        if name in scored.truth and np.isfinite(scored.truth[name][lens]).any()
    }
    return contents


def trivial_scores(scored: Scored, n_bands: int, bootstrap: Bootstrap) -> dict[str, Any]:
    """Return the AUROC of logistic regressions on what needs no network, see `lensscan.evaluate.lightonly`."""
    rows = ~ambiguous(scored.truth)
    lens = np.asarray(scored.truth["is_lens"], bool)[rows]
    features = scored.features[rows]
    rankings = {}
    for group in (*GROUPS, "all"):
        columns = list(range(features.shape[1])) if group == "all" else columns_of(group, n_bands)
        rankings[group] = Ranking(linear_scores(features[:, columns], lens, bootstrap.cluster), lens)

    def areas(counts: Counts | None) -> dict[str, float]:
        return {group: ranking.select(counts).auroc() for group, ranking in rankings.items()}

    kinds = bootstrap.cluster[lens], bootstrap.cluster[~lens]
    return {group: plain(trusted(value, *kinds)) for group, value in resample(areas, bootstrap).items()}
