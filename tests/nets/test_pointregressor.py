"""Published regressors in the product: papers' parameters to our latent space and back, losses, widths, scans."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lensscan.evaluate.regression import convert
from lensscan.lens import conventions
from lensscan.nets.classic.parameters import LEAST_RADIUS, latent_of, parameters_of
from lensscan.nets.classic.registry import REGRESSORS
from lensscan.nets.latent import from_latent, to_latent
from lensscan.nets.model import build_network
from lensscan.nets.normalise import n_scalars

CONVERTERS = {
    "hezaveh2017": (conventions.to_hezaveh, conventions.from_hezaveh),
    "holismokes4": (conventions.to_holismokes, conventions.from_holismokes),
}


def lenses(n: int = 200) -> np.ndarray:
    """Return physical parameters (n, 7), 1 - q from 0 to 0.9."""
    rng = np.random.default_rng(4)
    q, phi = 1 - rng.uniform(0, 0.9, n), rng.uniform(-np.pi / 2, np.pi / 2, n)
    shape = conventions.from_axis_ratio(q, phi)
    return np.column_stack([rng.uniform(0.1, 3, n), *shape, *rng.uniform(-0.5, 0.5, (4, n))])


@pytest.mark.parametrize("name", sorted(CONVERTERS))
def test_parameters_are_those_of_the_converters(name):
    truth = lenses()
    latent = torch.from_numpy(to_latent(truth))
    to_paper, from_paper = CONVERTERS[name]
    expected = np.column_stack([*to_paper(*truth[:, :3].T), truth[:, 3:5]])
    found = parameters_of(latent, name)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    back = from_latent(np.pad(latent_of(found, name).numpy(), ((0, 0), (0, 2))))
    np.testing.assert_allclose(back[:, :3], np.column_stack(from_paper(*expected[:, :3].T)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(back[:, :5], truth[:, :5], rtol=1e-5, atol=1e-6)


def test_the_sign_of_hezavehs_pair_does_not_matter():
    parameters = parameters_of(torch.from_numpy(to_latent(lenses())), "hezaveh2017")
    turned = parameters * torch.tensor([1.0, -1, -1, 1, 1], dtype=parameters.dtype)
    torch.testing.assert_close(latent_of(turned, "hezaveh2017"), latent_of(parameters, "hezaveh2017"), rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(CONVERTERS))
def test_what_no_lens_has_becomes_legal(name):
    wild = torch.tensor([[-1.0, 0.0, 0.0, 0.1, 0.2], [1.0, 3.0, -4.0, 0.0, 0.0]], requires_grad=True)
    latent = latent_of(wild, name)
    latent.sum().backward()
    assert torch.isfinite(latent).all()
    assert torch.isfinite(wild.grad).all()
    physical = from_latent(np.pad(latent.detach().double().numpy(), ((0, 0), (0, 2))))
    assert physical[0, 0] == pytest.approx(LEAST_RADIUS)
    np.testing.assert_allclose(physical[0, 1:5], [0, 0, 0.1, 0.2], atol=1e-5)
    assert 0.7 < np.hypot(*physical[1, 1:3]) < 1


def built(kind: str = "holismokes-cnn", n: int = 4):
    torch.manual_seed(1)
    size = max(REGRESSORS[kind].smallest, 20)
    network = build_network({"kind": kind}, 1, size)
    images, scalars = torch.randn(n, 1, size, size), torch.randn(n, n_scalars(1))
    target = torch.from_numpy(to_latent(lenses(n))).float()
    return network, images, scalars, target


@pytest.mark.parametrize("kind", ["ensai", "holismokes-cnn", "holismokes-resnet"])
def test_only_lenses_count_in_the_loss(kind):
    network, images, scalars, target = built(kind)
    network.eval()
    outcome = network(images, scalars)
    lens = torch.tensor([True, False, True, False])
    spoilt = torch.where(lens[:, None], target, torch.nan)
    loss = network.own_loss(outcome, spoilt, lens)
    few = network.own_loss(network(images[::2], scalars[::2]), target[::2], lens[::2])
    torch.testing.assert_close(loss, few / 2, rtol=1e-4, atol=1e-6)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_the_losses_are_those_of_the_papers():
    network, images, scalars, target = built("ensai")
    outcome, lens = network(images, scalars), torch.ones(4, dtype=torch.bool)
    outputs, truth = outcome.condition.detach().numpy(), parameters_of(target, "hezaveh2017").numpy()
    signs = ([1, 1, 1, 1, 1], [1, -1, -1, 1, 1])
    rows = np.min([((outputs * sign - truth) ** 2).mean(axis=1) for sign in signs], axis=0)
    assert network.own_loss(outcome, target, lens).item() == pytest.approx(np.mean(rows), rel=1e-5)
    network, images, scalars, target = built("holismokes-cnn")
    outcome = network(images, scalars)
    outputs, truth = outcome.condition.detach().numpy(), parameters_of(target, "holismokes4").numpy()
    weighted = np.mean((outputs - truth) ** 2 * np.array([5, 1, 1, 1, 1]) / 1.8)
    assert network.own_loss(outcome, target, lens).item() == pytest.approx(weighted, rel=1e-5)


def test_widths_follow_the_errors_in_training_alone():
    network, images, scalars, target = built()
    lens = torch.tensor([True, True, True, False])
    outcome = network(images, scalars)
    network.eval()
    network.own_loss(outcome, target, lens)
    assert (network.square == 1).all()
    network.train()
    for _ in range(2000):
        network.own_loss(outcome, target, lens)
    square = (target - outcome.mean[:, 0].detach())[:3].square().mean(dim=0)
    expected = torch.stack([square[0], square[1:3].mean(), square[3:5].mean(), square[5:].mean()])
    torch.testing.assert_close(network.square, expected, rtol=1e-3, atol=1e-5)
    widths = network(images, scalars).factor[0, 0].diagonal()
    torch.testing.assert_close(widths, expected[[0, 1, 1, 2, 2, 3, 3]].sqrt(), rtol=1e-3, atol=1e-4)
    network.own_loss(outcome, torch.full_like(target, torch.nan), torch.zeros_like(lens))
    assert torch.isfinite(network.square).all(), "a batch without lenses"


def test_figures_come_out_in_every_convention():
    """What a paper's network gives, with spin and sign as each convention of the evaluation wants them."""
    truth = lenses()
    given = parameters_of(torch.from_numpy(to_latent(truth)), "hezaveh2017") * torch.tensor([1.1, -1, -1, 1, 1])
    estimate = from_latent(np.pad(latent_of(given, "hezaveh2017").numpy(), ((0, 0), (0, 2))))
    ours, true = convert("hezaveh2017", estimate, truth)
    np.testing.assert_allclose(ours[:, 1:], true[:, 1:], atol=1e-5)
    np.testing.assert_allclose(ours[:, 0], 1.1 * true[:, 0], rtol=1e-5)
    for name in ("one_minus_q", "holismokes4"):
        ours, true = convert(name, estimate, truth)
        np.testing.assert_allclose(ours[:, -2:], true[:, -2:], atol=1e-5)
