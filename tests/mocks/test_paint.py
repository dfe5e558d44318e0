"""Lensed sources: flux, mirror images, grids."""

import math

import numpy as np
import pytest
import torch

from lensscan.lens.light import sersic_flux
from lensscan.mocks import paint
from lensscan.mocks.arcs import measure
from lensscan.mocks.library import SourceLibrary
from lensscan.mocks.paint import grids, paint_arcs, render_source
from lensscan.mocks.population import flux
from lensscan.mocks.recipes import load_recipe, make_recipe
from lensscan.mocks.systems import draw_systems

RECIPE = load_recipe("des-griz")
MASS = torch.tensor([[1.2, 0.15, -0.1, 0.08, -0.05, 0.04, 0.03]])
SOURCE = torch.tensor([[0.25, 0.10, 0.25, 1.2, 0.2, 0.1, 0.3, 0.2, 0.08, 0.1, 0.1, 0.0, 0.06, 0.05]])
FLIP_X = torch.tensor([1, 1, -1, -1, 1, 1, -1.0]), torch.tensor([-1, 1, 1, 1, 1, -1, -1, 1, 1, 1, -1, 1, 1, 1.0])


def test_flux_is_the_magnification():
    plain = SOURCE.clone()
    plain[0, [9, 13]] = 0.0
    image = render_source(MASS, plain, 40, 8, RECIPE.pixel_scale)
    m, s = MASS[0].double().numpy(), plain[0].double().numpy()
    arcs = measure(*(np.array([v]) for v in (*m[:3], *m[5:], s[0] - m[3], s[1] - m[4], s[2], s[3], s[4], s[5])))
    assert float(image.sum()) == pytest.approx(float(arcs.magnification[0]), rel=0.02)


@pytest.mark.parametrize("pixels", [40, 41])
def test_mirrored_lens_is_the_mirrored_image(pixels):
    image = render_source(MASS, SOURCE, pixels, 3, RECIPE.pixel_scale)
    mirrored = render_source(MASS * FLIP_X[0], SOURCE * FLIP_X[1], pixels, 3, RECIPE.pixel_scale)
    torch.testing.assert_close(image.flip(2), mirrored, rtol=1e-3, atol=1e-4 * float(image.max()))


def test_quarter_turn_is_spin_two():
    theta, e1, e2, x, y, g1, g2 = MASS[0].tolist()
    turned = torch.tensor([[theta, -e1, -e2, -y, x, -g1, -g2]])
    s = SOURCE[0].tolist()
    source = torch.tensor(
        [[-s[1], s[0], s[2], s[3], -s[4], -s[5], -s[7], s[6], s[8], s[9], -s[11], s[10], s[12], s[13]]]
    )
    image = render_source(MASS, SOURCE, 40, 3, RECIPE.pixel_scale)
    torch.testing.assert_close(
        torch.rot90(image, -1, (1, 2)), render_source(turned, source, 40, 3, RECIPE.pixel_scale),
        rtol=1e-3, atol=1e-4 * float(image.max()),
    )  # fmt: skip


def test_more_rays_change_little():
    coarse, fine = (render_source(MASS, SOURCE, 40, rays, RECIPE.pixel_scale) for rays in (3, 12))
    smooth = torch.nn.functional.avg_pool2d
    error = (smooth(coarse[None], 3, 1) - smooth(fine[None], 3, 1)).abs().max() / smooth(fine[None], 3, 1).max()
    assert float(error) < 0.03


def test_grids_hold_the_arcs_of_every_theta_E():
    low = 0.0
    for high, pixels, rays in grids(RECIPE, 80):
        largest = min(high, RECIPE.lens.theta_E[1])
        assert pixels * RECIPE.pixel_scale / 2 >= 2.0 * largest + 0.9
        assert pixels % 2 == 0
        assert rays >= 2
        assert high > low
        low = high
    assert np.isinf(low)


def painted(change, n, **classes):
    """Return the drawn systems of a changed recipe and the lensed light of their rows, (n, P, P, C)."""
    recipe = make_recipe({"base": "des-griz", "name": "test", "classes": classes} | change, "test")
    systems = draw_systems(recipe, 5, np.arange(n))
    canvas = torch.zeros(n, 80, 80, len(recipe.bands))
    paint_arcs(canvas, recipe, systems, 0, n)
    return recipe, systems, canvas


@pytest.mark.parametrize(
    "change", [{}, {"source": {"clump_count": 3}}, {"lens": {"slope": [2.08, 0.15]}}], ids=["sie", "clumps", "epl"]
)
def test_painted_flux_is_the_magnified_one(change):
    _, systems, canvas = painted(change, 24, lens=1.0)
    lensed = systems.lensed
    total = canvas.sum(dim=(1, 2)).double().numpy()
    ratio = total / (flux(systems.source["mags"]) * systems.measured["magnification"][:, None])
    assert lensed.sum() > 20
    np.testing.assert_allclose(np.median(ratio[lensed]), 1.0, atol=0.03)
    np.testing.assert_allclose(ratio[lensed], 1.0, atol=0.35)  # clumps may sit where the magnification differs


