"""The command end to end on small networks: reports, pages, comparisons, openings, refusals of one line."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest
import torch

from lensscan.cli.main import main
from lensscan.evaluate import testsets
from lensscan.evaluate.testsets import Seal, truth_hash
from lensscan.mocks.folder import MockFolder
from lensscan.mocks.recipes import load_recipe
from lensscan.nets.model import Card, Model, build_network, make_trivial

BANDS = ("g", "r", "i", "z")
N = 150


def network(seed, name, bands=BANDS, size=64):
    architecture = {"kind": "resnet", "widths": [8, 8], "depths": [1, 1], "squeeze": 4, "hidden": 8}
    torch.manual_seed(seed)
    module = build_network(architecture, len(bands), size)
    return Model(Card(name, architecture, bands, size, 0.263, label="lens"), module.eval())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two networks with random weights and a model without posteriors."""
    path = tmp_path_factory.mktemp("models")
    network(1, "one").save(path / "one.safetensors")
    network(2, "two", size=48).save(path / "two.safetensors")
    make_trivial(BANDS, 64, 0.263).save(path / "trivial.safetensors")
    network(3, "narrow", bands=("g", "y")).save(path / "narrow.safetensors")
    return path


def command(folder, *names):
    return ["evaluate", *(str(folder / f"{name}.safetensors") for name in names), "--bootstrap", "8", "--debug"]


@pytest.fixture(scope="module")
def reports(folder):
    """Reports of all three, without plots."""
    out = folder / "reports"
    arguments = ("--testset", f"des-griz:tune:{N}", "-o", str(out), "--no-plots")
    assert main([*command(folder, "one", "two", "trivial"), *arguments]) == 0
    return out


@pytest.fixture(scope="module")
def pictured(folder):
    """The page of one model, with plots."""
    out = folder / "pictured"
    assert main([*command(folder, "one"), "--testset", "des-griz:tune:80", "-o", str(out)]) == 0
    return (out / "one--des-griz-tune-80.html").read_text()


def load(reports, name):
    return json.loads((reports / f"{name}--des-griz-tune-{N}.json").read_text())


def page(reports, name):
    return (reports / f"{name}--des-griz-tune-{N}.html").read_text()


def test_every_number_has_its_interval(reports):
    report = load(reports, "one")
    for section in ("detection", "regression"):
        assert len(report[section]) > 10
        for name, found in report[section].items():
            assert set(found) == {"value", "low", "high"}, name
            assert found["value"] is None or found["low"] is not None, name
    assert report["bootstrap"]["resamples"] == 8
    assert report["testset"]["n_lens"] + report["testset"]["n_other"] + report["testset"]["n_undetectable"] == N
    assert "10000 are needed" in report["omitted"]["tpr_at_fpr_0.001"]


def test_a_model_without_posteriors_has_no_regression(reports):
    report = load(reports, "trivial")
    assert "regression" not in report
    assert "<h2>Detection</h2>" in page(reports, "trivial")
    assert "Lens parameters" not in page(reports, "trivial")
    assert "Lens parameters" in page(reports, "one")


def test_views_that_the_card_was_not_calibrated_with_are_told(folder, reports, tmp_path, capsys):
    arguments = ("--testset", "des-griz:tune:60", "--views", "8", "-o", tmp_path)
    assert evaluate(folder / "one.safetensors", *arguments) == 0
    words = "one: scored with 8 views, the logit was calibrated with 1: probabilities may be a little off"
    assert words in capsys.readouterr().err
    report = json.loads((tmp_path / "one--des-griz-tune-60.json").read_text())
    assert (report["notes"], report["model"]["views"]) == ([words], 8)
    assert words in (tmp_path / "one--des-griz-tune-60.html").read_text()
    assert load(reports, "one")["notes"] == []


def test_models_are_compared_in_pairs(reports):
    ours, theirs = load(reports, "one"), load(reports, "two")
    left = {(row["other"], row["figure"]): row["value"] for row in ours["comparisons"]}
    right = {(row["other"], row["figure"]): row["value"] for row in theirs["comparisons"]}
    assert left["two", "detection:auroc"] == pytest.approx(-right["one", "detection:auroc"])
    gap = ours["detection"]["auroc"]["value"] - theirs["detection"]["auroc"]["value"]
    assert left["two", "detection:auroc"] == pytest.approx(gap, abs=1e-4)
    assert ("two", "regression:errors.theta_E.abs_68") in left
    assert ("trivial", "regression:errors.theta_E.abs_68") not in left


