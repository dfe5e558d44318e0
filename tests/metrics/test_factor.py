"""Cholesky factors: those of old, bit by bit, of sound covariances; finite and true of nearly singular ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lensscan.metrics.factor import nearest_positive, stable_cholesky
from lensscan.metrics.posterior import draw_mixture
from lensscan.metrics.scalemixture import GAUSSIAN
from lensscan.nets import bridge
from lensscan.nets.latent import N_LATENT, TRIANGLE, cholesky_packed, unpack_triangle

ROWS, COLUMNS = (list(axis) for axis in zip(*TRIANGLE, strict=True))


def covariances(n: int, condition: float, seed: int = 3) -> np.ndarray:
    """Return matrices (n, 7, 7) of a condition number, with variances of very different size, rounded to float32."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(n, N_LATENT, N_LATENT)))[0]
    values = np.geomspace(1.0, 1.0 / condition, N_LATENT)
    scale = np.array([0.01, 0.1, 0.1, 0.03, 0.03, 0.3, 0.3])
    cov = (axes * values) @ np.swapaxes(axes, 1, 2) * scale[:, None] * scale
    return (0.5 * (cov + np.swapaxes(cov, 1, 2))).astype(np.float32).astype(np.float64)


def plain(packed):
    """Return packed factors (28, n), array or tensor, without any care."""
    factor = {}
    for index, (i, j) in enumerate(TRIANGLE):
        rest = packed[index] + 0.0
        for k in range(j):
            rest = rest - factor[i, k] * factor[j, k]
        root = torch.sqrt if isinstance(rest, torch.Tensor) else np.sqrt
        factor[i, j] = root(rest) if i == j else rest / factor[j, j]
    return np.stack([np.asarray(factor[pair]) for pair in TRIANGLE])


def off(cov: np.ndarray, factor: np.ndarray) -> float:
    """Return the largest error of L L^T in units of the diagonal."""
    size = np.sqrt(np.einsum("nii->ni", cov))
    error = factor @ np.swapaxes(factor, 1, 2) - cov
    return float(np.abs(error / (size[:, :, None] * size[:, None, :])).max())


def triangle(packed: np.ndarray) -> np.ndarray:
    """Return lower triangular matrices (n, 7, 7) of packed ones (28, n)."""
    return np.tril(unpack_triangle(packed.T))


def test_sound_covariances_keep_their_bits():
    cov = covariances(200, 1e4)
    np.testing.assert_array_equal(stable_cholesky(cov), np.linalg.cholesky(cov))
    packed = cov[:, ROWS, COLUMNS].T
    np.testing.assert_array_equal(cholesky_packed(packed), plain(packed))
    found = bridge.cholesky(torch.from_numpy(packed.T.copy()))
    np.testing.assert_array_equal(found.numpy(), triangle(plain(torch.from_numpy(packed))))


@pytest.mark.parametrize("condition", [1e8, 1e10, 1e14])
def test_nearly_singular_covariances_are_kept(condition):
    cov = covariances(300, condition)
    packed = cov[:, ROWS, COLUMNS].T
    assert off(cov, stable_cholesky(cov)) < 3e-6
    assert off(cov, triangle(cholesky_packed(packed))) < 3e-6
    assert torch.isfinite(bridge.cholesky(torch.from_numpy(packed.T.copy()))).all()


def test_rows_do_not_know_their_neighbours():
    """A singular one, and one that is not finite, beside sound ones."""
    cov = covariances(5, 1e3)
    cov[1] = np.outer(np.arange(1.0, 8.0), np.arange(1.0, 8.0)) * 1e-4
    cov[1, 6, 6] -= 1e-9
    cov[3] = np.nan
    packed = cov[:, ROWS, COLUMNS].T
    sound = [0, 2, 4]
    found, other = stable_cholesky(cov), triangle(cholesky_packed(packed))
    np.testing.assert_array_equal(found[sound], np.linalg.cholesky(cov[sound]))
    np.testing.assert_array_equal(other[sound], triangle(plain(packed[:, sound])))
    for factor in (found, other):
        assert off(cov[1:2], factor[1:2]) < 3e-6
        assert np.isnan(factor[3, 6, 6])


def test_a_flow_whose_samples_lie_in_a_plane_has_their_covariance():
    rng = np.random.default_rng(5)
    few = rng.normal(size=(4, 400, 3)) @ rng.normal(size=(4, 3, N_LATENT))
    samples = torch.from_numpy((0.1 * few).astype(np.float32))
    mean, cov, weight = (part.double().numpy() for part in bridge.fit_gaussians(samples, torch.full((N_LATENT,), 0.3)))
    assert np.isfinite(mean).all()
    middle = np.einsum("nk,nki->ni", weight, mean)
    shift = mean - middle[:, None]
    whole = np.einsum("nk,nkij->nij", weight, unpack_triangle(cov) + shift[..., :, None] * shift[..., None, :])
    expected = np.stack([np.cov(each.T, bias=True) for each in samples.double().numpy()])
    size = np.sqrt(np.einsum("nii->ni", expected))
    error = np.abs(whole - expected) / (size[:, :, None] * size[:, None, :])
    assert error.max() < 0.02, "the floor of a component's width is part of it"


def test_singular_mixtures_are_drawn_from():
    cov = np.ones((3, 1, N_LATENT, N_LATENT))
    cov[0, 0, 6, 6] -= 1e-6
    cov[1:] = np.eye(N_LATENT)
    drawn = draw_mixture(
        np.zeros((3, 1, N_LATENT)), cov, np.ones((3, 1)), GAUSSIAN, np.random.default_rng(1), count=2000
    )
    assert np.isfinite(drawn).all()
    np.testing.assert_allclose(np.cov(drawn[0].T), 1.0, atol=0.15)


def test_repair_is_no_larger_than_it_must_be():
    cov = covariances(50, 1e12)
    fixed = nearest_positive(cov)
    size = np.sqrt(np.einsum("nii->ni", cov))
    units = size[:, :, None] * size[:, None, :]
    assert np.abs((fixed - cov) / units).max() < 2e-6
    assert np.linalg.eigvalsh(fixed / units).min() > 5e-8
