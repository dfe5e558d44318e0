"""Modules and bottleneck: little done at first, scores of a stamp alone, images that lead back to flux."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lensscan.errors import ConfigError, ModelError
from lensscan.nets.architecture import architecture, build_network, network_config
from lensscan.nets.bottleneck import Belief, BottleneckHead, log_odds, rate
from lensscan.nets.imaging import Deblender, Denoiser
from lensscan.nets.intermediate import Inspector
from lensscan.nets.model import Card, Model, make_trivial
from lensscan.nets.novelty import feature_layer, feature_width
from lensscan.nets.scorer import Scorer
from lensscan.survey.stamps import allocate

SMALL = {"kind": "modular", "widths": [8, 12], "depths": [0, 1], "hidden": 16, "squeeze": 4, "denoise_width": 8}
SMALL |= {"denoise_depth": 1, "deblend_widths": [8, 8, 12], "latent": 4, "samples": 8}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(5)
    network = build_network(SMALL, 2, 33).eval()
    return Model(Card("m", SMALL, ("g", "r"), 33, 0.2), network)


@pytest.mark.parametrize("size", [16, 33])
def test_modules_keep_the_shape_and_begin_with_the_stamp_or_with_little(size):
    torch.manual_seed(1)
    images = torch.randn(2, 3, size, size)
    denoised, deblended = Denoiser(3, 8, 2)(images), Deblender(3, (8, 12, 16))(images)
    assert denoised.shape == deblended.shape == images.shape
    assert 0 < (denoised - images).std() < 0.5
    assert 0 < deblended.std() < 0.5


def test_the_deblender_sees_far():
    """A change of one pixel reaches across what a convolution of the stem alone does not."""
    torch.manual_seed(1)
    module = Deblender(1, (8, 12, 16))
    images = torch.randn(1, 1, 32, 32)
    other = images.clone()
    other[0, 0, 16, 16] += 5.0
    moved = (module(other) - module(images))[0, 0].abs() > 1e-7
    rows = torch.nonzero(moved.any(dim=1))
    assert rows.max() - rows.min() > 10


def test_rate_is_the_divergence_from_the_standard_normal():
    mean, spread = torch.tensor([[0.0, 0.0], [1.0, -2.0]]), torch.tensor([[1.0, 1.0], [0.5, 2.0]])
    q = torch.distributions.Normal(mean, spread)
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(rate(Belief(mean, spread, mean)), expected)


def test_log_odds_are_those_of_the_mean_probability():
    logits = torch.tensor([[0.0, 2.0, -1.0], [80.0, 90.0, 100.0], [-80.0, -90.0, -70.0]])
    p = torch.sigmoid(logits[0].double()).mean()
    found = log_odds(logits)
    assert float(found[0]) == pytest.approx(float(torch.log(p / (1 - p))), rel=1e-5)
    assert torch.isfinite(found).all(), "probabilities of nearly 0 and 1 keep their logit"
    assert float(found[2]) == pytest.approx(-70 - np.log(3), abs=0.1)


def test_the_fixed_points_are_standard_normal():
    points = BottleneckHead(4, 4, 16, 64).points
    torch.testing.assert_close(points.mean(dim=0), torch.zeros(16), atol=1e-6, rtol=0)
    assert (points.std(dim=0) - 1).abs().max() < 0.15
    assert torch.equal(points, BottleneckHead(4, 4, 16, 64).points)


def test_evaluation_draws_the_same_points_and_training_does_not():
    torch.manual_seed(2)
    head, features = BottleneckHead(6, 8, 4, 16), torch.randn(5, 6)
    head.eval()
    first, second = head(features), head(features)
    assert torch.equal(first.logits, second.logits)
    assert first.logits.shape == (5, 16)
    head.train()
    assert not torch.equal(head(features).logits, head(features).logits)
    assert head(features).logits.shape == (5, 1)


def test_scores_do_not_depend_on_the_batch(model):
    """The same bits for a stamp at another place, among other stamps."""
    rng = np.random.default_rng(0)
    scorer = Scorer([model], batch=16, views=8)
    stamps = rng.normal(0, 20, (24, 2, 33, 33)).astype(np.float32)

    def score(order):
        slot = allocate(16, model.frame())
        slot.images[...] = stamps[order]
        slot.present[...] = True
        slot.fwhm[...] = 0.8
        slot.sigma[...] = np.nan
        slot.close(16)
        return scorer.submit(slot).result()

    first, second = score(np.arange(16)), score(np.arange(23, 7, -1))
    for name in ("logit", "post_mean", "post_cov"):
        there, back = first[name][8:16], second[name][::-1][:8]
        assert np.array_equal(there, back), name


def test_the_bottleneck_head_is_what_novelty_taps(model):
    assert feature_layer(model.module) == "logit"
    assert feature_width(model.module) == model.module.n_features


def test_architecture_of_a_modular_network_comes_back():
    config = network_config(SMALL, "here")
    assert architecture(config)["kind"] == "modular"
    assert network_config(architecture(config), "there") == config
    assert architecture(network_config({}, "x"))["kind"] == "resnet"
    with pytest.raises(ConfigError, match="samples must be even"):
        network_config(SMALL | {"samples": 5}, "here")
    with pytest.raises(ConfigError, match="deblend_widths must be at least 1, not 0"):
        network_config(SMALL | {"deblend_widths": [8, 0]}, "here")


def test_every_image_on_the_way(model):
    rng = np.random.default_rng(0)
    images = rng.normal(0, 20, (3, 2, 33, 33)).astype(np.float32)
    mask = np.zeros(images.shape, bool)
    mask[1, 0, :5] = True
    made = Inspector(model)(images, mask, np.full((3, 2), 0.8))
    for image in (made.shown, made.denoised, made.deblended):
        assert image.shape == images.shape
    np.testing.assert_allclose(made.flux(made.shown)[~mask], images[~mask], rtol=1e-4, atol=1e-3)
    assert (made.shown[1, 0, :5] == 0).all()
    np.testing.assert_allclose(made.normalised(images)[0], made.shown[0], atol=1e-6)
    assert made.mean.shape == made.spread.shape == (3, 4)
    assert made.logits.shape == (3, 8)
    assert (made.rate > 0).all()
    assert not np.array_equal(made.shown, made.denoised)
    assert not np.array_equal(made.denoised, made.deblended)


def test_absent_bands_are_zero_on_the_way(model):
    images = np.random.default_rng(0).normal(0, 20, (1, 2, 33, 33)).astype(np.float32)
    made = Inspector(model)(images, present=np.array([[True, False]]))
    assert np.isnan(made.sigma[0, 1])
    assert (made.flux(made.deblended)[0, 1] == 0).all()
    assert np.isfinite(made.logits).all()


def test_what_has_no_modules_or_another_size_is_refused(model):
    with pytest.raises(ModelError, match="not modular"):
        Inspector(make_trivial(("g",), 32, 0.2))
    with pytest.raises(ModelError, match="33"):
        Inspector(model)(np.zeros((1, 2, 32, 32), np.float32))
