"""Several trainings of one file: joined figures, refusals, the summary that the command writes."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
import torch

from lensscan.cli.main import main
from lensscan.errors import ConfigError
from lensscan.evaluate.trainings import family_name, join_figures, join_parts, range_of, require_trainings
from lensscan.evaluate.trainingsreport import spread
from lensscan.nets.model import Card, Model, build_network

BANDS, SIZE = ("g", "r", "i", "z"), 64
TRAINING = {"recipe_digest": "r", "seedless_digest": "s"}
T_OF_THREE = 4.30265
"""Student's t, two degrees of freedom, 97.5 %."""
TESTSET = "des-griz:tune:80"


def network(seed: int, name: str = "toy", **changed: object) -> Model:
    architecture = {"kind": "resnet", "widths": [8, 8], "depths": [1, 1], "squeeze": 4, "hidden": 8}
    torch.manual_seed(seed)
    module = build_network(architecture, len(BANDS), SIZE)
    training = {**TRAINING, "seed": seed, **changed}
    training = {key: value for key, value in training.items() if value is not None}
    card = Card(f"{name}-seed-{seed}", architecture, BANDS, SIZE, 0.263, label="lens", training=training)
    return Model(card, module.eval())


def figure(value, low, high):
    return {"value": value, "low": low, "high": high}


def test_figures_of_three_trainings_are_joined():
    found = join_figures([figure(0.90, 0.88, 0.92), figure(0.92, 0.90, 0.94), figure(0.97, 0.95, 0.99)])
    assert found["value"] == pytest.approx(0.93)
    assert found["std"] == pytest.approx(np.std([0.90, 0.92, 0.97], ddof=1))
    assert (found["test_low"], found["test_high"]) == pytest.approx((0.91, 0.95))
    reach = np.hypot(0.02, T_OF_THREE * found["std"] / np.sqrt(3))
    assert (found["low"], found["high"]) == pytest.approx((0.93 - reach, 0.93 + reach), abs=1e-6)
    assert found["trainings"] == [0.90, 0.92, 0.97]


def test_equal_trainings_keep_the_interval_of_one():
    found = join_figures([figure(0.9, 0.8, 0.95)] * 3)
    assert (found["low"], found["high"], found["std"]) == pytest.approx((0.8, 0.95, 0.0))
    above = join_figures([figure(0.01, 0.02, 0.03)] * 2)
    assert above["low"] == pytest.approx(0.01), "a resampled distance lies above its own value"


def test_intervals_end_where_a_figure_must():
    """Two trainings that differ widely: Student's t of one degree reaches beyond what a share can be."""
    figures = [figure(0.90, 0.88, 0.92), figure(0.98, 0.97, 0.99)]
    assert join_figures(figures)["high"] > 1
    assert (join_figures(figures, (0.0, 1.0))["low"], join_figures(figures, (0.0, 1.0))["high"]) == (
        pytest.approx(join_figures(figures)["low"]),
        1.0,
    )
    part = {"auroc": figures, "log_loss": [figure(0.1, 0.09, 0.11), figure(0.4, 0.39, 0.41)], "deep": figures}
    first, second = ({key: each[k] for key, each in part.items()} for k in (0, 1))
    found = join_parts([first, second], "detection")
    assert found["auroc"]["high"] == 1.0
    assert found["log_loss"]["low"] == 0.0
    assert found["log_loss"]["high"] > 1.5
    assert found["deep"]["high"] > 1, "of an unknown figure nothing is known"
    cells = join_parts([{"0.01": {"cells": [[figures[0]]]}}, {"0.01": {"cells": [[figures[1]]]}}], "completeness")
    assert cells["0.01"]["cells"][0][0]["high"] == 1.0


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("tpr_at_fpr_0.001", (0, 1)),
        ("true_purity_prevalence_0.001", (0, 1)),
        ("ece_prevalence_0.5", (0, 1)),
        ("isotonic_largest", (0, 1)),
        ("group.quad.coverage.0.68.x", (0, 1)),
        ("coverage.0.95.joint_7", (0, 1)),
        ("posterior.above_0.8.delay.inside_68", (0, 1)),
        ("posterior.all.right_number", (0, 1)),
        ("tarp.joint_7.largest", (0, 1)),
        ("tarp.joint_7.mean", (-1, 1)),
        ("kappa", (-1, 1)),
        ("inspected_per_lens_top_100_prevalence_0.001", (1, np.inf)),
        ("group.quad.errors.x.half_width_68", (0, np.inf)),
        ("posterior.all.delay.half_width_68", (0, np.inf)),
        ("selective.0.9.x", (0, np.inf)),
        ("stated_over_true_top_100_prevalence_0.001", (0, np.inf)),
        ("errors.x.r2", (-np.inf, 1)),
        ("gain_over_light.x", (-np.inf, 1)),
        ("errors.x.bias", (-np.inf, np.inf)),
        ("nll.joint_7", (-np.inf, np.inf)),
        ("errors.x.low_68", (-np.inf, np.inf)),
    ],
)
def test_ranges_of_figures(name, ends):
    assert range_of(name) == ends


