"""The trained combination: signs, weights, and members that nothing changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lensscan.errors import ConfigError, ModelError
from lensscan.nets.architecture import architecture, build_network, network_config
from lensscan.nets.classic.combination import Combination, WeightedSum, align_signs
from lensscan.nets.classic.losses import sign_free_error, sign_free_loss
from lensscan.nets.classic.parameters import parameters_of
from lensscan.nets.normalise import n_scalars

PAIR = {"kind": "combination", "networks": [{"kind": "ensai"}, {"kind": "ensai"}]}


def test_weights_start_as_the_mean_and_keep_parameters_apart():
    predictions = torch.rand(4, 6, 5)
    layer = WeightedSum(4)
    torch.testing.assert_close(layer(predictions), predictions.mean(dim=0))
    layer(predictions)[:, 0].sum().backward()
    assert (layer.weight.grad[:, 0, 0] != 0).all()
    assert (layer.weight.grad[:, 0, 1:] == 0).all(), "a parameter is made of the same parameter alone"


def test_weights_bring_ellipticities_to_one_sign():
    first = torch.tensor([[1.0, 0.3, -0.2, 0.1, 0.0]])
    second = torch.tensor([[1.2, -0.28, 0.22, 0.1, 0.0]])
    aligned = align_signs(torch.stack([first, second]))
    torch.testing.assert_close(aligned[1], torch.tensor([[1.2, 0.28, -0.22, 0.1, 0.0]]))
    assert torch.equal(aligned[0], first)
    mean = WeightedSum(2)(torch.stack([first, second]))
    torch.testing.assert_close(mean[0, 1:3], torch.tensor([0.29, -0.21]))


def test_trained_weights_beat_every_member():
    """Three networks with errors of their own; one gives its ellipticities the other sign."""
    rng = np.random.default_rng(3)
    truth = np.column_stack([rng.uniform(0.5, 2, 500), *rng.uniform(0.1, 0.5, (2, 500)), *rng.normal(0, 0.2, (2, 500))])
    members = truth + rng.normal(0, 1, (3, 500, 5)) * np.array([0.05, 0.1, 0.2])[:, None, None]
    members[1, :, 1:3] *= -1
    known, guesses = (torch.as_tensor(part, dtype=torch.float32) for part in (truth, members))
    layer = WeightedSum(3)
    optimiser = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for _ in range(500):
        optimiser.zero_grad()
        sign_free_loss(layer(guesses[:, :250]), known[:250]).backward()
        optimiser.step()
    with torch.no_grad():
        errors = [sign_free_loss(each, known[250:]) for each in (*guesses[:, 250:], layer(guesses[:, 250:]))]
    assert errors[3] < 0.9 * min(errors[:3])
    assert (layer.weight[0] > layer.weight[2]).all(), "the better network counts for more"


def built(table=PAIR, size: int = 16):
    torch.manual_seed(5)
    network = build_network(table, 1, size)
    assert isinstance(network, Combination)
    return network, torch.randn(4, 1, size, size), torch.randn(4, n_scalars(1))


def test_it_gives_the_weighted_parameters_of_its_members():
    network, images, scalars = built()
    with torch.no_grad():
        network.combine.weight.copy_(torch.tensor([[0.2], [0.7]])[..., None])
        given = torch.stack([member(images, scalars).condition for member in network.members])
        found = network(images, scalars).condition
    torch.testing.assert_close(found, (torch.tensor([0.2, 0.7])[:, None, None] * align_signs(given)).sum(dim=0))


def test_it_goes_down_the_members_loss_on_lenses():
    network, images, scalars = built()
    outcome, lens = network.eval()(images, scalars), torch.tensor([True, True, False, True])
    target = torch.cat([torch.rand(4, 5) / 2, torch.full((4, 2), torch.nan)], dim=1)
    rows = sign_free_error(outcome.condition, parameters_of(target, "hezaveh2017"))
    assert network.own_loss(outcome, target, lens).item() == pytest.approx((rows[lens].sum() / 4).item(), rel=1e-5)


@pytest.mark.slow
def test_members_neither_drop_nor_count_in_training_mode():
    """An Inception-v4 has drop-out and batch statistics."""
    table = {"kind": "combination", "networks": [{"kind": "ensai"}, {"kind": "inception-v4"}]}
    network, images, scalars = built(table, 39)
    before = {key: value.clone() for key, value in network.members.state_dict().items()}
    trained = network.train()(images, scalars)
    assert network.training
    assert torch.equal(trained.condition, network.eval()(images, scalars).condition)
    assert all(torch.equal(value, before[key]) for key, value in network.members.state_dict().items())
    network.members[1].train()
    network(images, scalars)
    assert any(not torch.equal(value, before[key]) for key, value in network.members.state_dict().items())


def test_members_are_in_evaluation_mode_at_any_time():
    network, _, _ = built()
    for mode in (None, True, False):
        if mode is not None:
            network.train(mode)
        assert not any(part.training for part in network.members.modules())
    assert network.train().combine.training


def test_a_card_tells_what_the_members_are_and_not_where_they_were():
    config = network_config({**PAIR, "members": ["a.safetensors", "b.safetensors"], "hashes": ["1", "2"]}, "here")
    assert set(architecture(config)) == {"kind", "networks"}
    again = network_config(architecture(config), "there")
    assert again.networks == config.networks
    assert architecture(again) == architecture(config)


WRONG = {
    "one": ([{"kind": "ensai"}], "two networks or more"),
    "of another paper": ([{"kind": "ensai"}, {"kind": "holismokes-cnn"}], "not of 'holismokes-cnn'"),
    "of itself": ([{"kind": "ensai"}, PAIR], "unknown key 'networks'"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_what_cannot_be_combined_is_one_line(name):
    networks, words = WRONG[name]
    table = {"kind": "combination", "networks": networks}
    with pytest.raises(ConfigError, match=words) as caught:
        network_config(table, "here")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=words):
        build_network(table, 1, 16)
