"""Defects of published codes that must not come back here, where no other test of ours guards against them.

Elsewhere: labels that turn with the image (train/test_augment.py), labels that stay with their images in any
order (train/test_stream.py, train/test_published.py), scaling that knows the training set alone
(train/test_published.py, nets/test_baseline.py), the angle's wrap (nets/test_heads.py), masks that act
(nets/test_scorer.py, train/test_augment.py), splits by piece of sky (train/test_split.py).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from astropy.io import fits

from lensscan.config import Band, load_survey
from lensscan.metrics.posterior import residuals
from lensscan.mocks.recipes import load_recipe
from lensscan.mocks.simulate import simulate
from lensscan.nets.heads import to_latent
from lensscan.nets.latent import from_latent
from lensscan.nets.model import Card, Model, build_network
from lensscan.schema import Status
from lensscan.survey.stamps import Frame, Rows, allocate, open_source
from lensscan.train.augment import Sample, network_inputs
from lensscan.train.finish import score_mocks
from lensscan.train.settings import TrainSettings
from lensscan.train.units import with_units

SMALL = {"widths": [8, 12], "depths": [0, 0], "hidden": 8, "squeeze": 4, "condition": 8}


def test_errors_do_not_take_the_truths_sign():
    """An ellipticity of the wrong sign is an error of twice its size, not none (Ensai's figures forgive it)."""
    truth = np.random.default_rng(1).uniform(-0.6, 0.6, 4000)
    assert residuals(truth, truth).half_width_68 == 0
    wrong = residuals(-truth, truth)
    assert wrong.rms == pytest.approx(2 * np.sqrt((truth**2).mean()), rel=1e-6)
    assert wrong.half_width_68 > 0.6


@pytest.mark.slow
def test_units_are_fitted_and_undone_in_the_same_parameters():
    """The head's units come from the latent truth of training lenses; a head that says 0 means their middle."""
    recipe = load_recipe("des-griz")
    settings = TrainSettings.from_mapping({"name": "x", "recipe": "des-griz", "steps": 1, "network": SMALL}, "here")
    network = with_units(settings, recipe).network
    truth = simulate(recipe, seed=10, start=0, n=2048).truth
    latent = to_latent(truth)[truth["is_lens"].bool()].double().numpy()
    assert network.latent_centre[0] == pytest.approx(latent[:, 0].mean(), rel=0.01)
    assert network.latent_scale[0] == pytest.approx(latent[:, 0].std(), rel=0.01)
    built = build_network({"kind": "resnet", **dataclasses.asdict(network)}, 4, 32)
    torch.nn.init.zeros_(built.posterior.output.weight)
    _, mean, factor, *_ = built(torch.zeros(1, 4, 32, 32), torch.zeros(1, 17))
    assert from_latent(mean.detach().numpy())[0, 0, 0] == pytest.approx(np.exp(latent[:, 0].mean()), rel=0.01)
    spread = factor[0, 0, 0, 0].item() / network.latent_scale[0]
    assert spread == pytest.approx(np.log(2) + 0.01, rel=1e-4), "softplus(0) in the units of the scale"


def test_partial_last_batch_is_scored_once():
    """Seventy mocks in batches of 64 are seventy scores, the last six those of their own stamps."""
    recipe = load_recipe("des-griz")
    torch.manual_seed(1)
    network = build_network({"kind": "resnet", **SMALL}, 4, recipe.size).eval()
    model = Model(Card("n", {"kind": "resnet", **SMALL}, recipe.bands, recipe.size, recipe.pixel_scale), network)
    scored = score_mocks([model], recipe, seed=77, n=70)
    assert scored.logit.shape == (70,)
    assert len(scored.truth["is_lens"]) == 70
    mocks = simulate(recipe, seed=77, start=0, n=70)
    alone = model.score(mocks.images.numpy()[66:67], fwhm=mocks.fwhm.numpy()[66:67])
    np.testing.assert_allclose(alone["logit_raw"], scored.logit[66:67], rtol=1e-4, atol=1e-5)


def test_pixels_of_value_100_are_masked_where_the_survey_says_so(tmp_path):
    """The lens finding challenge marks missing pixels by the value 100."""
    image = np.random.default_rng(2).normal(0, 1, (32, 32)).astype(np.float32)
    image[4:7, 10:12] = 100.0
    image[20, 20] = 100.5
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(image, name="R")]).writeto(tmp_path / "a.fits")
    survey = dataclasses.replace(load_survey("kids"), bands={"r": Band(zero_point=31.4)}, mask_value=100.0)
    frame = Frame(("r",), 32, survey.pixel_scale, 1)
    source = open_source(f"stamps:{tmp_path / 'a.fits'}", survey, frame)
    nan, batch = np.full(1, np.nan), allocate(1, frame)
    rows = Rows(
        np.array([1]), nan, nan, nan, nan, [str(tmp_path / "a.fits")], np.zeros(1, np.int64), np.zeros(1, np.uint8)
    )
    source.reader().read(rows, 0, 1, batch)
    assert batch.status[0] == Status.PENDING
    assert np.argwhere(batch.mask[0, 0]).tolist() == [[y, x] for y in (4, 5, 6) for x in (10, 11)]
    assert (batch.images[0, 0, 4:7, 10:12] == 0).all()
    assert batch.images[0, 0, 20, 20] == pytest.approx(100.5)


@pytest.mark.parametrize("normalised", [True, False])
def test_masked_pixels_reach_no_network(normalised):
    images = torch.randn(2, 1, 24, 24)
    mask = torch.zeros(2, 1, 24, 24, dtype=torch.bool)
    mask[:, :, 5:9, 5:9] = True
    bright = torch.where(mask, 1e5, images)
    ones = torch.ones(2, 1)
    inputs = [
        network_inputs(
            Sample(pixels, ones.bool(), ones, ones[:, 0].bool(), torch.zeros(2, 7), mask), 2.0, 0.2, normalised
        )[0]
        for pixels in (images, bright)
    ]
    assert torch.equal(inputs[0], inputs[1])
    assert (inputs[1][mask] == 0).all()
    assert normalised != torch.equal(inputs[0][~mask], images[~mask])
