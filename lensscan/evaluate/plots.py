"""The plots of a report, as PNG bytes by name."""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from typing import Any

import numpy as np

from lensscan.errors import ConfigError
from lensscan.evaluate.detection import EVEN_ODDS, PREVALENCES, cut_words
from lensscan.evaluate.galleries import KINDS, gallery
from lensscan.evaluate.posteriors import PARAMETERS, truth_table
from lensscan.evaluate.rates import rate, span
from lensscan.evaluate.regression import convert
from lensscan.evaluate.report import Assessment, Outcome, clusters
from lensscan.evaluate.testsets import TestSet
from lensscan.metrics.ranking import FEWEST_FALSE
from lensscan.mocks.labels import ambiguous
from lensscan.mocks.recipes import CLASSES
from lensscan.nets.model import Model
from lensscan.render.diagrams import (
    Scatter,
    completeness_diagram,
    confusion_diagram,
    coverage_diagram,
    range_diagram,
    reliability_diagram,
    roc_diagram,
    truth_diagram,
    width_diagram,
)

__all__ = ["draw_plots", "require_matplotlib"]

UNITS = {"theta_E": " (arcsec)", "x": " (arcsec)", "y": " (arcsec)", "sx": " (arcsec)", "sy": " (arcsec)"}


def require_matplotlib() -> None:
    """Raise a one-line `ConfigError` if the plots cannot be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("plots need matplotlib: pip install 'lensscan[view]', or give --no-plots")


def draw_plots(
    assessment: Assessment, number: int, model: Model, testset: TestSet, report: dict[str, Any]
) -> dict[str, bytes]:
    """Draw everything that the report of model `number` can show."""
    outcome = assessment.outcomes[number]
    pictures: dict[str, bytes] = {}
    if outcome.regression is not None:
        pictures |= _regression(assessment, outcome)
    if outcome.detection is not None:
        pictures |= _detection(assessment, number, report)
        threshold = next(iter(outcome.detection.cuts().values()))
        for kind in KINDS:
            page = gallery(kind, assessment.scored, outcome.predictions, model, testset, threshold)
            if page is not None:
                pictures[kind] = page
    return pictures


def _regression(assessment: Assessment, outcome: Outcome) -> dict[str, bytes]:
    posteriors, regression = outcome.posteriors, outcome.regression
    assert posteriors is not None
    assert regression is not None
    truth = truth_table(assessment.scored.truth, outcome.regressed)
    panels = [
        Scatter(name + UNITS.get(name, ""), truth[:, k], posteriors.median[:, k]) for k, name in enumerate(PARAMETERS)
    ]
    others = []
    for convention, label in (("hezaveh2017", "(1-q), spin 1, sign of the truth"), ("holismokes4", "HOLISMOKES IV")):
        ours, true = convert(convention, posteriors.median, truth)
        for k, name in enumerate(("ex", "ey"), start=1):
            others.append(Scatter(f"{name}, {label}", true[:, k], ours[:, k]))
    curves = regression.curves
    named = {name: posteriors.ranks[name] for name in PARAMETERS}
    joint = {f"{name[-1]} parameters": curves[f"tarp.{name}"] for name in posteriors.tarp}
    kept = {name: curves[f"selective.{name}"] for name in PARAMETERS}
    return {
        "truth": truth_diagram(panels),
        "truth_conventions": truth_diagram(others),
        "coverage": coverage_diagram(named, curves["level"], joint),
        "selective": width_diagram(curves["kept"], kept),
    }


def _detection(assessment: Assessment, number: int, report: dict[str, Any]) -> dict[str, bytes]:
    outcome, lens = assessment.outcomes[number], assessment.lens
    detection = outcome.detection
    assert detection is not None
    curves = []
    for each in [outcome, *(other for other in assessment.outcomes if other is not outcome)]:
        if each.detection is not None:
            selection = each.detection.ranking.select()
            curves.append((each.predictions.card.name, selection.fpr, selection.tpr))
    plain = ~ambiguous(assessment.scored.truth)
    logit = outcome.predictions.logit
    groups = {"lens": logit[lens]}
    if "klass" in assessment.scored.truth:
        klass = np.asarray(assessment.scored.truth["klass"])
        groups |= {name: logit[~lens & (klass == k)] for k, name in enumerate(CLASSES) if (~lens & (klass == k)).any()}
    else:
        groups["other"] = logit[~lens]
    panels = [
        (f"prevalence {pi:g}", detection.diagrams[pi].predicted, detection.diagrams[pi].observed) for pi in PREVALENCES
    ]
    isotonic = [(detection.fitted[pi].predicted, detection.fitted[pi].observed) for pi in PREVALENCES]
    name, threshold = next(iter(detection.cuts().items()))
    above = logit >= threshold
    matrix = np.array([[(rows & above).sum(), (rows & ~above).sum()] for rows in (lens, ~lens & plain)])
    galaxy = clusters(assessment.scored)
    table = {"lens": rate(above[lens], galaxy[lens])} | report["false_positives"][name]
    rates = {key: (float(each["value"]), float(each["low"]), float(each["high"])) for key, each in table.items()}
    others = len(np.unique(galaxy[~lens & plain]))
    pictures = {
        "roc": roc_diagram(curves, FEWEST_FALSE / max(others, 1)),
        "reliability": reliability_diagram(panels, isotonic),
        "logits": range_diagram(groups, {f"FPR {fpr:g}": value for fpr, value in detection.thresholds.items()}),
        "confusion": confusion_diagram(matrix, cut_words(name), rates),
    }
    if report["completeness"]:
        pictures["completeness"] = _completeness(report["completeness"], name)
    return pictures


def _completeness(tables: dict[str, Any], name: str) -> bytes:
    table = tables[name]
    cells = np.array([[cell["value"] if cell["n"] >= 10 else np.nan for cell in row] for row in table["cells"]], float)
    theta, snr = table["theta_E_edges"], table["snr_edges"]
    rows, columns = ([span(a, b) for a, b in pairwise((*edges, np.inf))] for edges in (theta, snr))
    edges = table["seeing_edges"]
    centres = np.array([*(np.add(edges[:-1], edges[1:]) / 2), edges[-1] * 1.25])
    seeing = []
    for key, each in tables.items():
        values = np.array([cell["value"] if cell["n"] >= 10 else np.nan for cell in each["by_seeing"]], float)
        seeing.append((f"FPR {key}" if key != EVEN_ODDS else key, centres, values))
    return completeness_diagram(cells, rows, columns, seeing)
