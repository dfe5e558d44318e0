"""Errors under other conditions: paired differences of known widths, files, and the command on a small network."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch

from lensscan.cli.main import main
from lensscan.errors import ConfigError
from lensscan.evaluate import effectsreport
from lensscan.evaluate.effects import compare_conditions, measure_effects
from lensscan.evaluate.posteriors import Posteriors
from lensscan.evaluate.predict import OneModel
from lensscan.mocks.conditions import Condition, conditions_of
from lensscan.mocks.recipes import load_recipe
from lensscan.nets.latent import PARAMETERS
from lensscan.nets.model import Card, Model, build_network, make_trivial

RECIPE = load_recipe("hezaveh2017-64")


def network(name="one", size=32, pixel=0.12, bands=("F814W",)):
    architecture = {"kind": "resnet", "widths": [8, 8], "depths": [1, 1], "squeeze": 4, "hidden": 8}
    torch.manual_seed(1)
    module = build_network(architecture, len(bands), size)
    return Model(Card(name, architecture, bands, size, pixel, label="lens"), module.eval())


def settings(**changes):
    return OneModel(**{"model": network(), "recipe": RECIPE, "n": 24, "replicates": 20} | changes)


def few():
    """Return one or two conditions of each kind."""
    chosen = {}
    for each in conditions_of(RECIPE):
        chosen.setdefault(each.kind, []).append(each)
    return [each for kind in chosen.values() for each in kind[:: max(1, len(kind) - 1)]]


@pytest.fixture(scope="module")
def measured():
    """A network with random weights under some conditions, on few lenses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lensscan.evaluate.effects.conditions_of", lambda recipe: few())
        return measure_effects(settings())


@pytest.fixture(scope="module")
def known():
    """Made-up estimates: the errors of each condition are those of everything, times a factor."""
    conditions = conditions_of(RECIPE)
    rng = np.random.default_rng(3)
    truth, errors = rng.normal(size=(2, 900, 7))
    factors = 1 + 0.1 * np.arange(len(conditions))
    estimates = truth + factors[:, None, None] * errors
    estimates[4, 7] = np.nan
    hidden = [0.5 * each.value if each.kind == "masks" else math.nan for each in conditions]
    contents = rng.uniform(size=(len(conditions), 900, 8)) ** factors[:, None, None]
    found = compare_conditions(
        settings(n=900, replicates=60), conditions, estimates, contents, truth, hidden, np.arange(900)
    )
    return found, factors


def test_differences_are_paired(known):
    found, factors = known
    assert found.n_lens == 899
    everything = found.outcomes[0]
    for name in PARAMETERS:
        assert everything.widths[name].value == pytest.approx(1.0, abs=0.1)
        assert everything.differences[name].value == 0
        for factor, outcome in zip(factors, found.outcomes, strict=True):
            width, gap = outcome.widths[name], outcome.differences[name]
            assert width.value == pytest.approx(factor * everything.widths[name].value)
            np.testing.assert_allclose(gap.replicates, width.replicates * (1 - 1 / factor), atol=1e-12)
            assert gap.low <= gap.value <= gap.high
            percent = effectsreport.change(outcome, everything, name)
            assert percent.value == pytest.approx(100 * (factor - 1))
            assert percent.high - percent.low < 1e-6, "the same lenses in every resample"


def test_lenses_on_one_galaxy_are_resampled_together():
    """Four lenses on each of 100 real galaxies, alike but for nothing: no more is known than from 100 lenses."""
    conditions, rng = [Condition("everything", "", math.nan, RECIPE)], np.random.default_rng(5)
    truth, errors, contents = rng.normal(size=(100, 7)), rng.normal(size=(1, 100, 7)), rng.uniform(size=(1, 100, 8))
    galaxy = np.arange(100)
    alone, twins, apart = (
        compare_conditions(
            settings(replicates=200),
            conditions,
            np.tile(truth + errors, (1, k, 1)),
            np.tile(contents, (1, k, 1)),
            np.tile(truth, (k, 1)),
            [math.nan],
            shared,
        ).outcomes[0]
        for k, shared in ((1, galaxy), (4, np.tile(galaxy, 4)), (4, np.arange(400)))
    )
    for table, name in (("widths", "theta_E"), ("bias", "x"), ("coverage", "0.68.e1")):
        width, twin, free = (
            each.high - each.low for each in (getattr(found, table)[name] for found in (alone, twins, apart))
        )
        assert twin == pytest.approx(width, rel=0.1)
        assert free < 0.7 * width


