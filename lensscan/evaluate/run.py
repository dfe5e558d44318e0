"""One evaluation: score, measure, draw, and write a JSON and an HTML report per model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lensscan.errors import ConfigError
from lensscan.evaluate.anchors import anchor_lines, anchor_rows, load_anchors
from lensscan.evaluate.gradients import HOG, GradientsTraining, plan_gradients
from lensscan.evaluate.members import Lineup, line_up
from lensscan.evaluate.page import make_page
from lensscan.evaluate.plots import draw_plots, require_matplotlib
from lensscan.evaluate.predict import Scoring
from lensscan.evaluate.report import assess, make_report
from lensscan.evaluate.testsets import TestSet, open_testset
from lensscan.evaluate.written import file_stem, read_report, write_json
from lensscan.files import check_folder, replacing
from lensscan.nets.card import Card

__all__ = ["Evaluation", "evaluate"]

SAME = ("recipe_digest", "seed", "n", "sha256")
"""What two reports of one test set have in common; sets that are not sealed may have no hash of their truth."""


class Progress(Protocol):
    """Told how far a stage is: its name, what is done, and of what in all."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Take the state."""


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
        JSON report of a published baseline, run again on the same set; or ``hog``, which is trained here, on mocks of
        the set's own recipe, and reported beside the models.
    hog : int
        Mocks to train that one on.
    plots : bool
    overwrite : bool
        Make reports anew that stand.
    """

    models: Sequence[str]
    testset: str
    folder: Path
    baseline: str | None = None
    hog: int = 20_000
    plots: bool = True
    overwrite: bool = False


def evaluate(
    settings: Evaluation,
    progress: Progress = lambda what, done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Evaluate and return the paths of the HTML reports.

    A sealed set is opened once per reported model: reports that stand for the same weights are kept, with a word on
    what else was asked for and they do not show; one for other weights under the same name says how many versions
    have been measured.  A baseline that is to be trained has a report like the models'.

    Parameters
    ----------
    settings : Evaluation
    progress : callable
        Told (what, done, total).
    say : callable
        Told what is done, in lines.

    Raises
    ------
    LensscanError
        If a model, the set or the baseline cannot be used, or nothing can be written.
    """
    if settings.plots:
        require_matplotlib()
    plan = _plan(settings)
    testset, baseline, anchors = plan.testset, plan.baseline, load_anchors()
    if plan.stand(settings, say):
        say("these reports stand for these very weights; --overwrite makes them anew")
        return plan.paths(".html")
    check_folder(settings.folder)
    notes = settings.notes([model.card for model in plan.lineup.singles])
    for note in notes.values():
        say(note)
    trained = [plan.training.train(partial(progress, f"mocks for {HOG}"), say)] if plan.training else []
    models = [*plan.lineup.models, *(each.model for each in trained)]
    shown = partial(progress, "stamps")
    shown(0, testset.n)
    scored = settings.predict(plan.lineup.singles, testset, shown, trained)
    networks = scored.models[: len(plan.lineup.singles)]
    scored.models[:] = plan.lineup.predictions(networks) + scored.models[len(networks) :]
    say(
        f"{len(scored.rows)} stamps scored, {scored.failed} could not be; "
        f"measuring with {settings.replicates} resamples"
    )
    digest = testset.describe()["recipe_digest"]
    assessment = assess(scored, models[0].card.pixel_scale, settings.replicates, recipe_digest=digest, say=say)
    say("reports: what needs no network, and comparisons")
    reports = [make_report(assessment, k, testset, opened, settings.device) for k, opened in enumerate(plan.opened)]
    baseline = reports[-1] if trained else baseline
    for number, (model, report) in enumerate(zip(models, reports, strict=True)):
        report["baseline"] = _identity(baseline)
        report["notes"] = [notes[model.card.name]] if model.card.name in notes else []
        pair = partial(assessment.pair, number, len(reports) - 1) if trained else lambda figure: None
        report["anchors"] = anchor_rows(report, baseline, anchors, pair)
        for line in anchor_lines(report["anchors"]) if report is not baseline else []:
            say(f"{model.card.name}: {line}")
        say(f"{model.card.name}: writing the report")
        pictures = draw_plots(assessment, number, model, testset, report) if settings.plots else {}
        write_json(report, plan.paths(".json")[number])
        with replacing(plan.paths(".html")[number]) as name:
            name.write_text(make_page(read_report(plan.paths(".json")[number]), pictures), encoding="utf-8")
    return plan.paths(".html")


