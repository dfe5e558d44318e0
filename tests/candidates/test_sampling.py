"""Latent posteriors from the table's medians and covariances."""

import numpy as np
import pytest

from lensscan.candidates.sampling import covariance_by_cubature, draw, latent_gaussian, to_latent
from lensscan.nets.latent import PARAMETERS, TRIANGLE, from_latent, unpack_triangle
from lensscan.nets.posterior import posterior_columns


def gaussians(n, width, seed=3):
    """Correlated latent Gaussians, as networks make them, and the table's columns of them."""
    rng = np.random.default_rng(seed)
    spread = width * np.array([0.1, 0.12, 0.12, 0.08, 0.08, 0.2, 0.2])
    mean = np.concatenate([rng.normal(0.1, 0.4, (n, 1)), rng.normal(0, 0.25, (n, 6))], axis=1)
    root = 0.5 * rng.normal(size=(n, 7, 7)) + np.eye(7)
    cov = root @ root.swapaxes(1, 2)
    size = np.sqrt(np.einsum("nii->ni", cov))
    cov *= spread[:, None] * spread / (size[:, :, None] * size[:, None])
    packed = np.stack([cov[:, i, j] for i, j in TRIANGLE], axis=1)
    columns = posterior_columns(mean[:, None].astype("f4"), packed[:, None].astype("f4"))
    return mean, cov, np.stack([columns[name] for name in PARAMETERS], axis=1), columns["cov"], spread


def test_latent_is_the_inverse():
    latent = np.random.default_rng(0).normal(0, 0.8, (100, 7))
    latent[0, 1:3] = 0.0
    np.testing.assert_allclose(to_latent(from_latent(latent)), latent, rtol=1e-10, atol=1e-12)


def test_cubature_is_that_of_the_table():
    mean, cov, _, packed, _ = gaussians(50, 1.0)
    np.testing.assert_allclose(covariance_by_cubature(mean, cov), unpack_triangle(packed), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize(("width", "limit"), [(0.3, 0.005), (1.0, 0.03), (3.0, 0.15)])
def test_one_network_gives_back_its_posterior(width, limit):
    mean, cov, median, packed, spread = gaussians(200, width)
    found_mean, found = latent_gaussian(median, packed)
    assert np.abs((found_mean - mean) / spread).max() < 2 * max(limit, 0.03)
    assert (np.abs(found - cov) / (spread[:, None] * spread)).max() < limit


def test_samples_are_legal_lenses_with_the_stored_covariance():
    _, _, median, packed, _ = gaussians(5, 1.5)
    samples = draw(*latent_gaussian(median, packed), list("abcde"), 20_000)
    assert samples.shape == (5, 20_000, 7)
    assert samples[..., 0].min() > 0
    assert np.hypot(samples[..., 1], samples[..., 2]).max() < 1
    np.testing.assert_allclose(np.median(samples, axis=1)[:, 3:], median[:, 3:], atol=0.02)
    for k in range(5):
        want = unpack_triangle(packed)[k]
        size = np.sqrt(np.diag(want))
        assert np.abs((np.cov(samples[k].T) - want) / np.outer(size, size)).max() < 0.1


def test_samples_belong_to_the_id_and_the_seed():
    _, _, median, packed, _ = gaussians(4, 1.0)
    mean, cov = latent_gaussian(median, packed)
    here = draw(mean, cov, ["1", "2", "3", "4"], 10)
    there = draw(mean[::-1], cov[::-1], ["4", "3", "2", "1"], 10)
    np.testing.assert_array_equal(here, there[::-1])
    assert not np.array_equal(here, draw(mean, cov, ["1", "2", "3", "4"], 10, seed=1))
    assert not np.array_equal(here[0], draw(mean[:1], cov[:1], ["9"], 10)[0])


def test_no_posterior_gives_nan_and_hopeless_covariances_still_a_posterior():
    _, _, median, packed, _ = gaussians(4, 1.0)
    median, packed = median.copy(), packed.copy()
    median[0] = packed[1] = np.nan
    packed[2] = 0.0
    packed[3, [TRIANGLE.index((i, i)) for i in range(7)]] = 50.0  # no |e| < 1 scatters that much
    mean, cov = latent_gaussian(median, packed)
    samples = draw(mean, cov, ["a", "b", "c", "d"], 50)
    assert np.isnan(samples[:2]).all()
    assert np.isfinite(samples[2:]).all()
    np.testing.assert_allclose(samples[2], np.tile(median[2], (50, 1)), atol=1e-4)
    assert np.hypot(samples[3, :, 1], samples[3, :, 2]).max() <= 1
