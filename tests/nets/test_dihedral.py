"""Dihedral views: images and parameters turn together, and views are undone exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lensscan.nets.dihedral import (
    N_VIEWS,
    combine_views,
    transform_covariance,
    transform_images,
    transform_latent,
    undo,
)
from lensscan.nets.heads import pack_triangle
from lensscan.nets.latent import unpack_triangle

VIEWS = range(N_VIEWS)


def blob(x: float, y: float, e1: float, e2: float, size: int = 33) -> torch.Tensor:
    """Elongated Gaussian at (x, y) pixels from the centre; e points along the major axis."""
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    dx, dy = axis[None, :] - x, axis[:, None] - y
    quadratic = (dx**2 + dy**2) - e1 * (dx**2 - dy**2) - 2 * e2 * dx * dy
    return torch.exp(-quadratic / 18)


def moments(image: torch.Tensor) -> tuple[float, float, float, float]:
    axis = torch.arange(image.shape[-1], dtype=torch.float64) - (image.shape[-1] - 1) / 2
    total = image.sum()
    x, y = (image * axis[None, :]).sum() / total, (image * axis[:, None]).sum() / total
    dx, dy = axis[None, :] - x, axis[:, None] - y
    xx, yy, xy = ((image * w).sum() / total for w in (dx * dx, dy * dy, dx * dy))
    return float(x), float(y), float((xx - yy) / (xx + yy)), float(2 * xy / (xx + yy))


def test_the_two_rules():
    latent = torch.tensor([0.3, 0.1, 0.2, 1.0, 2.0, 3.0, 4.0])
    turned = transform_latent(latent, 1)
    assert turned.tolist() == pytest.approx([0.3, -0.1, -0.2, -2.0, 1.0, -4.0, 3.0])
    flipped = transform_latent(latent, 4)
    assert flipped.tolist() == pytest.approx([0.3, 0.1, -0.2, -1.0, 2.0, -3.0, 4.0])


@pytest.mark.parametrize("view", VIEWS)
def test_parameters_turn_with_the_image(view):
    latent = torch.tensor([0.0, 0.2, 0.1, 1.5, -2.5, 0.0, 0.0])
    image = transform_images(blob(1.5, -2.5, 0.2, 0.1), view)
    x, y, m1, m2 = moments(image)
    _, e1, e2, px, py, _, _ = transform_latent(latent, view).tolist()
    assert (x, y) == pytest.approx((px, py), abs=1e-3)
    assert (m1, m2) == pytest.approx((e1, e2), abs=2e-3), "the image's own ellipticity must follow the rule"


@pytest.mark.parametrize("view", VIEWS)
def test_undo_is_exact(view):
    values = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    assert torch.equal(undo(transform_latent(values, view), view), values)
    packed = torch.randn(5, 28, generator=torch.Generator().manual_seed(2))
    assert torch.equal(transform_covariance(transform_covariance(packed, view), view, backward=True), packed)


@pytest.mark.parametrize("view", VIEWS)
def test_covariance_turns_as_its_samples(view):
    generator = torch.Generator().manual_seed(3)
    samples = torch.randn(400, 7, generator=generator, dtype=torch.float64) @ torch.randn(
        7, 7, generator=generator, dtype=torch.float64
    )
    packed = pack_triangle(torch.cov(samples.T))
    expected = pack_triangle(torch.cov(transform_latent(samples, view).T))
    torch.testing.assert_close(transform_covariance(packed, view), expected)


def test_views_form_the_whole_group():
    image = torch.arange(16.0).reshape(4, 4)
    assert len({tuple(transform_images(image, view).flatten().tolist()) for view in VIEWS}) == N_VIEWS


def test_mixture_has_the_moments_of_its_samples():
    rng = np.random.default_rng(5)
    means = [torch.tensor(rng.normal(size=(1, 7))) for _ in range(8)]
    covariances, samples = [], []
    for mean in means:
        root = rng.normal(size=(7, 7))
        covariances.append(pack_triangle(torch.tensor(root @ root.T))[None])
        samples.append(rng.multivariate_normal(mean[0].numpy(), root @ root.T, 100_000))
    mean, packed = combine_views(means, covariances)
    joined = np.concatenate(samples)
    np.testing.assert_allclose(mean[0], joined.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(unpack_triangle(packed.numpy())[0], np.cov(joined.T), atol=0.25)


def test_equal_views_change_nothing():
    mean = torch.randn(3, 7, generator=torch.Generator().manual_seed(4))
    packed = torch.rand(3, 28, generator=torch.Generator().manual_seed(5))
    combined = combine_views([mean] * 8, [packed] * 8)
    torch.testing.assert_close(combined[0], mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(combined[1], packed, rtol=1e-6, atol=1e-7)
