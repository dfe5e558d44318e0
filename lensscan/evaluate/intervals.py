"""Intervals of detection where plain resamples have none that is sound: all alike, too few galaxies, or one extreme."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.metrics.bootstrap import FEWEST_CLUSTERS, Bootstrap, Estimate, trusted
from lensscan.metrics.detection import purity, share_estimate, wilson
from lensscan.metrics.extremes import highest_thresholds

__all__ = ["bounded", "even_odds", "too_few"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
ROUNDING = 1e-9


def even_odds(recall: float, wrong: float) -> dict[str, float]:
    """Return the figures of what is called a lens: a share of the lenses, and one of the others."""
    accuracy = (1 + recall - wrong) / 2
    return {
        "accuracy": accuracy,
        "precision": recall / (recall + wrong) if recall + wrong > 0 else float("nan"),
        "recall": recall,
        "f1": 2 * recall / (1 + recall + wrong),
        "kappa": 2 * accuracy - 1,
    }


def too_few(lenses: NDArray[Any], others: NDArray[Any] | None = None) -> str:
    """Return why clusters (n,) are too few for intervals; empty if they are not."""
    kinds = {"with a lens": lenses} if others is None else {"with a lens": lenses, "without": others}
    counts = {words: len(np.unique(each)) for words, each in kinds.items()}
    if min(counts.values()) >= FEWEST_CLUSTERS:
        return ""
    stated = " and ".join(f"{count} galaxies {words}" for words, count in counts.items())
    return f"{stated} are too few for intervals, which need {FEWEST_CLUSTERS} of a kind"


def bounded(figures: dict[str, Estimate], logit: Floats, is_lens: Bools, rows: Bootstrap) -> dict[str, Estimate]:
    """Return resampled figures of detection with sound intervals, or none.

    Fewer than `FEWEST_CLUSTERS` galaxies of a kind leave no interval but those of what all resamples agree on: a share
    then has Wilson's, for as many trials as there are galaxies; AUROC the same, for as many pairs as can be made of
    them; what is made of shares at even odds, or of a true positive rate, goes from one end of theirs to the other.

    Parameters
    ----------
    figures : dict of Estimate
        By name, see `lensscan.evaluate.detection.detect`.
    logit : (n,) array
    is_lens : (n,) bool array
    rows : Bootstrap
    """
    lenses, others = rows.cluster[is_lens], rows.cluster[~is_lens]
    few = min((np.unique(lenses), np.unique(others)), key=len)
    found = {}
    for name, each in figures.items():
        found[name] = trusted(each, few)
        if name == "recall" or name.startswith("tpr"):
            found[name] = share_estimate(found[name], lenses)
        if name == "auroc":
            found[name] = share_estimate(found[name], few)
    if "tpr0" in found:
        found["tpr0"] = trusted(_before_any(found["tpr0"], logit, is_lens, rows), few)
    if "recall" not in found:
        return found
    share, n = float((logit[~is_lens] >= 0).mean()), len(np.unique(others))
    wrong = wilson(share * n, n)
    ends = [even_odds(*pair) for pair in ((found["recall"].low, wrong[1]), (found["recall"].high, wrong[0]))]
    for name, low in ends[0].items():
        if name != "recall" and _alike(figures[name]):
            found[name] = dataclasses.replace(found[name], low=low, high=ends[1][name])
    for name, each in figures.items():
        kind, _, rest = name.partition("_at_fpr_")
        if kind in ("purity", "inspected_per_lens") and _alike(each):
            fpr, _, prevalence = rest.partition("_prevalence_")
            rate = found[f"tpr_at_fpr_{fpr}"]
            low, high = (purity(end, float(fpr), float(prevalence)) for end in (rate.low, rate.high))
            if kind == "inspected_per_lens":
                low, high = (1 / end if end > 0 else float("inf") for end in (high, low))
            found[name] = dataclasses.replace(found[name], low=low, high=high)
    return found


def _alike(found: Estimate) -> bool:
    """Return whether all resamples say the same."""
    return found.high - found.low < ROUNDING


def _before_any(found: Estimate, logit: NDArray[np.float64], is_lens: NDArray[np.bool_], rows: Bootstrap) -> Estimate:
    """Return TPR0 with the interval of resampled lenses and `highest_thresholds` of the non-lenses' galaxies.

    The thresholds are seeded by the scores too: those of two models are taken as independent, which is too wide.
    """
    galaxies, place = np.unique(rows.cluster[~is_lens], return_inverse=True)
    highest = np.full(len(galaxies), -np.inf)
    np.maximum.at(highest, place, logit[~is_lens])
    rng = np.random.default_rng((rows.seed, zlib.crc32(np.ascontiguousarray(logit).tobytes())))
    values, lenses = np.full(rows.n, np.nan), logit[is_lens]
    thresholds = highest_thresholds(highest, rows.n, rng)
    for number, (counts, threshold) in enumerate(zip(rows.counts(), thresholds, strict=True)):
        drawn = counts[is_lens]
        if drawn.any() and np.isfinite(threshold):
            values[number] = drawn[lenses > threshold].sum() / drawn.sum()
    wide = Estimate.of(found.value, values)
    sure = np.isin(found.value, (0.0, 1.0))  # all resamples are alike, and the interval is that of so many galaxies
    low, high = (found.low, found.high) if sure else (wide.low, wide.high)
    return dataclasses.replace(wide, low=float(np.fmin(low, wide.low)), high=float(np.fmax(high, wide.high)))
