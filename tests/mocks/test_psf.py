"""PSFs: measured images, stretched widths, no PSF at all, offsets between bands."""

import dataclasses

import numpy as np
import pytest
import torch

from lensscan.errors import ConfigError
from lensscan.mocks.observe import convolve
from lensscan.mocks.priors import Draws
from lensscan.mocks.psf import draw_offsets, prepare, psf_transform, read_psf, shift_transform
from lensscan.mocks.recipes import load_recipe
from lensscan.mocks.sky import draw_fwhm
from lensscan.mocks.tables import EffectsPrior

RECIPE = dataclasses.replace(load_recipe("des-griz"), effects=EffectsPrior())


def moffat(fwhm, pixel, size=61, dx=0.0, dy=0.0, beta=3.5, fine=9):
    """Return a Moffat profile averaged over pixels, its centre (dx, dy) arcsec from the image's."""
    grid = (np.arange(size * fine) - (size * fine - 1) / 2) * pixel / fine
    scale = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    image = (1 + (np.hypot(grid - dx, (grid - dy)[:, None]) / scale) ** 2) ** -beta
    return image.reshape(size, fine, size, fine).mean(axis=(1, 3))


def star(recipe, fwhm, size=80, place=(0.0, 0.0)):
    """Return the frame (C, 64, 64) of a star of flux 1 seen through the recipe's PSF."""
    width = len(recipe.bands)
    values = (torch.full((1, width), v) for v in (fwhm, 0.5, 0.0, 0.0))
    point = (torch.zeros(1, dtype=torch.int64), torch.ones(1, width), torch.tensor([place]))
    canvas = torch.zeros(1, size, size, width)
    return convolve(canvas, psf_transform(recipe, *values, size), point, 64, recipe.pixel_scale)[0]


@pytest.fixture
def with_image(tmp_path):
    fits = pytest.importorskip("astropy.io.fits")

    def make(image, pixel=None):
        path = tmp_path / f"psf{len(list(tmp_path.iterdir()))}.fits"
        hdu = fits.PrimaryHDU(image.astype(np.float32))
        if pixel is not None:
            hdu.header["PIXSCALE"] = pixel
        hdu.writeto(path)
        bands = {name: dataclasses.replace(b, psf=str(path)) for name, b in RECIPE.band.items()}
        return dataclasses.replace(RECIPE, band=bands, psf=dataclasses.replace(RECIPE.psf, kind="image"))

    return make


def test_a_star_looks_like_the_measured_psf(with_image):
    image = moffat(0.95, 0.263, size=47)
    recipe = with_image(image)
    got = star(recipe, 0.95, place=(0.263 / 2, 0.263 / 2))[0].numpy()
    want = image[8:-8, 8:-8] / image.sum()
    np.testing.assert_allclose(got[17:48, 17:48], want, atol=0.02 * want.max())
    assert got.sum() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("pixel", [0.1, 0.263, 0.4])
def test_measured_width_is_that_before_the_pixel(pixel):
    psf = prepare(moffat(1.3, pixel, size=41), pixel, "test")
    assert psf.fwhm == pytest.approx(1.3, rel=0.02)
    assert psf.image.sum() == pytest.approx(1.0)


def test_psf_is_stretched_to_the_drawn_width_whatever_its_pixels(with_image):
    wide = star(with_image(moffat(0.6, 0.1, size=101), 0.1), 1.2)[0].numpy()
    same = star(with_image(moffat(1.2, 0.263, size=61)), 1.2)[0].numpy()
    np.testing.assert_allclose(wide, same, atol=0.02 * same.max())


def test_centre_background_and_noise_of_a_measured_psf_do_not_matter(with_image):
    rng = np.random.default_rng(3)
    clean = star(with_image(moffat(0.9, 0.263, size=47)), 0.9)[0].numpy()
    image = moffat(0.9, 0.263, size=47, dx=0.1, dy=-0.07)
    dirty = image * 500 + 37.0 + 1e-3 * 500 * image.max() * rng.normal(size=image.shape)
    got = star(with_image(dirty), 0.9)[0].numpy()
    np.testing.assert_allclose(got, clean, atol=0.03 * clean.max())


def test_bad_psf_files(with_image, tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_psf(str(tmp_path / "none.fits"), 0.263)
    with pytest.raises(ConfigError, match="5 by 5"):
        read_psf(with_image(np.ones((3, 3))).band["g"].psf, 0.263)
    with pytest.raises(ConfigError, match="no light"):
        read_psf(with_image(np.zeros((9, 9))).band["g"].psf, 0.263)
    with pytest.raises(ConfigError, match="PIXSCALE"):
        read_psf(with_image(moffat(0.9, 0.263, size=15), -1.0).band["g"].psf, 0.263)


def test_no_psf_is_a_transform_of_one(with_image):
    for recipe in (RECIPE, with_image(moffat(0.9, 0.263, size=31))):
        zero = torch.zeros(1, 4)
        torch.testing.assert_close(
            psf_transform(recipe, zero, zero + 0.5, zero, zero, 32).real, torch.ones(1, 4, 32, 17)
        )


def test_uniform_widths_and_share():
    prior = dataclasses.replace(RECIPE.psf, uniform=(0.1, 2.0), share=0.8)
    recipe = dataclasses.replace(RECIPE, psf=prior)
    fwhm = draw_fwhm(Draws(recipe.digest, 1, np.arange(20_000)), recipe, np.ones((20_000, 4)))
    assert (fwhm == fwhm[:, :1]).all(), "one width for all bands"
    some = fwhm[:, 0] > 0
    assert some.mean() == pytest.approx(0.8, abs=0.01)
    np.testing.assert_allclose(np.percentile(fwhm[some, 0], [0, 50, 100]), [0.1, 1.05, 2.0], atol=0.03)
    part = draw_fwhm(Draws(recipe.digest, 1, np.arange(50, 60)), recipe, np.ones((10, 4)))
    np.testing.assert_array_equal(part, fwhm[50:60])
    unchanged = np.ones((3, 4))
    assert draw_fwhm(Draws(RECIPE.digest, 1, np.arange(3)), RECIPE, unchanged) is unchanged


def test_offsets_move_each_band():
    recipe = dataclasses.replace(RECIPE, effects=dataclasses.replace(RECIPE.effects, astrometry=0.05))
    dx, dy = draw_offsets(Draws(recipe.digest, 1, np.arange(5000)), recipe)
    assert dx.shape == dy.shape == (5000, 4)
    assert dx.std() == pytest.approx(0.05, rel=0.03)
    assert abs(np.corrcoef(dx[:, 0], dx[:, 1])[0, 1]) < 0.05
    assert draw_offsets(Draws(RECIPE.digest, 1, np.arange(3)), RECIPE) is None
    canvas, fwhm = torch.zeros(1, 80, 80, 1), torch.full((1, 1), 1.0)
    point = (torch.zeros(1, dtype=torch.int64), torch.ones(1, 1), torch.zeros(1, 2))
    transform = psf_transform(RECIPE, fwhm, fwhm * 0.5, fwhm * 0, fwhm * 0, 80)
    moved = transform * shift_transform(fwhm * 0.31, fwhm * -0.12, 80, 0.263)
    image = convolve(canvas, moved, point, 64, 0.263)[0, 0].double()
    grid = (torch.arange(64) - 31.5) * 0.263
    assert float((image.sum(0) * grid).sum() / image.sum()) == pytest.approx(0.31, abs=0.005)
    assert float((image.sum(1) * grid).sum() / image.sum()) == pytest.approx(-0.12, abs=0.005)
