"""Several trainings of one file: what their reports say together, and how far the seed alone moves each figure.

A figure of one training has an interval from the test set alone.  Trained anew with another seed the same file gives
another figure; only several trainings show how far.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from lensscan.errors import ConfigError
from lensscan.evaluate.anchors import ENDS, anchor_rows, load_anchors
from lensscan.evaluate.members import line_up
from lensscan.evaluate.run import SAME
from lensscan.evaluate.written import FORMAT, file_stem, read_report
from lensscan.nets.card import Card

__all__ = [
    "SECTIONS",
    "family_name",
    "join_figures",
    "join_reports",
    "require_trainings",
    "summary_stem",
    "trained_seeds",
]

SECTIONS = ("detection", "regression", "images", "flow", "completeness", "false_positives")
"""Parts of a report that hold figures of the model; the others are of the test set."""
LEVEL = 0.95
SHARES = (
    r"^(auroc|tpr|purity|completeness|(stated|true)_purity|accuracy|precision|recall|f1|ece|brier|isotonic)"
    r"|(^|\.)(coverage|outliers|pit_ks)\.|\.(largest|right_number|inside_68)$"
)
"""Names of figures that lie between 0 and 1."""
POSITIVE = r"^(log_loss|stated_over_true|selective\.)|(^|\.)(sharpness|crps)\.|\.(half_width_\d+|abs_68|rms|nmad)$"
"""Names of figures that are not negative."""
IDENTITY = {"recipe_digest": "recipe", "seedless_digest": "training file"}
"""What the cards of trainings of one file have in common, and what it stands for."""


def trained_seeds(names: Sequence[str], views: int | None) -> list[int]:
    """Return the seeds of models, members of ensembles included; see `require_trainings`."""
    return require_trainings([model.card for model in line_up(names, views).singles])


def require_trainings(cards: Sequence[Card]) -> list[int]:
    """Return the seeds of models that are trainings of one file, in their order.

    Raises
    ------
    ConfigError
        If there are fewer than two, a card does not state its training, or two differ by more than their seed, or not
        by that.
    """
    if len(cards) < 2:
        raise ConfigError("--trainings needs two models or more that were trained from one file with other seeds")
    first = cards[0]
    for card in cards:
        missing = next((key for key in (*IDENTITY, "seed") if key not in card.training), None)
        if missing is not None:
            raise ConfigError(
                f"--trainings: the card of {card.name} does not state its {missing}; "
                "lensscan train FILE --finish MODEL writes a card that does"
            )
        wrong = next((what for key, what in IDENTITY.items() if card.training[key] != first.training[key]), None)
        if wrong is not None:
            raise ConfigError(
                f"--trainings: {card.name} and {first.name} are not trainings of one file, their {wrong} differs; "
                "evaluate them without --trainings"
            )
    seeds = [int(card.training["seed"]) for card in cards]
    twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
    if twice is not None:
        raise ConfigError(f"--trainings: two of the models have the seed {twice}; give trainings of other seeds")
    return seeds


def family_name(names: Sequence[str]) -> str:
    """Return one name for several trainings: what stands before ``-seed-S``, or all names."""
    stems = {re.sub(r"-seed-\d+$", "", name) for name in names}
    stem = stems.pop() if len(stems) == 1 else "+".join(names)
    return f"{stem}-{len(names)}-trainings"


def summary_stem(names: Sequence[str], testset: str) -> str:
    """Return the name of a summary's files, without folder and ending."""
    return file_stem(family_name(names), testset)


def range_of(name: str, section: str = "") -> tuple[float, float]:
    """Return the range that a figure of a section of `SECTIONS` cannot leave, by its name."""
    if section in ("completeness", "false_positives"):
        return 0.0, 1.0
    ranges = ((SHARES, (0.0, 1.0)), (r"^kappa$|^tarp\..*\.mean$", (-1.0, 1.0)), (POSITIVE, (0.0, math.inf)),
              (r"^inspected_per_lens", (1.0, math.inf)), (r"^gain_over_light|\.r2$", (-math.inf, 1.0)))  # fmt: skip
    return next((ends for pattern, ends in ranges if re.search(pattern, name)), (-math.inf, math.inf))


