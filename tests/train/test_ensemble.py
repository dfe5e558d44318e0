"""Several models calibrated together, and evaluated as one beside its members."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from lensscan.candidates.ensemble import Ensemble, read_ensemble
from lensscan.candidates.score import combine_cards
from lensscan.cli.main import main
from lensscan.errors import ConfigError, ModelError
from lensscan.evaluate.members import Group, line_up, pool
from lensscan.evaluate.predict import predict
from lensscan.evaluate.testsets import open_testset
from lensscan.metrics.calibration import Calibration
from lensscan.metrics.posterior import credibility, marginal_coverage
from lensscan.metrics.scalemixture import ScaleMixture
from lensscan.mocks.recipes import load_recipe
from lensscan.nets.card import ThetaPrior
from lensscan.nets.latent import N_LATENT, PARAMETERS, TRIANGLE, from_latent
from lensscan.nets.mixture import Mixture, Pooling, widen
from lensscan.nets.model import Card, Model, build_network, make_trivial
from lensscan.train.ensemble import calibrate_together, fit_ensemble, join, recipes_of, write_ensemble
from lensscan.train.finish import Scored, latent_truth, score_mocks

BANDS = ("g", "r", "i", "z")
WIDTH = np.array([0.1, 0.05, 0.05, 0.04, 0.04, 0.2, 0.2])
TAIL = ScaleMixture((0.8, 0.2), (0.5, 3.0))


def network(seed: int, name: str, recipe: str = "des-griz", **changes) -> Model:
    architecture = {"kind": "resnet", "widths": [8, 8], "depths": [0, 0], "squeeze": 4, "hidden": 8}
    torch.manual_seed(seed)
    module = build_network(architecture, len(BANDS), 64)
    training = {"recipe": recipe, "recipe_digest": load_recipe(recipe).digest}
    return Model(Card(name, architecture, BANDS, 64, 0.263, training=training, **changes), module.eval())


def pooled(seed: int, n: int = 2500) -> Scored:
    """Three members that share most of their error, which the stamp's noise makes, and state widths twice too large.

    The mean logit has a scatter of 1.4 about +-2, so its slope is too small.
    """
    rng = np.random.default_rng(seed)
    lens = rng.random(n) < 0.4
    latent = rng.normal(0, [0.3, 0.1, 0.1, 0.1, 0.1, 0.3, 0.3], (n, N_LATENT))
    shared = rng.normal(size=(n, 1, N_LATENT))
    own = rng.normal(size=(n, 3, N_LATENT))
    mean = latent[:, None] + 0.5 * WIDTH * (0.95**0.5 * shared + 0.05**0.5 * own)
    cov = np.zeros((n, 3, len(TRIANGLE)))
    cov[..., [TRIANGLE.index((i, i)) for i in range(N_LATENT)]] = WIDTH**2
    truth = dict(zip(PARAMETERS, np.where(lens, from_latent(latent).T, np.nan), strict=True)) | {"is_lens": lens}
    logit = 2 * (np.where(lens, 1.0, -1.0) + 0.7 * rng.normal(size=n))
    return Scored(logit, Mixture(mean, cov, np.full((n, 3), 1 / 3)), np.ones((n, 4)), np.ones((n, 4)), truth)


def coverage(scored: Scored, scale: tuple[float, ...], tail: ScaleMixture, level: float) -> np.ndarray:
    """Return marginal (7,) and joint coverage of the lenses."""
    found, truth = scored.posterior[scored.is_lens], latent_truth(scored)
    found = Mixture(found.mean, widen(found.cov, scale), found.weight, tail)
    sigma = np.sqrt(np.diagonal(found.matrices, axis1=2, axis2=3))
    marginal = marginal_coverage(truth, found.mean, sigma, level, tail, found.weight)
    joint = (credibility(truth, found.mean, found.matrices, found.weight, tail) <= level).mean()
    return np.append(marginal, joint)


def test_the_pooled_score_and_posterior_are_calibrated():
    found = calibrate_together(pooled(1), "platt", ThetaPrior())
    assert found.calibration.a == pytest.approx(1 / 0.7**2, abs=0.3), "the mean logit is too small"
    other = pooled(2)
    before = coverage(other, (), ScaleMixture(), 0.68)
    assert (before > 0.85).all(), "a pool of wide members covers too much, or this tests nothing"
    for level in (0.68, 0.95):
        after = coverage(other, found.posterior_scale, found.posterior_tail, level)
        np.testing.assert_allclose(after, level, atol=0.05)
    assert np.sum(np.diff(found.f_lens.edges) * found.f_lens.density) == pytest.approx(1.0, abs=1e-4)


def test_non_lenses_besides_count_for_the_logit_alone():
    models, recipes = [network(number, name) for number, name in ((1, "one"), (2, "two"))], [load_recipe("des-griz")]
    few = fit_ensemble(models, recipes, 40)
    more = fit_ensemble(models, recipes, 40, others=60)
    assert (few.n, few.others, more.n, more.others) == (40, 0, 40, 60)
    assert np.exp(more.calibration.cap) * 3 == pytest.approx(np.exp(few.calibration.cap) * 3 + 60, abs=0.1)
    assert (more.posterior_scale, more.posterior_tail) == (few.posterior_scale, few.posterior_tail)
    lenses = [dataclasses.replace(recipes[0], classes={"lens": 1.0})]
    with pytest.raises(ConfigError, match="makes lenses only"):
        fit_ensemble(models, lenses, 40, others=60)


def test_a_card_survives_its_file(tmp_path):
    card = Ensemble(Calibration("platt", 2.0, -1.0), name="duo", models=("a.safetensors", "b"), hashes=("x", "y"),
                    views=(1, 8), posterior_scale=(0.9,) * 7, posterior_tail=TAIL, recipes=("des-griz",),
                    seed=15, n=20)  # fmt: skip
    write_ensemble(card, tmp_path / "duo.toml")
    assert read_ensemble(str(tmp_path / "duo.toml")) == card
    assert set(Ensemble(Calibration()).stored()) == {"calibration", "f_lens"}, "cards by hand stay what they were"
    (tmp_path / "bad.toml").write_text('posterior_scale = [1.0]\n[calibration]\nkind = "platt"\n')
    with pytest.raises(ConfigError, match="7 positive factors"):
        read_ensemble(str(tmp_path / "bad.toml"))
    (tmp_path / "bad.toml").write_text('[calibration]\nkind = "platt"\na = -1.0\n')
    with pytest.raises(ConfigError, match=r"bad\.toml: .* not strictly increasing"):
        read_ensemble(str(tmp_path / "bad.toml"))


def test_a_scan_pools_with_the_ensembles_widths_and_tail():
    cards = [network(k, f"m{k}", posterior_tail=TAIL).card for k in (1, 2)]
    ensemble = Ensemble(Calibration(), posterior_scale=(0.5, *(1.0,) * 6), posterior_tail=ScaleMixture())
    mean, cov = np.zeros((3, 2, 7)), np.zeros((3, 2, 28))
    cov[..., [TRIANGLE.index((i, i)) for i in range(7)]] = 0.04
    narrow = ensemble.pooling(cards, 0).columns(mean, cov)
    plain = Pooling.of([dataclasses.replace(card, posterior_tail=ScaleMixture()) for card in cards]).columns(mean, cov)
    np.testing.assert_allclose(np.log(narrow["theta_E_q84"]), 0.5 * np.log(plain["theta_E_q84"]), rtol=1e-5)
    np.testing.assert_array_equal(narrow["sx_err"], plain["sx_err"])
    assert Ensemble(Calibration()).pooling(cards, 0) == Pooling.of(cards), "a card by hand leaves posteriors alone"


def test_other_networks_or_views_are_refused():
    cards = [dataclasses.replace(network(k, f"m{k}").card, hash=f"h{k}") for k in (1, 2)]
    card = Ensemble(Calibration(), models=("a", "b"), hashes=("h2", "h1"), views=(1, 1))
    card.require(cards, 0, "duo.toml")
    with pytest.raises(ModelError, match=r"duo.toml was fitted on other views"):
        card.require(cards, 8, "duo.toml")
    with pytest.raises(ModelError, match=r"duo.toml was fitted on other models"):
        card.require([*cards, cards[0]], 0, "duo.toml")
    Ensemble(Calibration()).require(cards, 8, "by hand")


def test_recipes_of_a_committee():
    one, two = network(1, "one"), network(2, "two", recipe="argonne2017")
    names = [recipe.name for recipe in recipes_of([one.card, two.card, one.card])]
    assert names == ["des-griz", "argonne2017"]
    with pytest.raises(ModelError, match="makes other mocks now"):
        recipes_of([dataclasses.replace(one.card, training={"recipe": "des-griz", "recipe_digest": "old"})])
    with pytest.raises(ModelError, match="recipe mine, which is not shipped; give its file with --recipe"):
        recipes_of([dataclasses.replace(one.card, training={"recipe": "mine", "recipe_digest": "old"})])
    with pytest.raises(ModelError, match="does not state its recipe"):
        recipes_of([dataclasses.replace(one.card, training={})])
    with pytest.raises(ModelError, match="at least two"):
        fit_ensemble([one], [load_recipe("des-griz")], 100)
    saved = Model(dataclasses.replace(one.card, hash="ab12"), one.module)
    with pytest.raises(ModelError, match="given twice"):
        fit_ensemble([saved, one, saved], [load_recipe("des-griz")], 100)


def test_two_models_of_one_name_are_refused_before_a_mock_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lensscan.train.ensemble.score_mocks", lambda *args: pytest.fail("scored"))
    for number in (1, 2):
        network(number, "twin").save(tmp_path / f"{number}.safetensors")
    names = [str(tmp_path / f"{number}.safetensors") for number in (1, 2)]
    assert main(["ensemble", *names, "-o", str(tmp_path / "duo.toml")]) == 1
    text = capsys.readouterr().err
    assert "two models are called twin in their cards" in text
    assert "--set name=NAME (the name of its file does not matter)" in text


def test_an_ensemble_is_not_called_as_a_member(folder, monkeypatch, capsys):
    monkeypatch.setattr("lensscan.train.ensemble.score_mocks", lambda *args: pytest.fail("scored"))
    names = [str(folder / f"{name}.safetensors") for name in ("one", "two")]
    assert main(["ensemble", *names, "-o", str(folder / "two.toml")]) == 2
    assert "would have the name of its model two" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_refused_before_a_mock_is_made(folder, monkeypatch, capsys):
    monkeypatch.setattr("lensscan.train.ensemble.score_mocks", lambda *args: pytest.fail("scored"))
    names = [str(folder / f"{name}.safetensors") for name in ("one", "two")]
    (folder / "folder.toml").mkdir()
    for output, words in (("/proc/e.toml", "cannot write /proc"), (folder / "folder.toml", "is a folder")):
        assert main(["ensemble", *names, "-o", str(output)]) == 1
        assert words in capsys.readouterr().err


def test_mocks_without_a_score_calibrate_nothing():
    """Networks whose weights are lost give neither a score nor a posterior; a card of them would say nothing."""
    models = [network(number, name) for number, name in ((1, "one"), (2, "two"))]
    models[0].module.stem.weight.data[:] = np.nan
    with pytest.raises(ModelError, match="no mock of des-griz got a score from all models"):
        fit_ensemble(models, [load_recipe("des-griz")], 20)
    models[1].card = dataclasses.replace(models[1].card, evaluation={"detection": "none"})
    with pytest.raises(ModelError, match="no mock of des-griz got a posterior from all models"):
        fit_ensemble(models, [load_recipe("des-griz")], 20)


def test_twins_in_an_ensemble_cannot_be_evaluated_one_at_a_time(tmp_path, capsys):
    """A card that an older version made of them."""
    hashes = [network(number, "twin").save(tmp_path / f"{number}.safetensors") for number in (1, 2)]
    models = tuple(str(tmp_path / f"{number}.safetensors") for number in (1, 2))
    write_ensemble(
        Ensemble(Calibration(), name="duo", models=models, hashes=tuple(hashes), views=(1, 1)), tmp_path / "duo.toml"
    )
    assert main(["evaluate", str(tmp_path / "duo.toml"), "--testset", "des-griz:tune:64", "-o", str(tmp_path)]) == 2
    text = capsys.readouterr().err
    assert "ensemble duo: two of it and its models are called twin" in text
    assert "--set name=NAME" in text


@pytest.mark.parametrize(
    ("seed", "words"),
    [
        (20, "the training of two"),
        (21, "the validation of two"),
        (32, "the calibration of three"),
        (314_159_265, "kept for the sealed test set full"),
    ],
)
def test_mocks_that_a_member_learnt_from_calibrate_nothing(seed, words):
    models = [network(number, name) for number, name in ((2, "two"), (3, "three"))]
    for number, model in enumerate(models, start=2):
        model.card = dataclasses.replace(model.card, training={**model.card.training, "seed": number})
    with pytest.raises(ConfigError, match=words):
        fit_ensemble(models, [load_recipe("des-griz")], 100, seed)


def test_mocks_of_several_recipes_are_one_set():
    first, second = pooled(1, 40), pooled(2, 60)
    second.truth["more"] = np.zeros(60)
    both = join([first, second])
    assert len(both.logit) == len(both.posterior) == len(both.is_lens) == 100
    assert set(both.truth) == set(first.truth)
    np.testing.assert_array_equal(both.posterior.mean[40:], second.posterior.mean)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("ensemble")
    for seed, name in ((1, "one"), (2, "two")):
        network(seed, name).save(path / f"{name}.safetensors")
    return path


def test_mean_logit_and_components_are_those_of_the_members(folder):
    models = [Model.load(folder / f"{name}.safetensors") for name in ("one", "two")]
    recipe = load_recipe("des-griz")
    single = [score_mocks([model], recipe, 15, 70) for model in models]
    both = score_mocks(models, recipe, 15, 70)
    np.testing.assert_allclose(both.logit, (single[0].logit + single[1].logit) / 2, rtol=1e-6)
    np.testing.assert_array_equal(both.posterior.mean[:, 1], single[1].posterior.mean[:, 0])
    np.testing.assert_allclose(both.posterior.weight, 0.5)


def test_a_classifier_beside_a_regressor_leaves_its_posterior_alone(folder):
    """The posterior of two networks of which one only classifies is that of the other, in mocks and in a report."""
    one = Model.load(folder / "one.safetensors")
    plain = make_trivial("griz", 64, 0.263)
    mute = Model(dataclasses.replace(plain.card, name="mute"), plain.module)
    recipe = load_recipe("des-griz")
    alone, both = score_mocks([one], recipe, 15, 70), score_mocks([one, mute], recipe, 15, 70)
    assert both.posterior.finite.all()
    np.testing.assert_array_equal(both.posterior.mean, alone.posterior.mean)
    np.testing.assert_array_equal(both.posterior.weight, alone.posterior.weight)
    assert np.abs(both.logit - alone.logit).max() > 0
    found = predict([one, mute], open_testset("des-griz:tune:64", "cpu"))
    card = Ensemble(Calibration("platt", 2.0, -1.0), name="pair")
    pair = pool(Group(card, one, ()), found.models)
    single = found.models[0].posterior.columns()
    for name, column in pair.posterior.columns().items():
        np.testing.assert_allclose(column, single[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_commands_end_to_end(folder, monkeypatch, capsys):
    """The card of two models, and their evaluation as three: pooled and single figures, paired."""
    monkeypatch.chdir(folder)
    names = ["one.safetensors", "two.safetensors"]
    assert main(["ensemble", *names, "-o", "duo.toml", "-n", "130", "--debug"]) == 0
    card = read_ensemble("duo.toml")
    assert (card.name, card.models, card.recipes, card.n) == ("duo", tuple(names), ("des-griz",), 130)
    assert len(card.posterior_scale) == 7
    arguments = ["--testset", "des-griz:tune:80", "-o", "reports", "--no-plots", "--bootstrap", "6", "--debug"]
    assert main(["evaluate", "duo.toml", "one.safetensors", *arguments]) == 0
    report = json.loads((folder / "reports" / "duo--des-griz-tune-80.json").read_text(encoding="utf-8"))
    assert report["model"]["kind"] == "ensemble"
    assert {row["other"] for row in report["comparisons"]} == {"one", "two"}
    assert {"detection:auroc", "regression:nll.joint_7"} <= {row["figure"] for row in report["comparisons"]}
    assert (folder / "reports" / "two--des-griz-tune-80.html").is_file(), "members are reported too"
    assert main(["evaluate", "duo.toml", "--views", "8", *arguments[:-1]]) == 1
    assert "other views" in capsys.readouterr().err


def test_an_evaluation_pools_as_a_scan_does(folder, monkeypatch):
    monkeypatch.chdir(folder)
    models = [Model.load(folder / f"{name}.safetensors") for name in ("one", "two")]
    card = Ensemble(Calibration("platt", 2.0, -1.0), name="pair", models=("one.safetensors", "two.safetensors"),
                    hashes=tuple(model.card.hash for model in models), views=(1, 1), posterior_scale=(2.0,) * 7,
                    posterior_tail=TAIL)  # fmt: skip
    write_ensemble(card, folder / "pair.toml")
    lineup = line_up(["pair.toml", "two.safetensors"], None)
    assert [model.card.name for model in lineup.models] == ["two", "one", "pair"]
    found = predict(lineup.singles, open_testset("des-griz:tune:64", "cpu"))
    pair = lineup.predictions(found.models)[-1]
    raw = np.stack([each.raw for each in found.models], axis=1).astype(np.float32)
    expected = combine_cards([model.card for model in lineup.singles], None, card).columns(raw)
    np.testing.assert_allclose(pair.logit, expected["logit"], rtol=1e-6)
    parts = [each.posterior for each in found.models]
    mean, cov = (np.concatenate([getattr(each, name) for each in parts], axis=1) for name in ("mean", "cov"))
    columns = card.pooling([model.card for model in lineup.singles], 0).columns(mean, cov)
    for name, column in pair.posterior.columns().items():
        np.testing.assert_allclose(column, columns[name], rtol=1e-4, atol=1e-5, err_msg=name)
