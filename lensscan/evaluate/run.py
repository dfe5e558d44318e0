"""One evaluation: score, measure, draw, and write a JSON and an HTML report per model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lensscan.errors import ConfigError
from lensscan.evaluate.anchors import anchor_lines, anchor_rows, load_anchors
from lensscan.evaluate.members import line_up
from lensscan.evaluate.page import make_page
from lensscan.evaluate.plots import draw_plots, require_matplotlib
from lensscan.evaluate.predict import Scoring
from lensscan.evaluate.report import assess, file_stem, make_report, read_report, write_json
from lensscan.evaluate.testsets import TestSet, open_testset
from lensscan.files import check_folder, replacing
from lensscan.nets.model import Model

__all__ = ["Evaluation", "evaluate"]

SAME = ("recipe_digest", "seed", "n", "sha256")
"""What two reports of one test set have in common; sets that are not sealed may have no hash of their truth."""


@dataclass(frozen=True, slots=True)
class Evaluation(Scoring):
    """What to evaluate; how is in `Scoring`.

    Attributes
    ----------
    models : sequence of str
        Shipped names or paths; ensembles by their TOML files, which bring their members.
    testset : str
        See `lensscan.evaluate.testsets.open_testset`.
    folder : Path
        Where the reports go.
    baseline : str, optional
        JSON report of a published baseline, run again on the same set.
    plots : bool
    overwrite : bool
        Make reports anew that stand.
    """

    models: Sequence[str]
    testset: str
    folder: Path
    baseline: str | None = None
    plots: bool = True
    overwrite: bool = False


def evaluate(
    settings: Evaluation,
    progress: Callable[[int, int], None] = lambda done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Evaluate and return the paths of the HTML reports.

    A sealed set is opened once per reported model: reports that stand for the same weights are kept, with a word on
    what else was asked for and they do not show; one for other weights under the same name says how many versions
    have been measured.

    Parameters
    ----------
    settings : Evaluation
    progress : callable
        Told (done, total) rows.
    say : callable
        Told what is done, in lines.

    Raises
    ------
    LensscanError
        If a model, the set or the baseline cannot be used, or nothing can be written.
    """
    if settings.plots:
        require_matplotlib()
    testset = open_testset(settings.testset, settings.device)
    lineup = line_up(settings.models, settings.views)
    models = lineup.models
    names = [model.card.name for model in models]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"two models are called {next(n for n in names if names.count(n) > 1)}; evaluate one at a time"
        )
    baseline, anchors = _baseline(settings.baseline, testset), load_anchors()
    stems = [settings.folder / file_stem(name, testset.name) for name in names]
    histories = [_history(stem, model, testset, settings.overwrite) for stem, model in zip(stems, models, strict=True)]
    pages = [_beside(stem, ".html") for stem in stems]
    if not settings.overwrite and testset.sealed and all(stands for _, stands in histories):
        ignored = [line for stem in stems for line in _ignored(settings, read_report(_beside(stem, ".json")), baseline)]
        for line in dict.fromkeys(ignored):
            say(line)
        say("these reports stand for these very weights; --overwrite makes them anew")
        return pages
    check_folder(settings.folder)
    scored = settings.predict(lineup.singles, testset, progress)
    scored.models[:] = lineup.predictions(scored.models)
    say(
        f"{len(scored.rows)} stamps scored, {scored.failed} could not be; "
        f"measuring with {settings.replicates} resamples"
    )
    assessment = assess(
        scored, models[0].card.pixel_scale, settings.replicates, recipe_digest=testset.describe()["recipe_digest"]
    )
    for number, (model, stem) in enumerate(zip(models, stems, strict=True)):
        report = make_report(assessment, number, testset, histories[number][0], settings.device)
        report["baseline"] = _identity(baseline)
        report["anchors"] = anchor_rows(report, baseline, anchors)
        for line in anchor_lines(report["anchors"]):
            say(f"{names[number]}: {line}")
        pictures = draw_plots(assessment, number, model, testset, report) if settings.plots else {}
        write_json(report, _beside(stem, ".json"))
        with replacing(pages[number]) as name:
            name.write_text(make_page(read_report(_beside(stem, ".json")), pictures), encoding="utf-8")
    return pages


def _beside(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def _history(stem: Path, model: Model, testset: TestSet, overwrite: bool = False) -> tuple[list[dict[str, str]], bool]:
    """Return which weights have been measured on the set, ours last, and whether their report stands.

    What stands there but cannot be read is refused, as the list of the weights that have seen the set would be lost;
    with `overwrite` the list begins anew.
    """
    now = {"hash": model.card.hash, "time": datetime.now(UTC).isoformat(timespec="seconds")}
    path = _beside(stem, ".json")
    if not path.is_file():
        return [now], False
    try:
        old = read_report(path)
    except ConfigError:
        if overwrite:
            return [now], False
        raise ConfigError(f"{path} is no report that this lensscan reads; move it away, or give --overwrite") from None
    same_set = old["testset"].get("sha256") == testset.describe().get("sha256")
    earlier: list[dict[str, Any]] = old.get("opened", []) if same_set and testset.sealed else []
    stands = same_set and old["model"].get("hash") == model.card.hash and _beside(stem, ".html").is_file()
    if any(each["hash"] == model.card.hash for each in earlier):
        return earlier, stands
    return [*earlier, now], False


def _identity(baseline: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what identifies a baseline: the name of its model and the hash of the weights."""
    return None if baseline is None else {key: baseline["model"].get(key) for key in ("name", "hash")}


def _ignored(settings: Evaluation, stands: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> list[str]:
    """Return a line for each option that a standing report was not made with."""
    name = stands["model"]["name"]
    views, resamples = stands["model"].get("views"), stands.get("bootstrap", {}).get("resamples")
    lines = []
    if settings.views is not None and settings.views != views:
        lines.append(f"{name}: --views {settings.views} is ignored, the report that stands has {views}")
    if settings.replicates != resamples:
        lines.append(f"{name}: --bootstrap {settings.replicates} is ignored, the report that stands has {resamples}")
    if baseline is not None and _identity(baseline) != stands.get("baseline"):
        other = (stands.get("baseline") or {}).get("name", "none")
        ours = baseline["model"]["name"]
        lines.append(
            f"{name}: --baseline ({ours}) is ignored, the baseline of the report that stands is "
            f"{other if other != ours else 'an older version'}"
        )
    return lines


def _baseline(path: str | None, testset: TestSet) -> dict[str, Any] | None:
    """Read the baseline's report, which must be of the same set."""
    if path is None:
        return None
    report = read_report(path)
    ours, theirs = testset.describe(), report["testset"]
    if any(ours[key] != theirs.get(key) for key in SAME):
        raise ConfigError(
            f"{path}: the baseline was measured on {theirs['name']}, not on {testset.name}; run it on this set"
        )
    return report