@dataclass(frozen=True, slots=True)
class _Plan:
    """What an evaluation will do, checked before any work.

    Attributes
    ----------
    testset : TestSet
    lineup : Lineup
    training : GradientsTraining, optional
        Of the baseline that is trained here; its report is the last.
    baseline : dict, optional
        Report of the baseline that was run before.
    cards : list of Card
        One for each report, as are the following.
    stems : list of Path
    histories : list of (opened, stands)
        As `_history` returns them.
    """

    testset: TestSet
    lineup: Lineup
    training: GradientsTraining | None
    baseline: dict[str, Any] | None
    cards: list[Card]
    stems: list[Path]
    histories: list[tuple[list[dict[str, Any]], bool]]

    @property
    def opened(self) -> list[list[dict[str, Any]]]:
        """Every opening of the set, this one last, for each report."""
        return [opened for opened, _ in self.histories]

    def paths(self, ending: str) -> list[Path]:
        """Return the files of the reports."""
        return [_beside(stem, ending) for stem in self.stems]

    def stand(self, settings: Evaluation, say: Callable[[str], None]) -> bool:
        """Return whether all that is asked for stands already, and say what of the rest is ignored.

        Reports beside which the baseline to be trained does not stand yet are made anew.
        """
        if settings.overwrite or not self.testset.sealed or not all(stands for _, stands in self.histories):
            return False
        reports = [read_report(path) for path in self.paths(".json")]
        if self.training and any((each.get("baseline") or {}).get("hash") != self.cards[-1].hash for each in reports):
            return False
        ours = reports[: len(self.lineup.models)]
        for line in dict.fromkeys(line for each in ours for line in _ignored(settings, each, self.baseline)):
            say(line)
        return True


def _plan(settings: Evaluation) -> _Plan:
    """Open and check everything that an evaluation needs."""
    testset = open_testset(settings.testset, settings.device)
    lineup = line_up(settings.models, settings.views)
    _require_fresh(lineup, testset)
    training = plan_gradients(testset, settings.hog, settings.device) if settings.baseline == HOG else None
    baseline = None if training else _baseline(settings.baseline, testset)
    cards = [model.card for model in lineup.models] + ([training.card()] if training else [])
    names = [card.name for card in cards]
    _require_names(lineup, names)
    stems = [settings.folder / file_stem(name, testset.name) for name in names]
    views = [settings.views or card.views for card in cards[: len(lineup.models)]] + [1] * bool(training)
    histories = [
        _history(stem, card, testset, each, settings.overwrite)
        for stem, card, each in zip(stems, cards, views, strict=True)
    ]
    return _Plan(testset, lineup, training, baseline, cards, stems, histories)


def _require_names(lineup: Lineup, names: Sequence[str]) -> None:
    """Raise a `ConfigError` for two reports of one name; those of an ensemble and its members cannot be made apart."""
    for group in lineup.groups:
        own = [group.model.card.name, *(lineup.singles[k].card.name for k in group.members)]
        for name in own:
            if own.count(name) > 1:
                raise ConfigError(
                    f"ensemble {own[0]}: two of it and its models are called {name}, and each has a report; train or "
                    "finish a model anew with --set name=NAME, and make the ensemble anew"
                )
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two models are called {name}; evaluate one at a time")


def _require_fresh(lineup: Lineup, testset: TestSet) -> None:
    """Raise a `ConfigError` for mocks that a model has learnt from: on those it looks better than on others."""
    found = testset.describe()
    what = f"test set {testset.name} holds the mocks of seed {found['seed']}"
    remedy = "on which it looks better than on others; take another set"
    for model in lineup.singles:
        if purpose := model.card.learnt_from(found["recipe_digest"], found["seed"], found.get("content", "")):
            raise ConfigError(f"{what}, the {purpose} of {model.card.name}, {remedy}")
    for group in lineup.groups:
        if found["recipe"] in group.ensemble.recipes and found["seed"] == group.ensemble.seed:
            raise ConfigError(f"{what}, the calibration of {group.model.card.name}, {remedy}")


def _beside(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def _history(
    stem: Path, card: Card, testset: TestSet, views: int, overwrite: bool = False
) -> tuple[list[dict[str, Any]], bool]:
    """Return every measurement on the set, the one to come last, and whether a report of these weights stands.

    What stands there but cannot be read is refused, as the list of the weights that have seen the set would be lost;
    with `overwrite` the list begins anew.
    """
    now = {"hash": card.hash, "time": datetime.now(UTC).isoformat(timespec="seconds"), "views": views}
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
    stands = same_set and old["model"].get("hash") == card.hash and _beside(stem, ".html").is_file()
    return [*earlier, now], stands and any(each["hash"] == card.hash for each in earlier)


def _identity(baseline: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what identifies a baseline, name and hash of its model, and how it was trained."""
    return None if baseline is None else {key: baseline["model"].get(key) for key in ("name", "hash", "training")}


def _ignored(settings: Evaluation, stands: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> list[str]:
    """Return a line for each option that a standing report was not made with."""
    name = stands["model"]["name"]
    views, resamples = stands["model"].get("views"), stands.get("bootstrap", {}).get("resamples")
    lines = []
    if settings.views is not None and settings.views != views:
        lines.append(f"{name}: --views {settings.views} is ignored, the report that stands has {views}")
    if settings.replicates != resamples:
        lines.append(f"{name}: --bootstrap {settings.replicates} is ignored, the report that stands has {resamples}")
    beside = stands.get("baseline") or {}
    if baseline is not None and baseline["model"].get("hash") != beside.get("hash"):
        other = beside.get("name", "none")
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