def join_figures(
    figures: Sequence[Mapping[str, Any]], within: tuple[float, float] = (-math.inf, math.inf)
) -> dict[str, Any] | None:
    """Return a figure of several trainings as one; None unless all know it.

    Parameters
    ----------
    figures : sequence of mapping
        ``value low high`` of each.
    within : (2,) tuple of float
        Range of the figure, at whose ends its intervals end.

    Returns
    -------
    dict
        ``value``, the mean; ``std`` over the trainings (n - 1); ``trainings``, their values; ``test_low test_high``,
        the mean of the ends of their intervals: all saw the same galaxies, and the mean scatters with these no more
        than one of them does; ``low high``, 95 % with both: Student's t for the mean of n trainings, added in
        quadrature to each side.  Ends are None where a training has none.
    """
    values = _known(figures, "value")
    if values is None:
        return None
    n, mean, std = len(values), float(np.mean(values)), float(np.std(values, ddof=1))
    noise = float(student.ppf((1 + LEVEL) / 2, n - 1)) * std / math.sqrt(n)
    found: dict[str, Any] = {"value": mean, "std": std, "trainings": values}
    for end, sign in (("low", -1), ("high", 1)):
        ends = _known(figures, end)
        known = None if ends is None else float(np.mean(ends))
        found[f"test_{end}"] = known
        reach = None if known is None else math.hypot(max(sign * (known - mean), 0.0), noise)
        found[end] = (
            None if reach is None else min(max(mean + sign * reach, min(within[0], mean)), max(within[1], mean))
        )
    return found


def _known(figures: Sequence[Mapping[str, Any]], key: str) -> list[float] | None:
    """Return one number of each figure; None unless all have it."""
    values = [each[key] for each in figures if each.get(key) is not None]
    return values if len(values) == len(figures) else None


def join_parts(parts: Sequence[Any], section: str = "", name: str = "") -> Any:
    """Return the figures of parts of reports joined, wherever they stand in a section; None where there is none."""
    first = parts[0]
    if isinstance(first, Mapping):
        if all(isinstance(part, Mapping) and set(ENDS) <= set(part) for part in parts):
            return join_figures(parts, range_of(name, section))
        keys = [key for key in first if all(isinstance(part, Mapping) and key in part for part in parts)]
        joined = {key: join_parts([part[key] for part in parts], section, key) for key in keys}
        return {key: value for key, value in joined.items() if value is not None} or None
    if isinstance(first, list) and all(isinstance(part, list) and len(part) == len(first) for part in parts):
        items = [join_parts(each, section, name) for each in zip(*parts, strict=True)]
        return items if any(item is not None for item in items) else None
    return None


def _least(trainings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the least of what every training states of its length and mocks."""
    return {
        key: min(each[key] for each in trainings)
        for key in ("mocks", "epochs", "steps", "batch")
        if all(key in each for each in trainings)
    }


def join_reports(
    paths: Sequence[Path], seeds: Sequence[int], baseline: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the summary of the reports of several trainings on one test set.

    It has the form of a report, so that it serves as a baseline too.

    Parameters
    ----------
    paths : sequence of Path
        JSON reports, of models that `require_trainings` let pass.
    seeds : sequence of int
    baseline : mapping, optional
        Report of a baseline on the same set.

    Raises
    ------
    ConfigError
        If a report cannot be read, or is of another test set.
    """
    reports = [read_report(path) for path in paths]
    first = reports[0]
    for path, report in zip(paths, reports, strict=True):
        if any(report["testset"].get(key) != first["testset"].get(key) for key in (*SAME, "n_scored")):
            raise ConfigError(f"{path} is of another test set than {paths[0]}; evaluate again with --overwrite")
    models = [report["model"] for report in reports]
    hashes = "".join(model["hash"] for model in models)
    summary: dict[str, Any] = {
        "format": FORMAT,
        "model": {
            **{key: models[0].get(key) for key in ("kind", "label", "bands", "views")},
            "name": family_name([model["name"] for model in models]),
            "hash": hashlib.sha256(hashes.encode()).hexdigest(),
            "training": _least([model.get("training") or {} for model in models]),
        },
        "testset": first["testset"],
        "trainings": [
            {"name": model["name"], "seed": seed, "hash": model["hash"], "report": path.name}
            for model, seed, path in zip(models, seeds, paths, strict=True)
        ],
        "bootstrap": first["bootstrap"],
        "software": first["software"],
        "notes": list(dict.fromkeys(words for report in reports for words in report.get("notes", []))),
    }
    summary |= {name: join_parts([report.get(name) for report in reports], name) for name in SECTIONS}
    summary = {key: value for key, value in summary.items() if value is not None}
    summary["baseline"] = None if baseline is None else {key: baseline["model"].get(key) for key in ("name", "hash")}
    summary["anchors"] = anchor_rows(summary, baseline, load_anchors())
    return summary
