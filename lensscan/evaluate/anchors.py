"""Published figures beside ours, with the rule when they may be compared.

A simulated set of the same name is not as hard as the paper's.  Only if the paper's own simplest model, run
again on our set, reaches what it reached there, does "better" or "worse" mean anything.
"""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lensscan.config import build, read_toml
from lensscan.errors import ConfigError
from lensscan.evaluate.detection import LARGE
from lensscan.metrics.bootstrap import Estimate

__all__ = [
    "ENDS",
    "Anchor",
    "Calibrator",
    "anchor_lines",
    "anchor_rows",
    "figure_at",
    "gain_over",
    "gain_words",
    "load_anchors",
    "verdict",
]

Report = Mapping[str, Any]
Figure = Mapping[str, float]
Pair = Callable[[str], tuple[Estimate, Estimate] | None]
"""Gives a figure of ours and of the baseline on the same resamples; None where there are none."""
ENDS = ("value", "low", "high")
"""What every figure of a report has."""
OF_THE_CHALLENGE = ("detection:tpr0", "detection:tpr10")
"""Rates that fall with the number of non-lenses; the lens finding challenge had `LARGE` objects."""


@dataclass(frozen=True, slots=True)
class Calibrator:
    """A paper's own simplest model.

    Attributes
    ----------
    model : str
        Name or kind of the network, as the re-run baseline's report states it.
    values : mapping of str to float
        What it reached in the paper, by figure.
    tolerance, absolute : float
        How far, relative or absolute, our re-run may be from that.
    mocks, epochs : int
        What it was trained on there, and so must be here at least; 0 = not asked.
    """

    model: str
    values: Mapping[str, float] = field(default_factory=dict)
    tolerance: float = 0.0
    absolute: float = 0.0
    mocks: int = 0
    epochs: int = 0

    def agrees(self, figure: str, value: float) -> bool:
        """Return whether a re-run value is near the published one."""
        published = self.values[figure]
        return abs(value - published) <= max(self.absolute, self.tolerance * abs(published))

    def shortfall(self, training: Mapping[str, Any]) -> str:
        """Return in words what a training, as its card states it, lacks of this one; empty if nothing.

        A training that states steps and batch instead of epochs has as many as its stamps make of `mocks`.
        """
        epochs = training.get("epochs")
        if epochs is None and "steps" in training and "batch" in training and self.mocks:
            epochs = round(training["steps"] * training["batch"] / self.mocks, 1)
        for what, stated, asked in (("mocks", training.get("mocks"), self.mocks), ("epochs", epochs, self.epochs)):
            if not asked:
                continue
            if stated is None:
                return f"states no {what} of its training; evaluate it again, with --overwrite"
            if stated < asked:
                return f"had {stated:,g} {what}, {asked:,} are asked"
        return ""


@dataclass(frozen=True, slots=True)
class Anchor:
    """The published figures of one table; see ``catalogs/anchors.toml``.

    Attributes
    ----------
    resolution : float
        Step of the last digit that is printed: a figure stands for all that is rounded to it, up to half a step away.
    figures : tuple of str
        Figures that stand over the re-run baseline alone: on a recipe so far from the paper's that none of its own
        belongs beside them.
    """

    paper: str
    source: str
    tag: str
    recipes: tuple[str, ...]
    better: str
    values: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    resolution: float = 0.0
    figures: tuple[str, ...] = ()
    baseline: Calibrator | None = field(default=None)


def load_anchors(path: str | Path | None = None) -> tuple[Anchor, ...]:
    """Read the catalog of anchors.

    Raises
    ------
    ConfigError
        If an entry has an unknown tag or direction, or a negative resolution.
    """
    place = path or Path(str(importlib.resources.files("lensscan") / "catalogs" / "anchors.toml"))
    anchors = tuple(build(Anchor, entry, f"{place}: anchor") for entry in read_toml(place).get("anchor", []))
    for anchor in anchors:
        if anchor.resolution < 0:
            raise ConfigError(f"{place}: {anchor.paper}: resolution must not be negative, it is {anchor.resolution:g}")
        if anchor.baseline is not None and anchor.baseline.epochs and not anchor.baseline.mocks:
            raise ConfigError(f"{place}: {anchor.paper}: baseline.epochs are epochs of baseline.mocks; give these too")
        if anchor.tag not in ("R", "M") or anchor.better not in ("lower", "higher"):
            raise ConfigError(f"{place}: {anchor.paper}: tag must be R or M, better must be lower or higher")
    return anchors


