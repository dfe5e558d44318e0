"""lensscan ensemble --mc-dropout: from a training with drop-out to an ensemble that evaluates and scans."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lensscan.candidates.ensemble import read_ensemble
from lensscan.candidates.file import read_candidates
from lensscan.cli.main import main
from lensscan.mocks.recipes import load_recipe
from lensscan.nets.model import Card, Model, build_network

DROPOUT = 0.3
TRAINING = f"""
name = "one"
recipe = "des-griz"
steps = 2
batch = 8
validate_every = 2
validation = 32
network = {{widths = [8, 8], depths = [0, 0], hidden = 8, squeeze = 4, dropout = {DROPOUT}}}
stream = {{chunk = 32, window = 1, reuse = 2.0}}
finish = {{calibration = 100, evaluation = 100}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained network, and the passes of it under drop-out, made twice."""
    path = tmp_path_factory.mktemp("ensemble")
    (path / "one.toml").write_text(TRAINING)
    assert main(["train", str(path / "one.toml"), "-o", str(path / "one.safetensors")]) == 0
    for name in ("mc", "again"):
        assert main(passes(path, path / name / "mc.toml")) == 0
    return path


def passes(folder: Path, output: Path) -> list[str]:
    return ["ensemble", str(folder / "one.safetensors"), "--mc-dropout", "3", "-n", "120", "-o", str(output)]


@pytest.mark.slow
def test_the_members_are_the_trained_network_with_features_left_out(folder):
    card = read_ensemble(str(folder / "mc" / "mc.toml"))
    assert (card.name, card.recipes, card.n) == ("mc", ("des-griz",), 120)
    assert [Path(name).name for name in card.models] == [f"mc-{k}.safetensors" for k in (1, 2, 3)]
    assert list(card.hashes) == [hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in card.models]
    whole = Model.load(folder / "one.safetensors")
    expected, left_out = whole.module.state_dict(), set()
    for k, name in enumerate(card.models, 1):
        member = Model.load(name)
        assert member.card.name == f"one-drop{k}"
        found = member.module.state_dict()
        kept = found["logit.hidden.weight"].abs().sum(dim=0) > 0
        left_out.add(tuple((~kept).nonzero().flatten().tolist()))
        for key, value in expected.items():
            thinned = key in ("logit.hidden.weight", "posterior.hidden.weight")
            torch.testing.assert_close(found[key], value * kept / (1 - DROPOUT) if thinned else value)
    assert len(left_out) == 3, "every pass leaves out others"


@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes(folder):
    for k in (1, 2, 3):
        one, two = (folder / name / f"mc-{k}.safetensors" for name in ("mc", "again"))
        assert one.read_bytes() == two.read_bytes()
    one, two = ((folder / name / "mc.toml").read_text(encoding="utf-8") for name in ("mc", "again"))
    assert one.replace(f"{folder}/mc/", "") == two.replace(f"{folder}/again/", "")


@pytest.mark.slow
def test_it_is_evaluated_as_one(folder):
    words = ["--testset", "des-griz:tune:64", "--no-plots", "--bootstrap", "4", "-o", str(folder / "reports")]
    assert main(["evaluate", str(folder / "mc" / "mc.toml"), *words]) == 0
    report = json.loads((folder / "reports" / "mc--des-griz-tune-64.json").read_text(encoding="utf-8"))
    assert report["model"]["kind"] == "ensemble"
    assert {row["other"] for row in report["comparisons"]} == {"one-drop1", "one-drop2", "one-drop3"}


@pytest.mark.slow
def test_a_scan_scores_with_it(folder):
    mocks, out = folder / "mocks", folder / "out.h5"
    assert main(["simulate", "des-griz", "-n", "12", "-o", str(mocks), "--fits", "--no-sheet"]) == 0
    card = read_ensemble(str(folder / "mc" / "mc.toml"))
    words = ["--catalog", f"{mocks}/catalog.fits", "--survey", "des", "--stamps", f"stamps:{mocks}/{{file}}"]
    words += ["--set", f"ensemble={folder}/mc/mc.toml", "--set", "top=12", "-o", str(out)]
    assert main(["scan", *words, "--model", *card.models]) == 0
    table = read_candidates(out)
    assert len(table) == 12
    by_hand = card.calibration(np.mean([table[f"logit_one-drop{k}"] for k in (1, 2, 3)], axis=0))
    np.testing.assert_allclose(table["logit"], by_hand, rtol=1e-5, atol=1e-7)
    assert (np.asarray(table["logit_std"]) > 0).all()


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["--recipe", "no-such-recipe"], "no-such-recipe"),
        ([], "does not state its recipe"),
        (["-o", "{folder}/plain.safetensors/mc.toml"], "plain.safetensors"),
        (["-o", "{folder}/plain.safetensors"], "must end in .toml"),
        (["-o", "{folder}/mc"], "must end in .toml"),
    ],
)
def test_a_refused_command_leaves_nothing_behind(tmp_path, capsys, more, what):
    architecture = {"kind": "resnet", "widths": [8, 8], "depths": [0, 0], "squeeze": 4, "hidden": 8, "dropout": 0.2}
    recipe = load_recipe("des-griz")
    known = {"recipe": "des-griz", "recipe_digest": recipe.digest} if "-o" in more else {}
    card = Card("plain", architecture, recipe.bands, recipe.size, recipe.pixel_scale, training=known)
    Model(card, build_network(architecture, 4, recipe.size).eval()).save(tmp_path / "plain.safetensors")
    words = ["ensemble", str(tmp_path / "plain.safetensors"), "--mc-dropout", "2", "-n", "100"]
    words += ["-o", str(tmp_path / "mc.toml"), *(word.format(folder=tmp_path) for word in more)]
    assert main(words) != 0
    said = capsys.readouterr().err
    assert what in said
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["plain.safetensors"], what


def test_passes_do_not_replace_the_model_they_are_made_of(tmp_path, capsys):
    model = tmp_path / "mc-2.safetensors"
    model.write_bytes(b"weights")
    assert main(["ensemble", str(model), "--mc-dropout", "2", "-n", "100", "-o", str(tmp_path / "mc.toml")]) == 1
    assert "is the input" in capsys.readouterr().err
    assert model.read_bytes() == b"weights"
