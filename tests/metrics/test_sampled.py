"""Metrics of samples: exact where a posterior is calibrated, and awake where it is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lensscan.metrics.sampled import (
    Uniformity,
    central_coverage,
    crps,
    expected_coverage,
    ks_statistic,
    rank,
    tarp_fraction,
)

N, S, P = 3000, 200, 3


def posterior(width=1.0, shift=0.0, seed=1):
    """Posteriors N(0.9 x, 0.9) of what is N(0, 3^2) and measured with unit noise; `width` times as wide, shifted."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 3, (N, P))
    mean = 0.9 * (truth + rng.normal(size=(N, P))) + shift
    return mean[:, None] + width * np.sqrt(0.9) * rng.normal(size=(N, S, P)), truth, rng


def tarp(width, shift=0.0, seed=1):
    samples, truth, rng = posterior(width, shift, seed)
    return tarp_fraction(samples, truth, rng.uniform(-6, 6, truth.shape), rng)


def test_ranks_of_a_calibrated_posterior_are_uniform():
    samples, truth, rng = posterior()
    ranks = rank(samples, truth, rng)
    assert ((ranks > 0) & (ranks < 1)).all()
    for k in range(P):
        assert stats.kstest(ranks[:, k], "uniform").pvalue > 1e-3
        assert central_coverage(ranks[:, k], 0.68).mean() == pytest.approx(0.68, abs=0.03)


def test_tarp_wants_the_prior_in_the_posterior():
    """A likelihood taken for a posterior has calibrated marginal intervals, but not calibrated regions."""
    rng = np.random.default_rng(6)
    truth = rng.normal(0, 3, (N, P))
    samples = (truth + rng.normal(size=(N, P)))[:, None] + rng.normal(size=(N, S, P))
    assert central_coverage(rank(samples, truth, rng)[:, 0], 0.95).mean() == pytest.approx(0.95, abs=0.02)
    assert ks_statistic(tarp_fraction(samples, truth, rng.uniform(-6, 6, truth.shape), rng)) > 0.08


def test_few_samples_do_not_spoil_the_ranks():
    samples, truth, rng = posterior(seed=5)
    assert stats.kstest(rank(samples[:, :3], truth, rng)[:, 0], "uniform").pvalue > 1e-3


def test_narrow_and_wide_posteriors_show():
    for width, sign in ((0.5, -1), (2.0, 1)):
        samples, truth, rng = posterior(width)
        covered = central_coverage(rank(samples, truth, rng)[:, 0], 0.68).mean()
        assert covered == pytest.approx(2 * stats.norm.cdf(stats.norm.ppf(0.84) * width) - 1, abs=0.03)
        assert sign * (covered - 0.68) > 0.1


def test_tarp_of_a_calibrated_gaussian():
    level = np.linspace(0, 1, 21)
    expected = expected_coverage(tarp(1.0), level)
    np.testing.assert_allclose(expected, level, atol=1.7 / np.sqrt(N))


def test_tarp_of_an_overconfident_and_of_a_biased_gaussian():
    assert ks_statistic(tarp(0.4)) > 0.08
    assert ks_statistic(tarp(1.0, shift=1.5)) > 0.08
    assert ks_statistic(tarp(1.0)) < 1.9 / np.sqrt(N)


def test_ks_is_scipys_and_counts():
    values = np.random.default_rng(2).beta(1.2, 1.0, 500)
    assert ks_statistic(values) == pytest.approx(stats.kstest(values, "uniform").statistic)
    counts = np.random.default_rng(3).integers(0, 3, 500)
    drawn = np.repeat(values, counts)
    assert ks_statistic(values, counts) == pytest.approx(stats.kstest(drawn, "uniform").statistic)


def test_distances_of_several_samples_are_those_of_each():
    rng = np.random.default_rng(2)
    values, counts = rng.random((3, 200)) ** np.array([[1.0], [2.0], [0.5]]), rng.integers(0, 4, 200)
    found = Uniformity(values).distances(counts)
    assert found.tolist() == pytest.approx(
        [stats.kstest(np.repeat(row, counts), "uniform").statistic for row in values]
    )
    assert np.isnan(Uniformity(values).distances(np.zeros(200, int))).all()


def test_expected_coverage_counts():
    fraction = np.array([0.1, 0.6, 0.9])
    np.testing.assert_allclose(expected_coverage(fraction, np.array([0.0, 0.5, 1.0])), [0, 1 / 3, 1])
    found = expected_coverage(fraction, np.array([0.5]), np.array([0, 1, 3]))
    assert found[0] == 0.0


def test_crps_of_a_gaussian():
    """Gneiting & Raftery 2007, eq. 21: sigma (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi))."""
    rng = np.random.default_rng(4)
    truth = np.array([0.0, 0.7, -2.0])
    samples = 1.5 * rng.normal(size=(3, 60_000))
    z = truth / 1.5
    exact = 1.5 * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    np.testing.assert_allclose(crps(samples, truth), exact, atol=0.02)


def test_crps_of_two_samples_is_unbiased():
    """The truth in the middle: 2 phi(0) - 1 / sqrt(pi)."""
    samples = np.random.default_rng(7).normal(size=(40_000, 2))
    exact = 2 * stats.norm.pdf(0) - 1 / np.sqrt(np.pi)
    assert crps(samples, np.zeros(40_000)).mean() == pytest.approx(exact, abs=0.02)


def test_crps_punishes_a_wrong_width():
    right, wide, narrow = (crps(*posterior(width)[:2]).mean() for width in (1.0, 2.0, 0.4))
    assert right < min(wide, narrow)
