"""The transfer table: which models a recipe takes, figures of known posteriors, files and refusals."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from synthetic_scores import scored

from lensscan.cli.main import main
from lensscan.evaluate import transferreport
from lensscan.evaluate.predict import Scoring
from lensscan.evaluate.testsets import SealedSet
from lensscan.evaluate.transfer import Cell, Transfer, TransferSettings, measure_cell, measure_transfer, widened
from lensscan.metrics.bootstrap import Estimate
from lensscan.metrics.calibration import Calibration
from lensscan.metrics.detection import wilson
from lensscan.mocks.batches import fill_batch
from lensscan.mocks.recipes import load_recipe
from lensscan.mocks.simulate import simulate
from lensscan.nets.card import ThetaPrior
from lensscan.nets.model import Card, Model, build_network, make_trivial
from lensscan.schema import Flag
from lensscan.survey.stamps import Frame, allocate

N = 60


def network(name, bands, size=48, pixel=0.263, least=1, digest=""):
    architecture = {"kind": "resnet", "widths": [8, 8], "depths": [1, 1], "squeeze": 4, "hidden": 8}
    torch.manual_seed(1)
    module = build_network(architecture, len(bands), size)
    training = {"recipe_digest": digest}
    card = Card(name, architecture, bands, size, pixel, min_bands=least, label="lens", training=training)
    return Model(card, module.eval())


@pytest.fixture(scope="module")
def table():
    """Two networks and a trivial scorer on three surveys."""
    own = load_recipe("des-griz").digest
    models = [
        network("four", tuple("griz"), least=3, digest=own),
        network("two", ("g", "y"), least=1),
        make_trivial(("VIS",), 40, 0.1),
    ]
    recipes = ("des-griz", "lsst-gri", "euclid-vis")
    return measure_transfer(TransferSettings(models, recipes, n=N, replicates=6))


def cell(table, model, recipe):
    (found,) = [each for each in table.cells if (each.model, each.recipe) == (model, recipe)]
    return found


def test_bands_decide_who_takes_what(table):
    assert len(table.cells) == 9
    assert cell(table, "four", "lsst-gri").bands == ("g", "r", "i")
    assert cell(table, "two", "des-griz").bands == ("g",)
    assert "0 of the bands g, r, i, z, 3 are needed" in cell(table, "four", "euclid-vis").refused
    assert cell(table, "trivial", "des-griz").refused
    assert [each.own for each in table.cells if not each.refused].count(True) == 1
    assert cell(table, "four", "des-griz").own


def test_pixels_are_resampled_and_stamps_fill_the_frame(table):
    assert not cell(table, "four", "des-griz").resampled
    assert cell(table, "four", "lsst-gri").resampled
    assert not cell(table, "trivial", "euclid-vis").resampled
    sizes = {recipe.name: recipe.size for recipe in table.recipes}
    assert sizes == {"des-griz": 64, "lsst-gri": 64, "euclid-vis": 96}
    lsst = load_recipe("lsst-gri")
    wide = widened(lsst, [Frame(("g",), 64, 0.263, 1), Frame(("g",), 10, 0.263, 1)])
    assert wide.size == 85
    assert dataclasses.replace(wide, size=64) == lsst
    assert widened(lsst, []) is lsst


def test_figures_are_what_the_models_give(table):
    four, trivial = cell(table, "four", "des-griz"), cell(table, "trivial", "euclid-vis")
    assert set(four.figures) == {"auroc", "ece", "theta_E_bias", "theta_E_68", "coverage_68"}, "too few for a TPR"
    assert set(trivial.figures) == {"auroc", "ece"}
    assert four.n_lens + four.n_other <= N
    assert four.failed == 0
    for found in four.figures.values():
        assert found.low <= found.high
        assert len(found.replicates) == 6
    assert not cell(table, "trivial", "des-griz").figures


def test_a_network_that_saw_lenses_alone_ranks_nothing():
    """Its logit was trained on one class; a scan refuses it, and no report may rank by it."""
    four, mute = network("four", tuple("griz")), network("mute", tuple("griz"))
    mute.card = dataclasses.replace(mute.card, evaluation={"detection": "none: its recipe makes lenses only"})
    recipe = dataclasses.replace(load_recipe("des-griz"), size=48)
    found = Scoring(replicates=4).predict([four, mute], SealedSet("few", recipe, N, 5), lambda done, total: None)
    assert np.isfinite(found.models[0].logit).all()
    assert np.isnan(found.models[1].logit).all()
    assert np.isnan(found.models[1].raw).all()
    assert found.models[1].posterior.finite.all()
    assert set(measure_cell(found, found.models[1], 4).figures) == {"theta_E_bias", "theta_E_68", "coverage_68"}


@pytest.mark.parametrize(("width", "covers"), [(1.0, 0.68), (0.5, 0.383)])
def test_known_posteriors_have_known_figures(width, covers):
    rows = scored(6000, widths=(width,))
    found = measure_cell(rows, rows.models[0], 30)
    values = {name: estimate.value for name, estimate in found.figures.items()}
    assert values["auroc"] == pytest.approx(0.921, abs=0.01)  # unit Gaussians two apart
    assert values["tpr"] == pytest.approx(0.372, abs=0.07)  # above the 99 % point of one, of the other
    assert values["ece"] < 0.03
    assert values["coverage_68"] == pytest.approx(covers, abs=0.03)
    assert abs(values["theta_E_bias"]) < 0.02
    medians, truth = rows.models[0].posterior.centre[:, 0], rows.truth["theta_E"]
    lens = np.asarray(rows.truth["is_lens"])
    low, high = np.quantile(np.exp(medians[lens]) - truth[lens], [0.16, 0.84])
    assert values["theta_E_68"] == pytest.approx((high - low) / 2, rel=0.02)
    assert (found.n_lens, found.n_lens + found.n_other) == (lens.sum(), 6000)


def test_lenses_that_no_resample_draws_are_unknown_not_missed():
    """Two stamps, one of them under all lenses: where only the other is drawn, coverage is not known."""
    rows = scored(600, widths=(8.0,))
    rows.truth["stamp"] = np.where(rows.truth["is_lens"], 1, 2)
    covered = measure_cell(rows, rows.models[0], 30).figures["coverage_68"]
    assert np.isnan(covered.replicates).any()
    assert np.nanmin(covered.replicates) == covered.value == 1.0
    assert (covered.low, covered.high) == wilson(1, 1), "one stamp is under all lenses"


def test_mocks_on_one_real_stamp_are_resampled_together():
    """Each row four times on a stamp of its own: no more is known than from one."""
    rows = scored(500)
    many = np.tile(np.arange(500), 4)
    (model,) = rows.models
    twins = dataclasses.replace(
        model, logit=model.logit[many], posterior=model.posterior[many], flags=model.flags[many], fwhm=model.fwhm[many]
    )
    truth = {name: column[many] for name, column in rows.truth.items()} | {"stamp": many}
    four = dataclasses.replace(rows, rows=np.arange(2000), truth=truth, features=rows.features[many], models=[twins])
    one, found = measure_cell(rows, model, 200).figures, measure_cell(four, twins, 200).figures
    for name in ("auroc", "theta_E_68", "coverage_68"):
        assert found[name].high - found[name].low == pytest.approx(one[name].high - one[name].low, rel=0.3), name


def test_the_calibration_error_is_that_of_the_stated_probability():
    """A cap of 0 says one half of everything above: the ranking does not notice, the calibration error does."""
    rows = scored(4000)
    (plain,) = rows.models
    timid = dataclasses.replace(plain, card=dataclasses.replace(plain.card, calibration=Calibration(cap=0.0)))
    before, after = (measure_cell(rows, each, 4).figures for each in (plain, timid))
    assert after["auroc"].value == before["auroc"].value
    p, lens = timid.card.calibration.p_lens(timid.logit, 0.5), np.asarray(rows.truth["is_lens"])
    assert p.max() == 0.5
    stated = abs(p[p == 0.5].mean() - lens[p == 0.5].mean()) * (p == 0.5).mean()
    assert after["ece"].value == pytest.approx(stated, abs=0.03)
    assert after["ece"].value > 5 * before["ece"].value


def test_the_calibration_error_of_the_own_recipe_is_among_natures_lenses():
    """Large lenses score higher, and a training has more of them: a model that is right of nature's seems timid."""
    rows, rng = scored(12_000), np.random.default_rng(2)
    lens = np.asarray(rows.truth["is_lens"])
    radius = np.exp(rng.uniform(np.log(0.5), np.log(3.0), len(lens)))
    (model,) = rows.models
    logit = np.where(lens & (radius > 1.2), rng.normal(6.0, 1.0, len(lens)), model.logit)
    grid = np.linspace(np.log(0.5), np.log(3.0), 65)
    prior = ThetaPrior(0.5, 3.0, (1 / np.log(6.0),) * 65, tuple(np.where(grid < np.log(1.2), 1 / np.log(2.4), 0.0)))
    card = dataclasses.replace(model.card, theta_E_prior=prior)
    rows.truth["theta_E"] = np.where(lens, radius, np.nan)
    model = dataclasses.replace(model, logit=logit, card=card)
    every, natural = (measure_cell(rows, model, 4, natural=natural).figures for natural in (False, True))
    assert natural["ece"].value < 0.02 < 0.5 * every["ece"].value
    assert natural["auroc"].value == every["auroc"].value, "ranks are those of the whole set"


