"""Published figures beside ours, with the rule when they may be compared.

A simulated set of the same name is not as hard as the paper's.  Only if the paper's own simplest model, run
again on our set, reaches what it reached there, does "better" or "worse" mean anything.
"""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensscan.config import build, read_toml
from lensscan.errors import ConfigError
from lensscan.evaluate.detection import LARGE

__all__ = ["Anchor", "Calibrator", "anchor_lines", "anchor_rows", "figure_at", "load_anchors", "verdict"]

Report = Mapping[str, Any]
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
    """

    model: str
    values: Mapping[str, float]
    tolerance: float = 0.0
    absolute: float = 0.0

    def agrees(self, figure: str, value: float) -> bool:
        """Return whether a re-run value is near the published one."""
        published = self.values[figure]
        return abs(value - published) <= max(self.absolute, self.tolerance * abs(published))


@dataclass(frozen=True, slots=True)
class Anchor:
    """The published figures of one table; see ``catalogs/anchors.toml``.

    Attributes
    ----------
    resolution : float
        Step of the last digit that is printed: a figure stands for all that is rounded to it, up to half a step away.
    """

    paper: str
    source: str
    tag: str
    recipes: tuple[str, ...]
    better: str
    values: Mapping[str, float]
    note: str = ""
    resolution: float = 0.0
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


def anchor_rows(report: Report, baseline: Report | None, anchors: tuple[Anchor, ...]) -> list[dict[str, Any]]:
    """Return one row per published figure that belongs beside a report.

    Parameters
    ----------
    report : mapping
        Ours.
    baseline : mapping or None
        Report of a re-run baseline on the same set.
    anchors : tuple of Anchor

    Returns
    -------
    list of dict
        ``paper source tag figure published resolution baseline ours verdict``; a baseline that is not this paper's is
        shown, but decides nothing.
    """
    recipe = report["testset"].get("recipe", "")
    rows = []
    for anchor in anchors:
        if recipe not in anchor.recipes and "*" not in anchor.recipes:
            continue
        for figure, published in anchor.values.items():
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
                    "verdict": verdict(anchor, figure, report, ours, baseline, rerun),
                }
            )
    return rows


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
    if calibrator is None or figure not in calibrator.values:
        return "no verdict: the paper has no simple baseline for this figure"
    if baseline is None or rerun is None:
        return f"no verdict: {calibrator.model} has not been run again on this set"
    if calibrator.model not in (baseline["model"]["name"], baseline["model"].get("kind")):
        return f"no verdict: needs {calibrator.model}, the baseline is {baseline['model']['name']}"
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


def anchor_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the rows of `anchor_rows` in words, but for those of other data, which a report shows as context."""
    lines = []
    for row in rows:
        if row["verdict"].startswith("context"):
            continue
        rerun = f", {row['baseline_model']} again {row['baseline']['value']:.3g}" if row["baseline"] else ""
        figure = row["figure"].partition(":")[2]
        tag = " (from memory)" if row["tag"] == "M" else ""
        rounded = f" (in steps of {row['resolution']:g})" if row["resolution"] else ""
        here = f"published {row['published']:g}{rounded}{tag}{rerun}, here {row['ours']['value']:.3g}"
        lines.append(f"{figure}: {here}; {row['verdict']}  [{row['paper']}]")
    return lines