def test_what_one_training_does_not_know_the_summary_does_not():
    assert join_figures([figure(0.9, 0.8, 1.0), figure(None, 0.8, None)]) is None
    open_end = join_figures([figure(9.0, 8.0, None), figure(9.0, 7.0, 11.0)])
    assert (open_end["high"], open_end["test_high"]) == (None, None)
    assert open_end["test_low"] == 7.5


def test_figures_are_found_wherever_they_stand():
    part = {"a": figure(1, 0, 2), "deep": {"b": figure(2, 1, 3), "edges": [1, 2]}, "rows": [[figure(3, 2, 4)]], "n": 7}
    found = join_parts([part, part])
    assert set(found) == {"a", "deep", "rows"}
    assert set(found["deep"]) == {"b"}
    assert found["rows"][0][0]["value"] == 3


def test_names_of_the_family():
    assert family_name(["a-seed-9", "a-seed-10"]) == "a-2-trainings"
    assert family_name(["one", "two"]) == "one+two-2-trainings"


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([network(1)], "two models or more"),
        ([network(1), network(2, recipe_digest="other")], "recipe differs"),
        ([network(1), network(2, seedless_digest="other")], "training file differs"),
        ([network(1), network(1, "again")], "seed 1"),
        ([network(1), network(2, seedless_digest=None)], "does not state its seedless_digest"),
    ],
)
def test_other_models_are_refused(models, words):
    with pytest.raises(ConfigError, match=words) as error:
        require_trainings([model.card for model in models])
    assert "\n" not in str(error.value)


