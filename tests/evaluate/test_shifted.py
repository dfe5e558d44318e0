"""One thing changed at a time: which mocks each sky has, coverage of known posteriors, files, and the command."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from synthetic_scores import scored

from lensscan.cli.main import main
from lensscan.errors import ConfigError
from lensscan.evaluate import shiftedreport
from lensscan.evaluate.posteriors import LEVELS, REGIONS
from lensscan.evaluate.predict import OneModel, Scoring
from lensscan.evaluate.shifted import Shifted, measure_shifted, widest
from lensscan.mocks.conditions import other_skies
from lensscan.mocks.recipes import load_recipe
from lensscan.mocks.simulate import simulate
from lensscan.nets.model import Card, Model, build_network

DES = load_recipe("des-griz")
WORDS = ["nothing", "seeing 20 % wider", "noise 1.5 times as high", "galaxies: one component, n = 2.5"]
WIDTHS = dict(zip(WORDS, (1.0, 1.0, 0.5, 2.0), strict=True))
"""Stated widths over exact ones: what a sky does to the posteriors of the synthetic scores."""


def network(name="four", bands=tuple("griz"), size=48, pixel=0.263):
    architecture = {"kind": "resnet", "widths": [8, 8], "depths": [1, 1], "squeeze": 4, "hidden": 8}
    torch.manual_seed(1)
    module = build_network(architecture, len(bands), size)
    return Model(Card(name, architecture, bands, size, pixel, label="lens"), module.eval())


@pytest.fixture(scope="module")
def known():
    """Each sky's posteriors are exact, but for the stated widths."""

    def predict(settings, models, testset, progress):
        return scored(3000, seed=3, widths=(WIDTHS[testset.name.partition("(changed: ")[2][:-1]],))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scoring, "predict", predict)
        return measure_shifted(OneModel(network(), DES, n=3000, replicates=40))


@pytest.mark.parametrize("name", ["des-griz", "hezaveh2017-64"])
def test_a_sky_changes_one_thing(name):
    recipe = load_recipe(name)
    skies = other_skies(recipe)
    assert list(skies) == WORDS
    assert skies["nothing"] is recipe
    assert len({each.digest for each in skies.values()}) == 4, "systems of its own"
    mocks = [simulate(each, seed=1, n=250, noise=False) for each in skies.values()]
    stated = [[getattr(each, key).numpy() for each in mocks] for key in ("fwhm", "sigma")]
    fwhm, sigma = (np.array([np.quantile(each[each > 0], 0.9) for each in kind]) for kind in stated)
    np.testing.assert_allclose(fwhm / fwhm[0], [1, 1.2, 1, 1], rtol=0.06)
    np.testing.assert_allclose(sigma / sigma[0], [1, 1, 1.5, 1], rtol=0.12)


def test_galaxies_of_the_last_sky_are_of_one_component():
    light = other_skies(DES)[WORDS[3]].galaxy
    assert light.sersic_n == (2.5, 0.0, 2.5, 2.5)
    assert light.double == 0
    plain = dataclasses.replace(light, sersic_n=DES.galaxy.sersic_n, double=DES.galaxy.double)
    assert plain == DES.galaxy


def test_coverage_is_that_of_known_posteriors(known):
    """Half of the width: 0.68 becomes 0.383 (0.994 sigma are two, then), twice: 0.953; a region of seven shrinks so."""
    expected = {1.0: 0.68, 0.5: 0.383, 2.0: 0.953}
    for sky in known.skies:
        for name in REGIONS[:-1]:
            share = sky.coverage[f"0.68.{name}"]
            assert share.value == pytest.approx(expected[WIDTHS[sky.words]], abs=0.04), (sky.words, name)
            assert share.low < share.value < share.high
        joint = {1.0: 0.68, 0.5: 0.042, 2.0: 1.0}[WIDTHS[sky.words]]
        assert sky.coverage["0.68.joint_7"].value == pytest.approx(joint, abs=0.03)
        assert sky.coverage["0.68.theta_E"].value == pytest.approx(sky.cell.figures["coverage_68"].value, abs=1e-9)


def test_the_widest_miss_is_named_and_judged(known):
    assert widest(known.skies[2])[:2] == ("joint_7", 0.95)
    text = shiftedreport.lines(known)
    assert [line.split("  ")[1] for line in text[1::2]] == WORDS
    assert text[2].endswith("within the 5 points of the goal")
    assert text[6].endswith("beyond the 5 points of the goal")
    assert re.search(r"widest miss: 95 % of joint_7 hold", text[6])


