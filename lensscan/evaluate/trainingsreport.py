"""The summary of several trainings as a page, a JSON file and lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lensscan.evaluate.anchors import anchor_lines
from lensscan.evaluate.markup import note, number, simple_page, table, warning
from lensscan.evaluate.page import anchor_table
from lensscan.evaluate.trainings import SECTIONS, join_reports, summary_stem
from lensscan.evaluate.written import read_report, write_json
from lensscan.files import replacing

__all__ = ["HEADLINES", "lines", "spread", "summarise", "summary_page"]

Summary = Mapping[str, Any]
HEADLINES = (
    "detection:auroc",
    "detection:tpr_at_fpr_0.01",
    "detection:accuracy",
    "detection:ece_prevalence_0.5",
    "regression:errors.theta_E.abs_68",
    "regression:coverage.0.68.joint_7",
)
"""Figures that the command prints, as far as they are there."""
GROUP = "group."
"""Figures of kinds of lenses begin so; they stand behind the others."""


def spread(found: Mapping[str, Any]) -> str:
    """Return mean and standard deviation over the trainings, with the digits that the deviation makes sensible."""
    value, std = found["value"], found["std"]
    if not std > 0:
        return f"{value:.4g} +- 0"
    decimals = min(max(1 - math.floor(math.log10(std)), 0), 6)
    return f"{value:.{decimals}f} +- {std:.{decimals}f}"


def lines(summary: Summary) -> list[str]:
    """Return the summary in words: the first figures, then what stands beside published ones."""
    trainings, name = summary["trainings"], summary["model"]["name"]
    text = [f"{name}: mean +- standard deviation over {len(trainings)} trainings, seeds {_seeds(summary)}"]
    for place in HEADLINES:
        section, _, key = place.partition(":")
        if (found := summary.get(section, {}).get(key)) is not None:
            text.append(f"{name}: {key} {spread(found)}{_interval(found)}")
    return [*text, *summary["notes"], *(f"{name}: {line}" for line in anchor_lines(summary["anchors"]))]


def _interval(found: Mapping[str, Any]) -> str:
    low, high = found["test_low"], found["test_high"]
    return "" if low is None or high is None else f", test set [{number(low)}, {number(high)}]"


def _seeds(summary: Summary) -> str:
    return ", ".join(str(each["seed"]) for each in summary["trainings"])


def _walk(part: Mapping[str, Any], lead: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (name, figure) of everything in a section but the cells of a table, which the JSON file has."""
    for key, value in part.items():
        if isinstance(value, Mapping) and "trainings" in value:
            yield lead + key, value
        elif isinstance(value, Mapping):
            yield from _walk(value, f"{lead}{key}: ")


def summary_page(summary: Summary) -> str:
    """Return the page of a summary."""
    trainings, found = summary["trainings"], summary["testset"]
    names = ", ".join(f"{each['name']} (seed {each['seed']}, {each['hash'][:12]})" for each in trainings)
    body = note(escape(f"Trainings of one file that differ by their seed alone: {names}.")) + note(
        "Mean +- standard deviation over the trainings. Test set: 95 % interval from the resampled galaxies, the mean "
        "of those of the trainings, which saw the same ones. Both: 95 % interval of the mean with the noise of "
        f"training too (Student's t for {len(trainings)}, added in quadrature); published figures are judged by it."
    )
    body += "".join(warning(words) for words in summary["notes"])
    if summary["anchors"]:
        body += "<h2>Beside published figures</h2>" + anchor_table(summary)
    head = ("figure", "mean +- std", "test set, 95 %", "both, 95 %", *(f"seed {each['seed']}" for each in trainings))
    for section in SECTIONS:
        rows = [(name, _row(name, value)) for name, value in _walk(summary.get(section, {}))]
        plain = [row for name, row in rows if not name.startswith(GROUP)]
        groups = [row for name, row in rows if name.startswith(GROUP)]
        body += f"<h2>{section.replace('_', ' ').capitalize()}</h2>" + table(head, plain) if plain else ""
        body += f"<details><summary>By kind of lens</summary>{table(head, groups)}</details>" if groups else ""
    kind = "sealed test set" if found["sealed"] else "not a sealed set: no result, for tuning and looking only"
    title = f"{summary['model']['name']} on {found['name']}"
    return simple_page(title, f"{kind}; simulated, so nothing here is survey performance", body)


def _row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    ends = ((found["test_low"], found["test_high"]), (found["low"], found["high"]))
    intervals = (" &hellip; ".join(number(end) for end in pair) for pair in ends)
    return (escape(name), spread(found).replace("+-", "&plusmn;"), *intervals, *map(number, found["trainings"]))


def summarise(pages: Sequence[Path], seeds: Sequence[int], baseline: str | None, say: Callable[[str], None]) -> Path:
    """Join the reports of several trainings, write page and JSON file beside them, and return the page's path.

    Parameters
    ----------
    pages : sequence of Path
        Of the reports.
    seeds : sequence of int
        Of the trainings.
    baseline : str, optional
        JSON report of a baseline on the same set.
    say : callable
        Told what was found, in lines.
    """
    summary = join_reports(
        [page.with_suffix(".json") for page in pages], seeds, read_report(baseline) if baseline else None
    )
    for line in lines(summary):
        say(line)
    stem = summary_stem([each["name"] for each in summary["trainings"]], summary["testset"]["name"])
    data, page = (pages[0].with_name(stem + ending) for ending in (".json", ".html"))
    write_json(summary, data)
    with replacing(page) as name:
        name.write_text(summary_page(read_report(data)), encoding="utf-8")
    return page
