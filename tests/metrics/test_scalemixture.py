"""Scale mixtures: content, quantiles and draws agree; the fit finds scale and tail of draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lensscan.metrics.scalemixture import GAUSSIAN, ScaleMixture, fit_scale_mixture

HEAVY = ScaleMixture((0.7, 0.25, 0.05), (0.5, 1.5, 5.5))
GROUPS = ((0,), (1, 2))


def draws(n, cov, tail, seed=1):
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((n, len(cov))) @ np.linalg.cholesky(cov).T
    return normal * np.reshape(tail.radii(rng, (n,)), (-1, 1))


def test_the_default_is_the_gaussian():
    assert GAUSSIAN.gaussian
    assert not HEAVY.gaussian
    assert GAUSSIAN.quantile(0.84) == pytest.approx(stats.norm.ppf(0.84))
    square = np.array([0.5, 3.0, 20.0])
    np.testing.assert_allclose(GAUSSIAN.content(square, 7), stats.chi2.cdf(square, 7))
    expected = stats.multivariate_normal(np.zeros(3), 4 * np.eye(3)).logpdf([2.0, 0, 0])
    assert GAUSSIAN.log_density(np.array([1.0]), np.log(64.0), 3)[0] == pytest.approx(expected)


def test_what_is_no_mixture():
    assert HEAVY.sound
    assert HEAVY.variance == pytest.approx(1.0)
    for weights, factors in (
        ((0.5, 0.6), (1.0, 2.0)),
        ((1.0,), (0.0,)),
        ((), ()),
        ((0.5, 0.5), (1.0,)),
        ((1.0,), (np.nan,)),
    ):
        assert not ScaleMixture(weights, factors).sound


def test_content_and_quantiles_are_those_of_draws():
    cov = np.array([[1.0, 0.6, 0.0], [0.6, 2.0, 0.3], [0.0, 0.3, 0.5]])
    drawn = draws(200_000, cov, HEAVY)
    square = np.einsum("ni,ij,nj->n", drawn, np.linalg.inv(cov), drawn)
    for level in (0.2, 0.68, 0.95, 0.997):
        assert (HEAVY.content(square, 3) <= level).mean() == pytest.approx(level, abs=0.004)
        assert (drawn[:, 1] < HEAVY.quantile(level) * np.sqrt(2)).mean() == pytest.approx(level, abs=0.004)
    assert HEAVY.quantile(0.5) == 0.0
    assert HEAVY.quantile(0.16) == -HEAVY.quantile(0.84)


def test_the_density_has_the_content():
    """In three dimensions, by shells."""
    radius = np.linspace(0, 20, 20_001)
    shells = np.exp(HEAVY.log_density(radius**2, np.zeros(1), 3)) * 4 * np.pi * radius**2
    total = np.cumsum(shells) * (radius[1] - radius[0])
    np.testing.assert_allclose(
        total[[500, 2000, 20_000]], HEAVY.content(radius[[500, 2000, 20_000]] ** 2, 3), atol=2e-3
    )


def test_quantiles_across_are_those_given_the_other_coordinate():
    rng = np.random.default_rng(2)
    points = rng.standard_normal((2_000_000, 2)) * np.sqrt(rng.choice(HEAVY.factors, (2_000_000, 1), p=HEAVY.weights))
    level = np.array([0.1, 0.5, 0.9])
    for along in (0.0, 1.0, 2.0):
        near = np.abs(np.abs(points[:, 0]) - along) < 0.02
        expected = np.quantile(points[near, 1], level)
        np.testing.assert_allclose(HEAVY.quantile_across(level, np.full(3, along)), expected, atol=0.06)
    assert GAUSSIAN.quantile_across(np.array([0.975]), np.array([2.0]))[0] == pytest.approx(1.959964)


@pytest.mark.parametrize("tail", [GAUSSIAN, ScaleMixture((0.75, 0.25), (0.5, 2.5))])
def test_fit_finds_scale_and_tail(tail):
    cov = np.array([[1.0, 0.4, 0.0], [0.4, 2.0, 0.3], [0.0, 0.3, 0.5]])
    scale = np.array([0.7, 1.3, 1.3])
    residual = scale * draws(20_000, cov, tail)
    stated = np.tile(cov, (20_000, 1, 1, 1))
    found, shape = fit_scale_mixture(residual[:, None], stated, np.ones((20_000, 1)), GROUPS)
    np.testing.assert_allclose(found, scale, rtol=0.03)
    assert found[1] == found[2]
    assert shape.sound
    assert shape.variance == pytest.approx(1.0, abs=1e-3)
    for level in (0.5, 0.9, 0.99):
        assert shape.quantile(level) == pytest.approx(tail.quantile(level), abs=0.04)


def test_fit_of_two_components_each():
    """The scale acts about each component's own centre."""
    rng = np.random.default_rng(4)
    n, tail = 8000, ScaleMixture((0.75, 0.25), (0.5, 2.5))
    mean = rng.normal(0, 3, (n, 2, 3))
    weight = np.tile([0.3, 0.7], (n, 1))
    which = (rng.random(n) < 0.7).astype(int)
    truth = mean[np.arange(n), which] + 1.5 * draws(n, np.eye(3), tail, seed=5)
    found, shape = fit_scale_mixture(truth[:, None] - mean, np.tile(np.eye(3), (n, 2, 1, 1)), weight, GROUPS)
    np.testing.assert_allclose(found, 1.5, rtol=0.05)
    assert shape.quantile(0.99) == pytest.approx(tail.quantile(0.99), abs=0.15)