def test_the_galaxies_are_those_of_the_real_stamps(monkeypatch):
    monkeypatch.setattr("lensscan.evaluate.effects.conditions_of", lambda recipe: conditions_of(recipe)[:1])
    monkeypatch.setattr("lensscan.evaluate.effects.clusters", lambda scored: np.full(len(scored.rows), -1))
    found = measure_effects(settings()).outcomes[0].widths["theta_E"]
    assert found.low == found.value == found.high, "one galaxy, one resample"


def test_coverage_is_the_share_inside(known):
    """Contents are uniform to the power f, so that a region of content c holds c to the power 1 / f."""
    found, factors = known
    for factor, outcome in zip(factors, found.outcomes, strict=True):
        for level in (0.68, 0.95):
            for name in (*PARAMETERS, "joint_7"):
                share = outcome.coverage[f"{level:g}.{name}"]
                assert share.value == pytest.approx(level ** (1 / factor), abs=4 * 0.5 / 30)
                assert share.low <= share.value <= share.high


def test_contents_are_those_of_central_intervals_and_of_the_region_of_all_seven(monkeypatch):
    """A rank of 0.9 lies at the edge of the central 80 %."""

    def reduced(posterior, truth):
        n = len(truth)
        inside = {"joint_5": np.full(n, 0.9), "joint_7": np.full(n, 0.5)}
        ranks, nothing = {name: np.full(n, 0.9) for name in PARAMETERS}, np.empty(0)
        return Posteriors(nothing, nothing, ranks, nothing, inside, {}, {})

    monkeypatch.setattr("lensscan.evaluate.effects.conditions_of", lambda recipe: conditions_of(recipe)[:1])
    monkeypatch.setattr("lensscan.evaluate.effects.reduce_posteriors", reduced)
    (found,) = measure_effects(settings()).outcomes
    assert [found.coverage[f"0.68.{name}"].value for name in ("theta_E", "sy", "joint_7")] == [0, 0, 1]
    assert found.coverage["0.95.theta_E"].value == 1


def test_every_condition_is_measured_on_the_same_lenses(measured):
    assert [each.condition.words for each in measured.outcomes] == [each.words for each in few()]
    assert 20 <= measured.n_lens <= 24
    widths = {each.condition.words: each.widths["theta_E"].value for each in measured.outcomes}
    assert len(set(widths.values())) == len(few()) == 12, "other pixels, other answers"
    hidden = [each.hidden for each in measured.outcomes if each.condition.kind == "masks"]
    assert hidden[0] == 0
    assert hidden == sorted(hidden)
    assert hidden[-1] > 0.1
    assert all(math.isnan(each.hidden) for each in measured.outcomes if each.condition.kind != "masks")


