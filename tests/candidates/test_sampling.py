"""Latent posteriors from the table's medians and covariances."""

import numpy as np
import pytest

from lensscan.candidates.sampling import Posteriors, Summaries, covariance_by_cubature, draw, latent_gaussian, to_latent
from lensscan.metrics.quasirandom import mirrored_normals
from lensscan.metrics.scalemixture import ScaleMixture
from lensscan.nets.latent import TRIANGLE, from_latent, unpack_triangle
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
    return mean, cov, Summaries.of(columns), spread


def test_latent_is_the_inverse():
    latent = np.random.default_rng(0).normal(0, 0.8, (100, 7))
    latent[0, 1:3] = 0.0
    np.testing.assert_allclose(to_latent(from_latent(latent)), latent, rtol=1e-10, atol=1e-12)


def test_cubature_is_that_of_the_table():
    mean, cov, said, _ = gaussians(50, 1.0)
    np.testing.assert_allclose(covariance_by_cubature(mean, cov), unpack_triangle(said.packed), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize(("width", "limit"), [(0.3, 0.005), (1.0, 0.03), (3.0, 0.15)])
def test_one_network_gives_back_its_posterior(width, limit):
    mean, cov, said, spread = gaussians(200, width)
    found_mean, found = latent_gaussian(said.median, said.packed)
    assert np.abs((found_mean - mean) / spread).max() < 2 * max(limit, 0.03)
    assert (np.abs(found - cov) / (spread[:, None] * spread)).max() < limit


def test_samples_are_legal_lenses_with_the_stored_covariance():
    _, _, said, _ = gaussians(5, 1.5)
    samples = draw(Posteriors.of(said), list("abcde"), 20_000)
    assert samples.shape == (5, 20_000, 7)
    assert samples[..., 0].min() > 0
    assert np.hypot(samples[..., 1], samples[..., 2]).max() < 1
    np.testing.assert_allclose(np.median(samples, axis=1)[:, 3:], said.median[:, 3:], atol=0.02)
    for k in range(5):
        want = unpack_triangle(said.packed)[k]
        size = np.sqrt(np.diag(want))
        assert np.abs((np.cov(samples[k].T) - want) / np.outer(size, size)).max() < 0.1


def test_samples_belong_to_the_id_and_the_seed():
    _, _, said, _ = gaussians(4, 1.0)
    posteriors = Posteriors.of(said)
    here = draw(posteriors, ["1", "2", "3", "4"], 10)
    there = draw(Posteriors.of(said[::-1]), ["4", "3", "2", "1"], 10)
    np.testing.assert_array_equal(here, there[::-1])
    assert not np.array_equal(here, draw(posteriors, ["1", "2", "3", "4"], 10, seed=1))
    assert not np.array_equal(here[0], draw(Posteriors.of(said[:1]), ["9"], 10)[0])


def test_no_posterior_gives_nan_and_hopeless_covariances_still_a_posterior():
    _, _, said, _ = gaussians(4, 1.0)
    median, packed = said.median.copy(), said.packed.copy()
    median[0] = packed[1] = np.nan
    packed[2] = 0.0
    packed[3, [TRIANGLE.index((i, i)) for i in range(7)]] = 50.0  # no |e| < 1 scatters that much
    none = np.full_like(said.half, np.nan)
    posteriors = Posteriors.of(Summaries(median, none, none[:, :4], packed))
    assert posteriors.known.tolist() == [2, 3]
    samples = draw(posteriors, ["a", "b", "c", "d"], 50)
    assert np.isnan(samples[:2]).all()
    assert np.isfinite(samples[2:]).all()
    np.testing.assert_allclose(samples[2], np.tile(median[2], (50, 1)), atol=1e-4)
    assert np.hypot(samples[3, :, 1], samples[3, :, 2]).max() <= 1
    stated = draw(Posteriors.of(Summaries(median, said.half, said.ends, packed)), ["a", "b", "c", "d"], 50)
    assert np.isfinite(stated[2:]).all()
    assert np.hypot(stated[..., 1], stated[..., 2])[2:].max() <= 1


TAIL = ScaleMixture((0.7, 0.3), (0.4, 2.4))


def odd_posteriors(kind):
    """Return the table's summaries of 12 posteriors that no Gaussian is."""
    mean, cov, _, _ = gaussians(12, 0.7)
    packed = np.stack([cov[:, i, j] for i, j in TRIANGLE], axis=1)
    if kind == "tail":
        return Summaries.of(posterior_columns(mean[:, None], packed[:, None], None, (TAIL,)))
    means, covs = np.stack([mean, mean], axis=1), np.stack([packed * 0.04, packed], axis=1)
    if kind == "two centres":
        means[:, 1] += 0.12
        covs = np.stack([packed * 0.2, packed * 0.3], axis=1)
    return Summaries.of(posterior_columns(means, covs, np.tile([0.7, 0.3], (12, 1))))


@pytest.mark.parametrize("kind", ["tail", "narrow and wide", "two centres"])
def test_samples_of_what_is_no_gaussian_have_the_marginals_of_the_table(kind):
    said = odd_posteriors(kind)
    _, cov = latent_gaussian(said.median, said.packed)
    normal = mirrored_normals(2**15, 7, 3)
    samples = from_latent(Posteriors.of(said).latent(np.arange(12), normal[None]))
    low, middle, high = np.quantile(samples, [0.16, 0.5, 0.84], axis=1)
    np.testing.assert_allclose(0.5 * (high - low), said.half, rtol=0.04)
    assert (np.abs(middle - said.median) < 0.02 * said.half).all()
    ends = np.quantile(samples[..., 0], [0.025, 0.16, 0.84, 0.975], axis=1).T
    assert (np.abs(ends - said.ends) < 0.03 * said.half[:, :1]).all()
    size = np.sqrt(unpack_triangle(said.packed).diagonal(axis1=1, axis2=2))
    np.testing.assert_allclose(samples.std(axis=1)[:, 3:], size[:, 3:], rtol=0.04)
    plain = 0.9945 * np.sqrt(cov.diagonal(axis1=1, axis2=2))[:, 3:] / said.half[:, 3:]
    assert np.abs(plain - 1).max() > 0.04, "which the Gaussian of the same covariance does not have"
