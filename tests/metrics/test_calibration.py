"""Calibration: maps are monotone, fits recover what was spoilt, prevalence shifts the odds."""

from __future__ import annotations

import numpy as np
import pytest

from lensscan.metrics.calibration import (
    apply,
    brier,
    class_weights,
    expected_calibration_error,
    fit,
    log_loss,
    prevalence_shift,
    reliability,
)


def two_gaussians(n=60_000, prior=0.3, seed=1):
    """Scores of two unit Gaussians at +-1: their log likelihood ratio is 2 x."""
    rng = np.random.default_rng(seed)
    lens = rng.random(n) < prior
    return rng.normal(np.where(lens, 1.0, -1.0), 1.0), lens


def test_platt_recovers_the_likelihood_ratio():
    score, lens = two_gaussians()
    a, b = fit("platt", score, lens)
    assert (a, b) == (pytest.approx(2.0, abs=0.05), pytest.approx(0.0, abs=0.05))
    a, b = fit("platt", 5 * score - 7, lens)
    assert (a, b) == (pytest.approx(0.4, abs=0.01), pytest.approx(2.8, abs=0.07))


def test_temperature_recovers_the_scale():
    score, lens = two_gaussians()
    assert fit("temperature", 2 * score / 3, lens) == (pytest.approx(3.0, abs=0.05), 0.0)
    assert fit("none", score, lens) == (1.0, 0.0)


def test_the_prior_is_divided_out():
    score, lens = two_gaussians(prior=0.02)
    a, b = fit("platt", score, lens)
    assert (a, b) == (pytest.approx(2.0, abs=0.1), pytest.approx(0.0, abs=0.1))


def test_calibrated_probabilities_are_reliable():
    score, lens = two_gaussians()
    fresh, label = two_gaussians(seed=2)
    a, b = fit("platt", 4 * score, lens)
    logit = apply("platt", a, b, 4 * fresh)
    assert expected_calibration_error(prevalence_shift(logit, 0.3), label) < 0.01
    assert expected_calibration_error(prevalence_shift(4 * fresh, 0.3), label) > 0.03
    assert log_loss(logit + np.log(0.3 / 0.7), label) < log_loss(4 * fresh, label)


@pytest.mark.parametrize("kind", ["none", "temperature", "platt"])
def test_order_is_kept(kind):
    score = np.sort(np.random.default_rng(3).normal(size=100)).astype(np.float32)
    out = apply(kind, 0.37, -2.0, score)
    assert (np.diff(out) >= 0).all()
    assert out.dtype == np.float64
    assert np.isnan(apply(kind, 0.37, -2.0, np.array([np.nan]))).all()


def test_temperature_has_no_offset():
    assert apply("temperature", 2.0, 5.0, np.array([1.0])) == 2.0
    assert apply("none", 2.0, 5.0, np.array([1.0])) == 1.0


def test_prevalence():
    assert prevalence_shift(np.array([0.0]), 1e-3)[0] == pytest.approx(1e-3)
    assert prevalence_shift(np.array([np.log(999.0)]), 1e-3)[0] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        prevalence_shift(np.array([0.0]), 0.0)


def test_reliability_by_hand():
    probability = np.array([0.1, 0.2, 0.8, 0.9])
    diagram = reliability(probability, np.array([0, 1, 1, 1], bool), bins=2)
    np.testing.assert_allclose(diagram.predicted, [0.15, 0.85])
    np.testing.assert_allclose(diagram.observed, [0.5, 1.0])
    assert diagram.count.tolist() == [2, 2]
    error = expected_calibration_error(probability, np.array([0, 1, 1, 1], bool), bins=2)
    assert error == pytest.approx((0.35 + 0.15) / 2)


def test_log_loss_by_hand():
    logit = np.array([0.0, np.log(3.0)])
    assert log_loss(logit, np.array([True, True])) == pytest.approx((np.log(2) + np.log(4 / 3)) / 2)
    assert log_loss(np.array([1e4]), np.array([False])) == pytest.approx(1e4), "must not overflow"


def test_refusals():
    with pytest.raises(ValueError, match="known are"):
        apply("isotonic", 1.0, 0.0, np.zeros(1))
    with pytest.raises(ValueError, match="not positive"):
        apply("platt", -1.0, 0.0, np.zeros(1))
    with pytest.raises(ValueError, match="known are"):
        fit("beta", np.zeros(2), np.array([True, False]))
    with pytest.raises(ValueError, match="lenses and non-lenses"):
        fit("platt", np.zeros(2), np.array([True, True]))


def test_weights_stand_for_copies():
    score, lens = two_gaussians(400)
    p = prevalence_shift(2 * score, 0.3)
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
    right = expected_calibration_error(prevalence_shift(2 * score, 1e-2), lens, weight=weight)
    wrong = expected_calibration_error(prevalence_shift(2 * score + 1, 1e-2), lens, weight=weight)
    assert right < 5e-4
    assert wrong > 5e-3


def test_against_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    score, lens = two_gaussians(5000)
    p = prevalence_shift(2 * score, 0.3)
    assert brier(p, lens) == pytest.approx(metrics.brier_score_loss(lens, p))
    calibration = pytest.importorskip("sklearn.calibration")
    observed, predicted = calibration.calibration_curve(lens, p, n_bins=10, strategy="quantile")
    found = reliability(p, lens, 10)
    np.testing.assert_allclose(found.observed, observed, atol=2e-3)
    np.testing.assert_allclose(found.predicted, predicted, atol=2e-3)