def test_a_miss_is_judged_by_its_whole_interval(known):
    own = known.skies[0]

    def said(value, reach):
        share = dataclasses.replace(own.coverage["0.68.e1"], value=value, low=value - reach, high=value + reach)
        sky = dataclasses.replace(own, coverage=own.coverage | {"0.68.e1": share})
        return shiftedreport.lines(dataclasses.replace(known, skies=[sky]))[2]

    assert "68 % of e1 hold 63.8 [63.1, 64.5] %, within the 5 points" in said(0.638, 0.007)
    assert "not decided about" in said(0.638, 0.01)
    assert "not decided about" in said(0.625, 0.01)
    assert "beyond" in said(0.62, 0.009)
    assert "68 % of e1 hold 74.0 [73.5, 74.5] %, beyond" in said(0.74, 0.005)
    assert "68 % of e1 hold 74.0 %, beyond" in said(0.74, np.nan)


def test_files_hold_every_sky(known, tmp_path, monkeypatch):
    page, values, image = shiftedreport.write_shifted(known, tmp_path)
    assert [path.name for path in (page, values, image)] == [
        f"shifted--four--des-griz.{end}" for end in ("html", "json", "png")
    ]
    kept = json.loads(values.read_text())
    assert [each["changed"] for each in kept["skies"]] == WORDS
    third = kept["skies"][2]
    assert third["coverage"]["0.68.theta_E"]["value"] == pytest.approx(0.383, abs=0.04)
    assert third["figures"]["auroc"]["low"] < third["figures"]["auroc"]["value"]
    assert third["n_lens"] + third["n_other"] == 3000
    text = page.read_text()
    assert text.count("<tr>") == (1 + len(REGIONS) + 1) + (1 + len(WORDS))
    assert text.count("points of the goal") == len(WORDS)
    assert text.count("data:image/png") == 1
    assert not re.search(r'(src|href)="(?!data:|#)', text), "nothing from elsewhere"
    drawn = {}
    monkeypatch.setattr(shiftedreport, "heat_diagram", lambda panels, *rest: drawn.update(panels=panels) or b"")
    shiftedreport.draw(known)
    for panel, level in zip(drawn["panels"], LEVELS, strict=True):
        assert panel.middle == 100 * level
        assert panel.cells[1, 0] == pytest.approx(100 * known.skies[1].coverage[f"{level:g}.theta_E"].value)


def test_the_command_measures_and_refuses_in_one_line(tmp_path, capsys):
    path = tmp_path / "four.safetensors"
    network().save(path)
    words = ["evaluate", str(path), "--shifted", "des-griz"]
    assert main([*words, "-n", "50", "--bootstrap", "4", "--no-plots", "-o", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert all(each in out for each in WORDS)
    assert {each.name for each in tmp_path.glob("shifted*")} == {
        f"shifted--four--des-griz.{end}" for end in ("html", "json")
    }
    assert main(["evaluate", "--shifted", "des-griz"]) == 2
    assert "takes one MODEL" in capsys.readouterr().err
    assert main([*words, "--recipes", "kids"]) == 2
    assert "--recipes" in capsys.readouterr().err
    assert main(["evaluate", str(path), "--shifted", "euclid-vis", "-n", "50", "-o", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_other_views_than_the_cards_are_said():
    """On page, in file and in print, here and for conditions: probabilities may be a little off."""
    from lensscan.evaluate import effectsreport
    from lensscan.evaluate.effects import Effects

    settings = OneModel(network(), DES, n=50, views=8)
    (said,) = settings.remarks()
    assert "scored with 8 views, the logit was calibrated with 1" in said
    assert OneModel(network(), DES, n=50, views=1).remarks() == []
    for found, about in ((Shifted(settings, []), shiftedreport), (Effects(settings, [], 0), effectsreport)):
        assert about.lines(found)[-1].strip() == said
        assert about.report(found)["notes"] == [said]
        assert f'<p class="warn">{said}</p>' in about.make_page(found, {})


def test_real_stamps_are_refused():
    real = dataclasses.replace(DES, classes={"lens": 1.0, "real": 1.0})
    with pytest.raises(ConfigError, match="real stamps"):
        measure_shifted(OneModel(network(), real, 50))
