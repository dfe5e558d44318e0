"""Losses against torch.distributions."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from lensscan.train.losses import classification_loss, gaussian_nll, mixture_nll, regression_loss


@pytest.fixture
def gaussians():
    generator = torch.Generator().manual_seed(1)
    factor = torch.tril(torch.randn(50, 7, 7, generator=generator, dtype=torch.float64))
    diagonal = torch.diagonal(factor, dim1=1, dim2=2)
    diagonal.copy_(diagonal.abs() + 0.1)
    mean, target = torch.randn(2, 50, 7, generator=generator, dtype=torch.float64)
    return target, mean, factor


def one(mean, factor):
    """Return the posterior of one component."""
    return mean[:, None], factor[:, None], torch.zeros(len(mean), 1, dtype=mean.dtype)


def test_mixture_is_that_of_torch(gaussians):
    target, mean, factor = gaussians
    means, factors = torch.stack([mean, mean + 1], 1), torch.stack([factor, 2 * factor], 1)
    log_weight = torch.log_softmax(torch.linspace(-1, 1, 100, dtype=torch.float64).reshape(50, 2), dim=1)
    expected = MixtureSameFamily(Categorical(logits=log_weight), MultivariateNormal(means, scale_tril=factors))
    torch.testing.assert_close(mixture_nll(target, means, factors, log_weight), -expected.log_prob(target))


def test_a_mixture_of_one_is_the_gaussian_to_the_bit(gaussians):
    target, mean, factor = (value.float() for value in gaussians)
    assert torch.equal(mixture_nll(target, *one(mean, factor)), gaussian_nll(target, mean, factor))


def test_mixture_far_from_the_truth_is_finite(gaussians):
    target, mean, factor = (value.float() for value in gaussians)
    means = torch.stack([mean, mean], 1).requires_grad_()
    log_weight = torch.tensor([[0.0, -200.0]]).repeat(50, 1).requires_grad_()
    loss = mixture_nll(target + 1e4, means, torch.stack([factor, factor], 1), log_weight).mean()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(means.grad).all()
    assert torch.isfinite(log_weight.grad).all()


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
    loss = regression_loss(target, *one(mean, factor), lens)
    expected = gaussian_nll(target[lens], mean[lens], factor[lens]).sum() / 50
    torch.testing.assert_close(loss, expected)
    loss.backward()
    for gradient in (mean.grad, factor.grad):
        assert torch.isfinite(gradient).all(), "NaN truths of non-lenses must not reach the gradient"
        assert (gradient[~lens] == 0).all()


def test_parts_of_a_batch_average_to_the_whole(gaussians):
    target, mean, factor = gaussians
    lens = torch.arange(50) % 3 == 0
    whole = regression_loss(target, *one(mean, factor), lens)
    parts = [regression_loss(target[s], *one(mean[s], factor[s]), lens[s]) for s in (slice(0, 25), slice(25, 50))]
    torch.testing.assert_close(sum(parts) / 2, whole)


def test_no_lens_in_the_batch(gaussians):
    target, mean, factor = gaussians
    assert regression_loss(target * torch.nan, *one(mean, factor), torch.zeros(50, dtype=torch.bool)) == 0


def test_rows_below_the_label_rule_count_nothing():
    logit = torch.tensor([0.0, 1.0, -100.0], requires_grad=True)
    label, vague = torch.tensor([True, False, True]), torch.tensor([False, True, False])
    loss = classification_loss(logit, label, vague)
    loss.backward()
    assert loss.item() == pytest.approx((0.693147 + 100) / 3, rel=1e-5)
    assert logit.grad[1] == 0
    assert logit.grad[0] == pytest.approx(-0.5 / 3)
    plain = classification_loss(logit, label)
    assert torch.equal(classification_loss(logit, label, torch.zeros(3, dtype=torch.bool)), plain)


def test_cross_entropy_by_hand():
    logit = torch.tensor([0.0, 100.0, -100.0])
    label = torch.tensor([True, True, True])
    assert float(classification_loss(logit, label)) == pytest.approx((0.693147 + 0 + 100) / 3, rel=1e-5)
