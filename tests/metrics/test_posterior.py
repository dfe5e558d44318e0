"""Posterior metrics: hand values, and right coverage of Gaussians that are right."""

from __future__ import annotations

import numpy as np
import pytest

from lensscan.metrics.posterior import joint_coverage, mahalanobis, marginal_coverage, pit, residuals


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
