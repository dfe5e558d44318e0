"""Stamps: reproducible, with the fluxes, places and noise that the truth states."""

import dataclasses

import numpy as np
import pytest
import torch

from lensscan.errors import ConfigError
from lensscan.mocks.recipes import CLASSES, load_recipe
from lensscan.mocks.simulate import draw_truth, simulate, simulate_named

RECIPE = load_recipe("des-griz")


@pytest.fixture(scope="module")
def mocks():
    return simulate(RECIPE, seed=1, n=150)


@pytest.mark.parametrize(("start", "n"), [(0, 1), (41, 1), (60, 7), (3, 100)])
def test_rows_do_not_depend_on_the_batch(mocks, start, n):
    part = simulate(RECIPE, seed=1, start=start, n=n)
    rows = slice(start, start + n)
    assert list(part.truth) == list(mocks.truth)
    for key, value in part.truth.items():
        np.testing.assert_array_equal(value.numpy(), mocks.truth[key][rows].numpy(), err_msg=key)
    peak = mocks.images[rows].amax(dim=(1, 2, 3))
    assert float(((part.images - mocks.images[rows]).abs().amax(dim=(1, 2, 3)) / peak).max()) < 1e-5


def test_every_row_alone(mocks):
    """Also classes that have no massive galaxy, no star or no neighbour."""
    for row in range(40, 60):
        alone = simulate(RECIPE, seed=1, start=row, n=1)
        assert int(alone.truth["klass"][0]) == int(mocks.truth["klass"][row])
        torch.testing.assert_close(alone.images[0], mocks.images[row], rtol=1e-4, atol=1e-3)


def test_shapes_types_and_seeds(mocks):
    assert mocks.images.shape == (150, 4, 64, 64)
    assert mocks.images.dtype == torch.float32
    assert bool(mocks.images.isfinite().all())
    assert mocks.present.all()
    assert mocks.truth["is_lens"].dtype == torch.bool
    assert torch.equal(mocks.truth["is_lens"], mocks.truth["klass"] == CLASSES.index("lens"))
    other = simulate(RECIPE, seed=2, n=3)
    assert not torch.equal(other.images, mocks.images[:3])
    assert simulate(RECIPE, seed=1, n=0).images.shape == (0, 4, 64, 64)
    assert simulate_named("des-griz", 2, 1).images.shape == (2, 4, 64, 64)


def test_truth_alone_is_the_same(mocks):
    truth = draw_truth(RECIPE, seed=1, n=150)
    for key, value in mocks.truth.items():
        np.testing.assert_array_equal(value.numpy(), truth[key], err_msg=key)


def test_bad_arguments():
    with pytest.raises(ConfigError, match="negative"):
        simulate(RECIPE, seed=1, n=-1)
    with pytest.raises(ConfigError, match="did you mean"):
        simulate("des-grizz", seed=1, n=1)


def alone(**change):
    """Return the recipe without neighbours, with the given class only."""
    scene = dataclasses.replace(RECIPE.scene, density=0.0, members=0.0, stars=0.0)
    return dataclasses.replace(RECIPE, scene=scene, **change)


@pytest.mark.parametrize("name", ["lens", "elliptical", "spiral", "edge_on", "field", "ring"])
def test_flux_is_the_magnitude(name):
    recipe = alone(classes={name: 1.0}, size=200, galaxy=dataclasses.replace(RECIPE.galaxy, double=0.0))
    mocks = simulate(recipe, seed=1, n=12, noise=False)
    for k, band in enumerate(recipe.bands):
        flux = mocks.images[:, k].double().sum(dim=(1, 2))
        magnitude = 31.4 - 2.5 * torch.log10(flux)
        error = (magnitude - mocks.truth[f"mag_{band}"]).abs()
        assert float(error.median()) < 0.02
        assert float(error.quantile(0.9)) < 0.15, "light beyond the frame, clumps at caustics"