def test_files_hold_every_condition(known, tmp_path):
    found, _ = known
    page, values, *images = effectsreport.write_effects(found, tmp_path)
    assert [path.name for path in (page, values)] == [f"effects--one--hezaveh2017-64.{end}" for end in ("html", "json")]
    kept = json.loads(values.read_text())
    assert len(kept["conditions"]) == len(found.outcomes)
    third = kept["conditions"][2]
    assert (third["kind"], third["name"], third["value"]) == ("without", "cosmic rays", None)
    assert third["half_width_68"]["e1"]["value"] == pytest.approx(found.outcomes[2].widths["e1"].value, rel=1e-4)
    assert third["minus_everything"]["e1"]["low"] <= third["minus_everything"]["e1"]["value"]
    text = page.read_text()
    assert text.count("<tr>") == 2 * (1 + len(found.outcomes))
    shown = third["coverage"]["0.68.joint_7"]["value"]
    assert shown == pytest.approx(found.outcomes[2].coverage["0.68.joint_7"].value, rel=1e-3)
    assert text.count("data:image/png") == 2
    assert not re.search(r'(src|href)="(?!data:|#)', text), "nothing from elsewhere"
    assert [path.name[-12:] for path in images] == ["4-curves.png", "switches.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in images)


def test_pictures_show_what_was_measured(known, monkeypatch):
    found, _ = known
    given = {}
    monkeypatch.setattr(effectsreport, "curve_diagram", lambda rows: given.update(rows=rows) or b"")
    monkeypatch.setattr(
        effectsreport, "switch_diagram", lambda panels, names: given.update(panels=panels, names=names) or b""
    )
    assert set(effectsreport.draw(found)) == {"curves", "switches"}
    masks, noise, psf = given["rows"][0]
    assert masks.x.tolist() == pytest.approx([0, 0.05, 0.1, 0.15, 0.2]), "what is hidden, not the limit"
    assert noise.x.tolist() == pytest.approx([0.01, 0.0325, 0.055, 0.0775, 0.1])
    assert set(psf.curves) == {"theta_E", "x", "y", "sx", "sy"}
    assert set(given["rows"][1][0].curves) == {"e1", "e2"}
    outcome = next(each for each in found.outcomes if each.condition.words == "without gain")
    row = given["names"].index("gain")
    panel = next(each for each in given["panels"] if each.title == "e2")
    expected = effectsreport.change(outcome, found.outcomes[0], "e2")
    assert panel.without[row].tolist() == pytest.approx([expected.value, expected.low, expected.high])


def test_a_recipe_without_effects_has_curves_only(known):
    found, _ = known
    conditions = [each for each in conditions_of(RECIPE) if each.kind not in ("without", "only", "nothing")]
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(40, 7))
    estimates = truth + rng.normal(size=(len(conditions), 40, 7))
    contents = rng.uniform(size=(len(conditions), 40, 8))
    hidden = [0.1 * k for k in range(len(conditions))]
    bare = compare_conditions(found.settings, conditions, estimates, contents, truth, hidden, np.arange(40))
    assert set(effectsreport.draw(bare)) == {"curves"}


def test_too_few_lenses_are_refused():
    conditions = [Condition("everything", "", math.nan, RECIPE)]
    with pytest.raises(ConfigError, match="19 lenses could be measured, 20 are needed"):
        compare_conditions(
            settings(),
            conditions,
            np.zeros((1, 19, 7)),
            np.zeros((1, 19, 8)),
            np.zeros((19, 7)),
            [math.nan],
            np.arange(19),
        )


def test_a_model_without_posteriors_is_refused():
    with pytest.raises(ConfigError, match="regresses no lens"):
        measure_effects(settings(model=make_trivial(("F814W",), 32, 0.12)))


def test_the_command_writes_its_files(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lensscan.evaluate.effects.conditions_of", lambda recipe: conditions_of(recipe)[:3])
    network().save(tmp_path / "one.safetensors")
    words = ["evaluate", str(tmp_path / "one.safetensors"), "--effects", "hezaveh2017-64", "-n", "50", "--no-plots"]
    assert main([*words, "-o", str(tmp_path / "out"), "--bootstrap", "4", "--debug"]) == 0
    said = capsys.readouterr().out
    assert "without cosmic rays" in said
    assert "on 50 lenses" in said
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--effects", "hezaveh2017"], "--effects takes one MODEL"),
        (["des-griz", "--effects", "hezaveh2017", "--no-plots"], "the model wants g"),
        (["des-griz", "--effects", "des-griz", "--epochs", "4"], "--effects does not look at --epochs"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, said, capsys, tmp_path):
    assert main(["evaluate", *arguments, "-o", str(tmp_path)]) == 2
    text = capsys.readouterr().err
    assert said in text
    assert text.count("\n") == 1