def test_pages_stand_alone(reports, pictured):
    assert "tuning and looking only" in pictured
    assert pictured.count("data:image/png;base64,") >= 10
    assert not re.search(r'(src|href)="(?!data:|#)', pictured), "nothing from elsewhere"
    for words in ("Detection", "In a survey", "Calibration of the posterior", "Galleries"):
        assert f"<h2>{words}</h2>" in pictured
    assert "nan" not in re.sub(r'base64,[^"]*', "", pictured).lower().replace("provenance", "")
    assert "Threshold: even odds." in pictured
    assert re.search(r"Selected: left out, \d+ non-lenses show too few false positives; 1000 are needed\.", pictured)
    assert "<h2>Compared with other models</h2>" in page(reports, "one")
    assert "data:image" not in page(reports, "one")


class Nesting(HTMLParser):
    """Fails where a tag is closed that is not the open one."""

    def __init__(self):
        super().__init__()
        self.stack = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack, f"</{tag}> without a beginning"
        assert self.stack.pop() == tag


def test_tags_are_closed(reports, pictured):
    for text in (pictured, page(reports, "one"), page(reports, "trivial")):
        parser = Nesting()
        parser.feed(re.sub(r'base64,[^"]*', "", text))
        assert parser.stack == []


def evaluate(*arguments):
    return main(["evaluate", *map(str, arguments), "--no-plots", "--bootstrap", "4"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("one", "--testset", "des-griz:nothing"), 2, "of recipe des-griz there are"),
        (("narrow", "--testset", "des-griz:tune:8"), 2, "the model wants y"),
        (("missing", "--testset", "des-griz:tune:8"), 2, "no file"),
        (("one", "one", "--testset", "des-griz:tune:8"), 2, "two models are called one"),
        (("one", "--testset", "des-griz:tune:8", "--baseline", "no.json"), 2, "no.json: no such file; give the JSON"),
        (("one",), 2, "give at least one MODEL and --testset"),
        (("one", "--testset", "des-griz:tune:8", "--set", "size=48"), 2, "--testset does not look at --set"),
        (("one", "--testset", "des-griz:tune:8", "-n", "60"), 2, "--testset does not look at --number"),
        (("one", "--testset", "des-griz:tune:8", "--epochs", "3"), 2, "--testset does not look at --epochs"),
        (("one", "--testset", "no/folder"), 2, "no such folder"),
    ],
)
def test_refusals_are_one_line(folder, tmp_path, capsys, arguments, code, words):
    known = ("one", "narrow", "missing")
    changed = [str(folder / f"{word}.safetensors") if word in known else word for word in arguments]
    assert evaluate(*changed, "-o", tmp_path) == code
    text = capsys.readouterr().err
    assert words in text
    assert text.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_set_that_a_model_learnt_from_is_refused(folder, tmp_path, capsys):
    """By the seed; of a training from a folder by what is in there, wherever it stands, and not by the seed."""
    path = tmp_path / "mocks"
    assert main(["simulate", "des-griz", "-n", "4", "--seed", "10", "-o", str(path)]) == 0
    capsys.readouterr()
    content = MockFolder(str(path), "mocks").content
    said = {"recipe_digest": load_recipe("des-griz").digest, "seed": 1}
    cases = {
        "simulated": (said, "the training of simulated"),
        "stored": ({"folder": {"content": content}}, "the training of stored"),
        "yardstick": (said | {"mocks_of_seed": 10, "seed": 7}, "the training of yardstick"),
    }
    for name, (training, words) in cases.items():
        model = network(5, name)
        Model(dataclasses.replace(model.card, training=training), model.module).save(tmp_path / f"{name}.safetensors")
        assert evaluate(tmp_path / f"{name}.safetensors", "--testset", path, "-o", tmp_path / "out") == 2
        text = capsys.readouterr().err
        assert f"holds the mocks of seed 10, {words}, on which" in text
        assert text.count("\n") == 1
    card = dataclasses.replace(network(5, "m").card, training=said | {"folder": {"content": "of another"}})
    assert not card.learnt_from(said["recipe_digest"], 10, content)
    assert not card.learnt_from("of another recipe", 11)
    assert [card.learnt_from(said["recipe_digest"], seed) for seed in (11, 12, 13)] == ["validation", "calibration", ""]


