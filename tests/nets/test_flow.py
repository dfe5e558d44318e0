"""Normalising flows: an exact density, samples that belong to it, and the Gaussians that stand for it in a scan."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scored_stamps import BANDS, BATCH, ODD, fill, made_up_stamps, score

from lensscan.errors import ConfigError, ModelError
from lensscan.nets import flow as flow_module
from lensscan.nets import scorer as scorer_module
from lensscan.nets.blocks import Outcome, fold
from lensscan.nets.bridge import fit_gaussians
from lensscan.nets.dihedral import N_VIEWS, transform_covariance, transform_images, transform_latent
from lensscan.nets.flow import Flow, base_points, whiten
from lensscan.nets.heads import FlowHead
from lensscan.nets.latent import FLOW_COMPONENTS, N_LATENT, unpack_triangle
from lensscan.nets.mixture import Pooling
from lensscan.nets.model import Card, Model, build_network
from lensscan.nets.scorer import Scorer

pytest.importorskip("zuko", reason="the extra flow is not installed")

ARCHITECTURE = {
    "kind": "resnet",
    "widths": [8, 12, 16],
    "depths": [0, 1, 1],
    "hidden": 32,
    "head": "flow",
    "flow_layers": 2,
    "flow_condition": 8,
    "flow_hidden": 16,
}
COLUMNS = ("logit", "post_mean", "post_cov", "post_weight")
SCALE = [0.4, 0.2, 0.2, 0.1, 0.1, 0.3, 0.3]


def bent(module: torch.nn.Module, factor: float = 60.0) -> torch.nn.Module:
    """Make the splines of a fresh flow far from the identity."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, flow_module.Coupling):
                layer.output.weight.mul_(factor)
    return module


def make_model(views: int = 1) -> Model:
    torch.manual_seed(1)
    network = bent(build_network(ARCHITECTURE, len(BANDS), 64))
    with torch.no_grad():
        network.posterior.output.weight.mul_(30)  # so that means and covariances differ between rows
    return Model(Card("m", ARCHITECTURE, BANDS, 64, 0.263, views=views), network.eval())