def test_systems_below_the_label_rule_are_neither(monkeypatch):
    rows = scored(3000, vague=0.4)
    found = measure_cell(rows, rows.models[0], 4)
    assert found.n_lens + found.n_other < 3000
    assert "tpr" not in measure_cell(scored(500), scored(500).models[0], 4).figures


def test_mocks_of_other_pixels_keep_their_flux_and_lack_their_bands():
    recipe = widened(load_recipe("lsst-gri"), [frame := Frame(("z", "r"), 40, 0.263, 1)])
    mocks = simulate(recipe, seed=2, n=3, noise=False)
    batch = allocate(4, frame)
    fill_batch(batch, frame, recipe, [mocks], slice(0, 3), resample=True)
    assert batch.present[:3].tolist() == [[False, True]] * 3
    assert not batch.images[:3, 0].any()
    assert np.isnan(batch.fwhm[:3, 0]).all()
    assert ((batch.flags[:3] & np.uint32(Flag.RESAMPLED)) != 0).all()
    inner = mocks.images[:, 1].numpy()
    side = 40 * 0.263 / 0.2
    edge = int((recipe.size - side) // 2)
    whole = inner[:, edge : recipe.size - edge, edge : recipe.size - edge].sum(axis=(1, 2))
    np.testing.assert_allclose(batch.images[:3, 1].sum(axis=(1, 2)), whole, rtol=0.08)


def test_a_sealed_set_still_refuses_other_pixels():
    from lensscan.errors import ConfigError

    recipe = load_recipe("lsst-gri")
    with pytest.raises(ConfigError, match="--transfer compares"):
        SealedSet("set", recipe, 4, 1).check(Frame(("g",), 40, 0.263, 1))
    SealedSet("set", recipe, 4, 1, resample=True).check(Frame(("g", "y"), 40, 0.263, 1))


def test_a_class_with_no_place_is_refused_in_one_line():
    from lensscan.errors import ConfigError

    with pytest.raises(ConfigError, match="give others with --recipes"):
        measure_transfer(TransferSettings([network("y", ("y",))], ("euclid-vis",), n=4))
    twins = [network("twin", ("g",)), network("twin", ("r",))]
    with pytest.raises(ConfigError, match="two models are called twin"):
        measure_transfer(TransferSettings(twins, ("lsst-gri",), n=4))


def test_files_hold_the_table(table, tmp_path):
    page, values, image = transferreport.write_transfer(table, tmp_path)
    kept = json.loads(values.read_text())
    assert [(each["model"], each["recipe"]) for each in kept["cells"]] == [
        (each.model, each.recipe) for each in table.cells
    ]
    first = kept["cells"][0]["figures"]["auroc"]
    assert first["value"] == pytest.approx(table.cells[0].figures["auroc"].value, rel=1e-4)
    assert kept["n"] == N
    text = page.read_text()
    assert text.count("<tr>") == 1 + 9
    assert text.count("refused: ") == sum(bool(each.refused) for each in table.cells)
    assert "des-griz (own)" in text
    assert not re.search(r'(src|href)="(?!data:|#)', text), "nothing from elsewhere"
    assert image.read_bytes().startswith(b"\x89PNG")
    assert (
        "figures of every model" not in (transferreport.write_transfer(table, tmp_path / "bare", False)[0]).read_text()
    )


def test_pictures_show_every_figure_that_exists(monkeypatch, table):
    panels = []
    monkeypatch.setattr(transferreport, "heat_diagram", lambda *given: panels.extend(given) or b"")
    transferreport.draw(table)
    tables, rows, columns, marked = panels
    assert [each.title for each in tables] == [
        transferreport.FIGURES[name] for name in transferreport.FIGURES if name != "tpr"
    ]
    assert (list(rows), list(columns)) == (["four", "two", "trivial"], ["des-griz", "lsst-gri", "euclid-vis"])
    assert marked.tolist() == [[True, False, False], [False] * 3, [False] * 3]
    assert np.isnan(tables[0].cells[2, 0])
    assert tables[0].cells[0, 0] == pytest.approx(table.cells[0].figures["auroc"].value)


def test_the_command_writes_its_files(tmp_path, capsys):
    make_trivial(("g", "r"), 40, 0.2).save(tmp_path / "one.safetensors")
    words = ["evaluate", "--transfer", str(tmp_path / "one.safetensors"), "--recipes", "lsst-gri", "-n", "50"]
    assert main([*words, "-o", str(tmp_path / "out"), "--bootstrap", "4", "--no-plots", "--debug"]) == 0
    assert "trivial" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["transfer.html", "transfer.json"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--transfer"], "needs at least one MODEL"),
        (["des-griz", "--transfer", "--testset", "des-griz:smoke"], "--transfer does not look at --testset"),
        (["des-griz", "--testset", "des-griz:smoke", "--recipes", "kids"], "--testset does not look at --recipes"),
    ],
)
def test_what_does_not_belong_is_refused(arguments, said, capsys):
    assert main(["evaluate", *arguments]) == 2
    text = capsys.readouterr().err
    assert said in text
    assert text.count("\n") == 1


