"""The realism that every survey recipe must have: noise, PSF, neighbours, and mass that does not follow light."""

import dataclasses

import numpy as np
import pytest
import torch

from lensscan.mocks.recipes import load_recipe
from lensscan.mocks.simulate import simulate
from lensscan.mocks.systems import prior_draws
from lensscan.mocks.tables import EffectsPrior
from lensscan.nets.latent import PARAMETERS
from lensscan.survey.noise import estimate_sigma

SURVEYS = ("des-griz", "hsc-griz", "lsst-gri", "kids", "euclid-vis")
N = 4000


@pytest.fixture(scope="module", params=SURVEYS)
def recipe(request):
    return load_recipe(request.param)


@pytest.fixture(scope="module")
def drawn(recipe):
    before, _, _, sky = prior_draws(recipe, 5, N)
    return before, sky


def test_noise_and_seeing_scatter_from_stamp_to_stamp(drawn):
    _, sky = drawn
    low, high = np.percentile(sky["sigma"], [5, 95], axis=0)
    assert (high / low > 1.25).all()
    assert (sky["fwhm"].std(axis=0) > 0.03 * np.median(sky["fwhm"], axis=0)).all()


def test_bands_share_part_of_their_depth_and_seeing(drawn):
    _, sky = drawn
    if sky["sigma"].shape[1] > 1:
        assert 0.2 < np.corrcoef(np.log(sky["sigma"][:, 0]), np.log(sky["sigma"][:, 1]))[0, 1] < 0.9


def test_pixels_are_correlated_as_in_coadds(recipe):
    plain = dataclasses.replace(recipe, effects=EffectsPrior())  # shifted bands leave galaxies behind
    seen, clean = (simulate(plain, seed=6, n=48, noise=noise).images for noise in (True, False))
    noise = seen - clean
    lags = []
    for band in range(noise.shape[1]):
        frame = noise[:, band]
        frame = frame - frame.median(dim=2, keepdim=True).values.median(dim=1, keepdim=True).values
        limit = 3 * 1.4826 * frame.abs().flatten(1).median(dim=1).values[:, None, None]
        quiet = torch.where(frame.abs() < limit, frame, torch.zeros(()))
        pairs = [(quiet[:, :, 1:] * quiet[:, :, :-1]).mean(), (quiet[:, 1:] * quiet[:, :-1]).mean()]
        lags.append(float(sum(pairs) / 2 / (quiet**2).mean()))
    assert all(0.09 < lag < 0.22 for lag in lags), lags


def test_sky_residuals_wings_neighbours_and_stars(recipe):
    assert all(recipe.band[band].sky > 0 for band in recipe.bands)
    assert recipe.noise.gradient > 0
    assert recipe.psf.kind == "moffat"
    assert recipe.psf.wings[1] > recipe.psf.wings[0] >= 0
    assert recipe.scene.density >= 80, "field galaxies per square arcminute"
    assert recipe.scene.stars > 0
    assert recipe.scene.members > 0


def test_neighbours_are_there(recipe):
    clean = simulate(recipe, seed=7, n=64, noise=False)
    reference = recipe.bands.index(recipe.reference) if recipe.reference in recipe.bands else 0
    frame = clean.images[:, reference]
    edge = frame.clone()
    quarter = recipe.size // 4
    edge[:, quarter:-quarter, quarter:-quarter] = 0
    bright = (edge > 3 * clean.sigma[:, reference, None, None]).any(dim=2).any(dim=1)
    assert bright.float().mean() > 0.4, "stamps with something else in them than their target"


def test_mass_does_not_follow_light_exactly(drawn):
    before, _ = drawn
    q = {part: (1 - before[f"{part}.e"]) / (1 + before[f"{part}.e"]) for part in ("mass", "light")}
    free = (q["light"] > 0.5) & (q["light"] < 0.8)  # where the limits of q do not bite
    assert np.std((q["mass"] - q["light"])[free]) == pytest.approx(0.1, abs=0.01)
    turn = 0.5 * np.angle((before["mass.e1"] + 1j * before["mass.e2"]) / (before["light.e1"] + 1j * before["light.e2"]))
    for low, high, want in ((0.18, 0.22, 10.0), (0.09, 0.11, 20.0)):
        some = (before["light.e"] > low) & (before["light.e"] < high)
        assert np.degrees(np.std(turn[some])) == pytest.approx(want, rel=0.25)
    for axis in "xy":
        assert np.std(before[f"mass.{axis}"] - before[f"light.{axis}"]) == pytest.approx(0.05, rel=0.06)


def test_shear_and_slope_are_in_the_truth_and_not_regressed(recipe, drawn):
    before, _ = drawn
    assert before["mass.shear"].mean() == pytest.approx(0.05, rel=0.05)
    assert before["mass.slope"].mean() == pytest.approx(2.08, abs=0.02)
    assert before["mass.slope"].std() == pytest.approx(0.15, rel=0.06)
    assert not {"slope", "gamma1", "gamma2"} & set(PARAMETERS)
    truth = simulate(recipe, seed=8, n=32).truth
    lens = truth["is_lens"]
    assert torch.isfinite(truth["slope"][lens]).all()
    assert torch.isfinite(truth["gamma1"][lens]).all()


def test_des_noise_is_that_of_the_real_stamps():
    """36 real stamps, zero point 30, clipped estimate: g 2.8, r 4.0, i 6.4, z 11.9 counts; 5 and 95 % as listed."""
    mocks = simulate(load_recipe("des-griz"), seed=9, n=400)
    counts = estimate_sigma(mocks.images).numpy() / 10 ** (0.4 * 1.4)
    want = {"g": (2.3, 2.8, 3.5), "r": (3.5, 4.0, 5.2), "i": (5.2, 6.4, 9.5), "z": (9.8, 11.9, 17.1)}
    for band, found in zip(want, counts.T, strict=True):
        np.testing.assert_allclose(np.percentile(found, [5, 50, 95]), want[band], rtol=0.17)
