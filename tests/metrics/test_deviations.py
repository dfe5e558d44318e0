"""Deviations: the plain summaries, resampled summaries, and what Gaussians must give."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lensscan.metrics.deviations import Deviations, weighted_quantiles
from lensscan.metrics.posterior import residuals


def sample(n=5000, seed=1):
    rng = np.random.default_rng(seed)
    truth = rng.normal(1.0, 2.0, n)
    return truth + rng.normal(0.1, 0.5, n), truth


def test_agrees_with_the_plain_summary_and_scipy():
    estimate, truth = sample()
    found, plain = Deviations(estimate, truth).figures(), residuals(estimate, truth)
    for name in ("bias", "half_width_68", "half_width_95", "rms", "nmad"):
        assert found[name] == pytest.approx(getattr(plain, name)), name
    assert found["nmad"] == pytest.approx(stats.median_abs_deviation(estimate - truth, scale="normal"))
    assert found["abs_68"] == pytest.approx(np.quantile(np.abs(estimate - truth), 0.68))
    assert found["high_68"] - found["low_68"] == pytest.approx(2 * found["half_width_68"])


def test_a_gaussian():
    found = Deviations(*sample(200_000)).figures()
    assert found["bias"] == pytest.approx(0.1, abs=0.01)
    assert found["half_width_68"] == pytest.approx(0.5 * stats.norm.ppf(0.84), rel=0.01)
    assert found["half_width_95"] == pytest.approx(0.5 * stats.norm.ppf(0.975), rel=0.01)
    assert found["nmad"] == pytest.approx(0.5, rel=0.01)
    assert found["r2"] == pytest.approx(1 - (0.25 + 0.01) / 4, abs=0.003)


def test_r2_against_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    estimate, truth = sample()
    assert Deviations(estimate, truth).figures()["r2"] == pytest.approx(metrics.r2_score(truth, estimate))


def test_a_resample_is_the_set_it_stands_for():
    estimate, truth = sample(400)
    counts = np.random.default_rng(3).integers(0, 4, 400)
    drawn = np.repeat(np.arange(400), counts)
    left = Deviations(estimate, truth).figures(counts)
    assert left == pytest.approx(Deviations(estimate[drawn], truth[drawn]).figures())


def test_quantiles_are_numpys():
    values = np.sort(np.random.default_rng(4).normal(size=37))
    levels = (0.0, 0.16, 0.5, 0.9, 1.0)
    np.testing.assert_allclose(weighted_quantiles(values, None, levels), np.quantile(values, levels))
    assert np.isnan(weighted_quantiles(values, np.zeros(37, int), levels)).all()
