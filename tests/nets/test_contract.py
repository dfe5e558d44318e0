"""One contract over all networks: shapes, gradients, train against eval, save and load, folding.

Published networks (tests/nets/test_classic.py) draw for drop-out and count batches in training, a bottleneck draws its
points; what the contract says of the others at any time holds of them in evaluation.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from lensscan.nets.blocks import Outcome
from lensscan.nets.dihedral import N_VIEWS, transform_images, transform_latent
from lensscan.nets.latent import N_LATENT
from lensscan.nets.model import Card, Model, build_network
from lensscan.nets.normalise import n_scalars

NETWORKS = {
    "trivial": ({"kind": "trivial"}, 3, 32),
    "resnet": ({"kind": "resnet"}, 4, 64),
    "resnet-small": (
        {"kind": "resnet", "widths": [8, 12], "depths": [0, 1], "hidden": 16, "squeeze": 4},
        1,
        33,
    ),
    "resnet-mixture": ({"kind": "resnet", "widths": [8, 12], "depths": [0, 1], "hidden": 16, "components": 3}, 2, 32),
    "resnet-flow": (
        {"kind": "resnet", "widths": [8, 12], "depths": [0, 1], "hidden": 16, "head": "flow", "flow_hidden": 16},
        2,
        32,
    ),
    "modular": (
        {"kind": "modular", "widths": [8, 12], "depths": [0, 1], "hidden": 16, "squeeze": 4, "denoise_width": 8}
        | {"denoise_depth": 1, "deblend_widths": [8, 8, 12], "latent": 4, "samples": 8},
        3,
        33,
    ),
    "modular-plain": (
        {"kind": "modular", "widths": [8, 12], "depths": [0, 1], "hidden": 16, "squeeze": 4, "denoise_width": 0}
        | {"deblend_widths": [], "components": 2},
        2,
        32,
    ),
    "argonne": ({"kind": "argonne"}, 1, 45),
    "argonne-linear": ({"kind": "argonne", "scaling": "linear", "mean": [3.0, 4.0], "std": [9.0, 7.0]}, 2, 45),
    "argonne-picture": ({"kind": "argonne", "scaling": "picture", "mean": [0.2], "std": [0.1]}, 1, 32),
    "deeplens": ({"kind": "deeplens"}, 4, 20),
    "jacobs-3": ({"kind": "jacobs-3"}, 4, 20),
    "jacobs-4": ({"kind": "jacobs-4", "scaling": "linear", "mean": [3.0] * 4, "std": [9.0] * 4}, 4, 16),
    "resnet50": ({"kind": "resnet50", "scaling": "linear"}, 3, 33),
    "alexnet": ({"kind": "alexnet", "scaling": "peak", "mean": [0.0], "std": [1.0]}, 1, 25),
    "overfeat": ({"kind": "overfeat", "scaling": "peak"}, 1, 34),
    "ensai": ({"kind": "ensai"}, 1, 16),
    "inception-v4": ({"kind": "inception-v4"}, 1, 39),
    "combination": (
        {
            "kind": "combination",
            "networks": [{"kind": "ensai", "scaling": "peak"}, {"kind": "ensai", "scaling": "linear"}],
        },
        1,
        16,
    ),
    "combination-inception": (
        {"kind": "combination", "networks": [{"kind": "inception-v4"}, {"kind": "ensai"}]},
        1,
        39,
    ),
    "holismokes-cnn": ({"kind": "holismokes-cnn"}, 4, 20),
    "holismokes-resnet": ({"kind": "holismokes-resnet"}, 4, 20),
}
PUBLISHED = {"argonne", "deeplens", "inception-v4", "holismokes-resnet", "jacobs-3", "jacobs-4", "resnet50"}
"""Those that draw or count batches in training."""
DRAWING = {*PUBLISHED, "modular"}


FROZEN = {"combination": "members."}
"""Parts of a network, by its kind, that are trained before it and never with it."""
HEAVY = {"alexnet", "overfeat", "inception-v4", "combination-inception", "resnet50"}
"""Twenty to forty million weights each."""


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in sorted(NETWORKS)]
)
def built(request):
    architecture, n_bands, size = NETWORKS[request.param]
    if architecture.get("head") == "flow":
        pytest.importorskip("zuko", reason="the extra flow is not installed")
    torch.manual_seed(3)
    network = build_network(architecture, n_bands, size)
    images = torch.randn(6, n_bands, size, size)
    scalars = torch.randn(6, n_scalars(n_bands))
    return architecture, network, images, scalars


def outputs(network, images, scalars):
    with torch.no_grad():
        return network(images, scalars)


def test_shapes(built):
    architecture, network, images, scalars = built
    logit, mean, factor, log_weight, _ = outputs(network, images, scalars)
    components = architecture.get("components", 1)
    assert logit.shape == (6,)
    assert mean.shape == (6, components, N_LATENT)
    assert factor.shape == (6, components, N_LATENT, N_LATENT)
    assert log_weight.shape == (6, components)
    torch.testing.assert_close(torch.exp(log_weight).sum(dim=1), torch.ones(6))
    assert torch.isfinite(logit).all() == network.scores
    assert torch.isfinite(mean).all() == network.regresses
    if network.regresses:
        assert (torch.diagonal(factor, dim1=-2, dim2=-1) > 0).all(), "a Cholesky factor needs a positive diagonal"
        assert (torch.triu(factor, 1) == 0).all()


def test_every_parameter_gets_a_gradient(built):
    """Those of parts that are held fixed get none, in any mode."""
    architecture, network, images, scalars = built
    logit, mean, factor, log_weight, condition = network(images, scalars)
    loss = logit.square().sum() if network.scores else 0.0
    if network.regresses:
        loss = loss + mean.square().sum() + factor.square().sum() + log_weight.square().sum()
        loss = loss + condition.square().sum()
    if network.flow:
        points = mean.detach() + torch.randn(6, 5, N_LATENT) * network.flow.scale
        loss = loss - network.flow.log_density(points, Outcome(logit, mean, factor, log_weight, condition)).sum()
    loss.backward()
    for name, parameter in network.named_parameters():
        if name.startswith(FROZEN.get(architecture["kind"], "no name")):
            assert not parameter.requires_grad, f"{name} is to be held fixed"
            assert parameter.grad is None, name
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, f"{name} has no influence"


def test_training_and_evaluation_mode_agree(built):
    architecture, network, images, scalars = built
    trained = outputs(network.train(), images, scalars)
    evaluated = outputs(network.eval(), images, scalars)
    if architecture["kind"] in PUBLISHED:
        said = 0 if network.scores else 1
        assert not torch.equal(trained[said], evaluated[said]), "drop-out or batch statistics do not act"
        return
    if architecture["kind"] == "modular":
        assert not torch.equal(trained[0], evaluated[0]), "the bottleneck draws no points in training"
        trained, evaluated = trained[1:], evaluated[1:]
    for a, b in zip(trained, evaluated, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_save_and_load_are_bit_identical(built, tmp_path):
    architecture, network, images, scalars = built
    card = Card("n", architecture, tuple("griz"[: images.shape[1]]), images.shape[-1], 0.2)
    digest = Model(card, network.eval()).save(tmp_path / "n.safetensors")
    loaded = Model.load(tmp_path / "n.safetensors")
    assert loaded.card.hash == digest == hashlib.sha256((tmp_path / "n.safetensors").read_bytes()).hexdigest()
    for a, b in zip(outputs(network, images, scalars), outputs(loaded.module, images, scalars), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    assert Model(loaded.card, loaded.module).save(tmp_path / "again.safetensors") == digest


def test_folded_network_agrees(built):
    architecture, network, images, scalars = built
    card = Card("n", architecture, tuple("griz"[: images.shape[1]]), images.shape[-1], 0.2)
    folded = Model(card, network.eval()).inference()
    for a, b in zip(outputs(network, images, scalars), outputs(folded, images, scalars), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert not any(parameter.requires_grad for parameter in folded.parameters())


LENS = ("theta_E", "e1", "e2", "x", "y", "sx", "sy")
ELLIPTICITY = [1, 2]


def answers(model, stamps, views):
    """Return the lens (n, 7) and the logit (n,) that a scan would give."""
    table = model.score(stamps.contiguous().numpy(), views=views, batch=len(stamps))
    return torch.tensor(np.stack([np.asarray(table[name]) for name in LENS], axis=1)), np.asarray(table["logit"])


@pytest.mark.parametrize("view", [1, 6], ids=["turned", "mirrored"])
def test_eight_views_turn_with_the_stamp(built, view):
    """What every card may claim by ``views = 8``: the score stays, the lens turns; with one view neither need hold."""
    architecture, network, images, _ = built
    card = Card("n", architecture, tuple("griz"[: images.shape[1]]), images.shape[-1], 0.2)
    model = Model(card, network.eval())
    axis = torch.arange(images.shape[-1]) - 0.4 * images.shape[-1]
    stamps = 20 * images[:2] + 300 * torch.exp(-(axis**2 + 2 * axis[:, None] ** 2) / 20)
    far, bent = {}, {}
    for views in (1, N_VIEWS):
        (lens, logit), (turned, other) = (
            answers(model, each, views) for each in (stamps, transform_images(stamps, view))
        )
        differences = np.concatenate([turned - transform_latent(lens, view), (other - logit)[:, None]], axis=1)
        far[views] = np.nanmax(np.abs(np.delete(differences, ELLIPTICITY, axis=1)))
        bent[views] = np.abs(differences[:, ELLIPTICITY]).max()
    assert far[N_VIEWS] < 2e-4
    assert not bent[N_VIEWS] > 0.01, "medians of an ellipticity are those of samples, NaN without a posterior"
    if architecture["kind"] != "trivial":
        assert far[1] > 3 * far[N_VIEWS], "views that change nothing test nothing"


def test_no_network_uses_batch_statistics(built):
    architecture, network, images, scalars = built
    if architecture["kind"] in DRAWING:
        network.eval()
    alone = outputs(network, images[:1], scalars[:1])
    together = outputs(network, images, scalars)
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(a, b[:1], rtol=1e-4, atol=1e-5, equal_nan=True)
