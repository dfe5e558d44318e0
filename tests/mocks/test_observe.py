"""PSF, stars and noise."""

import dataclasses

import numpy as np
import pytest
import torch

from lensscan.mocks.observe import add_noise, convolve, noise_kernel
from lensscan.mocks.priors import Draws
from lensscan.mocks.psf import psf_transform
from lensscan.mocks.recipes import load_recipe
from lensscan.mocks.sky import observe

RECIPE = load_recipe("des-griz")
NOTHING = (torch.zeros(0, dtype=torch.int64), torch.zeros(0, 1), torch.zeros(0, 2))


def psf_image(fwhm, wings=0.5, e1=0.0, e2=0.0, size=160, scale=0.1, kind="moffat"):
    recipe = dataclasses.replace(RECIPE, pixel_scale=scale, psf=dataclasses.replace(RECIPE.psf, kind=kind))
    transform = psf_transform(recipe, *(torch.tensor([[v]]) for v in (fwhm, wings, e1, e2)), size)
    star = (torch.zeros(1, dtype=torch.int64), torch.ones(1, 1), torch.full((1, 2), scale / 2))
    return convolve(torch.zeros(1, size, size, 1), transform, star, size, scale)[0, 0]


@pytest.mark.parametrize("kind", ["moffat", "gaussian"])
@pytest.mark.parametrize("wings", [0.0, 0.5, 1.0])
def test_psf_has_its_fwhm_and_flux(kind, wings):
    image = psf_image(1.2, wings, kind=kind)
    assert float(image.sum()) == pytest.approx(1.0, abs=1e-3)
    profile = image[80, 80:].double().numpy()
    half = np.interp(-0.5, -profile / profile[0], np.arange(len(profile)) * 0.1)
    assert 2 * half == pytest.approx(1.2, rel=0.02)


def test_wings_are_those_of_moffat_profiles():
    share, fwhm = 0.4, 1.0
    image = psf_image(fwhm, share)
    r = np.hypot(*np.meshgrid((np.arange(160) - 80) * 0.1, (np.arange(160) - 80) * 0.1))
    want = np.zeros_like(r)
    for weight, beta in ((share, 2.5), (1 - share, 4.5)):
        scale = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
        want += weight * (beta - 1) / (np.pi * scale**2) * (1 + (r / scale) ** 2) ** -beta * 0.01
    middle = slice(40, 121)
    np.testing.assert_allclose(image.numpy()[middle, middle], want[middle, middle], rtol=0.05, atol=0.006 * want.max())


def test_psf_ellipticity_is_spin_two_along_the_major_axis():
    image = psf_image(1.2, 0.0, 0.2, 0.0).double()
    grid = torch.arange(160) - 80.0
    near = (grid[:, None] ** 2 + grid[None] ** 2) < 20**2
    xx, yy = ((image * near * v**2).sum() for v in (grid[None], grid[:, None]))
    assert xx > yy
    torch.testing.assert_close(psf_image(1.2, 0.5, 0.1, 0.05).T, psf_image(1.2, 0.5, -0.1, 0.05), rtol=1e-3, atol=1e-6)


def test_stars_land_where_they_should():
    transform = psf_transform(RECIPE, *(torch.tensor([[v]]) for v in (0.9, 0.5, 0.0, 0.0)), 80)
    star = (torch.zeros(1, dtype=torch.int64), torch.full((1, 1), 300.0), torch.tensor([[0.7, -1.1]]))
    image = convolve(torch.zeros(1, 80, 80, 1), transform, star, 64, 0.263)[0, 0].double()
    grid = (torch.arange(64) - 31.5) * 0.263
    assert float(image.sum()) == pytest.approx(300.0, rel=0.01)
    assert float((image.sum(0) * grid).sum() / image.sum()) == pytest.approx(0.7, abs=0.01)
    assert float((image.sum(1) * grid).sum() / image.sum()) == pytest.approx(-1.1, abs=0.01)


def noise_of(recipe, n=60, level=0.0):
    index = np.arange(n)
    sky = observe(Draws(recipe.digest, 1, index), recipe)
    frames = torch.full((n, len(recipe.bands), 64, 64), level)
    return add_noise(frames, recipe, 1, index, sky, slice(0, n)).double() - level, sky


def flat_sky():
    bands = {name: dataclasses.replace(b, sky=0.0, poisson=0.1) for name, b in RECIPE.band.items()}
    return dataclasses.replace(RECIPE, band=bands, noise=dataclasses.replace(RECIPE.noise, gradient=0.0))


def test_noise_has_the_drawn_sigma_and_correlation():
    noise, sky = noise_of(flat_sky())
    ratio = noise.std(dim=(2, 3)).numpy() / sky.sigma
    assert abs(ratio.mean() - 1) < 0.005
    unit = noise / torch.from_numpy(sky.sigma)[..., None, None]
    for a, b, want in (
        (unit[..., 1:], unit[..., :-1], RECIPE.noise.lag1),
        (unit[..., 1:, :], unit[..., :-1, :], RECIPE.noise.lag1),
        (unit[..., 2:], unit[..., :-2], RECIPE.noise.lag2),
        (unit[..., 3:], unit[..., :-3], None),
    ):
        if want is not None:
            assert float((a * b).mean()) == pytest.approx(want, abs=0.005)
    bands = unit[:, 0] * unit[:, 1]
    assert abs(float(bands.mean())) < 0.005, "bands have independent noise"


def test_poisson_noise_grows_with_the_source():
    dark, _ = noise_of(flat_sky())
    bright, _ = noise_of(flat_sky(), level=5000.0)
    extra = bright.var(dim=(0, 2, 3)) - dark.var(dim=(0, 2, 3))
    np.testing.assert_allclose(extra.numpy(), 0.1 * 5000.0, rtol=0.1)


def test_depth_and_seeing_have_the_recipe_s_distribution():
    sky = observe(Draws(RECIPE.digest, 1, np.arange(20_000)), RECIPE)
    for k, name in enumerate(RECIPE.bands):
        band = RECIPE.band[name]
        np.testing.assert_allclose(np.percentile(sky.sigma[:, k], [5, 50, 95]), band.sigma, rtol=0.02)
        assert np.median(sky.fwhm[:, k]) == pytest.approx(band.fwhm[0], rel=0.01)
        assert sky.fwhm[:, k].std() == pytest.approx(band.fwhm[1], rel=0.05)
    assert np.corrcoef(sky.fwhm[:, 0], sky.fwhm[:, 2])[0, 1] == pytest.approx(RECIPE.psf.common, abs=0.05)


def test_kernel_gives_the_correlations():
    c0, c1, c2 = noise_kernel(0.16, -0.05)
    assert c0**2 + 2 * c1**2 + 2 * c2**2 == pytest.approx(1.0)
    assert 2 * c0 * c1 + 2 * c1 * c2 == pytest.approx(0.16)
    assert 2 * c0 * c2 + c1**2 == pytest.approx(-0.05)


def test_missing_bands_are_zero_and_never_all():
    recipe = dataclasses.replace(RECIPE, noise=dataclasses.replace(RECIPE.noise, missing_band=0.4))
    noise, sky = noise_of(recipe)
    assert sky.present.any(axis=1).all()
    assert 0.5 < sky.present.mean() < 0.7
    assert float(noise[torch.from_numpy(~sky.present)].abs().max()) == 0.0
