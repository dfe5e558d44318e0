"""Posterior metrics: hand values, and right coverage of Gaussians that are right."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from lensscan.metrics.posterior import (
    SAMPLES,
    credibility,
    draw_mixture,
    joint_coverage,
    log_density,
    mahalanobis,
    marginal_coverage,
    pit,
    residuals,
)
from lensscan.metrics.scalemixture import GAUSSIAN, ScaleMixture

HEAVY = ScaleMixture((0.7, 0.3), (0.5, 3.0))


def right_gaussians(n=20_000, p=4, seed=1):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, p, p))
    cov = root @ root.swapaxes(1, 2) + 0.1 * np.eye(p)
    mean = rng.normal(size=(n, p))
    truth = mean + (np.linalg.cholesky(cov) @ rng.normal(size=(n, p, 1)))[..., 0]
    return truth, mean, cov


def test_residuals_by_hand():
    found = residuals(np.arange(-50, 51) + 3.0, np.zeros(101))
    assert found.bias == 3.0
    assert found.half_width_68 == pytest.approx(34.0)
    assert found.half_width_95 == pytest.approx(47.5)
    assert found.rms == pytest.approx(np.sqrt((np.arange(-47, 54) ** 2).mean()))
    assert found.nmad == pytest.approx(1.4826022 * 25)
    with pytest.raises(ValueError, match="empty"):
        residuals(np.array([]), np.array([]))


def test_coverage_of_right_posteriors():
    truth, mean, cov = right_gaussians()
    sigma = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
    for level in (0.5, 0.68, 0.95):
        np.testing.assert_allclose(marginal_coverage(truth, mean, sigma, level), level, atol=0.015)
        assert joint_coverage(truth, mean, cov, level) == pytest.approx(level, abs=0.015)
    values = pit(truth, mean, sigma)
    np.testing.assert_allclose(np.quantile(values, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.01)


def mixtures(n, tail, seed=2):
    """Return truths drawn from mixtures of two far components each, and the mixtures."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(0, 2, (n, 2, 3))
    root = rng.normal(size=(n, 2, 3, 3))
    cov = root @ root.swapaxes(-1, -2) + 0.2 * np.eye(3)
    share = rng.uniform(0.1, 0.9, n)
    weight = np.stack([share, 1 - share], axis=1)
    return draw_mixture(mean, cov, weight, tail, rng, count=1)[:, 0], mean, cov, weight


@pytest.mark.parametrize("tail", [GAUSSIAN, HEAVY])
def test_regions_and_ranks_of_right_mixtures(tail):
    truth, mean, cov, weight = mixtures(4000, tail)
    sigma = np.sqrt(np.diagonal(cov, axis1=2, axis2=3))
    content = credibility(truth, mean, cov, weight, tail)
    one = credibility(truth, mean[:, :1], cov[:, :1], weight[:, :1], tail)
    for level in (0.5, 0.68, 0.95):
        assert (content <= level).mean() == pytest.approx(level, abs=0.025)
        np.testing.assert_allclose(marginal_coverage(truth, mean, sigma, level, tail, weight), level, atol=0.025)
    assert (one <= 0.68).mean() < 0.5, "one component alone is not the posterior"


def test_draws_of_few_lenses_are_in_memory_at_once():
    """All of a full test set's would take gigabytes."""
    found = mixtures(10_000, GAUSSIAN)
    tracemalloc.start()
    credibility(*found)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.6 * 10_000 * SAMPLES * 3 * 8, "less than the draws of all"


def test_one_component_by_draws_and_exactly():
    truth, mean, cov = right_gaussians(3000)
    exact = credibility(truth, mean[:, None], cov[:, None], np.ones((3000, 1)), HEAVY)
    twice, half = np.stack([mean, mean], 1), np.full((3000, 2), 0.5)
    drawn = credibility(truth, twice, np.stack([cov, cov], 1), half, HEAVY)
    np.testing.assert_allclose(drawn, exact, atol=0.12)
    assert abs((drawn - exact).mean()) < 0.003
    assert joint_coverage(truth, mean, cov, 0.5, HEAVY) == pytest.approx((exact <= 0.5).mean())


def test_density_of_a_mixture_integrates_to_one():
    grid = np.linspace(-15, 15, 3001)[None, :, None]
    mean, cov = np.array([[[-1.0], [2.0]]]), np.array([[[[0.5]], [[2.0]]]])
    density = np.exp(log_density(grid, mean, cov, np.array([[0.3, 0.7]]), HEAVY))[0]
    assert np.trapezoid(density, grid[0, :, 0]) == pytest.approx(1.0, abs=1e-6)
    assert np.trapezoid(density * grid[0, :, 0], grid[0, :, 0]) == pytest.approx(1.1, abs=1e-5)


def test_overconfidence_shows():
    truth, mean, cov = right_gaussians()
    sigma = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
    assert (marginal_coverage(truth, mean, sigma / 2, 0.68) < 0.42).all()
    assert joint_coverage(truth, mean, cov / 4, 0.68) < 0.3


def test_correlations_count_in_the_joint_region():
    cov = np.array([[[1.0, 0.9], [0.9, 1.0]]])
    along, across = (
        mahalanobis(np.array([[1.0, 1.0]]), np.zeros((1, 2)), cov),
        mahalanobis(np.array([[1.0, -1.0]]), np.zeros((1, 2)), cov),
    )
    assert along[0] == pytest.approx(2 / 1.9)
    assert across[0] == pytest.approx(2 / 0.1)
