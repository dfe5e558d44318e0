"""HOG trained beside a model: mocks of the set's recipe, scores on the very set, and the verdicts that it decides."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lensscan.cli.main import main
from lensscan.errors import ConfigError
from lensscan.evaluate import run, testsets
from lensscan.evaluate.anchors import Anchor, Calibrator
from lensscan.evaluate.gradients import Gradients, GradientsTraining, plan_gradients
from lensscan.evaluate.samples import draw_labelled, draw_sample
from lensscan.evaluate.testsets import SEEDS, Seal, SealedSet, open_testset, truth_hash
from lensscan.metrics.detection import auroc
from lensscan.mocks.dataset import Dataset
from lensscan.mocks.labels import ambiguous
from lensscan.mocks.recipes import load_recipe, make_recipe
from lensscan.mocks.seeds import DIFFICULTY as SEED
from lensscan.mocks.seeds import PURPOSES
from lensscan.nets.baseline import BASELINES
from lensscan.nets.model import Card, Model, build_network
from lensscan.survey.stamps import allocate

RECIPE = "argonne2017-single"
N, HOG = 90, 120
CLASSES = {"lens": 0.4, "undetectable": 0.2, "unlensed_source": 0.4}
MIXED = make_recipe({"base": RECIPE, "name": RECIPE, "classes": CLASSES}, "test")
SMALL = {"kind": "resnet", "widths": [8, 8], "depths": [1, 1], "squeeze": 4, "hidden": 8}


def anchor(model):
    """A published figure whose calibrator agrees with anything."""
    values = {"detection:auroc": 0.9, "detection:accuracy": 0.9}
    return Anchor("Paper", "table", "R", (RECIPE,), "higher", values, baseline=Calibrator(model, values, absolute=1.0))


def save_network(path, architecture, size=45):
    torch.manual_seed(1)
    module = build_network(architecture, 1, size)
    Model(Card(path.stem, architecture, ("g",), size, 0.18, label="lens"), module.eval()).save(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("hog")
    save_network(path / "one.safetensors", SMALL, 33)
    return path


def evaluate(folder, *arguments, model="one"):
    words = [folder / f"{model}.safetensors", *arguments, "--no-plots", "--bootstrap", "20"]
    return main(["evaluate", *map(str, words)])


def pretend(patch):
    """A published figure for the test recipe, whose tuning set has systems below the label rule."""
    patch.setattr(run, "load_anchors", lambda: (anchor("hog"),))
    patch.setattr(run, "open_testset", lambda text, device: SealedSet(text, MIXED, N, SEEDS["tune"]))


@pytest.fixture(scope="module")
def reports(folder):
    with pytest.MonkeyPatch.context() as patch:
        pretend(patch)
        assert evaluate(folder, "--testset", f"{RECIPE}:tune:{N}", "--baseline", "hog", "--hog", HOG, "-o", folder) == 0
    return {name: json.loads((folder / f"{name}--{RECIPE}-tune-{N}.json").read_text()) for name in ("one", "hog")}


def test_its_mocks_are_nobody_elses():
    assert SEED not in SEEDS.values()
    assert SEED % 10 == PURPOSES["validation"] == 1, "of a training with the seed 17,320,508 alone"


def test_it_decides_the_verdict(reports):
    rows = {row["figure"]: row for row in reports["one"]["anchors"]}
    assert set(rows) == {"detection:auroc", "detection:accuracy"}
    for row in rows.values():
        assert row["verdict"] == "worse", "random weights are no match for 0.9"
        assert row["baseline_model"] == "hog"
        assert row["baseline"]["low"] < row["baseline"]["value"] < row["baseline"]["high"]
        assert row["gain"]["paired"]
    assert rows["detection:auroc"]["baseline"] == reports["hog"]["detection"]["auroc"]


def test_it_is_scored_on_the_very_set(reports):
    """Its figure is that of the fit and the set made by hand."""
    fitted = BASELINES["hog"].fit(*draw_labelled(MIXED, HOG, SEED))
    drawn = draw_sample(MIXED, N, SEEDS["tune"])
    clear = ~ambiguous(drawn.truth)
    want = auroc(fitted.score(drawn.images[clear]), drawn.truth["is_lens"][clear])
    assert reports["hog"]["detection"]["auroc"]["value"] == pytest.approx(want, abs=2e-4)
    for key in ("n_scored", "n_lens", "n_other", "n_undetectable", "seed", "recipe_digest"):
        assert reports["hog"]["testset"][key] == reports["one"]["testset"][key]
    assert reports["hog"]["testset"]["n_undetectable"] == (~clear).sum() > 0


def test_reports_say_how_it_was_trained(reports, folder):
    trained = reports["one"]["baseline"]["training"]
    assert trained == reports["hog"]["model"]["training"]
    stated = {"mocks": HOG, "seed": SEED, "recipe": RECIPE, "recipe_digest": MIXED.digest, "features": 2304}
    assert stated.items() <= trained.items()
    assert reports["one"]["baseline"]["hash"] == reports["hog"]["model"]["hash"]
    assert "regression" not in reports["hog"]
    page = (folder / f"one--{RECIPE}-tune-{N}.html").read_text()
    assert "baseline recipe_digest" in page
    assert MIXED.digest in page


def test_it_is_one_more_model_of_the_paired_comparison(reports):
    (row,) = [row for row in reports["one"]["comparisons"] if row["figure"] == "detection:auroc"]
    assert row["other"] == "hog"
    gap = reports["one"]["detection"]["auroc"]["value"] - reports["hog"]["detection"]["auroc"]["value"]
    assert row["value"] == pytest.approx(gap, abs=1e-4)
    assert row["low"] < row["value"] < row["high"]


def test_its_report_serves_as_a_file(reports, folder, tmp_path, monkeypatch):
    pretend(monkeypatch)
    file = folder / f"hog--{RECIPE}-tune-{N}.json"
    assert evaluate(folder, "--testset", f"{RECIPE}:tune:{N}", "--baseline", file, "-o", tmp_path) == 0
    again = json.loads((tmp_path / f"one--{RECIPE}-tune-{N}.json").read_text())
    for row, before in zip(again["anchors"], reports["one"]["anchors"], strict=True):
        here, there = row.pop("gain"), before["gain"]
        assert (here["paired"], there["paired"]) == (False, True)
        assert here["value"] == pytest.approx(there["value"], abs=2e-5)
        assert here["high"] - here["low"] != pytest.approx(there["high"] - there["low"], rel=1e-3)
        assert row == {key: value for key, value in before.items() if key != "gain"}
    assert again["baseline"] == reports["one"]["baseline"]
    assert not (tmp_path / file.name).exists()


def test_a_sealed_set_is_not_opened_anew_for_what_stands(folder, tmp_path, capsys, monkeypatch):
    recipe = load_recipe(RECIPE)
    seal = Seal(40, 99, recipe.digest, truth_hash(recipe, 99, 40))
    monkeypatch.setattr(testsets, "read_seals", lambda: {RECIPE: {"smoke": seal}})
    plain = ("--testset", f"{RECIPE}:smoke", "-o", tmp_path)
    path = tmp_path / f"one--{RECIPE}-smoke.json"
    assert evaluate(folder, *plain) == 0
    assert json.loads(path.read_text())["baseline"] is None
    assert evaluate(folder, *plain, "--baseline", "hog", "--hog", 60) == 0
    made = path.read_bytes()
    assert json.loads(made)["baseline"]["name"] == "hog"
    capsys.readouterr()
    assert evaluate(folder, *plain, "--baseline", "hog", "--hog", 60) == 0
    assert "these reports stand" in capsys.readouterr().err
    assert path.read_bytes() == made


def test_what_a_mask_hides_is_filled_and_prior_odds_are_taken_off():
    training = GradientsTraining(load_recipe(RECIPE), 40)
    rng = np.random.default_rng(1)
    images = rng.normal(50, 5, (40, 1, 45, 45)).astype(np.float32)
    fitted = BASELINES["hog"].fit(images, np.arange(40) < 10)
    hog = Gradients(training, fitted, 10)
    batch = allocate(8, hog.frame())
    batch.images[:3] = images[:3]
    batch.mask_of(1)[0, 20:24, 20:24] = True
    batch.images[1, 0, 20:24, 20:24] = 0
    batch.close(3)
    holed = np.where(batch.mask[:3], np.nan, images[:3])
    np.testing.assert_array_equal(hog.logits(batch), fitted.score(holed))
    assert hog.card.calibration(0.0) == pytest.approx(np.log(3)), "one in four of its mocks is a lens"
    assert hog.card.hash == training.card().hash != GradientsTraining(training.recipe, 41).card().hash


def test_folders_need_their_recipe(tmp_path):
    recipe = load_recipe(RECIPE)
    Dataset(recipe, 5, 4, tmp_path / "known").write()
    assert plan_gradients(open_testset(str(tmp_path / "known")), 60).recipe == recipe
    changed = make_recipe({"base": RECIPE, "name": RECIPE, "label": {"snr": 4.5}}, "test")
    Dataset(changed, 5, 4, tmp_path / "changed").write()
    other = make_recipe({"base": RECIPE, "name": "my-own"}, "test")
    Dataset(other, 5, 4, tmp_path / "own").write()
    Dataset(recipe, SEED, 4, tmp_path / "same").write()
    for name, words in (
        ("changed", f"recipe {RECIPE} has changed since"),
        ("own", "names the recipe my-own, which is no shipped one"),
        ("same", "of the baseline's own mocks"),
    ):
        with pytest.raises(ConfigError, match=words) as raised:
            plan_gradients(open_testset(str(tmp_path / name)), 60)
        assert "\n" not in str(raised.value)


def test_refusals(folder, tmp_path, capsys):
    assert evaluate(folder, "--testset", f"{RECIPE}:tune:60", "--hog", 60, "-o", tmp_path / "out") == 2
    assert "only with --baseline hog" in capsys.readouterr().err
    for classes, words in (({"lens": 1.0, "undetectable": 1.0}, "lenses only"), ({"elliptical": 1.0}, "no lenses")):
        one_kind = make_recipe({"base": RECIPE, "name": "x", "classes": classes}, "test")
        with pytest.raises(ConfigError, match=words):
            plan_gradients(SealedSet("x", one_kind, 8, 3), 60)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_resnet50_decides_by_its_kind(folder, tmp_path, monkeypatch):
    """As the anchor of slpipe2019 names it; the weights are random."""
    monkeypatch.setattr(run, "load_anchors", lambda: (anchor("resnet50"),))
    save_network(folder / "slpipe.safetensors", {"kind": "resnet50", "scaling": "linear"})
    testset = ("--testset", f"{RECIPE}:tune:60", "-o", tmp_path)
    assert evaluate(folder, *testset, model="slpipe") == 0
    baseline = tmp_path / f"slpipe--{RECIPE}-tune-60.json"
    assert evaluate(folder, *testset, "--baseline", baseline) == 0
    rows = json.loads((tmp_path / f"one--{RECIPE}-tune-60.json").read_text())["anchors"]
    assert {row["baseline_model"] for row in rows} == {"slpipe"}
    assert [row["verdict"] for row in rows if row["figure"] == "detection:auroc"] == ["worse"]