def figure_at(report: Report, name: str) -> Mapping[str, float] | None:
    """Return the figure ``section:key`` of a report (``completeness:0.01.cmu``: of a table), None if absent."""
    section, _, key = name.partition(":")
    table = report.get(section) or {}
    if section == "completeness":
        threshold, _, cell = key.rpartition(".")
        found = table.get(threshold, {}).get(cell)
    else:
        found = table.get(key)
    return found if found is not None and _known(found.get("value")) else None


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def anchor_rows(
    report: Report, baseline: Report | None, anchors: tuple[Anchor, ...], pair: Pair = lambda figure: None
) -> list[dict[str, Any]]:
    """Return one row per published figure that belongs beside a report.

    Parameters
    ----------
    report : mapping
        Ours.
    baseline : mapping or None
        Report of a re-run baseline on the same set.
    anchors : tuple of Anchor
    pair : callable
        Of a baseline that was scored with ours; default: of none.

    Returns
    -------
    list of dict
        ``paper source tag figure published resolution baseline baseline_model ours better gain verdict``; a baseline
        that is not this paper's is shown, but decides nothing.  ``gain`` is that of ours over the baseline
        (`gain_over`), None without one; ``published`` is None for an anchor's `figures`.
    """
    recipe = report["testset"].get("recipe", "")
    rows = []
    for anchor in anchors:
        if recipe not in anchor.recipes and "*" not in anchor.recipes:
            continue
        for figure, published in (*anchor.values.items(), *((figure, None) for figure in anchor.figures)):
            ours = figure_at(report, figure)
            if ours is None:
                continue
            rerun = None if baseline is None else figure_at(baseline, figure)
            rows.append(
                {
                    "paper": anchor.paper,
                    "source": anchor.source + (f"; {anchor.note}" if anchor.note else ""),
                    "tag": anchor.tag,
                    "figure": figure,
                    "published": published,
                    "resolution": anchor.resolution,
                    "baseline": rerun,
                    "baseline_model": baseline["model"]["name"] if baseline is not None and rerun else "",
                    "ours": ours,
                    "better": anchor.better,
                    "gain": None if rerun is None else gain_over(ours, rerun, anchor.better, pair(figure)),
                    "verdict": verdict(anchor, figure, report, ours, baseline, rerun),
                }
            )
    return rows


def gain_over(
    ours: Figure, rerun: Figure, better: str, pair: tuple[Estimate, Estimate] | None = None
) -> dict[str, Any]:
    """Return by how much ours is better than a re-run baseline.

    Parameters
    ----------
    ours, rerun : mapping
        ``value low high`` of each.
    better : str
        ``lower``: the share by which ours is smaller, 1 - ours / rerun; ``higher``: the difference, ours - rerun.
    pair : (Estimate, Estimate), optional
        Both on the same resamples of the same galaxies.

    Returns
    -------
    dict
        ``value low high paired``; without a pair ends add up as for independent figures, which is too wide for two of
        the same galaxies.  Ends are None where either has none.
    """
    if pair is not None:
        return _paired_gain(*pair, better)
    a, b = ours["value"], rerun["value"]
    if better == "higher":
        value, slopes = a - b, (1.0, -1.0)
    elif b > 0:
        value, slopes = 1 - a / b, (-1 / b, a / b**2)
    else:
        return dict.fromkeys(ENDS) | {"paired": False}
    found: dict[str, Any] = {"value": value, "paired": False}
    for end, sign in (("low", -1), ("high", 1)):
        parts = [_reach(figure, sign * slope) for figure, slope in zip((ours, rerun), slopes, strict=True)]
        known = [part for part in parts if part is not None]
        found[end] = value + sign * math.hypot(*known) if len(known) == len(parts) else None
    return found


def _paired_gain(ours: Estimate, rerun: Estimate, better: str) -> dict[str, Any]:
    """Return `gain_over` of two figures on the same resamples."""
    a, b = (np.append(each.value, each.replicates) for each in (ours, rerun))
    with np.errstate(divide="ignore", invalid="ignore"):
        gains = a - b if better == "higher" else np.where(b > 0, 1 - a / b, np.nan)
    found = Estimate.of(gains[0], gains[1:])
    if np.isnan([ours.low, rerun.low]).any():
        found = found.bare()
    ends = {end: getattr(found, end) for end in ENDS}
    return {end: value if math.isfinite(value) else None for end, value in ends.items()} | {"paired": True}