def test_sources_of_unlensed_rows_are_not_bent():
    # With two rays a pixel a steep source of one pixel's width loses 7 % of its light.
    recipe, systems, canvas = painted({"source": {"clumps": 0.0}, "supersampling": 8}, 12, unlensed_source=1.0)
    assert systems.lensed.all()
    light = canvas[..., 1].double().numpy()
    total = light.sum(axis=(1, 2))
    grid = (np.arange(80) - 39.5) * recipe.pixel_scale
    x, y = (light.sum(axis=axis) @ grid / total for axis in (1, 2))
    np.testing.assert_allclose(total, flux(systems.source["mags"])[:, 1], rtol=0.02)
    np.testing.assert_allclose(x, systems.mass["x"] + systems.source["bx"], atol=0.05)
    np.testing.assert_allclose(y, systems.mass["y"] + systems.source["by"], atol=0.05)


@pytest.mark.parametrize("change", [{}, {"lens": {"slope": [2.08, 0.15]}}], ids=["sie", "epl"])
def test_rows_do_not_depend_on_the_rows_painted_with_them(change):
    recipe, systems, together = painted(change, 16, lens=0.8, unlensed_arc=0.2)
    apart = torch.zeros_like(together)
    for start, stop in ((0, 1), (1, 3), (3, 10), (10, 16)):
        paint_arcs(apart[start:stop], recipe, systems, start, stop)
    peak = together.amax(dim=(1, 2), keepdim=True).clamp_min(1e-9)
    assert float(((together - apart).abs() / peak).max()) < 1e-5


@pytest.mark.parametrize("slope", [None, 1.7, 2.3])
def test_images_are_those_of_lenstronomy(slope):
    pytest.importorskip("lenstronomy", reason="lenstronomy comes with lensscan[test]")
    from lenstronomy.Data.imaging_data import ImageData
    from lenstronomy.Data.psf import PSF
    from lenstronomy.ImSim.image_model import ImageModel
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel

    pixels, rays, scale = 48, 4, 0.15
    first = -(pixels - 1) / 2 * scale
    data = ImageData(
        np.zeros((pixels, pixels)), ra_at_xy_0=first, dec_at_xy_0=first, transform_pix2angle=scale * np.eye(2)
    )
    model = ImageModel(
        data,
        PSF(psf_type="NONE"),
        LensModel(["SIE" if slope is None else "EPL", "SHEAR"]),
        LightModel(["SERSIC_ELLIPSE", "GAUSSIAN", "GAUSSIAN"]),
        kwargs_numerics={"supersampling_factor": rays},
    )
    mass, source = (t[0].double() for t in (MASS, SOURCE))
    theta_E, e1, e2, x, y, gamma1, gamma2 = mass.tolist()
    sx, sy, radius, n, s1, s2, *clumps = source.tolist()
    lens = {"theta_E": theta_E, "e1": e1, "e2": e2, "center_x": x, "center_y": y}
    shear = {"gamma1": gamma1, "gamma2": gamma2, "ra_0": x, "dec_0": y}
    amplitude = (1 - clumps[3] - clumps[7]) / float(sersic_flux(source[2], source[3]))
    light = [{"amp": amplitude, "R_sersic": radius, "n_sersic": n, "e1": s1, "e2": s2, "center_x": sx, "center_y": sy}]
    for cx, cy, size, share in (clumps[:4], clumps[4:]):
        light.append({"amp": share, "sigma": size, "center_x": cx, "center_y": cy})
    truth = model.image([lens if slope is None else lens | {"gamma": slope}, shear], light)
    if slope is not None:
        mass = torch.cat([mass, torch.tensor([slope], dtype=torch.float64)])
    image = render_source(mass[None], source[None], pixels, rays, scale, dtype=torch.float64)[0].numpy()
    assert np.abs(image - truth).max() / truth.max() < 1e-7
    coarse = render_source(mass[None], source[None], pixels, rays, scale)[0].numpy()
    assert np.abs(coarse - truth).max() / truth.max() < 5e-5


def test_galaxy_images_of_a_recipe_are_painted(monkeypatch):
    side = np.arange(65) - 32.0
    image = np.exp(-math.log(2) * (side**2 + side[:, None] ** 2) / 8.0**2).astype(np.float32)
    blank = np.array([np.nan])
    library = SourceLibrary(image[None] / image.sum(), np.array([8.0]), np.ones(1), ("blob",), blank, blank, {}, "")
    monkeypatch.setattr(paint, "load_sources", lambda *_: library)
    change = {"source": {"profile": "images", "images": "a folder", "clumps": 0.0}}
    _, systems, canvas = painted(change, 12, unlensed_source=1.0)
    assert systems.lensed.all()
    total = canvas.sum(dim=(1, 2)).double().numpy()
    np.testing.assert_allclose(total, flux(systems.source["mags"]), rtol=0.02)
