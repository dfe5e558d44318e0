"""Published figures: read strictly, shown beside the right sets, and called better only behind the baseline."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from lensscan.config import find, read_toml
from lensscan.errors import ConfigError
from lensscan.evaluate.anchors import (
    Anchor,
    Calibrator,
    anchor_lines,
    anchor_rows,
    figure_at,
    gain_over,
    load_anchors,
)
from lensscan.evaluate.page import anchor_table
from lensscan.metrics.bootstrap import Estimate
from lensscan.nets.baseline import BASELINES
from lensscan.nets.classic.registry import PUBLISHED
from lensscan.train.settings import TrainSettings
from lensscan.train.stream import MockStream

FIGURE = "regression:errors.x.abs_68"
ALEXNET = Calibrator("alexnet", {FIGURE: 0.05}, tolerance=0.25)
GAINED = ((6.0, 0.6, 0.3), (10.0, 0.4, 0.2))
ANCHOR = Anchor("Paper 2017", "table 1", "R", ("toy",), "lower", {FIGURE: 0.04}, baseline=ALEXNET)


def report(value, half=0.001, name="ours", kind="resnet", recipe="toy", **training):
    found = {"value": value, "low": value - half, "high": value + half}
    return {
        "model": {"name": name, "kind": kind, "training": training},
        "testset": {"recipe": recipe},
        "regression": {"errors.x.abs_68": found},
        "completeness": {"0.01": {"cmu": found}},
    }


def verdict(ours, baseline, anchor=ANCHOR):
    (row,) = anchor_rows(ours, baseline, (anchor,))
    return row["verdict"]


def test_better_needs_the_baseline():
    assert verdict(report(0.03), None) == "no verdict: alexnet has not been run again on this set"
    assert verdict(report(0.03), report(0.05, name="alexnet")) == "better"
    assert verdict(report(0.03), report(0.06, name="mine", kind="alexnet")) == "better"
    assert verdict(report(0.06), report(0.05, name="alexnet")) == "worse"
    assert verdict(report(0.0395), report(0.05, name="alexnet")) == "equal within the interval"


FULL = {"mocks": 16_000, "epochs": 200}
ASKED = dataclasses.replace(ANCHOR, baseline=dataclasses.replace(ALEXNET, **FULL))


AGAIN = "evaluate it again, with --overwrite"


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"mocks": 500, "epochs": 5}, "no verdict: alexnet had 500 mocks, 16,000 are asked"),
        ({"mocks": 16_000, "epochs": 5}, "no verdict: alexnet had 5 epochs, 200 are asked"),
        ({"mocks": 16_000, "steps": 50_000, "batch": 32}, "no verdict: alexnet had 100 epochs, 200 are asked"),
        ({"mocks": 16_000}, f"no verdict: alexnet states no epochs of its training; {AGAIN}"),
        ({}, f"no verdict: alexnet states no mocks of its training; {AGAIN}"),
        (FULL, "better"),
        ({"mocks": 16_000, "steps": 100_000, "batch": 32}, "better"),
    ],
)
def test_a_baseline_cut_short_that_happens_to_land_decides_nothing(training, words):
    assert verdict(report(0.03), report(0.05, name="alexnet", **training), ASKED) == words


def test_older_reports_of_gradients_state_their_training_beside_the_model():
    older = report(0.05, name="alexnet")
    del older["model"]["training"]
    assert verdict(report(0.03), older | {"training": FULL}, ASKED) == "better"


def test_what_the_papers_trained_on_is_what_our_files_of_their_models_do():
    """Every baseline is asked for a length, and the shipped training file of it has that length."""
    files = {"alexnet": ("hezaveh2017-alexnet", "hezaveh2017-64-alexnet"), "holismokes-cnn": ("holismokes4-cnn",)}
    files |= {"argonne": ("argonne2017",), "resnet50": ("slpipe2019-resnet50",)}
    for anchor in load_anchors():
        baseline = anchor.baseline
        if baseline is None or baseline.model == "hog":
            assert baseline is None or (baseline.mocks, baseline.epochs) == (20_000, 0)
            continue
        name = next(each for each in files[baseline.model] if baseline.values or "-64-" in each)
        settings = TrainSettings.from_mapping(read_toml(find("training", name)), name)
        stream = MockStream(None, settings.stream, settings.batch, settings.seed)
        made = (stream.newest(settings.steps - 1) + 1) * settings.stream.chunk
        mocks = stream.order.total if settings.stream.epochs else made
        whole = {"mocks": mocks, "steps": settings.steps, "batch": settings.batch}
        assert (baseline.shortfall(whole), bool(baseline.epochs)) == ("", True), name
        assert "epochs" in baseline.shortfall(whole | {"steps": settings.steps * 9 // 10}), name


def test_a_rounded_figure_stands_for_all_that_rounds_to_it():
    """0.04 in steps of 0.01 may be 0.035 or 0.045."""
    rounded = dataclasses.replace(ANCHOR, resolution=0.01)
    again = report(0.05, name="alexnet")
    equal = "equal within the interval and the rounding of the paper"
    assert verdict(report(0.0395), again, rounded) == "equal within the interval"
    assert verdict(report(0.0365), again, rounded) == verdict(report(0.0435), again, rounded) == equal
    assert verdict(report(0.0335), again, rounded) == "better"
    assert verdict(report(0.0465), again, rounded) == "worse"
    (row,) = anchor_rows(report(0.03), again, (rounded,))
    assert row["resolution"] == 0.01
    assert anchor_lines([row])[0].startswith("errors.x.abs_68: published 0.04 (in steps of 0.01), alexnet again 0.05")


def test_figures_of_the_challenge_need_sets_of_its_size():
    anchor = Anchor("Challenge", "table", "R", ("toy",), "higher", {"detection:tpr10": 0.4})
    ours = {"model": {"name": "ours"}, "detection": {"tpr10": {"value": 0.5, "low": 0.4, "high": 0.6}}}
    sets = {n: ours | {"testset": {"recipe": "toy", "n_scored": n - 3, "n_failed": 3}} for n in (100_000, 200_000)}
    assert "100,000 there and 200,000 here" in verdict(sets[200_000], None, anchor)
    assert verdict(sets[100_000], None, anchor).startswith("no verdict: the paper has no simple baseline")


def test_a_set_that_is_easier_than_the_papers_decides_nothing():
    assert verdict(report(0.03), report(0.03, name="alexnet")).startswith("not comparable: alexnet reaches 0.03 here")
    assert "needs alexnet" in verdict(report(0.03), report(0.05, name="lenet", kind="lenet"))


def test_context_never_has_a_verdict():
    context = Anchor("Survey", "abstract", "R", ("*",), "higher", {"completeness:0.01.cmu": 0.9})
    assert verdict(report(0.99), report(0.9, name="alexnet"), context) == "context: other data"
    no_baseline = Anchor("Paper", "table", "R", ("toy",), "lower", {FIGURE: 0.04})
    assert verdict(report(0.01), report(0.05), no_baseline).startswith("no verdict: the paper has no simple baseline")


def test_rows_in_words():
    context = Anchor("Survey", "abstract", "R", ("*",), "higher", {"completeness:0.01.cmu": 0.9})
    rows = anchor_rows(report(0.03), report(0.051, name="again", kind="alexnet"), (ANCHOR, context))
    assert len(rows) == 2
    (line,) = anchor_lines(rows)
    said = "published 0.04, again again 0.051, here 0.03 (smaller by 41 % [39, 43], unpaired); better"
    assert line == f"errors.x.abs_68: {said}  [Paper 2017]"
    remembered = Anchor("Paper", "table", "M", ("toy",), "lower", {FIGURE: 0.04})
    (line,) = anchor_lines(anchor_rows(report(0.03), None, (remembered,)))
    assert line.startswith("errors.x.abs_68: published 0.04 (from memory), here 0.03; no verdict")


def test_the_gain_over_the_baseline():
    """For one minus a ratio the relative errors add up in quadrature, for a difference the errors themselves."""
    ours, rerun = ({"value": value, "low": value - low, "high": value + high} for value, low, high in GAINED)
    smaller = gain_over(ours, rerun, "lower")
    assert smaller["value"] == pytest.approx(0.4)
    assert smaller["low"] == pytest.approx(0.4 - 0.6 * math.hypot(0.05, 0.04))
    assert smaller["high"] == pytest.approx(0.4 + 0.6 * math.hypot(0.1, 0.02))
    more = gain_over(ours, rerun, "higher")
    assert more["value"] == pytest.approx(-4.0)
    assert more["low"] == pytest.approx(-4.0 - math.hypot(0.6, 0.2))
    assert more["high"] == pytest.approx(-4.0 + math.hypot(0.3, 0.4))
    assert gain_over(ours | {"low": None}, rerun, "lower") == smaller | {"high": None}
    assert gain_over(ours, rerun | {"value": 0.0}, "lower")["value"] is None


def test_the_gain_over_a_baseline_on_the_same_resamples_is_paired():
    """Errors that go up and down together leave nothing of their scatter in the ratio or the difference."""
    luck = np.random.default_rng(1).normal(1.0, 0.1, 400)
    ours, rerun = (Estimate.of(value, value * luck) for value in (0.03, 0.05))
    (row,) = anchor_rows(report(0.03), report(0.05, name="alexnet"), (ANCHOR,), lambda figure: (ours, rerun))
    assert row["gain"] == pytest.approx({"value": 0.4, "low": 0.4, "high": 0.4, "paired": True})
    assert "(smaller by 40 % [40, 40], paired)" in anchor_lines([row])[0]
    shifted = Estimate.of(0.9, 0.9 + luck), Estimate.of(0.8, 0.8 + luck)
    tenth = {"value": 0.1, "low": 0.1, "high": 0.1, "paired": True}
    assert gain_over({}, {}, "higher", shifted) == pytest.approx(tenth)
    (apart,) = anchor_rows(report(0.03), report(0.05, name="alexnet"), (ANCHOR,))
    assert not apart["gain"]["paired"]
    assert apart["gain"]["low"] < 0.4 < apart["gain"]["high"]
    nothing = Estimate.of(0.0, np.zeros(400))
    assert gain_over({}, {}, "lower", (ours, nothing)) == dict.fromkeys(("value", "low", "high")) | {"paired": True}


def test_a_recipe_far_from_the_papers_stands_over_the_baseline_alone():
    anchor = Anchor("Paper", "a third", "R", ("toy",), "lower", figures=(FIGURE,), baseline=Calibrator("alexnet"))
    (row,) = anchor_rows(report(0.03), report(0.06, name="alexnet"), (anchor,))
    assert row["published"] is None
    assert row["verdict"].startswith("over the baseline alone")
    (line,) = anchor_lines([row])
    assert "published" not in line
    assert "alexnet again 0.06, here 0.03 (smaller by 50 %" in line
    assert "nan" not in anchor_table({"anchors": [row]}).lower()
    assert verdict(report(0.03), None, anchor) == "no verdict: alexnet has not been run again on this set"
    small = [each for each in load_anchors() if "hezaveh2017-64" in each.recipes]
    assert len(small) == 1
    assert not small[0].values, "never beside table 1"
    of_table = next(each for each in load_anchors() if "hezaveh2017" in each.recipes)
    assert set(of_table.values) <= set(small[0].figures)


def test_rows_belong_to_the_recipe_and_to_measured_figures():
    assert anchor_rows(report(0.03, recipe="other"), None, (ANCHOR,)) == []
    missing = Anchor("Paper", "table", "R", ("toy",), "higher", {"detection:tpr0": 0.1})
    assert anchor_rows(report(0.03), None, (missing,)) == []
    assert figure_at({"detection": {"tpr0": {"value": None}}}, "detection:tpr0") is None


def test_higher_is_better_where_the_entry_says_so():
    baseline = Calibrator("hog", {FIGURE: 0.84}, absolute=0.02)
    anchor = Anchor("Challenge", "table", "R", ("toy",), "higher", {FIGURE: 0.9}, baseline=baseline)
    assert verdict(report(0.95), report(0.83, name="hog"), anchor) == "better"
    assert verdict(report(0.85), report(0.85, name="hog"), anchor) == "worse"
    assert verdict(report(0.95), report(0.87, name="hog"), anchor).startswith("not comparable")


def test_shipped_anchors():
    anchors = load_anchors()
    assert len(anchors) >= 10
    for anchor in anchors:
        assert anchor.paper
        assert anchor.source
        assert anchor.baseline is None or set(anchor.baseline.values) <= set(anchor.values)
        sections = {figure.partition(":")[0] for figure in (*anchor.values, *anchor.figures)}
        assert sections <= {"detection", "regression", "completeness", "images", "modular", "survey"}
    hezaveh = next(anchor for anchor in anchors if "hezaveh2017" in anchor.recipes)
    assert list(hezaveh.values.values()) == [0.02, 0.04, 0.04, 0.04, 0.04]
    assert hezaveh.resolution == 0.01


def test_the_papers_models_are_called_as_here():
    """A verdict needs a report of the paper's model by this very name; one that nothing here has is never reached."""
    models = {anchor.baseline.model for anchor in load_anchors() if anchor.baseline is not None}
    assert models <= set(PUBLISHED) | set(BASELINES)


