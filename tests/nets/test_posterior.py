"""Posterior columns: exact for one Gaussian, right for mixtures, the same bits for any chunking."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from lensscan.metrics.quasirandom import mirrored_normals
from lensscan.metrics.scalemixture import GAUSSIAN, ScaleMixture
from lensscan.nets.dihedral import N_VIEWS, transform_covariance, transform_latent
from lensscan.nets.latent import N_COV, PARAMETERS, TRIANGLE, cholesky_packed, from_latent, unpack_triangle
from lensscan.nets.posterior import COLUMNS, POINTS, even_points, posterior_columns

HEAVY = ScaleMixture((0.7, 0.3), (0.5, 3.0))


def gaussians(n, m, spread=0.03, seed=1):
    rng = np.random.default_rng(seed)
    mean = rng.normal(0, 0.2, (n, m, 7)).astype(np.float32)
    root = rng.normal(0, spread, (n, m, 7, 7))
    full = root @ root.swapaxes(-1, -2) + 1e-4 * np.eye(7)
    return mean, np.stack([full[..., i, j] for i, j in TRIANGLE], axis=-1).astype(np.float32)


def samples_of(mean, cov, row, n=200_000):
    rng = np.random.default_rng(7)
    parts = [rng.multivariate_normal(m, unpack_triangle(c), n) for m, c in zip(mean[row], cov[row], strict=True)]
    return from_latent(np.concatenate(parts))


@pytest.mark.parametrize("tail", [GAUSSIAN, HEAVY])
def test_points_are_even_along_their_axis(tail):
    points = even_points(tail)
    np.testing.assert_array_equal(points, -points[::-1])
    np.testing.assert_allclose(tail.cdf(points[:, 0]), (np.arange(POINTS) + 0.5) / POINTS, atol=1e-10)
    assert points[:, 1].std() == pytest.approx(np.sqrt(tail.variance), rel=0.03)
    assert (points[:, 0] * points[:, 1]).mean() == pytest.approx(0, abs=0.01)
    assert (points**2).prod(axis=1).mean() == pytest.approx(np.dot(tail.weights, np.square(tail.factors)), rel=0.15)


def ellipticity_by_brute_force(mean, cov, tail):
    """Return medians and half-widths of e1, e2 from many points in the plane of u: mean (2,), cov (2, 2)."""
    normal = mirrored_normals(2**15, 2, 1) @ np.linalg.cholesky(cov).T
    latent = np.zeros((len(normal) * len(tail.factors), 7))
    latent[:, 1:3] = np.concatenate([mean + np.sqrt(factor) * normal for factor in tail.factors])
    share = np.repeat(np.array(tail.weights) / len(normal), len(normal))
    found = from_latent(latent)[:, 1:3].T
    order = [np.argsort(values) for values in found]
    low, middle, high = np.transpose(
        [np.interp((0.16, 0.5, 0.84), np.cumsum(share[k]), values[k]) for k, values in zip(order, found, strict=True)]
    )
    return middle, 0.5 * (high - low)


@pytest.mark.parametrize("tail", [GAUSSIAN, HEAVY])
@pytest.mark.parametrize(("sd", "limit"), [((0.03, 0.03), 0.01), ((0.07, 0.07), 0.01), ((0.1, 0.04), 0.015)])
def test_ellipticities_at_any_correlation(tail, sd, limit):
    for correlation in (-0.9, -0.3, 0.0, 0.6, 0.9):
        for centre in ((0.0, 0.0), (0.1, -0.05), (0.3, 0.3)):
            plane = np.outer(sd, sd) * np.array([[1, correlation], [correlation, 1]])
            full = np.diag(np.full(7, 0.01))
            full[1:3, 1:3] = plane
            mean = np.zeros((1, 1, 7))
            mean[0, 0, 1:3] = centre
            columns = posterior_columns(mean, np.array([[[full[i, j] for i, j in TRIANGLE]]]), None, (tail,))
            middle, half = ellipticity_by_brute_force(np.array(centre), plane, tail)
            for k, name in enumerate(("e1", "e2")):
                assert columns[f"{name}_err"][0] == pytest.approx(half[k], rel=limit), (name, correlation, centre)
                assert abs(columns[name][0] - middle[k]) < 0.015 * half[k], (name, correlation, centre)


@pytest.mark.parametrize("tail", [GAUSSIAN, HEAVY])
def test_views_of_a_posterior_have_the_same_errors(tail):
    mean, cov = (torch.from_numpy(part[:, 0]).double() for part in gaussians(60, 1, spread=0.05))
    mean[:, 1:3] += torch.tensor([0.2, -0.1])
    plain = posterior_columns(mean[:, None].numpy(), cov[:, None].numpy(), None, (tail,))
    for view in range(1, N_VIEWS):
        seen = transform_latent(mean, view), transform_covariance(cov, view)
        columns = posterior_columns(*(part[:, None].numpy() for part in seen), None, (tail,))
        for name in ("e1", "e2"):
            np.testing.assert_allclose(columns[f"{name}_err"], plain[f"{name}_err"], rtol=0.002)
            np.testing.assert_allclose(
                np.abs(columns[name]), np.abs(plain[name]), atol=0.002 * plain[f"{name}_err"].min()
            )


def test_one_gaussian_is_exact():
    mean, cov = gaussians(50, 1)
    columns = posterior_columns(mean, cov)
    sigma = np.sqrt(cov[:, 0, 0].astype(float))
    np.testing.assert_allclose(columns["theta_E"], np.exp(mean[:, 0, 0].astype(float)), rtol=1e-6)
    np.testing.assert_allclose(columns["theta_E_q975"], np.exp(mean[:, 0, 0] + 1.959964 * sigma), rtol=1e-5)
    np.testing.assert_allclose(columns["sx"], mean[:, 0, 5], rtol=1e-6)
    np.testing.assert_allclose(columns["y_err"], 0.9944579 * np.sqrt(cov[:, 0, TRIANGLE.index((4, 4))]), rtol=1e-5)


@pytest.mark.parametrize("members", [1, 3])
def test_against_samples(members):
    mean, cov = gaussians(4, members)
    columns = posterior_columns(mean, cov)
    for row in range(4):
        drawn = samples_of(mean, cov, row)
        low, middle, high = np.quantile(drawn, [0.16, 0.5, 0.84], axis=0)
        width = (high - low) / 2
        for index, name in enumerate(PARAMETERS):
            assert abs(columns[name][row] - middle[index]) < 0.03 * width[index], name
            assert columns[f"{name}_err"][row] == pytest.approx(width[index], rel=0.03), name
        expected = np.cov(drawn.T)
        scale = np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
        error = np.abs(unpack_triangle(columns["cov"][row]) - expected) / scale
        assert error.max() < 0.06


@pytest.mark.parametrize("members", [1, 3])
def test_equal_weights_change_nothing(members):
    mean, cov = gaussians(300, members)
    plain = posterior_columns(mean, cov)
    for value in (1.0, 1 / 3, 7.0):
        weighted = posterior_columns(mean, cov, np.full((300, members), value))
        for name in COLUMNS:
            tolerance = {"rtol": 0, "atol": 0} if members == 1 else {"rtol": 1e-6, "atol": 1e-7}
            np.testing.assert_allclose(weighted[name], plain[name], **tolerance, err_msg=name)


def test_weights_against_samples():
    mean, cov = gaussians(4, 3)
    weight = np.array([[0.6, 0.3, 0.1], [0.05, 0.05, 0.9], [0.5, 0.5, 0.0], [2.0, 1.0, 1.0]])
    columns = posterior_columns(mean, cov, weight)
    rng = np.random.default_rng(3)
    for row in range(4):
        share = weight[row] / weight[row].sum()
        parts = [
            from_latent(rng.multivariate_normal(m, unpack_triangle(c), round(400_000 * w)))
            for m, c, w in zip(mean[row], cov[row], share, strict=True)
        ]
        drawn = np.concatenate(parts)
        low, middle, high = np.quantile(drawn, [0.16, 0.5, 0.84], axis=0)
        width = (high - low) / 2
        for index, name in enumerate(PARAMETERS):
            assert abs(columns[name][row] - middle[index]) < 0.04 * width[index], name
            assert columns[f"{name}_err"][row] == pytest.approx(width[index], rel=0.04), name
        expected = np.cov(drawn.T)
        scale = np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
        assert (np.abs(unpack_triangle(columns["cov"][row]) - expected) / scale).max() < 0.06


def test_all_weight_on_one_component_is_that_component():
    mean, cov = gaussians(50, 3)
    weight = np.tile([0.0, 1.0, 0.0], (50, 1))
    one, all_three = posterior_columns(mean[:, 1:2], cov[:, 1:2]), posterior_columns(mean, cov, weight)
    for name in COLUMNS:
        np.testing.assert_allclose(all_three[name], one[name], rtol=2e-3, atol=2e-5, err_msg=name)


def test_weighted_bits_do_not_depend_on_the_rows_beside():
    mean, cov = gaussians(300, 2)
    weight = np.random.default_rng(5).uniform(0.1, 1.0, (300, 2))
    weight[::3] = 0.5  # rows of equal weights among others
    weight[7, 1] = np.nan
    weight[8] = 0.0
    whole = posterior_columns(mean, cov, weight)
    assert np.isnan(whole["e1"][[7, 8]]).all()
    order = np.random.default_rng(6).permutation(300)
    for rows in (order, slice(3, 4), slice(0, 300, 3)):
        part = posterior_columns(mean[rows], cov[rows], weight[rows])
        for name in COLUMNS:
            assert np.array_equal(part[name], whole[name][rows], equal_nan=True), name


def test_tails_against_samples():
    """One component, and three of which two have tails, with weights."""
    mean, cov = gaussians(4, 3)
    weight = np.tile([0.5, 0.2, 0.3], (4, 1))
    for tails in ((HEAVY,), (HEAVY, GAUSSIAN, ScaleMixture((0.5, 0.5), (0.5, 1.5)))):
        k = len(tails)
        columns = posterior_columns(mean[:, :k], cov[:, :k], weight[:, :k], tails)
        rng = np.random.default_rng(3)
        for row in range(4):
            parts = []
            for m, c, w, tail in zip(mean[row], cov[row], weight[row], tails, strict=False):
                n = round(600_000 * w)
                spread = rng.multivariate_normal(np.zeros(7), unpack_triangle(c), n)
                parts.append(from_latent(m + spread * np.reshape(tail.radii(rng, (n,)), (-1, 1))))
            drawn = np.concatenate(parts)
            low, middle, high = np.quantile(drawn, [0.16, 0.5, 0.84], axis=0)
            width = (high - low) / 2
            for index, name in enumerate(PARAMETERS):
                assert abs(columns[name][row] - middle[index]) < 0.04 * width[index], name
                assert columns[f"{name}_err"][row] == pytest.approx(width[index], rel=0.02), name
            assert columns["theta_E_q975"][row] == pytest.approx(np.quantile(drawn[:, 0], 0.975), rel=0.01)
            expected = np.cov(drawn.T)
            scale = np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
            assert (np.abs(unpack_triangle(columns["cov"][row]) - expected) / scale).max() < 0.08


def test_the_gaussian_tail_changes_no_bit():
    mean, cov = gaussians(60, 2)
    plain, tailed = posterior_columns(mean, cov), posterior_columns(mean, cov, None, (GAUSSIAN, GAUSSIAN))
    for name in COLUMNS:
        assert np.array_equal(plain[name], tailed[name]), name
    with pytest.raises(ValueError, match="tails"):
        posterior_columns(mean, cov, None, (GAUSSIAN,))


def test_tails_keep_the_median_and_the_bits_of_a_row():
    mean, cov = gaussians(60, 1)
    plain, tailed = posterior_columns(mean, cov), posterior_columns(mean, cov, None, (HEAVY,))
    for name in ("theta_E", "x", "sy"):
        assert np.array_equal(plain[name], tailed[name]), name
    part = posterior_columns(mean[7:9], cov[7:9], None, (HEAVY,))
    for name in COLUMNS:
        assert np.array_equal(part[name], tailed[name][7:9]), name


def test_any_sample_is_a_legal_lens():
    mean, cov = gaussians(200, 2, spread=2.0)
    columns = posterior_columns(mean, cov)
    assert (columns["theta_E_q025"] > 0).all()
    assert (np.hypot(columns["e1"], columns["e2"]) < 1.42).all()
    assert (np.abs(columns["e1"]) < 1).all()


def test_covariance_is_positive_definite():
    mean, cov = gaussians(300, 3, spread=0.2)
    full = unpack_triangle(posterior_columns(mean, cov)["cov"])
    assert (np.linalg.eigvalsh(full) > 0).all()


@pytest.mark.parametrize("members", [1, 2])
def test_bits_do_not_depend_on_chunks(members):
    mean, cov = gaussians(4500, members)
    whole = posterior_columns(mean, cov)
    cuts = [0, 7, 4096, 4500]
    parts = [posterior_columns(mean[a:b], cov[a:b]) for a, b in itertools.pairwise(cuts)]
    for name in COLUMNS:
        assert np.array_equal(np.concatenate([part[name] for part in parts]), whole[name]), name
        assert whole[name].dtype == np.float32


def test_nan_costs_its_row_only():
    mean, cov = gaussians(20, 2)
    clean = posterior_columns(mean, cov)
    mean[3, 1, 2] = np.nan
    cov[4] = np.inf
    spoilt = posterior_columns(mean, cov)
    others = [row for row in range(20) if row not in (3, 4)]
    for name in COLUMNS:
        assert np.isnan(spoilt[name][[3, 4]]).all(), name
        assert np.array_equal(spoilt[name][others], clean[name][others]), name


def test_no_rows():
    columns = posterior_columns(np.empty((0, 1, 7)), np.empty((0, 1, N_COV)))
    assert columns["theta_E"].shape == (0,)
    assert columns["cov"].shape == (0, N_COV)


def test_wrong_shape():
    with pytest.raises(ValueError, match="not"):
        posterior_columns(np.zeros((2, 1, 7)), np.zeros((2, 1, 7, 7)))
    with pytest.raises(ValueError, match="weight"):
        posterior_columns(np.zeros((2, 1, 7)), np.ones((2, 1, N_COV)), np.ones(2))


def test_cholesky_of_packed_triangles():
    _, cov = gaussians(30, 1)
    packed = cov[:, 0].T.astype(np.float64)
    expected = np.linalg.cholesky(unpack_triangle(cov[:, 0]))
    found = np.stack(list(cholesky_packed(packed)), axis=-1)
    np.testing.assert_allclose(found, np.stack([expected[:, i, j] for i, j in TRIANGLE], -1), rtol=1e-9)