def test_light_is_centred_where_the_truth_says():
    recipe = alone(classes={"elliptical": 1.0})
    mocks = simulate(recipe, seed=1, n=40, noise=False)
    grid = (torch.arange(64) - 31.5).double() * recipe.pixel_scale
    image = mocks.images[:, 2].double()
    near = torch.exp(-(grid[None, :] ** 2 + grid[:, None] ** 2) / (2 * 1.0**2))
    for _ in range(12):
        total = (image * near).sum(dim=(1, 2))
        x, y = (image * near).sum(1) @ grid / total, (image * near).sum(2) @ grid / total
        near = torch.exp(-((grid - x[:, None, None]) ** 2 + (grid[:, None] - y[:, None, None]) ** 2) / 2)
    assert float((x - mocks.truth["x_light"]).abs().max()) < 0.03
    assert float((y - mocks.truth["y_light"]).abs().max()) < 0.03
    assert float(mocks.truth["x_light"].std()) > 0.06, "galaxies do not sit on pixel centres"


def test_unpainted_twin_differs_by_the_arcs_only():
    lens = simulate(alone(classes={"lens": 1.0}), seed=1, n=20, noise=False)
    light = 31.4 - 2.5 * torch.log10(lens.images[:, 0].double().sum(dim=(1, 2)))
    assert bool((light < lens.truth["mag_g"] + 0.3).all())
    assert bool((lens.truth["magnification"] >= 3).all())


def clipped(values):
    for _ in range(10):
        middle = np.median(values)
        sd = 1.4826 * np.median(np.abs(values - middle))
        values = values[np.abs(values - middle) < 3 * sd]
    return middle, sd


def border_noise(stamps, width=8):
    """Return the clipped noise (n, C) of the border and the median lag-1 correlation (C,)."""
    size = stamps.shape[-1]
    ring = np.ones((size, size), bool)
    ring[width:-width, width:-width] = False
    sigma, lag = np.zeros(stamps.shape[:2]), np.zeros(stamps.shape[:2])
    for i, j in np.ndindex(*stamps.shape[:2]):
        image = stamps[i, j]
        middle, sigma[i, j] = clipped(image[ring])
        good = ring & (np.abs(image - middle) < 3 * sigma[i, j])
        d = image - image[good].mean()
        both = good[:, 1:] & good[:, :-1]
        lag[i, j] = (d[:, 1:] * d[:, :-1])[both].mean() / d[good].var()
    return sigma, np.median(lag, axis=0)


def test_noise_of_mocks_is_that_of_the_survey(mocks):
    """Clipped border noise of DES coadds at zero point 30: 2.8, 4.0, 6.4, 11.9 counts; lag-1 .16 to .18."""
    sigma, lag = border_noise(mocks.images.numpy())
    counts = np.median(sigma, axis=0) * 10 ** (0.4 * (30 - 31.4))
    np.testing.assert_allclose(counts, [2.8, 4.0, 6.4, 11.9], rtol=0.08)
    assert np.all(np.abs(lag - 0.17) < 0.05)


def test_noise_of_mocks_is_that_of_real_stamps(mocks, shared_data):
    fits = pytest.importorskip("astropy.io.fits")
    real = []
    for path in sorted((shared_data / "des_stamps").glob("des_dls_*.fits")):
        with fits.open(path) as hdus:
            real.append([hdus[band].data[13:77, 13:77] * 10 ** (-0.4 * (30 - 31.4)) for band in "GRIZ"])
    want, real_lag = border_noise(np.array(real, dtype=np.float64))
    got, lag = border_noise(mocks.images.numpy())
    np.testing.assert_allclose(np.median(got, axis=0), np.median(want, axis=0), rtol=0.1)
    np.testing.assert_allclose(np.percentile(got, [10, 90], axis=0), np.percentile(want, [10, 90], axis=0), rtol=0.25)
    assert np.all(np.abs(lag - real_lag) < 0.05)
