"""Combination of networks, calibration, probabilities and the survey's own check."""

import dataclasses

import numpy as np
import pytest
from synthetic_run import make_card

from lensscan.candidates.score import MIN_SURVEY_ROWS, Ensemble, combine_cards, unique_names
from lensscan.errors import ModelError
from lensscan.metrics.calibration import Calibration
from lensscan.nets.card import LensDensity, ThetaPrior


def test_single_network_uses_its_card():
    combination = combine_cards([make_card(calibration=Calibration("platt", 2.0, -1.0))], 0.01)
    columns = combination.columns(np.array([[0.5], [np.nan]], dtype=np.float32))
    assert columns["logit"][0] == 0.0
    assert columns["p_lens"][0] == pytest.approx(0.01)
    assert np.isnan(columns["logit_std"]).all()
    assert np.isnan(columns["logit"][1])
    assert columns["logit_demo"][0] == np.float32(0.5)
    assert combination.notes == ()


def test_mean_first_then_the_ensembles_calibration():
    cards = [make_card("a", calibration=Calibration("temperature", 9.0)), make_card("b")]
    raw = np.array([[1.0, 3.0]], dtype=np.float32)
    plain = combine_cards(cards, None)
    assert plain.columns(raw)["logit"][0] == 2.0
    assert any("lensscan ensemble" in note for note in plain.notes)
    assert any("prevalence" in note for note in plain.notes)
    joint = combine_cards(cards, 0.5, Ensemble(Calibration("temperature", 0.25)))
    assert joint.columns(raw)["logit"][0] == 0.5
    assert joint.columns(raw)["logit_std"][0] == pytest.approx(np.sqrt(2))
    assert joint.notes == ()


def test_several_networks_without_a_calibration_state_no_probability():
    density = LensDensity((-10.0, 0.0, 10.0), (0.01, 0.09))
    cards = [make_card(name, calibration=Calibration("platt", 1.0, 0.0, cap=9.0), f_lens=density) for name in "ab"]
    raw = np.full((MIN_SURVEY_ROWS, 2), 12.0, np.float32)
    for combination, known in (
        (combine_cards(cards, 1e-4), False),
        (combine_cards(cards, 1e-4, Ensemble(Calibration("platt", 1.0, 0.0, cap=9.0), density)), True),
        (combine_cards(cards[:1], 1e-4), True),
    ):
        columns = combination.columns(raw[:, : len(combination.names)])
        assert (columns["logit"] == 12.0).all()
        assert np.isfinite(columns["p_lens"]).all() == known
        combination.count(columns["logit"])
        assert np.isfinite(combination.p_survey(columns["logit"])).all() == known
        assert combination.has_survey == known
        assert bool(combination.notes) != known


def test_a_lone_network_keeps_its_logit_as_a_likelihood_ratio():
    combination = combine_cards([make_card(calibration=Calibration())], 0.5)
    assert combination.columns(np.zeros((1, 1), np.float32))["p_lens"][0] == 0.5
    assert any("carries no calibration" in note for note in combination.notes)


def test_calibration_must_increase():
    for wrong in (Calibration("platt", -1.0), Calibration("platt", np.nan), Calibration("isotonic")):
        with pytest.raises(ModelError, match="not strictly increasing"):
            combine_cards([make_card(calibration=wrong)], None)


def test_the_cap_limits_probabilities_and_leaves_the_ranking():
    card = make_card(calibration=Calibration("platt", 2.0, 0.0, cap=np.log(1000)))
    columns = combine_cards([card], 0.001).columns(np.array([[2.0], [9.0], [10.0]], dtype=np.float32))
    assert columns["logit"].tolist() == [4.0, 18.0, 20.0]
    assert columns["p_lens"][1:] == pytest.approx([1000 / 1999, 1000 / 1999], rel=1e-12)
    assert columns["p_lens"][0] < 0.06


def test_names_fit_columns():
    assert unique_names(["a", "a", "std", "x/y", "a_2"]) == ("a", "a_2", "std_2", "x_y", "a_2_2")


def survey(n, seed=0):
    edges = tuple(np.linspace(-12, 12, 97))
    centres = 0.5 * (np.array(edges)[1:] + np.array(edges)[:-1])
    density = np.exp(-0.5 * (centres - 3) ** 2) / np.sqrt(2 * np.pi)
    card = make_card(calibration=Calibration(), f_lens=LensDensity(edges, tuple(density)))
    combination = combine_cards([card], 0.01)
    rng = np.random.default_rng(seed)
    logit = np.where(rng.random(n) < 0.01, rng.normal(3, 1, n), rng.normal(-3, 1, n))
    return combination, logit


def test_survey_probability_is_right_on_a_known_mixture():
    combination, logit = survey(400_000)
    for part in np.array_split(logit, 7):
        combination.count(part)
    found = combination.p_survey(np.array([-4.0, 0.125, 1.125, 3.0, 50.0, np.nan]))
    x = np.array([0.125, 1.125])
    lens, other = np.exp(-0.5 * (x - 3) ** 2), np.exp(-0.5 * (x + 3) ** 2)
    np.testing.assert_allclose(found[1:3], 0.01 * lens / (0.01 * lens + 0.99 * other), rtol=0.25)
    assert found[0] < 1e-6
    assert 0.9 < found[3] <= 1
    assert np.isnan(found[5])


def test_survey_needs_rows_and_prevalence():
    combination, logit = survey(MIN_SURVEY_ROWS - 1)
    combination.count(logit)
    assert np.isnan(combination.p_survey(logit[:10])).all()
    combination.count(np.array([0.0, np.nan]))
    assert np.isfinite(combination.p_survey(logit[:10])).all()
    combination.prevalence = None
    assert np.isnan(combination.p_survey(logit[:10])).all()


def test_the_range_of_theta_E_is_what_every_network_knows():
    cards = [make_card("a"), make_card("b")]
    assert combine_cards(cards, None).theta_E is None
    known = [
        dataclasses.replace(card, theta_E_prior=ThetaPrior(low, high, (1.0, 1.0)))
        for card, low, high in zip(cards, (0.5, 0.6), (3.0, 2.5), strict=True)
    ]
    assert combine_cards(known, None).theta_E == (0.6, 2.5)
    assert combine_cards([known[0], cards[1]], None).theta_E is None
    known = [dataclasses.replace(card, architecture={"kind": "resnet"}) for card in known]
    assert combine_cards([*known, cards[1]], None).theta_E == (0.6, 2.5), "a pure classifier has no say"
