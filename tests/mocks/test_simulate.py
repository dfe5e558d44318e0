"""Stamps: reproducible, with the fluxes, places and noise that the truth states."""

import dataclasses

import numpy as np
import pytest
import torch

from lensscan.errors import ConfigError
from lensscan.mocks import scene
from lensscan.mocks import simulate as simulation
from lensscan.mocks.negatives import compose
from lensscan.mocks.observe import convolve
from lensscan.mocks.paint import paint_arcs
from lensscan.mocks.psf import psf_transform
from lensscan.mocks.recipes import CLASSES, load_recipe, make_recipe
from lensscan.mocks.simulate import MARGIN, _render, draw_truth, simulate, simulate_named
from lensscan.mocks.systems import draw_systems
from lensscan.mocks.tables import EffectsPrior

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
    empty = dataclasses.replace(RECIPE.scene, density=0.0, members=0.0, stars=0.0)
    return dataclasses.replace(RECIPE, scene=empty, **change)


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


def test_unpainted_twin_differs_by_the_arcs_only(monkeypatch):
    """The difference is nowhere negative and holds the source's flux times the magnification of the truth.

    Without clumps: one at a caustic is magnified otherwise than the whole.
    """
    recipe = alone(classes={"lens": 1.0}, size=128, source=dataclasses.replace(RECIPE.source, clumps=0.0))
    lens = simulate(recipe, seed=1, n=20, noise=False)
    monkeypatch.setattr(simulation, "paint_arcs", lambda *arguments, **options: None)
    twin = simulate(recipe, seed=1, n=20, noise=False)
    arcs = (lens.images - twin.images).double()
    peak = lens.images.amax(dim=(2, 3))
    assert bool((arcs.amin(dim=(2, 3)) >= -1e-5 * peak).all())
    flux = 10 ** (0.4 * (31.4 - draw_systems(recipe, 1, np.arange(20)).source["mags"]))
    magnification = lens.truth["magnification"].numpy()
    assert (magnification >= 3).all()
    np.testing.assert_allclose(arcs.sum(dim=(2, 3)).numpy(), flux * magnification[:, None], rtol=0.03)


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


EVERYTHING = {
    "noise": {"white": 0.3, "missing_band": 0.1},
    "psf": {"share": 0.9},
    "band": {name: {"saturation": 2000.0} for name in "griz"},
    "effects": {
        "cosmic_rays": [0.5, 2.0, 5.0, 50.0],
        "hot_pixels": [0.5, 2.0, 5.0, 50.0],
        "hot_columns": [0.3, 1.0, 5.0],
        "bleed": 0.5,
        "zero_bias": 0.3,
        "halo": [0.5, 0.2],
        "zero_point": 0.03,
        "gain": 0.01,
        "astrometry": 0.03,
        "masks": [0.7, 9, 0.5, 0.25],
    },
}


def changed(**tables):
    return make_recipe({"base": "des-griz", "name": "changed", **tables}, "changed")


@pytest.fixture(scope="module")
def spoiled():
    recipe = changed(**EVERYTHING)
    return recipe, simulate(recipe, seed=1, n=100)


@pytest.mark.parametrize(("start", "n"), [(7, 1), (30, 3), (20, 60)])
def test_rows_with_every_effect_do_not_depend_on_the_batch(spoiled, start, n):
    recipe, whole = spoiled
    part = simulate(recipe, seed=1, start=start, n=n)
    rows = slice(start, start + n)
    assert torch.equal(part.missing, whole.missing[rows])
    assert torch.equal(part.sigma, whole.sigma[rows])
    peak = whole.images[rows].abs().amax(dim=(1, 2, 3))
    assert float(((part.images - whole.images[rows]).abs().amax(dim=(1, 2, 3)) / peak).max()) < 1e-5


def test_missing_pixels_are_masked_or_saturated(spoiled):
    recipe, mocks = spoiled
    assert mocks.missing.shape == mocks.images.shape
    assert mocks.missing.dtype == torch.bool
    value = mocks.images[mocks.missing]
    behind = float((value == 0).float().mean())
    assert 0.2 < behind < 1.0
    assert float(mocks.images.max()) <= 2000.0
    assert bool(mocks.missing[mocks.images >= 2000.0].all())
    assert not bool(mocks.missing[~mocks.present].any())
    hidden = mocks.missing.flatten(1).any(dim=1)
    assert 0.6 < float(hidden.float().mean()) < 1.0
    assert simulate(RECIPE, seed=1, n=2).missing is None
    assert simulate(recipe, seed=1, n=2, noise=False).missing is None


def test_circles_leave_the_arcs(spoiled):
    """No lens loses more than a quarter of its arcs' flux to the circles."""
    recipe = alone(classes={"lens": 1.0}, effects=EffectsPrior(masks=(1.0, 29, 1.0, 0.25)))
    mocks = simulate(recipe, seed=1, n=24)
    clean = simulate(recipe, seed=1, n=24, noise=False).images
    without = draw_systems(recipe, 1, np.arange(24))
    without.source["mags"][:] = 99.0
    light = torch.empty_like(clean)
    _render(light, None, recipe, 1, without, compose(recipe, 1, without, MARGIN)[0].freeze(), noise=False)
    arcs = (clean - light).sum(dim=1)
    share = (arcs * mocks.missing[:, 0]).sum(dim=(1, 2)) / arcs.sum(dim=(1, 2))
    assert float(share.max()) < 0.2502
    assert float(share.max()) > 0.1, "circles lie on arcs too"


