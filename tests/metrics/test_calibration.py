"""Calibration: maps are monotone, fits recover what was spoilt, prevalence shifts the odds."""

from __future__ import annotations

import numpy as np
import pytest

from lensscan.metrics.calibration import (
    KINDS,
    Calibration,
    _Loss,
    binned,
    brier,
    class_weights,
    expected_calibration_error,
    fit,
    isotonic,
    log_loss,
    reliability,
)


def two_gaussians(n=60_000, prior=0.3, seed=1):
    """Scores of two unit Gaussians at +-1: their log likelihood ratio is 2 x."""
    rng = np.random.default_rng(seed)
    lens = rng.random(n) < prior
    return rng.normal(np.where(lens, 1.0, -1.0), 1.0), lens


def test_platt_recovers_the_likelihood_ratio():
    score, lens = two_gaussians()
    found = fit("platt", score, lens)
    assert (found.a, found.b) == (pytest.approx(2.0, abs=0.05), pytest.approx(0.0, abs=0.05))
    found = fit("platt", 5 * score - 7, lens)
    assert (found.a, found.b) == (pytest.approx(0.4, abs=0.01), pytest.approx(2.8, abs=0.07))


def test_temperature_recovers_the_scale():
    score, lens = two_gaussians()
    found = fit("temperature", 2 * score / 3, lens)
    assert (found.a, found.b) == (pytest.approx(3.0, abs=0.05), 0.0)
    plain = fit("none", score, lens)
    assert plain(score) == pytest.approx(score)


def test_beta_recovers_two_slopes():
    rng = np.random.default_rng(8)
    raw = rng.normal(0.5, 2.0, 200_000)
    true = Calibration("beta", 0.5, 0.3, upper=1.8)
    lens = rng.random(len(raw)) < 1 / (1 + np.exp(-true(raw)))
    found = fit("beta", raw, lens, prior=0.5)
    assert (found.a, found.b, found.upper) == (
        pytest.approx(0.5, abs=0.03),
        pytest.approx(0.3, abs=0.05),
        pytest.approx(1.8, abs=0.06),
    )
    straight = fit("platt", raw, lens, prior=0.5)
    assert log_loss(found(raw), lens) < log_loss(straight(raw), lens) - 0.003


def heavy_tail(n, seed):
    """Scores whose likelihood ratio is that of two Gaussians up to a knee, and hardly grows beyond."""
    rng = np.random.default_rng(seed)
    lens = rng.random(n) < 0.5
    score = rng.normal(np.where(lens, 3.0, -3.0), 2.0)
    stray = ~lens & (rng.random(n) < 0.003)  # non-lenses that look like the best lenses
    score[stray] = rng.normal(4.5, 1.5, int(stray.sum()))
    return score, lens


def test_bent_sees_the_few_among_the_best():
    found = {kind: fit(kind, *heavy_tail(200_000, 1)) for kind in ("platt", "bent")}
    score, lens = heavy_tail(400_000, 2)
    top = score > 5
    weight = class_weights(lens, 1e-3)
    true = float((weight * lens)[top].sum())
    stated = {kind: float((weight * way.p_lens(way(score), 1e-3))[top].sum()) for kind, way in found.items()}
    assert stated["platt"] > 2 * true
    assert stated["bent"] == pytest.approx(true, rel=0.2)
    even = expected_calibration_error(found["bent"].p_lens(found["bent"](score), 0.5), lens)
    assert even < 0.01


@pytest.mark.parametrize("luck", [4.0, 5.0, 6.0])
def test_bent_promises_nothing_beyond_the_last_non_lens(luck):
    """However lucky a split: a line that may steepen takes what no non-lens reached for certain."""
    rng = np.random.default_rng(4)
    lens = rng.random(60_000) < 0.5
    score = rng.normal(np.where(lens, 3.0, -3.0), np.sqrt(6.0))  # the log likelihood ratio itself
    kept = lens | (score < luck)
    found = fit("bent", score[kept], lens[kept])
    assert found.upper <= found.a
    assert 7 < found(np.array([8.0]))[0] < 10


def test_bent_of_a_straight_line_is_straight():
    score, lens = two_gaussians()
    found = fit("bent", score, lens)
    x = np.linspace(-3, 3, 13)
    np.testing.assert_allclose(found(x), 2 * x, atol=0.35)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_the_gradient_of_the_fit_is_that_of_its_loss(kind):
    rng = np.random.default_rng(5)
    logit, lens = rng.normal(0, 3, 400), rng.random(400) < 0.4
    weights = [rng.random(400), rng.random(400)]
    loss = _Loss(logit, lens, weights, (0.5, 0.01))
    at = rng.normal(0, 0.5, {"temperature": 1, "platt": 2, "beta": 3, "bent": 4}[kind])
    step = 1e-6
    numeric = [
        (loss(kind, at + step * unit)[0] - loss(kind, at - step * unit)[0]) / (2 * step) for unit in np.eye(len(at))
    ]
    np.testing.assert_allclose(loss(kind, at)[1], numeric, rtol=1e-5, atol=1e-6)


