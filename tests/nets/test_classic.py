"""One contract over all published networks, and the figures that their papers and codes state."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lensscan.errors import ModelError
from lensscan.nets.architecture import architecture, build_network, network_config
from lensscan.nets.classic.layers import SameConv2d
from lensscan.nets.classic.losses import sign_free_loss
from lensscan.nets.classic.registry import CLASSIFIERS, PUBLISHED
from lensscan.nets.model import Card, Model

NAMES = sorted(PUBLISHED)
MEANT_FOR = {"argonne": 45, "deeplens": 45, "jacobs-3": 101, "jacobs-4": 100, "holismokes-cnn": 64} | {"resnet50": 111}


LARGE = ("alexnet", "inception-v4", "overfeat", "resnet50")
"""The slowest; the others keep the same contract in the quick tests."""


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in NAMES]
)
def small(request):
    """The network at its smallest side, two bands, and stamps for it."""
    torch.manual_seed(5)
    kind = PUBLISHED[request.param]
    body = kind(2, kind.smallest)
    return request.param, body, torch.randn(4, 2, kind.smallest, kind.smallest)


def same(body: nn.Module) -> bool:
    """Whether training and evaluation are meant to agree."""
    return not any(isinstance(layer, (nn.Dropout, nn.BatchNorm2d)) for layer in body.modules())


@pytest.mark.parametrize("name", NAMES)
def test_shapes_for_any_bands_and_sizes(name):
    kind = PUBLISHED[name]
    with torch.device("meta"):
        for n_bands, size in enumerate((MEANT_FOR.get(name, 192), 45, 64, 101, kind.smallest), start=1):
            out = kind(n_bands, size).eval()(torch.empty(3, n_bands, size, size))
            assert out.shape == (3, kind.n_outputs), f"{n_bands} bands of {size}"


@pytest.mark.parametrize("name", NAMES)
def test_too_small_is_one_line(name):
    kind = PUBLISHED[name]
    with pytest.raises(ModelError, match=f"takes one band or more of {kind.smallest} pixels"):
        kind(1, kind.smallest - 1)
    with pytest.raises(ModelError, match="not 0 of"):
        kind(0, kind.smallest)


def test_every_parameter_gets_a_gradient(small):
    _, body, images = small
    body.zero_grad()
    body.train()(images).square().sum().backward()
    for key, parameter in body.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, f"{key} has no influence"


@torch.no_grad()
def test_training_and_evaluation_differ_where_they_should_alone(small):
    _, body, images = small
    torch.manual_seed(1)
    trained, evaluated = body.train()(images), body.eval()(images)
    assert torch.equal(trained, evaluated) == same(body)
    assert torch.equal(evaluated, body(images)), "evaluation draws nothing"
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in body.modules()) == body.batch_statistics


@torch.no_grad()
def test_a_stamp_does_not_know_its_neighbours_in_evaluation(small):
    _, body, images = small
    torch.testing.assert_close(body.eval()(images[:1]), body(images)[:1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_weights_survive_a_file(small, tmp_path):
    name, body, images = small
    save_file(body.state_dict(), tmp_path / "w.safetensors")
    with torch.device("meta"):
        fresh = PUBLISHED[name](2, body.smallest)
    fresh.to_empty(device="cpu").load_state_dict(load_file(tmp_path / "w.safetensors"))
    assert torch.equal(fresh.eval()(images), body.eval()(images))


def test_seed_fixes_the_weights():
    for name in ("argonne", "holismokes-cnn", "deeplens"):
        kind = PUBLISHED[name]
        bodies = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            bodies.append(kind(1, kind.smallest).state_dict())
        key = next(iter(bodies[0]))
        assert torch.equal(bodies[0][key], bodies[1][key])
        assert not torch.equal(bodies[0][key], bodies[2][key])


# (network, bands, side) -> number of weights, by hand from the published tables
WEIGHTS = {
    ("argonne", 1, 45): 327_330,  # the public file is 2.66 MB with as many momenta: 8 bytes a weight
    # Keras's total without its top, but for running means, variances and the biases that these take out; two outputs
    ("resnet50", 3, 111): 23_587_712 - 53_120 - 26_560 + 2 * 2049,
    ("inception-v4", 3, 192): 42_679_816 - 1000 * 1537 + 5 * 1537,  # its 1000 classes for 5 outputs
    ("alexnet", 1, 192): (121 * 64 + 64) + (25 * 64 * 192 + 192) + (9 * 192 * 384 + 384) + (9 * 384 * 384 + 384)
    + (9 * 384 * 256 + 256) + (16 * 256 * 4096 + 4096) + (4096 * 4096 + 4096) + (4096 * 5 + 5),
    ("overfeat", 1, 192): (121 * 64 + 64) + (25 * 64 * 256 + 256) + (9 * 256 * 512 + 512) + (9 * 512 * 1024 + 1024)
    + (9 * 1024 * 1024 + 1024) + (4 * 1024 * 3072 + 3072) + (3072 * 4096 + 4096) + (4096 * 5 + 5) + (45 * 5 + 5),
}  # fmt: skip


@pytest.mark.parametrize("case", WEIGHTS, ids=lambda case: case[0])
def test_number_of_weights_is_the_published_one(case):
    name, n_bands, size = case
    with torch.device("meta"):
        body = PUBLISHED[name](n_bands, size)
    assert sum(parameter.numel() for parameter in body.parameters()) == WEIGHTS[case]


def test_deeplens_has_46_layers_and_nine_pixels_left_of_45():
    with torch.device("meta"):
        body = PUBLISHED["deeplens"](1, 45)
        left = body.blocks(body.stem(torch.empty(1, 1, 45, 45)))
    shortcuts = [layer for name, layer in body.named_modules() if "shortcut" in name and isinstance(layer, nn.Conv2d)]
    layers = [layer for layer in body.modules() if isinstance(layer, nn.Conv2d)]
    assert len(layers) - len(shortcuts) == 46
    assert left.shape == (1, 512, 3, 3)


def test_resnet50_has_50_layers_and_sixteen_pixels_left_of_111():
    with torch.device("meta"):
        body = PUBLISHED["resnet50"](3, 111)
        left = body.blocks(body.stem(torch.empty(1, 3, 111, 111)))
    names = [name for name, layer in body.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len([name for name in names if "shortcut" not in name]) == 50
    assert left.shape == (1, 2048, 4, 4)


def test_drop_out_rates_are_the_published_ones():
    rates = [layer.p for layer in PUBLISHED["argonne"](1, 45).modules() if isinstance(layer, nn.Dropout)]
    assert rates == [0.25, 0.25, 0.5]


@pytest.mark.parametrize("side, kernel, stride", [(9, 3, 2), (8, 3, 2), (24, 10, 2), (7, 10, 1), (5, 2, 1)])
def test_same_borders_are_those_of_tensorflow(side, kernel, stride):
    """By its rule: ceil(side / stride) pixels, the first window starts total // 2 before the image."""
    conv = SameConv2d(1, 1, kernel, stride, bias=False)
    nn.init.ones_(conv.weight)
    image = torch.arange(float(side * side)).reshape(1, 1, side, side)
    out = -(-side // stride)
    total = max(0, (out - 1) * stride + kernel - side)
    padded = np.zeros((side + total + kernel, side + total + kernel))
    padded[total // 2 : total // 2 + side, total // 2 : total // 2 + side] = image[0, 0]
    corner = [[padded[i : i + kernel, j : j + kernel].sum() for j in (0, (out - 1) * stride)] for i in (0, stride)]
    found = conv(image)[0, 0].detach().numpy()
    assert found.shape == (out, out)
    np.testing.assert_allclose(found[:2][:, [0, -1]], corner, rtol=1e-6)


def test_sign_free_loss_is_continuous_in_the_angle():
    """theta and theta + pi are one lens (FIELD: a spin-1 target has two values for it): no jump, same loss."""
    angle = torch.linspace(0, 2 * torch.pi, 721)
    ones = torch.ones_like(angle)
    truth = torch.stack([ones, 0.4 * angle.cos(), 0.4 * angle.sin(), 0 * ones, 0 * ones], dim=1)
    guess = torch.tensor([[1.1, 0.2, 0.1, 0.0, 0.05]]).expand_as(truth)
    losses = torch.stack([sign_free_loss(guess[i : i + 1], truth[i : i + 1]) for i in range(len(angle))])
    torch.testing.assert_close(losses[:361], losses[360:], rtol=1e-4, atol=1e-6)
    assert losses.diff().abs().max() < 5e-3
    assert sign_free_loss(truth[:1], truth[:1]) == 0
    assert sign_free_loss(guess * torch.tensor([2.0, 1, 1, 1, 1]), guess) == pytest.approx(1.1**2 / 5), (
        "theta_E has one sign"
    )


@pytest.mark.parametrize("name", sorted(CLASSIFIERS))
def test_classifiers_are_networks_of_the_product(name, tmp_path):
    size = CLASSIFIERS[name].smallest
    torch.manual_seed(2)
    config = network_config({"kind": name}, "here")
    network = build_network(architecture(config), 2, size)
    assert not network.regresses
    assert network.normalised
    model = Model(Card(name, architecture(config), ("g", "r"), size, 0.2), network.eval())
    model.save(tmp_path / "c.safetensors")
    images = np.random.default_rng(1).normal(0, 5, (5, 2, size, size)).astype(np.float32)
    first, again = (each.score(images, views=8, batch=8) for each in (model, Model.load(tmp_path / "c.safetensors")))
    np.testing.assert_array_equal(first["logit"], again["logit"])
    assert np.isnan(first["theta_E"].value).all()
    turned = model.score(np.ascontiguousarray(np.rot90(images, 1, (3, 2))), views=8, batch=8)
    np.testing.assert_allclose(turned["logit"], first["logit"], rtol=1e-3, atol=1e-4)
    assert not np.allclose(model.score(images, batch=8)["logit"], first["logit"], rtol=1e-5), "one view is not eight"


def test_regressors_are_networks_of_the_product(tmp_path):
    """Regression follows the stamp: eight views of a turned stamp are those of the stamp, turned."""
    torch.manual_seed(2)
    config = network_config({"kind": "ensai"}, "here")
    network = build_network(architecture(config), 1, 16)
    assert network.regresses
    assert not network.scores
    model = Model(Card("a", architecture(config), ("r",), 16, 0.2), network.eval())
    model.save(tmp_path / "a.safetensors")
    images = np.random.default_rng(1).normal(0, 5, (5, 1, 16, 16)).astype(np.float32)
    first, again = (each.score(images, views=8, batch=8) for each in (model, Model.load(tmp_path / "a.safetensors")))
    for name in ("theta_E", "e1", "x", "sx"):
        np.testing.assert_array_equal(first[name].value, again[name].value)
    assert np.isnan(first["logit"]).all()
    assert np.isfinite(first["theta_E_err"].value).all()
    turned = model.score(np.ascontiguousarray(np.rot90(images, 1, (3, 2))), views=8, batch=8)
    np.testing.assert_allclose(turned["theta_E"].value, first["theta_E"].value, rtol=1e-3)


def test_scaling_needs_a_value_for_every_band():
    with pytest.raises(ModelError, match="mean and std need 3 values"):
        build_network({"kind": "argonne", "scaling": "linear", "mean": [1.0], "std": [2.0]}, 3, 45)
    with pytest.raises(ModelError, match="std positive"):
        build_network({"kind": "argonne", "scaling": "linear", "mean": [1.0], "std": [0.0]}, 1, 45)


PAGE = Path(__file__).resolve().parents[2] / "docs" / "networks.md"


def test_the_page_lists_every_network_with_its_weights():
    lines = re.findall(
        r"^\| `([\w-]+)` \|[^|]*\|[^|]*\| (\d) bands?, (\d+) \| ([\d,]+) \| (\d+) \|",
        PAGE.read_text(encoding="utf-8"),
        re.M,
    )
    assert {name for name, *_ in lines} == set(PUBLISHED)
    for name, n_bands, size, weights, smallest in lines:
        with torch.device("meta"):
            body = PUBLISHED[name](int(n_bands), int(size))
        assert f"{sum(parameter.numel() for parameter in body.parameters()):,}" == weights, name
        assert int(smallest) == body.smallest
