"""Lensed sources: flux, mirror images, grids."""

import numpy as np
import pytest
import torch

from lensscan.mocks.arcs import measure
from lensscan.mocks.paint import grids, render_source
from lensscan.mocks.recipes import load_recipe

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
