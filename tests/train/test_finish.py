"""The finish: calibration, posterior scale, ranges and evaluation of scores whose truth is known."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lensscan.metrics.calibration import Calibration
from lensscan.metrics.detection import wilson
from lensscan.metrics.posterior import credibility, marginal_coverage
from lensscan.metrics.scalemixture import GAUSSIAN, ScaleMixture
from lensscan.mocks.recipes import CLASSES, load_recipe
from lensscan.nets.card import ThetaPrior
from lensscan.nets.latent import N_LATENT, PARAMETERS, TRIANGLE, from_latent
from lensscan.nets.mixture import Mixture
from lensscan.nets.model import Model, make_trivial
from lensscan.train.finish import (
    Scored,
    calibrate,
    calibrate_logit,
    evaluate,
    fitted_on,
    headline,
    latent_truth,
    lens_density,
    score_mocks,
)
from lensscan.train.settings import Augmentation, Finish

WIDTH = np.array([0.1, 0.05, 0.05, 0.04, 0.04, 0.2, 0.2])
STATED = np.array([0.5, 2.0, 2.0, 1.0, 1.0, 1.25, 1.25])
HEAVY, WIDER = ScaleMixture((0.8, 0.2), (0.5, 3.0)), ScaleMixture((0.5, 0.5), (0.5, 1.5))


def scores(n=20_000, seed=1, scale=(1.0,) * 7, shape=GAUSSIAN, tail=GAUSSIAN) -> Scored:
    """Two-Gaussian logits, a fifth too large; posteriors whose stated width is off by `STATED`, of a true shape."""
    rng = np.random.default_rng(seed)
    lens = rng.random(n) < 0.4
    latent = rng.normal(0, [0.3, 0.1, 0.1, 0.1, 0.1, 0.3, 0.3], (n, N_LATENT))
    mean = latent + WIDTH * rng.normal(size=latent.shape) * np.reshape(shape.radii(rng, (n,)), (-1, 1))
    sigma = WIDTH * STATED * np.asarray(scale)
    cov = np.zeros((n, len(TRIANGLE)))
    for i in range(N_LATENT):
        cov[:, TRIANGLE.index((i, i))] = sigma[i] ** 2
    truth = {
        name: np.where(lens, column, np.nan) for name, column in zip(PARAMETERS, from_latent(latent).T, strict=True)
    }
    truth |= {"is_lens": lens, "klass": np.where(lens, 0, rng.integers(2, len(CLASSES), n))}
    logit = 1.25 * 2 * rng.normal(np.where(lens, 1.0, -1.0))
    bands = rng.uniform(5, 20, (n, 2))
    posterior = Mixture.single(mean.astype(np.float32), cov.astype(np.float32), tail)
    return Scored(logit.astype(np.float32), posterior, bands, bands / 10, truth)


def covered(found: Scored, level: float):
    """Return marginal (7,) and joint coverage."""
    posterior, truth = found.posterior[found.is_lens], latent_truth(found)
    sigma = np.sqrt(np.diagonal(posterior.matrices, axis1=2, axis2=3))
    content = credibility(truth, posterior.mean, posterior.matrices, posterior.weight, posterior.tail)
    marginal = marginal_coverage(truth, posterior.mean, sigma, level, posterior.tail, posterior.weight)
    return marginal, (content <= level).mean()


@pytest.fixture(scope="module")
def model():
    wider = scores(seed=5, scale=(2.0,) * 7)
    return calibrate(make_trivial("gr", 32, 0.2), scores(), Finish(kind="platt"), Augmentation(), wider)


def test_nothing_to_tell_apart_leaves_the_logit_as_it_is():
    """A network that only regresses, and a recipe of lenses alone: the posterior is calibrated all the same."""
    found = scores()
    mute = dataclasses.replace(found, logit=np.full_like(found.logit, np.nan))
    lens = found.is_lens
    alone = Scored(
        found.logit[lens],
        found.posterior[lens],
        found.sigma[lens],
        found.fwhm[lens],
        {name: column[lens] for name, column in found.truth.items()},
    )
    for each in (mute, alone):
        card = calibrate(make_trivial("gr", 32, 0.2), each, Finish(kind="platt"), Augmentation()).card
        assert card.calibration == Calibration()
        assert card.f_lens.edges == ()
        np.testing.assert_allclose(card.posterior_scale, 1 / STATED, rtol=0.05)
        evaluation = evaluate(card, each)
        assert evaluation["detection"].startswith("none")
        assert "auroc" not in evaluation
        assert headline(evaluation).startswith("theta_E to 0.1")
        json.dumps(evaluation, allow_nan=False)


def test_logit_is_calibrated(model):
    assert model.card.calibration.kind == "platt"
    assert model.card.calibration.a == pytest.approx(0.8, abs=0.03)
    assert model.card.calibration.b == pytest.approx(0.0, abs=0.06)


def test_more_non_lenses_say_what_the_best_of_a_survey_are_worth():
    """A class of lookalikes, one non-lens in 300, weighs as the many say, not as the few that a small split holds."""

    def lookalikes(found, share, seed):
        rng = np.random.default_rng(seed)
        alike = ~found.is_lens & (rng.random(len(found.logit)) < share)
        logit = np.where(alike, rng.normal(6.0, 1.0, len(alike)), found.logit).astype(np.float32)
        return dataclasses.replace(found, logit=logit)

    few, many = lookalikes(scores(2_000, 3), 0.0, 5), lookalikes(scores(200_000, 4), 1 / 300, 6)
    kept = ~many.is_lens
    truth = {name: column[kept] for name, column in many.truth.items()}
    others = Scored(many.logit[kept], many.posterior[kept], many.sigma[kept], many.fwhm[kept], truth)
    alone, density = calibrate_logit(few, "bent", ThetaPrior())
    more, same = calibrate_logit(few, "bent", ThetaPrior(), others)
    n = (~few.is_lens).sum()
    assert alone.cap == pytest.approx(np.log(n / 3))
    assert more.cap == pytest.approx(np.log((n + kept.sum()) / 3))
    true = np.log((few.logit[few.is_lens] > 6).mean() / (others.logit > 6).mean())
    assert abs(more(7.0) - true) < 0.7
    assert alone(7.0) - true > 1.0
    assert len(same.edges) == len(density.edges), "f_lens is of the same lenses"


def test_probabilities_are_for_the_lenses_that_nature_has():
    """Large rings score high more often, and a training has more of them: two scores, and Bayes by hand."""
    share = np.log(2.0) / np.log(6.0)  # of rings above 1.5 arcsec in a training that is flat in ln theta_E
    grid = np.linspace(np.log(0.5), np.log(3.0), 65)
    nature = np.where(grid < np.log(1.5), 0.9 / np.log(3.0), 0.1 / np.log(2.0))
    prior = ThetaPrior(0.5, 3.0, (1 / np.log(6.0),) * 65, tuple(nature))
    found, rng = scores(60_000, 11), np.random.default_rng(12)
    lens, radius = found.is_lens, np.exp(rng.uniform(np.log(0.5), np.log(3.0), len(found.logit)))
    often = np.where(~lens, 0.05, np.where(radius > 1.5, 1.0, 0.2))
    logit = np.where(rng.random(len(lens)) < often, 1.0, -1.0).astype(np.float32)
    found = dataclasses.replace(found, logit=logit, truth=found.truth | {"theta_E": np.where(lens, radius, np.nan)})
    kept = found.natural(prior)
    assert (~kept.is_lens).sum() == (~lens).sum()
    assert (kept.truth["theta_E"][kept.is_lens] > 1.5).mean() == pytest.approx(0.1, abs=0.015)
    assert found.natural(ThetaPrior()) is found
    natural, density = calibrate_logit(found, "platt", prior)
    trained, _ = calibrate_logit(found, "platt", ThetaPrior())
    for way, large in ((natural, 0.1), (trained, share)):
        assert way(1.0) == pytest.approx(np.log((large + (1 - large) * 0.2) / 0.05), abs=0.08)
        assert way(-1.0) == pytest.approx(np.log((1 - large) * 0.8 / 0.95), abs=0.08)
    assert trained(1.0) - natural(1.0) > 0.5
    assert density == lens_density(natural, kept.logit[kept.is_lens])
    assert fitted_on(found, prior) == f"{kept.is_lens.sum()} lenses of nature's theta_E"
    assert fitted_on(found, ThetaPrior()) == f"{lens.sum()} lenses of the training's theta_E"


def test_lensed_systems_below_the_label_rule_are_neither_lenses_nor_others(model):
    """A fifth more rows that look like lenses and are none leave calibration, f_lens and ranking as they were."""
    plain, rng = scores(), np.random.default_rng(7)
    n, more = len(plain.logit), len(plain.logit) // 5
    rows = np.append(np.arange(n), rng.choice(np.flatnonzero(plain.is_lens), more))
    truth = {name: values[rows] for name, values in plain.truth.items()}
    truth["is_lens"][n:], truth["klass"][n:] = False, CLASSES.index("undetectable")
    mixed = Scored(plain.logit[rows], plain.posterior[rows], plain.sigma[rows], plain.fwhm[rows], truth)
    found = calibrate(make_trivial("gr", 32, 0.2), mixed, Finish(kind="platt"), Augmentation(), scores(seed=5))
    assert (found.card.calibration, found.card.f_lens) == (model.card.calibration, model.card.f_lens)
    said, wanted = evaluate(model.card, mixed), evaluate(model.card, plain)
    rate = said["false_positives"].pop("undetectable")
    assert rate["n"] == said.pop("n_undetectable") == more
    assert rate["above"] > 0.1, "reported apart, at the threshold of the others"
    assert said == wanted


def test_posterior_scale_undoes_the_wrong_width(model):
    np.testing.assert_allclose(model.card.posterior_scale, 1 / STATED, rtol=0.03)
    fresh = scores(seed=2, scale=model.card.posterior_scale)
    np.testing.assert_allclose(covered(fresh, 0.68)[0], 0.68, atol=0.02)


def test_posteriors_cover_the_lenses_of_nature():
    """The stated widths are right below the median of theta_E and half of the truth above; nature has small ones."""
    found = scores(seed=8)
    latent = latent_truth(found)
    middle = np.median(latent[:, 0])
    right = scores(seed=8, scale=1 / STATED).posterior
    large = np.zeros(len(found.logit), bool)
    large[np.flatnonzero(found.is_lens)[latent[:, 0] > middle]] = True
    cov = np.where(large[:, None, None], 0.25, 1.0) * right.cov
    found = dataclasses.replace(found, posterior=Mixture(right.mean, cov, right.weight))
    model = make_trivial("gr", 32, 0.2)
    low, high = np.exp(middle - 0.5), np.exp(middle + 0.5)
    prior = ThetaPrior(low, high, (1.0,) * 200, (2.0,) * 100 + (1e-6,) * 100)
    cards = [
        calibrate(
            Model(dataclasses.replace(model.card, theta_E_prior=each), model.module), found, Finish(), Augmentation()
        )
        for each in (prior, ThetaPrior())
    ]
    natural, training = (np.array(each.card.posterior_scale) for each in cards)
    np.testing.assert_allclose(natural, 1.0, rtol=0.05)
    assert (training > 1.15).all()


def test_tails_are_found_and_undone():
    """Marginal and joint regions of mocks that the fit did not see; without the tail they are off by far."""
    heavy = scores(shape=HEAVY, seed=11)
    card = calibrate(make_trivial("gr", 32, 0.2), heavy, Finish(), Augmentation()).card
    np.testing.assert_allclose(card.posterior_scale, 1 / STATED, rtol=0.04)
    np.testing.assert_allclose(card.posterior_tail.factors, HEAVY.factors, rtol=0.15)
    np.testing.assert_allclose(card.posterior_tail.weights, HEAVY.weights, atol=0.04)
    assert card.posterior_tail_views == GAUSSIAN
    fresh = {
        tail: scores(seed=12, scale=card.posterior_scale, shape=HEAVY, tail=tail)
        for tail in (card.posterior_tail, GAUSSIAN)
    }
    for level in (0.5, 0.68, 0.95):
        marginal, joint = covered(fresh[card.posterior_tail], level)
        np.testing.assert_allclose(marginal, level, atol=0.015)
        assert joint == pytest.approx(level, abs=0.015)
    assert covered(fresh[GAUSSIAN], 0.68)[1] > 0.72
    found = evaluate(card, fresh[card.posterior_tail])["coverage"]["0.95"]
    assert found["joint"] == pytest.approx(0.95, abs=0.015)


def test_eight_views_have_a_scale_of_their_own(model):
    np.testing.assert_allclose(model.card.posterior_scale_views, 0.5 / STATED, rtol=0.03)
    assert model.card.scale_of(8) == model.card.posterior_scale_views
    assert model.card.scale_of(1) == model.card.posterior_scale


def test_what_is_fitted_on_what(monkeypatch):
    """Widths of one view and of eight on nature's lenses, the logit on mocks scored with the card's own views."""
    asked = []

    def note(scored, prior):
        asked.append((len(scored.logit), prior))
        return (1.0,) * 7, GAUSSIAN

    monkeypatch.setattr("lensscan.train.finish.recalibrate", note)
    plain, prior = make_trivial("gr", 32, 0.2), ThetaPrior(0.5, 3.0, (1.0,) * 9, (2.0,) * 9)
    start = Model(dataclasses.replace(plain.card, theta_E_prior=prior), plain.module)
    one, eight, own = scores(n=400), scores(n=500, seed=2), scores(n=600, seed=3)
    card = calibrate(start, one, Finish(kind="platt"), Augmentation(), eight, own).card
    assert asked == [(400, prior), (500, prior)]
    assert (card.calibration, card.f_lens) == calibrate_logit(own, "platt", prior)
    assert calibrate(start, one, Finish(kind="platt"), Augmentation(), eight).card.calibration != card.calibration


def test_scored_mocks_have_the_tail_of_their_views_and_a_pool_has_none(monkeypatch):
    n, plain = 5, make_trivial("gr", 32, 0.2)
    tails = {"posterior_tail": HEAVY, "posterior_tail_views": WIDER, "posterior_scale_views": (1.0,) * 7}
    one = Model(dataclasses.replace(plain.card, **tails), plain.module)

    def columns(*chunk):
        k = len(models)
        return {
            "logit": np.arange(k, dtype=float)[None].repeat(n, axis=0),
            "post_mean": np.zeros((n, k, N_LATENT)),
            "post_cov": np.zeros((n, k, len(TRIANGLE))),
            "post_weight": np.ones((n, k)),
            "sigma": np.ones((n, 2)),
            "fwhm": np.ones((n, 2)),
            "truth is_lens": np.ones(n, bool),
        }

    stub = SimpleNamespace(frame=None, device=torch.device("cpu"))
    monkeypatch.setattr("lensscan.train.finish.Scorer", lambda *given, **named: stub)
    monkeypatch.setattr("lensscan.train.finish.allocate", lambda *given, **named: None)
    monkeypatch.setattr("lensscan.train.finish._score_chunk", columns)
    recipe = load_recipe("des-griz")
    for models, views, tail in (([one], None, HEAVY), ([one], 8, WIDER), ([one, one], 8, GAUSSIAN)):
        found = score_mocks(models, recipe, 1, n, views=views)
        assert found.posterior.tail == tail
        assert (found.logit == (len(models) - 1) / 2).all()
        np.testing.assert_allclose(found.posterior.weight.sum(axis=1), 1.0)


def test_scale_keeps_the_dihedral_rules(model):
    scale = model.card.posterior_scale
    assert scale[1] == scale[2]
    assert scale[3] == scale[4]
    assert scale[5] == scale[6]


def test_lens_density_integrates_to_one(model):
    density = model.card.f_lens
    assert len(density.edges) == len(density.density) + 1
    assert np.sum(np.diff(density.edges) * density.density) == pytest.approx(1.0, abs=1e-4)
    peak = density.edges[int(np.argmax(density.density))]
    assert peak == pytest.approx(2.0, abs=1.5)


def test_a_bend_does_not_lump_the_best_lenses_into_one_bin():
    """Above a knee the calibrated logits lie close together; each raw half unit keeps a bin of its own."""
    way = Calibration("bent", 1.0, 0.0, upper=0.05, knee=2.0)
    logit = np.random.default_rng(3).normal(3.0, 2.0, 20_000)
    density = lens_density(way, logit)
    edges, counts = np.array(density.edges), np.diff(density.edges) * np.array(density.density) * len(logit)
    assert (np.diff(edges) > 0).all()
    assert counts.sum() == pytest.approx(len(logit), rel=1e-4)
    assert (edges > way(2.0)).sum() >= 12, "knee to the tenth best lens: 2 to about 9.6"
    assert counts[-1] >= 10, "bins without a lens would call the best candidates hopeless"
    assert counts[0] >= 10
    inside = (logit > 4.0) & (logit <= 4.5)
    assert counts[np.searchsorted(edges, way(4.2)) - 1] == pytest.approx(inside.sum(), abs=1)


def test_few_lenses_make_a_density_too():
    density = lens_density(Calibration(), np.array([1.1, 1.2, 1.3]))
    np.testing.assert_allclose(np.diff(density.edges) @ np.array(density.density), 1.0)


def test_ranges_and_prior(model):
    low, high = model.card.sigma_range["g"]
    assert 3 < low < 5.1
    assert 19.9 < high < 26
    assert model.card.fwhm_range["r"][1] == pytest.approx(2 * np.exp(0.08), rel=0.02)
    usual = Augmentation()
    widen = np.exp(2 * (usual.gain + usual.sigma))
    edges = np.quantile(scores().sigma[:, 0], [0.001, 0.999])
    np.testing.assert_allclose((low, high), (edges[0] / widen, edges[1] * widen), rtol=1e-3)
    assert set(model.card.prior) == set(PARAMETERS)


def test_evaluation_is_plain_json(model):
    found = evaluate(model.card, scores(seed=3, scale=model.card.posterior_scale))
    json.dumps(found, allow_nan=False)
    assert found["n_lens"] + found["n_other"] == 20_000
    assert found["auroc"] == pytest.approx(0.921, abs=0.01)
    assert found["ece"] < 0.02
    low, high = found["tpr_at_fpr_0.01"]["interval_95"]
    assert low < found["tpr_at_fpr_0.01"]["tpr"] < high
    few = wilson(round(found["tpr_at_fpr_0.01"]["tpr"] * found["n_lens"]), found["n_lens"])
    assert high - low > 1.5 * (few[1] - few[0]), "the threshold stands on 120 false positives"
    assert found["coverage"]["0.68"]["joint"] == pytest.approx(0.68, abs=0.03)
    assert found["parameters"]["x"]["half_width_68"] == pytest.approx(0.04, rel=0.1)
    rates = found["false_positives"]
    assert "lens" not in rates
    assert np.mean([rate["above"] for rate in rates.values()]) == pytest.approx(0.01, abs=0.004)


def test_figures_of_the_evaluation_by_hand(model):
    """Outliers are relative to theta_E; a capped probability costs what it says, not what the logit would."""
    found = scores(n=2000, seed=6)
    theta_E = found.truth["theta_E"][found.is_lens]
    off = np.abs(np.exp(found.posterior.mean[found.is_lens, 0, 0]) / theta_E - 1) > 0.15
    assert 0.1 < off.mean() < 0.2
    timid = dataclasses.replace(model.card, calibration=Calibration(cap=0.5))
    said = evaluate(timid, found)
    assert said["parameters"]["theta_E"]["outliers_15_percent"] == pytest.approx(off.mean(), abs=1e-4)
    p = timid.calibration.p_lens(found.logit, found.is_lens.mean())
    loss = -np.log(np.where(found.is_lens, p, 1 - p)).mean()
    assert said["log_loss"] == pytest.approx(loss, rel=1e-4)


def test_mocks_on_one_real_stamp_count_once(model):
    """Ten rows on each of 300 galaxies say as much of the threshold, and of what can be shown, as 300 rows."""
    found = scores(n=3000, seed=4)
    wide = evaluate(model.card, dataclasses.replace(found, truth=found.truth | {"stamp": np.arange(3000) % 300}))
    assert "tpr_at_fpr_0.01" not in wide, "at most 300 galaxies without a lens"
    pairs = evaluate(model.card, dataclasses.replace(found, truth=found.truth | {"stamp": np.arange(3000) // 2}))
    assert pairs["tpr_at_fpr_0.01"]["tpr"] == evaluate(model.card, found)["tpr_at_fpr_0.01"]["tpr"]
    assert "tpr_at_fpr_0.01" in evaluate(
        model.card, dataclasses.replace(found, truth=found.truth | {"stamp": np.full(3000, -1)})
    ), "no real stamps"


def test_rates_that_the_sample_cannot_show_are_left_out(model):
    found = evaluate(model.card, scores(n=3000, seed=4))
    assert "tpr_at_fpr_0.001" not in found, "1800 negatives cannot show a rate of 1e-3"


def test_too_small_an_evaluation_still_works(model):
    found = evaluate(model.card, scores(n=300, seed=4))
    assert "tpr_at_fpr_0.01" not in found
    assert found["false_positives"] == {}
