"""Monte Carlo drop-out as models of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lensscan.cli.main import main
from lensscan.errors import ModelError
from lensscan.nets.model import Card, Model, build_network
from lensscan.nets.thinning import thinned

BANDS = ("g", "r", "i", "z")


def network(dropout, kind="resnet"):
    architecture = {"kind": kind, "widths": [8, 8], "depths": [0, 0], "squeeze": 4, "hidden": 8, "dropout": dropout}
    if kind == "modular":
        architecture |= {"denoise_width": 0, "deblend_widths": [], "latent": 2, "samples": 4}
    torch.manual_seed(1)
    module = build_network(architecture, len(BANDS), 32)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return Model(Card("one", architecture, BANDS, 32, 0.263), module.eval())


def inputs(n=6):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(n, 4, 32, 32, generator=generator), torch.randn(n, 17, generator=generator)


def test_a_pass_is_the_network_with_features_left_out():
    model = network(0.3)
    images, scalars = inputs()
    first, second = thinned(model, 2)
    with torch.no_grad():
        features = model.module.features(images, scalars)
        kept = first.module.logit.hidden.weight.abs().sum(dim=0) > 0
        by_hand = model.module.heads(features * kept / 0.7)
        found, other = first.module(images, scalars), second.module(images, scalars)
    assert 0.5 < kept.float().mean() < 0.9
    torch.testing.assert_close(found.logit, by_hand.logit)
    torch.testing.assert_close(found.mean, by_hand.mean)
    assert (found.logit - other.logit).abs().min() > 0


def test_passes_scatter_as_in_training():
    model = network(0.2)
    images, scalars = inputs()
    with torch.no_grad():
        features = model.module.features(images, scalars)
        torch.manual_seed(5)
        drawn = torch.stack([model.module.heads(F.dropout(features, 0.2)).logit for _ in range(400)])
        fixed = torch.stack([each.module(images, scalars).logit for each in thinned(model, 400)])
    np.testing.assert_allclose(fixed.std(dim=0), drawn.std(dim=0), rtol=0.2)
    np.testing.assert_allclose(fixed.mean(dim=0), drawn.mean(dim=0), atol=4 * float(drawn.std()) / 20)


def test_the_model_itself_stays_and_saves(tmp_path):
    model = network(0.3, "modular")
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    passes = thinned(model, 2)
    assert all(torch.equal(value, before[key]) for key, value in model.module.state_dict().items())
    passes[0].save(tmp_path / "pass.safetensors")
    again = Model.load(tmp_path / "pass.safetensors")
    assert again.card.name == "one-drop1"
    with torch.no_grad():
        assert torch.equal(again.module(*inputs()).logit, passes[0].module(*inputs()).logit)


def test_networks_without_drop_out_are_refused(tmp_path, capsys):
    with pytest.raises(ModelError, match="without drop-out"):
        thinned(network(0.0), 2)
    network(0.0).save(tmp_path / "plain.safetensors")
    assert main(["ensemble", str(tmp_path / "plain.safetensors"), "--mc-dropout", "4", "-o", str(tmp_path / "mc.toml")])
    assert "trained without drop-out" in capsys.readouterr().err
    two = [str(tmp_path / "plain.safetensors")] * 2
    assert main(["ensemble", *two, "--mc-dropout", "4", "-o", str(tmp_path / "mc.toml")]) == 2
    assert "takes one model" in capsys.readouterr().err
