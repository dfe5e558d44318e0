"""Magnification, image numbers and signal-to-noise of arcs without an image."""

import numpy as np
import pytest
import torch

from lensscan.lens import SIE
from lensscan.lens.light import elliptical_radius2, sersic, sersic_flux
from lensscan.mocks.arcs import GAUSSIAN_AREA, Arcs, is_detectable, measure, signal_to_noise
from lensscan.mocks.tables import LabelRule


def systems(n, seed, size=0.28):
    rng = np.random.default_rng(seed)
    theta = rng.uniform(0.5, 3, n)
    e, phi = rng.uniform(0, 0.3, n), rng.uniform(0, 2 * np.pi, n)
    g, psi = rng.uniform(0, 0.1, n), rng.uniform(0, 2 * np.pi, n)
    b, where = theta * 0.8 * np.sqrt(rng.uniform(size=n)), rng.uniform(0, 2 * np.pi, n)
    s, turn = rng.uniform(0, 0.3, n), rng.uniform(0, 2 * np.pi, n)
    return [
        theta, e * np.cos(phi), e * np.sin(phi), g * np.cos(psi), g * np.sin(psi), b * np.cos(where), b * np.sin(where),
        np.full(n, size), rng.uniform(0.7, 1.8, n), s * np.cos(turn), s * np.sin(turn),
    ]  # fmt: skip


def test_magnification_of_extended_sources_matches_ray_shooting():
    columns = systems(12, 1)
    arcs = measure(*columns)
    for k, row in enumerate(zip(*columns, strict=True)):
        theta, e1, e2, g1, g2, bx, by, radius, n, s1, s2 = (torch.tensor(v, dtype=torch.float64) for v in row)
        half = float(2 * theta + 8 * radius)
        grid = torch.linspace(-half, half, 900, dtype=torch.float64)
        sx, sy = SIE(theta, e1, e2, 0.0 * theta, 0.0 * theta, g1, g2).source(grid[None], grid[:, None])
        light = sersic(elliptical_radius2(sx, sy, s1, s2, bx, by), radius, n)
        want = float(light.sum() * (grid[1] - grid[0]) ** 2 / sersic_flux(radius, n))
        assert arcs.magnification[k] == pytest.approx(want, rel=0.04)


def test_compact_sources_approach_the_point_source_magnification():
    columns = systems(100, 2, size=0.06)
    arcs = measure(*columns)
    theta, e1, e2, g1, g2, bx, by = columns[:7]
    images = SIE(theta, e1, e2, 0 * theta, 0 * theta, g1, g2).images(bx, by)
    total = images.magnification.abs().nansum(dim=1).numpy()
    gentle = total < 6
    assert gentle.sum() > 30
    assert np.median(np.abs(arcs.magnification / total - 1)[gentle]) < 0.06


def test_image_numbers_match_the_solver():
    columns = systems(400, 3)
    theta, e1, e2, g1, g2, bx, by = columns[:7]
    want = SIE(theta, e1, e2, 0 * theta, 0 * theta, g1, g2).images(bx, by).count.numpy()
    assert (measure(*columns).images == want).mean() > 0.99


def test_rows_are_independent_to_the_bit():
    columns = systems(50, 4)
    whole, part = measure(*columns), measure(*(c[[31, 7]] for c in columns))
    for name in ("images", "magnification", "area"):
        np.testing.assert_array_equal(getattr(whole, name)[[31, 7]], getattr(part, name))


def test_signal_to_noise_of_a_gaussian_is_the_matched_filter():
    flux, sigma, pixel, fwhm, width = 900.0, 3.0, 0.2, 0.9, 0.4
    area = np.array([4 * np.pi * width**2])
    got = signal_to_noise(
        np.array([[flux]]), area, np.array([[fwhm]]), np.array([[sigma]]), pixel, np.array([0.0]), np.array([[0.0]])
    )
    grid = (np.arange(301) - 150) * pixel
    spread = width**2 + fwhm**2 / (8 * np.log(2))
    image = flux * pixel**2 * np.exp(-(grid[None] ** 2 + grid[:, None] ** 2) / (2 * spread)) / (2 * np.pi * spread)
    assert got[0, 0] == pytest.approx(np.sqrt((image**2).sum()) / sigma, rel=1e-6)
    assert pytest.approx(4 * np.pi / (8 * np.log(2))) == GAUSSIAN_AREA