def _reach(figure: Figure, slope: float) -> float | None:
    """Return how far something moves when a figure goes to the end of its interval that moves it upwards."""
    end = figure.get("high" if slope > 0 else "low")
    return None if end is None else abs(slope * (end - figure["value"]))


def _objects(report: Report) -> int:
    """Return how many objects a set has, those below the label rule and those that could not be scored included."""
    found = report["testset"]
    return int(found.get("n_scored", 0) + found.get("n_failed", 0))


def verdict(
    anchor: Anchor,
    figure: str,
    report: Report,
    ours: Mapping[str, float],
    baseline: Report | None,
    rerun: Mapping[str, float] | None,
) -> str:
    """Return what may be said of ours against a published figure; "better" only behind a baseline that agrees."""
    if "*" in anchor.recipes:
        return "context: other data"
    objects = _objects(report)
    if figure in OF_THE_CHALLENGE and objects != LARGE:
        return f"no verdict: depends on the number of objects, {LARGE:,} there and {objects:,} here"
    calibrator = anchor.baseline
    if calibrator is None or figure not in (*calibrator.values, *anchor.figures):
        return "no verdict: the paper has no simple baseline for this figure"
    if baseline is None or rerun is None:
        return f"no verdict: {calibrator.model} has not been run again on this set"
    if calibrator.model not in (baseline["model"]["name"], baseline["model"].get("kind")):
        return f"no verdict: needs {calibrator.model}, the baseline is {baseline['model']['name']}"
    short = calibrator.shortfall(_training(baseline))
    if short:
        return f"no verdict: {calibrator.model} {short}"
    if figure in anchor.figures:
        return "over the baseline alone: the paper's figures are of other data"
    if not calibrator.agrees(figure, rerun["value"]):
        return (
            f"not comparable: {calibrator.model} reaches {rerun['value']:.3g} here, "
            f"{calibrator.values[figure]:.3g} in the paper"
        )
    low, high = ours.get("low"), ours.get("high")
    if low is None or high is None:
        return "no verdict: ours has no interval here"
    published, half = anchor.values[figure], anchor.resolution / 2
    if low <= published <= high:
        return "equal within the interval"
    if low <= published + half and high >= published - half:
        return "equal within the interval and the rounding of the paper"
    better = high < published if anchor.better == "lower" else low > published
    return "better" if better else "worse"


def _training(report: Report) -> Mapping[str, Any]:
    """Return how the model of a report was trained; older reports of gradients have it beside the model."""
    return report["model"].get("training") or report.get("training") or {}


def anchor_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the rows of `anchor_rows` in words, but for those of other data, which a report shows as context."""
    lines = []
    for row in rows:
        if row["verdict"].startswith("context"):
            continue
        figure = row["figure"].partition(":")[2]
        tag = " (from memory)" if row["tag"] == "M" else ""
        rounded = f" (in steps of {row['resolution']:g})" if row["resolution"] else ""
        parts = [] if row["published"] is None else [f"published {row['published']:g}{rounded}{tag}"]
        if row["baseline"]:
            parts.append(f"{row['baseline_model']} again {row['baseline']['value']:.3g}")
        gained = gain_words(row)
        parts.append(f"here {row['ours']['value']:.3g}" + (f" ({gained})" if gained else ""))
        lines.append(f"{figure}: {', '.join(parts)}; {row['verdict']}  [{row['paper']}]")
    return lines


def gain_words(row: Mapping[str, Any]) -> str:
    """Return the gain of a row over its baseline in words; empty without one."""
    gain = row.get("gain")
    if gain is None or gain["value"] is None:
        return ""
    high = row["better"] == "higher"
    scale, form = (1, "+.3f") if high else (100, ".0f")
    value, low, above = (None if gain[key] is None else format(scale * gain[key], form) for key in ENDS)
    kind = "paired" if gain.get("paired") else "unpaired"
    ends = "" if low is None or above is None else f" [{low}, {above}], {kind}"
    return f"{value}{ends}" if high else f"smaller by {value} %{ends}"
