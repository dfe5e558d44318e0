"""A mixture head against a single Gaussian, on a toy whose truth has two branches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lensscan.metrics.posterior import credibility, log_density, marginal_coverage
from lensscan.nets.heads import PosteriorHead, covariance
from lensscan.train.losses import mixture_nll

STEPS = 400
SPREAD = 0.05


def toy(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features (n, 8) and truths (n, 7): the image cannot tell on which side of the centre the source lies."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 8, generator=generator)
    truth = SPREAD * torch.randn(n, 7, generator=generator) + 0.1 * features[:, :7]
    side = torch.where(torch.rand(n, generator=generator) < 0.3, -1.0, 1.0)
    truth[:, 5] += side * (0.4 + 0.1 * features[:, 7])
    return features, truth


def fitted(components: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Train a head; return truths it did not see, and its means, covariances and weights of them."""
    torch.manual_seed(1)
    head = PosteriorHead(8, 32, [0.0] * 7, [0.3] * 7, components)
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-2)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for step in range(STEPS):
        features, truth = toy(128, 100 + step)
        loss = mixture_nll(truth, *head(features)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
    features, truth = toy(2000, 1)
    with torch.no_grad():
        mean, factor, log_weight = head(features)
    found = (truth, mean, covariance(factor), torch.exp(log_weight))
    return tuple(values.double().numpy() for values in found)


@pytest.fixture(scope="module")
def heads():
    return {k: fitted(k) for k in (1, 2)}


def test_two_components_are_likelier(heads):
    likely = {}
    for k, (truth, mean, cov, weight) in heads.items():
        likely[k] = log_density(truth[:, None], mean, cov, weight).mean()
    assert likely[2] > likely[1] + 0.4, "one blob over two branches"
    share = np.where(heads[2][1][:, 0, 5] < heads[2][1][:, 1, 5], heads[2][3][:, 0], heads[2][3][:, 1])
    assert share.mean() == pytest.approx(0.3, abs=0.06), "the weight of the lower branch"


def test_two_components_cover_and_one_does_not(heads):
    missed = {}
    for k, (truth, mean, cov, weight) in heads.items():
        content = credibility(truth[:, 5:6], mean[..., 5:6], cov[..., 5:6, 5:6], weight)
        missed[k] = max(abs((content <= level).mean() - level) for level in (0.3, 0.5, 0.68, 0.95))
    assert missed[2] < 0.08
    assert missed[1] > 0.12
    truth, mean, cov, weight = heads[2]
    sigma = np.sqrt(np.diagonal(cov, axis1=2, axis2=3))
    for level in (0.68, 0.95):
        covered = marginal_coverage(truth, mean, sigma, level, weight=weight)
        np.testing.assert_allclose(covered, level, atol=0.06)
