"""Optimisers and losses that a training may choose; the defaults change nothing."""

from __future__ import annotations

import math

import pytest
import torch

from lensscan.config import find, read_toml
from lensscan.nets.architecture import architecture, build_network, network_config
from lensscan.nets.model import Model
from lensscan.train.choices import make_optimiser, training_loss
from lensscan.train.losses import classification_loss
from lensscan.train.settings import Optimiser, TrainSettings

LOGIT = torch.tensor([0.0, 3.0, -2.0, 1.0])
LENS = torch.tensor([True, True, False, False])


def test_the_digest_of_a_shipped_training_is_the_one_in_its_card():
    name = "des-griz"
    settings = TrainSettings.from_mapping(read_toml(find("training", name)), name)
    assert settings.digest == Model.load(name).card.training["settings_digest"]


@pytest.mark.parametrize(
    "changes",
    [{"optimiser": {"kind": "sgd"}}, {"optimiser": {"loss": "focal"}}, {"network": {"dropout": 0.1}}],
)
def test_what_changes_a_weight_changes_the_digest(changes):
    least = {"name": "x", "recipe": "des-griz", "steps": 10}
    plain = TrainSettings.from_mapping(least, "x")
    assert TrainSettings.from_mapping({**least, **changes}, "x").digest != plain.digest


@pytest.mark.parametrize(
    "kind,built",
    [("adamw", "AdamW"), ("adam", "Adam"), ("sgd", "SGD"), ("rmsprop", "RMSprop")],
)
def test_every_optimiser_goes_down(kind, built):
    point = torch.nn.Parameter(torch.tensor([3.0]))
    optimiser = make_optimiser(Optimiser(kind=kind, lr=0.05), [{"params": [point], "weight_decay": 0.0}])
    assert type(optimiser).__name__ == built
    for _ in range(60):
        optimiser.zero_grad()
        point.square().sum().backward()
        optimiser.step()
    assert abs(point.item()) < 1.5


def test_losses_are_their_formulas():
    bce = classification_loss(LOGIT, LENS)
    assert training_loss(Optimiser(), bce, LOGIT, LENS) is bce
    p = [1 / (1 + math.exp(-x if lens else x)) for x, lens in zip(LOGIT.tolist(), LENS.tolist(), strict=True)]
    focal = sum((1 - q) ** 2 * -math.log(q) for q in p) / 4
    mse = sum((1 - q) ** 2 for q in p) / 4
    assert float(training_loss(Optimiser(loss="focal"), bce, LOGIT, LENS)) == pytest.approx(focal, rel=1e-6)
    assert float(training_loss(Optimiser(loss="mse"), bce, LOGIT, LENS)) == pytest.approx(mse, rel=1e-6)
    vague = torch.tensor([True, False, False, False])
    assert float(training_loss(Optimiser(loss="mse"), bce, LOGIT, LENS, vague)) == pytest.approx(
        mse - (1 - p[0]) ** 2 / 4, rel=1e-6
    )


def test_drop_out_acts_in_training_only_and_is_no_news_to_a_card():
    config = network_config({"widths": [8, 12], "depths": [0, 0], "dropout": 0.5}, "x")
    assert architecture(config)["dropout"] == 0.5
    assert "dropout" not in architecture(network_config({}, "x"))
    torch.manual_seed(1)
    network = build_network(architecture(config), 1, 16)
    inputs = torch.randn(4, 1, 16, 16), torch.randn(4, 5)
    network.eval()
    assert torch.equal(network(*inputs)[0], network(*inputs)[0])
    network.train()
    assert not torch.equal(network(*inputs)[0], network(*inputs)[0])