def test_a_scene_without_noise_has_no_effects_either():
    recipe = changed(**(EVERYTHING | {"noise": {}, "psf": {}}))
    spoiled, plain = (simulate(r, seed=1, n=6, noise=False) for r in (recipe, RECIPE))
    assert recipe.digest != RECIPE.digest
    assert spoiled.images.shape == plain.images.shape
    level = simulate(dataclasses.replace(recipe, effects=EffectsPrior()), seed=1, n=6, noise=False)
    assert float(level.images.min()) > -1e-2 * float(level.images.max())
    assert float(spoiled.images.max()) > 2000.0, "not clipped"


def test_relative_noise_is_that_of_a_known_peak():
    noise = {"relative": [0.01, 0.1], "peak": 500.0, "electrons": [0.8, 50.0, 1000.0], "lag1": 0.0, "lag2": 0.0}
    recipe = changed(noise=noise, band={b: {"sky": 0.0} for b in "griz"}, classes={"lens": 1.0})
    recipe = dataclasses.replace(recipe, noise=dataclasses.replace(recipe.noise, gradient=0.0))
    mocks = simulate(recipe, seed=1, n=60)
    clean = simulate(recipe, seed=1, n=60, noise=False).images
    clean = clean * (500.0 / clean.amax(dim=(1, 2, 3), keepdim=True))
    assert 5.0 < float(mocks.sigma.min()) < float(mocks.sigma.max()) < 50.0
    residual = (mocks.images - clean).double()
    faint = clean < 0.02 * mocks.sigma[..., None, None]
    ratio = [
        float((residual[i, 0][faint[i, 0]] / mocks.sigma[i, 0]).std()) for i in range(60) if faint[i, 0].sum() > 99
    ]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.03)
    truth = draw_truth(recipe, seed=1, n=60)
    np.testing.assert_array_equal(truth["sigma"].astype(np.float32), mocks.sigma.numpy())
    bright = clean > 50.0
    extra = [
        float((residual[i][bright[i]] ** 2 - mocks.sigma[i].pow(2)[:, None, None].expand_as(clean[i])[bright[i]]).sum())
        / float(clean[i][bright[i]].sum())
        for i in range(60)
    ]
    assert 0.5 < np.percentile(extra, 60) < 5.0, "500 nJy in 50 to 1000 electrons: 0.5 to 10 nJy each"


def test_white_stamps_among_the_correlated():
    recipe = alone(classes={"field": 1.0}, noise=dataclasses.replace(RECIPE.noise, white=0.4, lag1=0.4, lag2=0.1))
    mocks = simulate(recipe, seed=1, n=150)
    clean = simulate(recipe, seed=1, n=150, noise=False)
    noise = (mocks.images - clean.images)[:, 3].double()
    noise = noise - noise.mean(dim=(1, 2), keepdim=True)
    lag = (noise[..., 1:] * noise[..., :-1]).mean(dim=(1, 2)) / noise.pow(2).mean(dim=(1, 2))
    assert float((lag < 0.2).float().mean()) == pytest.approx(0.4, abs=0.1)
    assert float(lag[lag < 0.2].abs().mean()) < 0.05
    assert float(lag[lag > 0.2].mean()) == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("width", [0.0, 0.1, 0.4])
def test_stars_do_not_ring_where_the_psf_is_narrow(width):
    recipe = alone(classes={"star": 1.0}, psf=dataclasses.replace(RECIPE.psf, uniform=(width, width + 1e-6)))
    images = simulate(recipe, seed=1, n=30, noise=False).images
    peak = images.amax(dim=(2, 3))
    assert float((images.amin(dim=(2, 3)) / peak).min()) > -0.02


def test_sampling_error_of_lensed_sources_is_the_stated_one():
    """Against 17 rays per pixel and axis: 0.4 % of the arcs' own peak in the median, 3 % for one in twenty."""
    recipe, n = changed(classes={"lens": 1.0}), 40
    systems = draw_systems(recipe, 1, np.arange(n))

    def arcs(rays):
        canvas = torch.zeros(n, recipe.size + 2 * MARGIN, recipe.size + 2 * MARGIN, 4)
        for start in range(0, n, 8):
            part = dataclasses.replace(recipe, supersampling=rays)
            paint_arcs(canvas[start : start + 8], part, systems, start, start + 8)
        shape = (systems.sky.fwhm, systems.sky.wings, systems.sky.psf1, systems.sky.psf2)
        transform = psf_transform(recipe, *(torch.from_numpy(v).float() for v in shape), canvas.shape[1])
        return convolve(canvas, transform, None, recipe.size, recipe.pixel_scale)

    fine = arcs(17)
    error = (arcs(recipe.supersampling) - fine).abs().amax(dim=(1, 2, 3)) / fine.amax(dim=(1, 2, 3))
    assert 0 < float(error.median()) < 0.008
    assert float(error.quantile(0.95)) < 0.06


def test_sampling_error_of_galaxies_is_the_stated_one(monkeypatch):
    """Against 32 rays in the core: 1.3 % of the peak in the median, 5 % at worst."""
    recipe = alone(classes={"elliptical": 1.0})
    coarse = simulate(recipe, seed=1, n=24, noise=False).images
    monkeypatch.setitem(scene.FINE, scene.FULL, 32)
    fine = simulate(recipe, seed=1, n=24, noise=False).images
    error = (coarse - fine).abs().amax(dim=(1, 2, 3)) / fine.amax(dim=(1, 2, 3))
    assert 0.002 < float(error.median()) < 0.02
    assert float(error.max()) < 0.06