def test_what_cannot_be_judged_is_not():
    ours = report(0.02)
    (figure,) = ours["regression"].values()
    figure |= {"low": None, "high": None}
    assert "no interval" in verdict(ours, report(0.05, name="alexnet"))
    figure["value"] = float("nan")
    assert anchor_rows(ours, None, (ANCHOR,)) == []


def test_recipes_of_the_anchors_exist_or_are_any():
    from lensscan.config import shipped

    named = {recipe for anchor in load_anchors() for recipe in anchor.recipes}
    assert named - {"*"} <= set(shipped("recipes"))


def test_strict_reading(tmp_path):
    path = tmp_path / "anchors.toml"
    entry = '[[anchor]]\npaper = "P"\nsource = "S"\ntag = "{}"\nrecipes = ["*"]\nbetter = "{}"\nvalues = {{}}\n'
    path.write_text(entry.format("X", "lower"))
    with pytest.raises(ConfigError, match="tag must be R or M"):
        load_anchors(path)
    path.write_text(entry.format("M", "lower") + "resolution = -0.1\n")
    with pytest.raises(ConfigError, match="resolution must not be negative"):
        load_anchors(path)
    path.write_text(entry.format("M", "lower") + '[anchor.baseline]\nmodel = "hog"\nepochs = 5\n')
    with pytest.raises(ConfigError, match=r"epochs of baseline\.mocks"):
        load_anchors(path)
    path.write_text(entry.format("M", "lower") + "who = 1\n")
    with pytest.raises(ConfigError, match="unknown key 'who'"):
        load_anchors(path)