def test_spread_has_the_digits_of_the_deviation():
    assert spread({"value": 0.93456, "std": 0.0123}) == "0.935 +- 0.012"
    assert spread({"value": 0.93456, "std": 0.0}) == "0.9346 +- 0"


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Reports and summary of three trainings, without plots."""
    folder = tmp_path_factory.mktemp("trainings")
    for seed in (1, 2, 3):
        network(seed).save(folder / f"toy-{seed}.safetensors")
    models = [str(folder / f"toy-{seed}.safetensors") for seed in (1, 2, 3)]
    words = ["--testset", TESTSET, "-o", str(folder / "out"), "--no-plots", "--bootstrap", "8"]
    assert main(["evaluate", *models, *words, "--trainings"]) == 0
    return folder / "out"


def test_the_summary_is_that_of_the_reports(reports):
    stem = "toy-3-trainings--des-griz-tune-80"
    summary = json.loads((reports / f"{stem}.json").read_text())
    singles = [json.loads((reports / f"toy-seed-{k}--des-griz-tune-80.json").read_text()) for k in (1, 2, 3)]
    for section, key in (("detection", "auroc"), ("regression", "errors.theta_E.abs_68")):
        values = [single[section][key]["value"] for single in singles]
        found = summary[section][key]
        assert found["trainings"] == values
        assert found["value"] == pytest.approx(np.mean(values), rel=1e-4)
        assert found["std"] == pytest.approx(np.std(values, ddof=1), rel=1e-4)
        assert found["low"] <= found["test_low"] <= found["test_high"] <= found["high"]
    known = {key for key, found in singles[0]["detection"].items() if all(s["detection"][key]["value"] is not None
             for s in singles)}  # fmt: skip
    assert set(summary["detection"]) == known
    assert [each["seed"] for each in summary["trainings"]] == [1, 2, 3]
    page = (reports / f"{stem}.html").read_text()
    assert "&plusmn;" in page
    for words in ("Detection", "Regression", "Completeness", "False positives"):
        assert f"<h2>{words}</h2>" in page
    assert not re.search(r">\s*nan\s*<", page)
    for tag in ("table", "details", "section", "h2"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>"), tag


def test_what_a_report_is_to_be_read_with_stands_in_the_summary_once(reports, tmp_path):
    """As where models are scored with other views than their cards were calibrated with."""
    from lensscan.evaluate.trainingsreport import lines, summarise

    pages = []
    for path, notes in zip(sorted(reports.glob("toy-seed-*.json")), (["a < b"], ["a < b"], ["c"]), strict=True):
        pages.append(tmp_path / path.with_suffix(".html").name)
        (tmp_path / path.name).write_text(json.dumps(json.loads(path.read_text()) | {"notes": notes}))
    said = []
    page = summarise(pages, [1, 2, 3], None, said.append)
    assert json.loads(page.with_suffix(".json").read_text())["notes"] == ["a < b", "c"]
    assert re.findall('<p class="warn">(.*?)</p>', page.read_text()) == ["a &lt; b", "c"]
    assert said == lines(json.loads(page.with_suffix(".json").read_text()))
    assert said.count("a < b") == said.count("c") == 1


def test_a_published_figure_is_judged_by_the_mean(reports, monkeypatch):
    """Three trainings that scatter widely are not better than what the lowest of them alone would beat."""
    from lensscan.evaluate import trainings
    from lensscan.evaluate.anchors import Anchor, Calibrator

    paths = sorted(reports.glob("toy-seed-*.json"))
    texts = [json.loads(path.read_text()) for path in paths]
    values = [text["regression"]["errors.theta_E.abs_68"]["value"] for text in texts]
    name, published = "regression:errors.theta_E.abs_68", float(np.mean(values)) + 1e-3
    anchor = Anchor("a paper", "a table", "R", ("des-griz",), "lower", {name: published})
    anchor = dataclasses.replace(anchor, baseline=Calibrator("toy-3-trainings", {name: np.mean(values)}, 0.01))
    monkeypatch.setattr(trainings, "load_anchors", lambda: (anchor,))
    alone = trainings.join_reports(paths, [1, 2, 3])
    (row,) = alone["anchors"]
    assert "has not been run again" in row["verdict"]
    (row,) = trainings.join_reports(paths, [1, 2, 3], baseline=alone)["anchors"]
    assert row["ours"]["value"] == pytest.approx(np.mean(values))
    assert row["verdict"] == "equal within the interval"


def test_models_that_are_no_trainings_are_refused_before_the_work(tmp_path, capsys):
    for seed, model in ((1, network(1)), (2, network(2, recipe_digest="other"))):
        model.save(tmp_path / f"{seed}.safetensors")
    models = [str(tmp_path / f"{seed}.safetensors") for seed in (1, 2)]
    words = ["--testset", TESTSET, "-o", str(tmp_path / "out"), "--no-plots", "--trainings"]
    assert main(["evaluate", *models, *words]) == 2
    text = capsys.readouterr().err
    assert "their recipe differs" in text
    assert text.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert main(["evaluate", models[0], "--transfer", "--trainings"]) == 2
    assert "--transfer does not look at --trainings" in capsys.readouterr().err
