"""The flow head learns what one Gaussian cannot: a bent, two-sided posterior, likelier and as right as it says."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lensscan.metrics.posterior import log_density
from lensscan.nets.blocks import Outcome
from lensscan.nets.bridge import fit_gaussians
from lensscan.nets.flow import base_points
from lensscan.nets.flowposterior import FlowPosteriors, pack_outcome
from lensscan.nets.heads import FlowHead, PosteriorHead
from lensscan.nets.latent import N_LATENT, unpack_triangle
from lensscan.train.loop import _centre
from lensscan.train.losses import mixture_nll

pytest.importorskip("zuko", reason="the extra flow is not installed")

STEPS, BATCH = 200, 256
SPREAD = torch.tensor([0.1, 0.05, 0.05, 0.04, 0.04, 0.1, 0.1])
UNITS = ([0.0] * N_LATENT, [0.3] * N_LATENT)


def toy(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return features (n, 4), truths (n, 7) and their exact log density: theta_E bends with sx, which has two sides."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 4, generator=generator)
    noise = torch.randn(n, N_LATENT, generator=generator)
    side = torch.where(torch.rand(n, generator=generator) < 0.3, -1.0, 1.0)
    truth = SPREAD * noise
    truth[:, 1:5] += 0.1 * features
    truth[:, 5] += 0.4 * side
    truth[:, 0] += 1.5 * truth[:, 5] ** 2
    parts = [math.log(share) - 0.5 * ((truth[:, 5] - at) / SPREAD[5]) ** 2 for share, at in ((0.3, -0.4), (0.7, 0.4))]
    exact = torch.logsumexp(torch.stack(parts), dim=0) - 0.5 * noise[:, [0, 1, 2, 3, 4, 6]].square().sum(dim=1)
    return features, truth, exact - SPREAD.log().sum() - 0.5 * N_LATENT * math.log(2 * math.pi)


def outcome_of(head: FlowHead, features: torch.Tensor) -> Outcome:
    return Outcome(features[:, 0], *head(features))


def train(head: PosteriorHead, lr: float) -> PosteriorHead:
    optimiser = torch.optim.Adam(head.parameters(), lr=lr)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for step in range(STEPS):
        features, truth, _ = toy(BATCH, 100 + step)
        if isinstance(head, FlowHead):
            loss = -head.log_density(truth[:, None], outcome_of(head, features)).mean()
        else:
            loss = mixture_nll(truth, *head(features)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
    return head.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def flow():
    torch.manual_seed(1)
    return train(FlowHead(4, 16, *UNITS, 3, 8, 16), 1.5e-2)


def test_a_flow_is_likelier_than_a_gaussian(flow):
    torch.manual_seed(1)
    single = train(PosteriorHead(4, 16, *UNITS), 1e-2)
    features, truth, exact = toy(2000, 1)
    bent = float(flow.log_density(truth[:, None], outcome_of(flow, features)).mean())
    straight = -float(mixture_nll(truth, *single(features)).mean())
    assert bent > straight + 0.7, "the flow is no better than its Gaussian"
    assert bent < float(exact.mean()) + 0.05, "likelier than the truth: the density is wrong"
    assert bent > float(exact.mean()) - 0.25


def test_a_flow_covers(flow):
    """Within three binomial errors of a thousand toys at 68 %."""
    features, truth, _ = toy(1000, 2)
    found = FlowPosteriors(flow, pack_outcome(outcome_of(flow, features)).numpy()[:, None], np.zeros((1000, 7)))
    rng = np.random.default_rng(1)
    samples, points = found.draw(rng, 60), truth.double().numpy()
    ranks = (samples < points[:, None]).mean(axis=1)
    content = (found.log_density(samples) > found.log_density(points[:, None])).mean(axis=1)
    for level in (0.68, 0.95):
        np.testing.assert_allclose((np.abs(ranks - 0.5) <= level / 2).mean(axis=0), level, atol=0.045)
        assert (content <= level).mean() == pytest.approx(level, abs=0.045)


def test_the_gaussians_of_a_scan_keep_most_of_what_the_flow_knows(flow):
    features, truth, _ = toy(300, 3)
    outcome = outcome_of(flow, features)
    mean, cov, weight = (
        part.double().numpy() for part in fit_gaussians(flow.sample(base_points(512), outcome), flow.scale)
    )
    points, matrices = truth.double().numpy()[:, None], unpack_triangle(cov)
    five = log_density(points, mean, matrices, weight).mean()
    centre = (weight[..., None] * mean).sum(axis=1, keepdims=True)
    offset = mean - centre
    spread = (weight[..., None, None] * (matrices + offset[..., None] * offset[..., None, :])).sum(
        axis=1, keepdims=True
    )
    one = log_density(points, centre, spread, np.ones((300, 1))).mean()
    bent = float(flow.log_density(truth[:, None], outcome).mean())
    assert bent > one + 0.5
    assert five > one + 0.5 * (bent - one), "five Gaussians keep less than half of the flow's gain over one"
    low = mean[..., 5] < 0
    assert (weight * low).sum(axis=1).mean() == pytest.approx(0.3, abs=0.06), "the weight of the lower side"


def test_a_validation_takes_the_middle_of_the_flow_and_not_of_its_gaussian(flow):
    """theta_E is bent here: the Gaussian's mean lies well off the median of what the flow makes of it."""
    features, truth, _ = toy(1000, 3)
    network, outcome = SimpleNamespace(flow=flow), outcome_of(flow, features)
    middle = _centre(network, outcome)
    samples = flow.sample(base_points(2048), outcome)[..., 0]
    share = (samples < middle[:, None]).float().mean(dim=1)
    assert float((share - 0.5).abs().max()) < 0.06
    bare = _centre(SimpleNamespace(flow=None), outcome)
    assert float((middle - truth[:, 0]).abs().median()) < float((bare - truth[:, 0]).abs().median())