def test_beta_of_equal_slopes_is_platt():
    x = np.linspace(-30, 30, 61)
    np.testing.assert_allclose(Calibration("beta", 0.7, -1.0, upper=0.7)(x), Calibration("platt", 0.7, -1.0)(x))
    far = Calibration("beta", 0.5, 0.0, upper=2.0)(np.array([-800.0, 800.0]))
    assert far.tolist() == [-400.0, 1600.0]


def test_the_cap_is_what_so_many_non_lenses_can_show():
    score, lens = two_gaussians(n=30_000)
    found = fit("platt", score, lens)
    assert found.cap == pytest.approx(np.log((~lens).sum() / 3), abs=1e-6)
    assert found(np.array([99.0]))[0] > 190, "the logit itself is not capped"
    top = found.p_lens(np.array([190.0, 8000.0]), 1e-3)
    odds = (~lens).sum() / 3 * 1e-3 / 0.999
    assert top == pytest.approx([odds / (1 + odds)] * 2, rel=1e-5)


def test_the_prior_is_divided_out():
    score, lens = two_gaussians(prior=0.02)
    found = fit("platt", score, lens)
    assert (found.a, found.b) == (pytest.approx(2.0, abs=0.1), pytest.approx(0.0, abs=0.1))


def test_calibrated_probabilities_are_reliable():
    score, lens = two_gaussians()
    fresh, label = two_gaussians(seed=2)
    found = fit("platt", 4 * score, lens)
    logit = found(4 * fresh)
    assert expected_calibration_error(found.p_lens(logit, 0.3), label) < 0.01
    assert expected_calibration_error(Calibration().p_lens(4 * fresh, 0.3), label) > 0.03
    assert log_loss(logit + np.log(0.3 / 0.7), label) < log_loss(4 * fresh, label)


@pytest.mark.parametrize("kind", KINDS)
def test_order_is_kept(kind):
    score = np.sort(np.random.default_rng(3).normal(size=100)).astype(np.float32)
    calibration = Calibration(kind, 0.37, -2.0, upper=0.2, cap=-1.9)
    out = calibration(score)
    assert (np.diff(out) > 0).all()
    assert out.dtype == np.float64
    assert np.isnan(calibration(np.array([np.nan]))).all()
    assert np.isnan(calibration.p_lens(calibration(np.array([np.nan])), 0.1)).all()


def test_temperature_has_no_offset():
    assert Calibration("temperature", 2.0, 5.0)(np.array([1.0])) == 2.0
    assert Calibration("none", 2.0, 5.0)(np.array([1.0])) == 1.0


def test_prevalence():
    plain = Calibration()
    assert plain.p_lens(np.array([0.0]), 1e-3)[0] == pytest.approx(1e-3)
    assert plain.p_lens(np.array([np.log(999.0)]), 1e-3)[0] == pytest.approx(0.5)
    assert plain.p_lens(np.array([-800.0, 800.0]), 1e-4).tolist() == [0.0, 1.0]
    assert np.isnan(plain.p_lens(np.array([1.0, 2.0]), None)).all()
    with pytest.raises(ValueError, match="between 0 and 1"):
        plain.p_lens(np.array([0.0]), 0.0)


def test_reliability_by_hand():
    probability = np.array([0.1, 0.2, 0.8, 0.9])
    diagram = reliability(probability, np.array([0, 1, 1, 1], bool), bins=2)
    np.testing.assert_allclose(diagram.predicted, [0.15, 0.85])
    np.testing.assert_allclose(diagram.observed, [0.5, 1.0])
    assert diagram.count.tolist() == [2, 2]
    error = expected_calibration_error(probability, np.array([0, 1, 1, 1], bool), bins=2)
    assert error == pytest.approx((0.35 + 0.15) / 2)


def test_a_heavy_row_lies_in_the_bin_of_its_middle():
    diagram = reliability(np.array([0.1, 0.9]), np.array([False, True]), 2, np.array([1.0, 3.0]))
    assert diagram.count.tolist() == [1, 3]


def test_bins_of_equally_many_rows_keep_the_mass_of_the_rows():
    rows = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.0, 1.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0, 97.0])
    assert binned(*rows, 2, np.ones(4)).count.tolist() == [2, 98]
    assert binned(*rows, 2).count.tolist() == [3, 97]