def test_a_folder_that_cannot_be_written_is_found_before_the_work(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    model = folder / "one.safetensors"
    assert evaluate(model, "--testset", "des-griz:tune:8", "-o", tmp_path / "file" / "reports") == 1
    said = capsys.readouterr().err
    assert "cannot write" in said
    assert "scored" not in said


def test_a_report_of_another_format_in_the_way_is_not_lost_unasked(folder, tmp_path, capsys):
    path = tmp_path / "one--des-griz-tune-60.json"
    path.write_text('{"format": 0, "model": {"name": "one"}, "testset": {"name": "des-griz:tune:60"}}')
    command = (folder / "one.safetensors", "--testset", "des-griz:tune:60", "-o", tmp_path)
    assert evaluate(*command) == 2
    assert "move it away, or give --overwrite" in capsys.readouterr().err
    assert '"format": 0' in path.read_text()
    assert evaluate(*command, "--overwrite") == 0
    assert json.loads(path.read_text())["format"] == 1


def test_a_baseline_of_another_recipe_is_refused(folder, reports, tmp_path, capsys):
    """Sets for tuning have one seed for all recipes and no hash: number and seed alone do not make them the same."""
    report = load(reports, "two")
    report["testset"] |= {"recipe": "hsc-griz", "recipe_digest": "0" * 64}
    (tmp_path / "other.json").write_text(json.dumps(report))
    arguments = ("--testset", f"des-griz:tune:{N}", "--baseline", tmp_path / "other.json", "-o", tmp_path / "out")
    assert evaluate(folder / "one.safetensors", *arguments) == 2
    assert "run it on this set" in capsys.readouterr().err


def test_a_baseline_of_another_set_is_refused(folder, reports, tmp_path, capsys):
    other = reports / f"two--des-griz-tune-{N}.json"
    model = folder / "one.safetensors"
    assert evaluate(model, "--testset", "des-griz:tune:8", "--baseline", other, "-o", tmp_path) == 2
    assert "run it on this set" in capsys.readouterr().err


@pytest.fixture
def sealed(monkeypatch):
    recipe = load_recipe("des-griz")
    seal = Seal(40, 99, recipe.digest, truth_hash(recipe, 99, 40))
    monkeypatch.setattr(testsets, "read_seals", lambda: {"des-griz": {"smoke": seal}})


def test_a_sealed_set_is_opened_once_per_model(folder, tmp_path, capsys, sealed):
    command = (folder / "one.safetensors", "--testset", "des-griz:smoke", "-o", tmp_path)
    path = tmp_path / "one--des-griz-smoke.json"
    assert evaluate(*command) == 0
    stages = ("one: detection", "one: parameters of", "one: images", "reports: what", "one: writing the report")
    said = capsys.readouterr().err
    assert sorted(stages, key=said.index) == list(stages)
    first = path.read_bytes()
    assert evaluate(*command) == 0
    assert "these reports stand" in capsys.readouterr().err
    assert path.read_bytes() == first
    baseline = tmp_path / "baseline.json"
    baseline.write_bytes(first)
    others = ("--views", "8", "--bootstrap", "9", "--baseline", baseline)
    assert main(["evaluate", *map(str, (*command, *others))]) == 0
    said = capsys.readouterr().err
    for words in ("--views 8 is ignored", "--bootstrap 9 is ignored", "--baseline (one) is ignored"):
        assert words in said
    assert path.read_bytes() == first
    assert evaluate(*command, "--baseline", baseline, "--overwrite") == 0
    opened = json.loads(path.read_text())["opened"]
    assert [each["hash"] for each in opened] == [opened[0]["hash"]] * 2, "the same weights, and twice opened"
    assert [each["views"] for each in opened] == [1, 1]
    assert "The set has been opened 2 times for these weights" in path.with_suffix(".html").read_text()
    assert evaluate(*command, "--baseline", baseline) == 0
    assert "ignored" not in capsys.readouterr().err
    network(5, "one").save(tmp_path / "one.safetensors")
    assert evaluate(tmp_path / "one.safetensors", *command[1:]) == 0
    report = json.loads(path.read_text())
    assert len({each["hash"] for each in report["opened"]}) == 2
    assert len(report["opened"]) == 3, "a look at a report that stands is none at the set"
    page = path.with_suffix(".html").read_text()
    assert "2 versions of this model have been measured" in page
    assert "opening 3" in page


def test_a_changed_simulator_stops_before_any_figure(folder, tmp_path, capsys, monkeypatch):
    seal = Seal(40, 99, load_recipe("des-griz").digest, "0" * 64)
    monkeypatch.setattr(testsets, "read_seals", lambda: {"des-griz": {"smoke": seal}})
    assert evaluate(folder / "one.safetensors", "--testset", "des-griz:smoke", "-o", tmp_path) == 1
    assert "the simulator has changed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