@pytest.fixture(scope="module", autouse=True)
def few_samples():
    """Sample less than a scan does, for speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer_module, "SAMPLES", 128)
        yield


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def stamps():
    return made_up_stamps()


@pytest.fixture(scope="module")
def reference(model, stamps):
    return score(model, fill(stamps))


def assert_same(a, b, rows_a=slice(None), rows_b=slice(None)):
    for name in COLUMNS:
        np.testing.assert_array_equal(a[name][rows_a], b[name][rows_b], err_msg=name)


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(4)
    return bent(FlowHead(6, 16, [0.0] * 7, SCALE, 3, 8, 16)).eval()


@pytest.fixture(scope="module")
def outcome(head):
    features = torch.randn(3, 6, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return Outcome(features[:, 0], *head(features))


@torch.no_grad()
def test_density_is_that_of_the_samples(head, outcome):
    """The entropy by the density at samples and the change of variables agree, and importance weights average to 1."""
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(500, N_LATENT, generator=generator)
    samples = head.sample(base, outcome)
    white = whiten(samples, outcome.mean[:, 0], outcome.factor[:, 0])
    back = white
    for coupling in head.flow.couplings:
        back = coupling.transform(outcome.condition[:, None])(back)
    torch.testing.assert_close(back, base.expand_as(back), atol=2e-3, rtol=0)
    wide = 1.7 * torch.randn(6_000, N_LATENT, generator=generator)
    proposal = -0.5 * (wide / 1.7).square().sum(dim=-1) - N_LATENT * math.log(1.7 * math.sqrt(2 * math.pi))
    ratio = torch.exp(head.flow.log_density(wide.expand(3, -1, -1), outcome.condition) - proposal)
    error = ratio.std(dim=1) / math.sqrt(ratio.shape[1])
    assert ((ratio.mean(dim=1) - 1).abs() < 4 * error + 1e-3).all(), "the density must integrate to 1"
    assert (error < 0.1).all(), "weights that scatter so much test nothing"


@torch.no_grad()
def test_a_straight_flow_is_its_gaussian(head, outcome):
    straight = FlowHead(6, 16, [0.0] * 7, SCALE, 3, 8, 16)
    for coupling in straight.flow.couplings:
        coupling.output.weight.zero_()
    points = outcome.mean + 0.1 * torch.randn(3, 50, N_LATENT, generator=torch.Generator().manual_seed(5))
    normal = torch.distributions.MultivariateNormal(outcome.mean[:, :1], scale_tril=outcome.factor[:, :1])
    torch.testing.assert_close(straight.log_density(points, outcome), normal.log_prob(points), rtol=1e-4, atol=1e-3)
    assert (head.log_density(points, outcome) - normal.log_prob(points)).abs().mean() > 0.05, "the bent one differs"
    samples = straight.sample(base_points(512), outcome)
    mean, cov, weight = fit_gaussians(samples, straight.scale)
    total = (weight[..., None] * mean).sum(dim=1)
    torch.testing.assert_close(total, outcome.mean[:, 0], rtol=0, atol=1e-4)
    spread = unpack_triangle(cov.numpy()) + mean[..., None].numpy() * mean[..., None, :].numpy()
    spread = (weight[..., None, None].numpy() * spread).sum(axis=1)
    spread -= total[..., None].numpy() * total[:, None].numpy()
    expected = (outcome.factor @ outcome.factor.mT)[:, 0].numpy()
    deviation = np.sqrt(np.diagonal(expected, axis1=1, axis2=2))
    np.testing.assert_allclose(spread / (deviation[:, :, None] * deviation[:, None]), expected / (
        deviation[:, :, None] * deviation[:, None]), atol=3e-3)  # fmt: skip


def test_base_points_have_zero_mean_and_unit_covariance():
    points = base_points(64).double()
    torch.testing.assert_close(points.mean(dim=0), torch.zeros(7).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(points.T @ points / 64, torch.eye(7).double(), atol=1e-5, rtol=0)


def test_two_lumps_become_two_groups_of_gaussians():
    """Samples of two blobs, far apart along any axis: quantiles of the mixture are those of the blobs."""
    for axis in range(N_LATENT):
        samples = 0.1 * base_points(512).clone()
        samples[:171, axis] -= 1.0
        mean, _, weight = fit_gaussians(samples[None], torch.tensor(SCALE))
        low = mean[0, :, axis] < -0.5
        assert float(weight[0, low].sum()) == pytest.approx(171 / 512, abs=0.01), axis
        between = (mean[0, :, axis] > -0.85) & (mean[0, :, axis] < -0.15)
        assert float(weight[0, between].sum()) < 0.02, "nothing between them"


def test_shapes(model, reference):
    assert model.card.components(1) == model.card.components(8) == FLOW_COMPONENTS
    assert reference["post_mean"].shape == (BATCH, FLOW_COMPONENTS, 7)
    np.testing.assert_allclose(reference["post_weight"].sum(axis=1), 1.0, rtol=1e-5)
    assert len(np.unique(reference["post_mean"][:, 0, 0])) == BATCH, "rows must differ, or these tests prove nothing"
    assert np.isfinite(reference["post_cov"]).all()
    apart = np.ptp(reference["post_mean"], axis=1) / np.sqrt(reference["post_cov"][:, 0, [0, 2, 5, 9, 14, 20, 27]])
    assert np.median(apart.max(axis=1)) > 0.5, "Gaussians upon one another test nothing"


def test_bits_do_not_depend_on_position_neighbours_and_padding(model, stamps, reference):
    order = np.random.default_rng(3).permutation(BATCH)
    assert_same(score(model, fill(stamps[order])), reference, rows_b=order)
    assert_same(score(model, fill(stamps, 17)), reference, slice(0, 17), slice(0, 17))
    broken = stamps.copy()
    broken[1:] = np.nan
    broken[2:5] = 3e38
    assert_same(score(model, fill(broken)), reference, slice(0, 1), slice(0, 1))


@pytest.mark.parametrize("batch", [ODD, 33])
def test_bits_do_not_depend_on_threads(model, stamps, batch):
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3, 8):
            torch.set_num_threads(threads)
            slot = fill(stamps[:batch], rows=batch)
            results.append(Scorer([model], "cpu", batch).submit(slot).result())
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert_same(result, results[0])


@pytest.mark.parametrize("view", [1, 6])
def test_eight_views_are_equivariant(stamps, view, monkeypatch):
    monkeypatch.setattr(scorer_module, "SAMPLES", 512)
    model = make_model(views=N_VIEWS)
    few = stamps[:8]
    turns = transform_images(torch.from_numpy(few), view).contiguous().numpy()
    upright, turned = (Scorer([model], "cpu", 8).submit(fill(each, rows=8)).result() for each in (few, turns))
    expected = dict(upright)
    expected["post_mean"] = transform_latent(torch.from_numpy(upright["post_mean"]), view).numpy()
    expected["post_cov"] = transform_covariance(torch.from_numpy(upright["post_cov"]), view).numpy()
    pooling = Pooling.of([model.card])
    one, two = (
        pooling.columns(each["post_mean"], each["post_cov"], each["post_weight"]) for each in (turned, expected)
    )
    for name in ("theta_E", "x", "sy", "theta_E_q975", "x_err", "e1"):
        np.testing.assert_allclose(one[name], two[name], rtol=5e-3, atol=5e-3, err_msg=name)


def test_batches_that_nobody_wants_cost_nothing(model, stamps, reference, monkeypatch):
    middle = float(np.median(reference["logit"]))
    above = score(model, fill(stamps), regress_above=middle)
    wanted = reference["logit"][:, 0] > middle
    assert_same(above, reference, wanted, wanted)
    assert np.isnan(above["post_mean"][~wanted]).all()
    monkeypatch.setattr(scorer_module, "fit_gaussians", None)
    none = score(model, fill(stamps), regress_above=float(reference["logit"].max()))
    assert np.isnan(none["post_mean"]).all()
    np.testing.assert_array_equal(none["logit"], reference["logit"])


def test_posterior_scale_widens_every_gaussian(model, stamps, reference):
    wider = Model(Card("m", ARCHITECTURE, BANDS, 64, 0.263, posterior_scale=(2.0,) * 7), model.module)
    result = score(wider, fill(stamps))
    np.testing.assert_array_equal(result["post_mean"], reference["post_mean"])
    np.testing.assert_allclose(result["post_cov"], 4 * reference["post_cov"], rtol=1e-6)


@torch.no_grad()
def test_folded_flow_agrees(head, outcome):
    torch.manual_seed(4)
    folded = FlowHead(6, 16, [0.0] * 7, SCALE, 3, 8, 16)
    folded.load_state_dict(head.state_dict())
    fold(folded)
    assert not any(isinstance(layer, torch.nn.Linear) for layer in folded.modules())
    points = outcome.mean + 0.1 * torch.randn(3, 5, N_LATENT, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(folded.log_density(points, outcome), head.log_density(points, outcome))


def test_old_settings_know_nothing_of_flows():
    from lensscan.nets.architecture import architecture, network_config

    assert not [key for key in architecture(network_config({}, "test")) if "flow" in key or key == "head"]
    with pytest.raises(ConfigError, match="bends one Gaussian"):
        network_config({"head": "flow", "components": 3}, "test")
    with pytest.raises(ConfigError, match="flow_layers"):
        network_config({"head": "flow", "flow_layers": 0}, "test")


def test_without_zuko_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zuko.transforms", None)
    monkeypatch.setitem(__import__("sys").modules, "zuko", None)
    flow_module._zuko.cache_clear()
    try:
        with pytest.raises(ModelError, match=r"pip install .*lensscan\[flow\]"):
            Flow(2, 4, 8)
    finally:
        flow_module._zuko.cache_clear()
