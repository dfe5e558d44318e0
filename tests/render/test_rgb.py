"""Colour images: noise sets the scale, colours survive, missing pixels do no harm."""

import numpy as np
import pytest

from lensscan.render.rgb import MISSING_COLOUR, asinh_rgb, border_sigma, channel_weights, wavelength


def scene(bands=4, size=40, seed=0, flux=60.0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    galaxy = flux * np.exp(-(x**2 + y**2) / 18)
    colours = np.linspace(1, 3, bands)[:, None, None]
    return rng.normal(0, 1, (bands, size, size)) + galaxy * colours


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 7])
def test_any_number_of_bands(bands):
    picture = asinh_rgb(scene(bands))
    assert picture.shape == (40, 40, 3)
    assert picture.dtype == np.uint8
    assert picture[20, 20].sum() > 2 * picture[2, 2].sum()
    np.testing.assert_allclose(channel_weights(bands).sum(axis=1), 1)


def test_red_galaxy_is_red_whatever_the_band_order():
    images = scene(4)
    picture = asinh_rgb(images, "griz")
    red, _, blue = picture[20, 20].astype(int)
    assert red > blue + 30
    shuffled = [2, 0, 3, 1]
    again = asinh_rgb(images[shuffled], ["griz"[i] for i in shuffled])
    np.testing.assert_allclose(again.astype(int), picture.astype(int), atol=1)


def test_scale_comes_from_the_noise_not_from_the_maximum():
    images = scene(3)
    star = images.copy()
    star[:, 5:8, 30:33] += 1e6
    plain, with_star = asinh_rgb(images, sigma=np.ones(3)), asinh_rgb(star, sigma=np.ones(3))
    np.testing.assert_array_equal(plain[20:30, 10:25], with_star[20:30, 10:25])
    np.testing.assert_array_equal(asinh_rgb(images * 1e-12), asinh_rgb(images * 8192))


def test_colour_is_kept_where_it_saturates():
    images = np.full((3, 30, 30), 1e5) * np.array([1.0, 2.0, 4.0])[:, None, None]
    red, green, blue = asinh_rgb(images, "gri", sigma=np.ones(3))[15, 15].astype(float)
    assert red == 255
    assert green / red == pytest.approx(0.5, abs=0.01)
    assert blue / red == pytest.approx(0.25, abs=0.01)


def test_missing_pixels_and_bands():
    images = scene(4)
    images[:, 3:6] = np.nan
    images[1] = np.nan
    images[0, :, 30:] = np.inf
    picture = asinh_rgb(images, "griz")
    assert (picture[4, 4] == MISSING_COLOUR).all()
    assert picture[20, 20].max() > 100
    assert asinh_rgb(np.full((2, 8, 8), np.nan)).reshape(-1, 3).tolist() == [list(MISSING_COLOUR)] * 64
    assert asinh_rgb(np.zeros((2, 8, 8))).max() < 80


def test_noise_of_the_border():
    images = scene(2, 60) * np.array([1.0, 5.0])[:, None, None]
    np.testing.assert_allclose(border_sigma(images), [1, 5], rtol=0.12)
    assert np.isnan(border_sigma(np.zeros((1, 20, 20))))
    assert np.isnan(border_sigma(np.full((1, 20, 20), np.nan)))


def test_wavelengths():
    assert (
        wavelength("g")
        < wavelength("R")
        < wavelength("i")
        < wavelength("F814W")
        < wavelength("Y")
        < wavelength("F160W")
    )
    assert wavelength("banana") is None


def test_refuses_a_flat_image():
    with pytest.raises(ValueError, match="bands, height, width"):
        asinh_rgb(np.zeros((8, 8)))