def test_label_needs_every_condition():
    rule = LabelRule()
    good = {"images": 2, "magnification": 5.0, "snr": 30.0, "theta_E": 1.2, "radius": 0.3, "fwhm": 0.9}

    def label(**change):
        v = {k: np.array([x]) for k, x in (good | change).items()}
        arcs = Arcs(v["images"], v["magnification"], np.array([1.0]))
        return bool(is_detectable(rule, arcs, v["snr"], v["theta_E"], v["radius"], v["fwhm"])[0])

    assert label()
    assert not label(images=1)
    assert not label(magnification=2.9)
    assert not label(snr=19.9)
    assert not label(theta_E=0.5), "the ring is not resolved"
    assert not label(radius=0.1), "the arc is not resolved"


def test_power_law_deflection_and_magnification_match_lenstronomy():
    lens_model = pytest.importorskip("lenstronomy.LensModel.lens_model", reason="lenstronomy is not installed")
    model = lens_model.LensModel(["EPL", "SHEAR"])
    columns = systems(12, 5)
    slope = np.random.default_rng(6).uniform(1.75, 2.45, 12)
    arcs = measure(*columns, slope)
    for k, (theta, e1, e2, g1, g2, bx, by, radius, n, s1, s2) in enumerate(zip(*columns, strict=True)):
        mass = [
            {"theta_E": theta, "gamma": slope[k], "e1": e1, "e2": e2, "center_x": 0.0, "center_y": 0.0},
            {"gamma1": g1, "gamma2": g2, "ra_0": 0.0, "dec_0": 0.0},
        ]
        half = 2 * theta + 8 * radius
        grid = np.linspace(-half, half, 901)
        px, py = (v.ravel() for v in np.meshgrid(grid, grid))
        sx, sy = (torch.from_numpy(v) for v in model.ray_shooting(px, py, mass))
        one = [torch.tensor(v, dtype=torch.float64) for v in (radius, n, s1, s2, bx, by)]
        light = sersic(elliptical_radius2(sx, sy, one[2], one[3], one[4], one[5]), one[0], one[1])
        want = float(light.sum() * (grid[1] - grid[0]) ** 2 / sersic_flux(one[0], one[1]))
        assert arcs.magnification[k] == pytest.approx(want, rel=0.04)


def test_a_power_law_of_slope_two_is_isothermal():
    columns = systems(200, 7)
    with_slope, without = measure(*columns, np.full(200, 2.0)), measure(*columns)
    np.testing.assert_allclose(with_slope.magnification, without.magnification, rtol=1e-5)
    assert (with_slope.images == without.images).mean() > 0.995


def test_image_numbers_of_power_laws_match_lenstronomys_solver():
    lens_model = pytest.importorskip("lenstronomy.LensModel.lens_model", reason="lenstronomy is not installed")
    from lenstronomy.LensModel.Solver.lens_equation_solver import LensEquationSolver

    model = lens_model.LensModel(["EPL", "SHEAR"])
    solver = LensEquationSolver(model)
    n = 30
    columns = systems(n, 8)
    slope = np.random.default_rng(9).uniform(2.0, 2.4, n)  # steeper: no central image to argue about
    found = measure(*columns, slope).images
    same = 0
    for k, (theta, e1, e2, g1, g2, bx, by, *_) in enumerate(zip(*columns, strict=True)):
        mass = [
            {"theta_E": theta, "gamma": slope[k], "e1": e1, "e2": e2, "center_x": 0.0, "center_y": 0.0},
            {"gamma1": g1, "gamma2": g2, "ra_0": 0.0, "dec_0": 0.0},
        ]
        x, y = solver.image_position_from_source(
            bx, by, mass, min_distance=0.05, search_window=6 * theta, precision_limit=1e-8, num_iter_max=200
        )
        same += found[k] == np.sum(np.hypot(x, y) > 0.02 * theta)
    assert same >= n - 1