def test_log_loss_by_hand():
    logit = np.array([0.0, np.log(3.0)])
    assert log_loss(logit, np.array([True, True])) == pytest.approx((np.log(2) + np.log(4 / 3)) / 2)
    assert log_loss(np.array([1e4]), np.array([False])) == pytest.approx(1e4), "must not overflow"


def test_refusals():
    for wrong in (Calibration("isotonic"), Calibration("platt", -1.0), Calibration("beta", upper=0.0)):
        assert not wrong.sound
    with pytest.raises(ValueError, match="known are"):
        fit("isotonic", np.zeros(2), np.array([True, False]))
    with pytest.raises(ValueError, match="lenses and non-lenses"):
        fit("platt", np.zeros(2), np.array([True, True]))


def test_weights_stand_for_copies():
    score, lens = two_gaussians(400)
    p = Calibration().p_lens(2 * score, 0.3)
    counts = np.random.default_rng(5).integers(1, 4, 400)
    drawn = np.repeat(np.arange(400), counts)
    assert brier(p, lens, counts) == pytest.approx(brier(p[drawn], lens[drawn]))
    weighted, copied = reliability(p, lens, 5, counts), reliability(p[drawn], lens[drawn], 5)
    np.testing.assert_allclose(weighted.predicted, copied.predicted, atol=0.03)
    assert weighted.count.sum() == pytest.approx(copied.count.sum())


def test_class_weights_make_a_population():
    lens = np.arange(10) < 5
    weight = class_weights(lens, 1e-3)
    assert weight.sum() == pytest.approx(1.0)
    assert weight[lens].sum() == pytest.approx(1e-3)
    counts = np.array([2, 0, 1, 1, 1, 3, 0, 0, 1, 1])
    assert class_weights(lens, 0.5, counts)[lens].sum() == pytest.approx(0.5)


def test_error_at_another_prevalence():
    """Calibrated logits stay calibrated when the population changes; a shift of the logit shows."""
    score, lens = two_gaussians(200_000, prior=0.5)
    weight = class_weights(lens, 1e-2)
    right = expected_calibration_error(Calibration().p_lens(2 * score, 1e-2), lens, weight=weight)
    wrong = expected_calibration_error(Calibration().p_lens(2 * score + 1, 1e-2), lens, weight=weight)
    assert right < 5e-4
    assert wrong > 5e-3


def test_against_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    score, lens = two_gaussians(5000)
    p = Calibration().p_lens(2 * score, 0.3)
    assert brier(p, lens) == pytest.approx(metrics.brier_score_loss(lens, p))
    calibration = pytest.importorskip("sklearn.calibration")
    observed, predicted = calibration.calibration_curve(lens, p, n_bins=10, strategy="quantile")
    found = reliability(p, lens, 10)
    np.testing.assert_allclose(found.observed, observed, atol=2e-3)
    np.testing.assert_allclose(found.predicted, predicted, atol=2e-3)


def test_isotonic_regression_pools_what_falls():
    p = np.array([0.1, 0.2, 0.2, 0.4, 0.5, 0.6, 0.9])
    label = np.array([0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    mass = np.array([1.0, 1.0, 1.0, 2.0, 1.0, 0.0, 1.0])
    found = isotonic(p, label, mass)
    np.testing.assert_allclose(found.predicted, [0.1, 0.2, 0.4, 0.5, 0.9])
    np.testing.assert_allclose(found.observed, [0.0, 0.25, 0.25, 0.5, 0.5])
    np.testing.assert_allclose(found.count, [1, 2, 2, 1, 1])
    assert found.largest() == pytest.approx(0.4)
    assert np.isnan(isotonic(p, label, np.zeros(7)).largest())


def test_isotonic_regression_pools_by_mass():
    found = isotonic(np.array([0.2, 0.4]), np.array([1.0, 0.0]), np.array([1.0, 3.0]))
    np.testing.assert_allclose(found.observed, [0.25, 0.25])


def test_isotonic_regression_finds_a_known_distortion():
    """Stated p, true p^2: the largest distance is 1/4, at p = 1/2."""
    rng = np.random.default_rng(8)
    p = np.sort(rng.random(60_000))
    label = (rng.random(len(p)) < p**2).astype(float)
    found = isotonic(p, label, np.ones(len(p)))
    assert (np.diff(found.observed) >= -1e-12).all()
    assert found.largest() == pytest.approx(0.25, abs=0.04)
    np.testing.assert_allclose(np.interp([0.3, 0.5, 0.8], p, found.observed), [0.09, 0.25, 0.64], atol=0.04)