def example():
    """Return a table of made-up figures, for looking at the picture."""
    rng = np.random.default_rng(1)
    recipes = [load_recipe(name) for name in ("des-griz", "lsst-gri")]

    def one(value):
        return Estimate(value, value - 0.02, value + 0.02, np.zeros(2))

    figures = {name: one(rng.uniform(0.1, 0.9)) for name in transferreport.FIGURES}
    cells = [Cell("a", each.name, figures=figures) for each in recipes]
    return Transfer(TransferSettings([network("a", ("g",))], n=4), recipes, cells)


def test_lines_name_every_figure():
    text = "\n".join(transferreport.lines(example()))
    for title in transferreport.FIGURES.values():
        assert title.split(" (")[0] in text


def test_views_that_the_card_was_not_calibrated_with_are_told():
    found = example()
    assert transferreport.report(found)["notes"] == []
    other = dataclasses.replace(found, settings=dataclasses.replace(found.settings, views=8))
    words = "a: scored with 8 views, the logit was calibrated with 1: probabilities may be a little off"
    values = transferreport.report(other)
    assert values["notes"] == [words]
    assert words in transferreport.make_page(values, {})
    assert transferreport.lines(other)[-1].strip() == words
    own = dataclasses.replace(found, settings=dataclasses.replace(found.settings, views=1))
    assert transferreport.report(own)["notes"] == []
