"""Losses against torch.distributions."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal

from lensscan.train.losses import classification_loss, gaussian_nll, regression_loss


@pytest.fixture
def gaussians():
    generator = torch.Generator().manual_seed(1)
    factor = torch.tril(torch.randn(50, 7, 7, generator=generator, dtype=torch.float64))
    diagonal = torch.diagonal(factor, dim1=1, dim2=2)
    diagonal.copy_(diagonal.abs() + 0.1)
    mean, target = torch.randn(2, 50, 7, generator=generator, dtype=torch.float64)
    return target, mean, factor


def test_nll_is_that_of_the_multivariate_normal(gaussians):
    target, mean, factor = gaussians
    expected = -MultivariateNormal(mean, scale_tril=factor).log_prob(target)
    torch.testing.assert_close(gaussian_nll(target, mean, factor), expected)
    single = gaussian_nll(target.float(), mean.float(), factor.float())
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-4)


def test_only_lenses_count(gaussians):
    target, mean, factor = gaussians
    lens = torch.arange(50) % 3 == 0
    target = torch.where(lens[:, None], target, torch.nan)
    mean.requires_grad_()
    factor.requires_grad_()
    loss = regression_loss(target, mean, factor, lens)
    expected = gaussian_nll(target[lens], mean[lens], factor[lens]).sum() / 50
    torch.testing.assert_close(loss, expected)
    loss.backward()
    for gradient in (mean.grad, factor.grad):
        assert torch.isfinite(gradient).all(), "NaN truths of non-lenses must not reach the gradient"
        assert (gradient[~lens] == 0).all()


def test_parts_of_a_batch_average_to_the_whole(gaussians):
    target, mean, factor = gaussians
    lens = torch.arange(50) % 3 == 0
    whole = regression_loss(target, mean, factor, lens)
    parts = [regression_loss(target[s], mean[s], factor[s], lens[s]) for s in (slice(0, 25), slice(25, 50))]
    torch.testing.assert_close(sum(parts) / 2, whole)


def test_no_lens_in_the_batch(gaussians):
    target, mean, factor = gaussians
    assert regression_loss(target * torch.nan, mean, factor, torch.zeros(50, dtype=torch.bool)) == 0


def test_cross_entropy_by_hand():
    logit = torch.tensor([0.0, 100.0, -100.0])
    label = torch.tensor([True, True, True])
    assert float(classification_loss(logit, label)) == pytest.approx((0.693147 + 0 + 100) / 3, rel=1e-5)
