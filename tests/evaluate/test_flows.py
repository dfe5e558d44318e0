"""The figures of a normalising flow as such: exact where the truths are its own draws, and in a model's report."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lensscan.cli.main import main
from lensscan.evaluate import flows
from lensscan.evaluate.flows import flow_figures
from lensscan.evaluate.posteriors import reduce_posteriors
from lensscan.metrics.bootstrap import Bootstrap
from lensscan.nets import scorer as scorer_module
from lensscan.nets.blocks import Outcome
from lensscan.nets.dihedral import N_VIEWS, undo
from lensscan.nets.flow import Coupling
from lensscan.nets.flowposterior import FlowPosteriors, pack_outcome
from lensscan.nets.heads import FlowHead, pack_triangle
from lensscan.nets.latent import PARAMETERS, from_latent
from lensscan.nets.mixture import Mixture
from lensscan.nets.model import Card, Model, build_network

pytest.importorskip("zuko", reason="the extra flow is not installed")

N = 80
SCALE = [0.2, 0.1, 0.1, 0.1, 0.1, 0.2, 0.2]


def bend(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, Coupling):
                layer.output.weight.mul_(100)


def posteriors(views: int) -> FlowPosteriors:
    """Return bent posteriors, each view's its own, in frames that are shifted by a little."""
    torch.manual_seed(2)
    head = FlowHead(4, 16, [0.0] * 7, SCALE, 2, 8, 16).requires_grad_(False)
    bend(head)
    outcomes = [Outcome(torch.zeros(N), *head(torch.randn(N, 4))) for _ in range(views)]
    shift = np.zeros((N, 7))
    shift[:, 3:] = 0.03
    return FlowPosteriors(head, torch.stack([pack_outcome(each) for each in outcomes], dim=1).numpy(), shift)


def gaussians(found: FlowPosteriors) -> Mixture:
    """Return the Gaussian with the mean and the covariance of many draws."""
    draws = found.draw(np.random.default_rng(9), 200)
    mean = draws.mean(axis=1)
    offset = draws - mean[:, None]
    cov = pack_triangle(torch.from_numpy(np.einsum("nsi,nsj->nij", offset, offset) / 200)).numpy()
    return Mixture.single(mean, cov)


@pytest.mark.parametrize("views", [1, N_VIEWS])
def test_a_flow_covers_its_own_draws_and_beats_its_gaussian(views, monkeypatch):
    monkeypatch.setattr(flows, "SAMPLES", 96)
    found = posteriors(views)
    truth = from_latent(found.draw(np.random.default_rng(1), N_VIEWS)[:, 3])
    bootstrap = Bootstrap(np.arange(N), 20)
    figures = flow_figures(found, reduce_posteriors(gaussians(found), truth), truth, bootstrap)
    for level in (0.68, 0.95):
        for name in (*PARAMETERS, "joint_7"):
            error = 3.5 * np.sqrt(level * (1 - level) / N)
            assert figures[f"coverage.{level:g}.{name}"].value == pytest.approx(level, abs=error), (level, name)
    assert figures["gained.joint_7"].low > 0, "the exact density must be likelier than a Gaussian"


def test_views_are_brought_to_the_frame_of_the_stamp():
    """Draws and densities of a single turned view are those of the untouched one, turned."""
    one, turned = posteriors(1), posteriors(3)
    packed = np.repeat(turned.packed[:, 2:], 3, axis=1)
    same = FlowPosteriors(one.flow, packed, np.zeros((N, 7)))
    alone = FlowPosteriors(one.flow, packed[:, :1], np.zeros((N, 7)))
    points = alone.draw(np.random.default_rng(4), 5)
    moved = [undo(torch.from_numpy(points), view).numpy() for view in (0, 1, 2)]
    density = alone.log_density(points)
    for each in moved:
        assert (same.log_density(each) >= density - np.log(3) - 1e-3).all(), "a third each, in its own frame"
    assert same.log_density(points).shape == (N, 5)


def test_the_report_of_a_model_with_a_flow(tmp_path, monkeypatch):
    monkeypatch.setattr(scorer_module, "SAMPLES", 64)
    architecture = {"kind": "resnet", "widths": [8, 8], "depths": [0, 0], "squeeze": 4, "hidden": 8, "head": "flow"}
    architecture |= {"flow_layers": 2, "flow_hidden": 8, "flow_condition": 4}
    torch.manual_seed(1)
    module = build_network(architecture, 4, 64)
    bend(module)
    Model(Card("bent", architecture, tuple("griz"), 64, 0.263), module.eval()).save(tmp_path / "bent.safetensors")
    arguments = ["--testset", "des-griz:tune:60", "-o", str(tmp_path), "--no-plots", "--bootstrap", "6", "--debug"]
    assert main(["evaluate", str(tmp_path / "bent.safetensors"), *arguments]) == 0
    report = json.loads((tmp_path / "bent--des-griz-tune-60.json").read_text())
    assert len(report["flow"]) == 2 * 8 + 2
    assert all(found["value"] is not None for found in report["flow"].values())
    assert "The normalising flow itself" in (tmp_path / "bent--des-griz-tune-60.html").read_text()
