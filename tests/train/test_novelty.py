"""Fitting the out-of-distribution score on mocks: calibrated on fresh ones, high on what training never showed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_mocks import BANDS, PIXEL_SCALE, SIZE, toy_source

from lensscan.nets.model import Card, Model, build_network, make_trivial
from lensscan.nets.scorer import Scorer
from lensscan.survey.stamps import allocate
from lensscan.train import novelty as module
from lensscan.train.novelty import add_novelty, sample_features
from lensscan.train.settings import Augmentation

PLAIN = Augmentation(noise=0, gain=0, sigma=0, fwhm=0, fwhm_missing=0, pixel_scale=0, band_missing=0, mask=0)
SMALL = {"kind": "resnet", "widths": [8, 8], "depths": [0, 0], "hidden": 8, "squeeze": 2, "condition": 4}


@pytest.fixture(scope="module")
def bare():
    torch.manual_seed(0)
    network = build_network(SMALL, BANDS, SIZE).eval()
    return Model(Card("toy", SMALL, ("g", "r"), SIZE, PIXEL_SCALE), network)


@pytest.fixture(scope="module")
def fitted(bare):
    patch = pytest.MonkeyPatch()
    patch.setattr(module, "simulate_sample", lambda recipe, seed, start, n, device: toy_source(start, n))
    patch.setattr(module, "FEWEST", 0)
    lines = []
    model = add_novelty(bare, None, 4, 2000, PLAIN, lines.append)
    yield model, lines
    patch.undo()


def ood(model, images):
    slot = allocate(64, model.frame())
    result = []
    for start in range(0, len(images), 64):
        part = images[start : start + 64]
        slot.clear()
        slot.images[: len(part)], slot.present[: len(part)], slot.fwhm[: len(part)] = part, True, 1.0
        slot.close(len(part))
        result.append(Scorer([model], "cpu", 64).submit(slot).result()["ood"][: len(part), 0])
    return np.concatenate(result)


def test_fresh_mocks_have_the_stated_tails(fitted):
    model, lines = fitted
    found = ood(model, toy_source(5000, 2000).images.numpy())
    assert (found > 1 / 3).mean() == pytest.approx(0.1, abs=0.03)
    assert np.median(found) == pytest.approx(0.1, abs=0.015)
    assert (found > 1).mean() < 0.01
    assert len(lines) == 5, "two chunks to fit, two to scale, the first quarter of these in eight views"


def test_what_training_never_showed_lies_far_out(fitted):
    model, _ = fitted
    images = toy_source(6000, 100).images
    mirrored = images.flip(1)
    half = images.clone()
    half[..., : SIZE // 2] = 300.0
    assert (ood(model, half.numpy()) > 1).mean() > 0.9
    assert np.median(ood(model, mirrored.numpy())) > np.median(ood(model, images.numpy()))


def test_weights_and_card_stay_else(fitted, bare):
    model, _ = fitted
    for name, value in bare.module.state_dict().items():
        assert torch.equal(value, model.module.state_dict()[name])
    changed = {key for key, value in model.card.to_mapping().items() if value != bare.card.to_mapping()[key]}
    assert changed == {"ood_distances", "ood_distances_views"}
    assert (np.diff(model.card.ood_distances) > 0).all()


def test_features_are_those_of_every_view(bare):
    sample = toy_source(0, 70)
    found = sample_features(bare, sample, 8)
    assert found.shape[:2] == (70, 8)
    np.testing.assert_array_equal(found[:, :1], sample_features(bare, sample, 1))
    assert np.abs(found[:, 1] - found[:, 0]).max() > 0


def test_eight_views_are_scaled_on_as_many_mocks_as_their_last_tail_needs(bare, monkeypatch):
    monkeypatch.setattr(module, "simulate_sample", lambda recipe, seed, start, n, device: toy_source(start, n))
    monkeypatch.setattr(module, "FEWEST", 0.15)
    lines = []
    add_novelty(bare, None, 4, 200, PLAIN, lines.append)
    assert [line.removeprefix("seed 4: features of ") for line in lines] == [
        "200 of 200 mocks to fit",
        "200 of 200 mocks to scale, 1 view",
        "150 of 150 mocks to scale, 8 views",
    ], "150, not 50, reach 0.15 mocks beyond the last tail"


def test_without_features_or_mocks_a_model_stays_as_it_is(bare, monkeypatch):
    monkeypatch.setattr(module, "FEWEST", 4)
    trivial = make_trivial("gr", SIZE, PIXEL_SCALE)
    lines = []
    for model, widest in ((trivial, 1280), (bare, 4), (bare, 1280)):
        monkeypatch.setattr(module, "WIDEST", widest)
        same = add_novelty(model, None, 4, 3999, PLAIN, lines.append)
        assert same is model
    assert [line.removeprefix("no out-of-distribution score: ") for line in lines] == [
        "this network has no features; train one of another kind",
        "this network has 36 features, more than 4; train a narrower one",
        "3,999 mocks to fit are too few, it takes 4,000: finish.calibration must be at least 8,000",
    ]
