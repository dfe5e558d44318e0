"""The parts of a report's page that are about scores: figures, lists of a survey, completeness, false positives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lensscan.evaluate.detection import EVEN_ODDS, cut_words
from lensscan.evaluate.markup import figure, note, number, picture, table

__all__ = ["completeness_body", "detection_body", "survey_body"]

Report = Mapping[str, Any]


def detection_body(report: Report, pictures: Mapping[str, bytes]) -> str:
    """Return figures of detection and calibration, and what needs no network."""
    found = report.get("detection")
    if not found:
        return ""
    others = report["testset"]["n_other"]
    words = {
        "auroc": "area under the ROC curve",
        "tpr_at_fpr_0.01": "true positive rate at a false positive rate of 0.01",
        "tpr_at_fpr_0.001": "... of 0.001",
        "tpr_at_fpr_0.0001": "... of 0.0001",
        "tpr0": f"TPR0: before the first false positive of {others:,} non-lenses",
        "tpr10": "TPR10: with fewer than ten false positives of these",
        "accuracy": "accuracy at even odds",
        "precision": "precision at even odds",
        "recall": "recall at even odds",
        "f1": "F1 at even odds",
        "kappa": "Cohen's kappa at even odds",
        "brier": "Brier score",
        "log_loss": "log loss (nats)",
        "ece_prevalence_0.5": "expected calibration error, prevalence 1/2",
        "ece_prevalence_0.001": "... at 0.001, over 0.001",
        "ece_prevalence_0.0001": "... at 0.0001, over 0.0001",
        "isotonic_largest": "largest distance of stated from isotonic, prevalence 1/2",
    }
    rows = [
        (
            text,
            figure(_shown(key, found[key]))
            if key in found
            else f"<small>not shown: {escape(report['omitted'].get(key, ''))}</small>",
        )
        for key, text in words.items()
        if key in found or key in report["omitted"]
    ]
    trivial = report.get("trivial", {})
    plain = (
        "<h3>What needs no network</h3>"
        + note("AUROC of logistic regressions with squares, each half of the set predicted by the other.")
        + table(
            ("total flux", "colours", "moments of the light", "radial profile", "all of them"),
            [[figure(trivial.get(key)) for key in ("flux", "colour", "light", "radial", "all")]],
        )
        if trivial
        else ""
    )
    noise = note(
        "Intervals: 95 %, bootstrap by galaxy; thresholds are found anew in every resample. A perfectly calibrated "
        f"model shows an expected calibration error of up to {number(report['ece_noise_95'])} here, and an "
        f"isotonic regression (thin line, a look only) up to {number(report['isotonic_noise_95'])} away (95 %). "
        "At even odds: p_lens of at least one half where lenses and others are equally many, which is also what "
        "accuracy, precision, F1, kappa, Brier score and log loss are weighted to. Calibration errors at rare "
        "prevalences are shown as multiples of these, and still are of nearly all objects, which are no lenses: how "
        "honest the probabilities of the best are the sum of p_lens over the lenses below says."
    )
    bare = report["omitted"].get("intervals")
    noise += note(f"Few intervals: {escape(bare)}.") if bare else ""
    return (
        noise + table(("figure", "value"), rows) + picture(pictures, "roc", "ROC curves")
        + picture(pictures, "reliability", "reliability") + picture(pictures, "logits", "logits by class") + plain
    )  # fmt: skip


def _shown(key: str, found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a figure as the table has it: calibration errors at rare prevalences over these."""
    rare = key.removeprefix("ece_prevalence_")
    if rare == key or rare == "0.5":
        return found
    return {end: None if value is None else value / float(rare) for end, value in found.items()}


def survey_body(report: Report) -> str:
    """Return what a survey of rare lenses would give."""
    found = report.get("detection")
    if not found:
        return ""
    rows: list[Sequence[str]] = []
    for prevalence in ("0.001", "0.0001"):
        for fpr in ("0.01", "0.001", "0.0001"):
            key = f"purity_at_fpr_{fpr}_prevalence_{prevalence}"
            if key in found:
                cells = [
                    figure(found[key]),
                    figure(found[f"tpr_at_fpr_{fpr}"]),
                    figure(found[f"inspected_per_lens_{key[7:]}"]),
                ]
                rows.append((prevalence, f"false positive rate {fpr}", *cells, ""))
        for n in (100, 1000, 10000):
            key = f"top_{n}_prevalence_{prevalence}"
            if f"purity_{key}" in found:
                kinds = ("purity", "completeness", "inspected_per_lens", "stated_over_true")
                cells = [figure(found.get(f"{kind}_{key}")) for kind in kinds]
                rows.append((prevalence, f"best {n:,}", *cells))
            else:
                reason = escape(report["omitted"].get(f"purity_{key}", ""))
                rows.append((prevalence, f"best {n:,}", f"<small>{reason}</small>", "", "", ""))
    sure = [
        (p, figure(found[f"stated_purity_prevalence_{p}"]), figure(found[f"true_purity_prevalence_{p}"]))
        for p in ("0.001", "0.0001")
        if f"true_purity_prevalence_{p}" in found
    ]
    text = (
        "Rates of this set carried over to a survey of 1,000,000 objects of that prevalence, with the set's own mix of "
        "non-lenses; nothing is shown that fewer than ten false positives stand behind."
    )
    head = ("prevalence", "selection", "purity", "completeness", "inspected per true lens", "sum of p_lens / lenses")
    body = note(text) + table(head, rows)
    if sure:
        body += "<h3>Objects with p_lens above one half</h3>" + table(
            ("prevalence", "stated purity", "true purity"), sure
        )
    return body


def completeness_body(report: Report, pictures: Mapping[str, bytes]) -> str:
    """Return completeness over theta_E and S/N, and false positives by class."""
    if not report.get("false_positives"):
        return ""
    name = next(iter(report["false_positives"]))
    head = cut_words(name)
    names = list(report["false_positives"])
    classes = list(report["false_positives"][name])
    rows = [
        (
            escape(key.replace("_", " ")),
            f"{report['false_positives'][name][key]['n']:,}",
            *(figure(report["false_positives"][each][key]) for each in names),
            figure(report["false_positives"][name][key].get("share")),
        )
        for key in classes
    ]
    tops = [f"above: {'FPR ' + each if each != EVEN_ODDS else each}" for each in names]
    text = (
        f"Pictures at {head}; cells with fewer than ten systems stay empty. Systems below the label rule count "
        "neither as lenses nor as false positives."
    )
    return (
        note(text)
        + picture(pictures, "completeness", "completeness over theta_E and S/N")
        + picture(pictures, "confusion", "confusion matrix")
        + (table(("class", "objects", *tops, f"share of false positives ({head})"), rows) if rows else "")
    )
