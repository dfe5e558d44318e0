"""The closed-form SIE against an independent code's values, and against itself by differentiation."""

import json

import numpy as np
import pytest
import torch

from lensscan.lens import SIE


@pytest.fixture(scope="module")
def oracle(shared_oracle):
    return json.loads((shared_oracle / "oracle_sie.json").read_text(encoding="utf-8"))["lenses"]


def column(oracle, *names):
    rows = []
    for lens in oracle:
        value = lens
        for name in names:
            value = value[name]
        rows.append(value)
    return np.array(rows)


@pytest.fixture(scope="module")
def lenses(oracle):
    return SIE(*(column(oracle, name)[:, None] for name in ("theta_E", "e1", "e2", "x", "y")))


def test_deflection_potential_hessian_match_the_oracle(oracle, lenses):
    px, py = column(oracle, "points", "x"), column(oracle, "points", "y")
    ax, ay = lenses.deflection(px, py)
    np.testing.assert_allclose(ax, column(oracle, "points", "alpha_x"), rtol=0, atol=5e-8)
    np.testing.assert_allclose(ay, column(oracle, "points", "alpha_y"), rtol=0, atol=5e-8)
    np.testing.assert_allclose(lenses.potential(px, py), column(oracle, "points", "potential"), rtol=0, atol=2e-7)
    for value, name in zip(lenses.hessian(px, py), ("f_xx", "f_xy", "f_yy"), strict=True):
        np.testing.assert_allclose(value, column(oracle, "points", name), rtol=1e-9, atol=1e-10)


def test_magnification_at_the_oracle_images(oracle, lenses):
    for k, lens in enumerate(oracle):
        single = SIE(*(getattr(lenses, name)[k, 0] for name in ("theta_E", "e1", "e2", "x", "y")))
        mu = single.magnification(np.array(lens["images"]["x"]), np.array(lens["images"]["y"]))
        np.testing.assert_allclose(mu, lens["images"]["magnification"], rtol=1e-9)


@pytest.mark.parametrize("e", [0.0, 1e-14, 1e-9, 1e-4, 0.3, 0.6])
def test_derivatives_agree_with_autograd(e):
    px, py = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([0.3, -1.2, 2.0], [0.9, 0.1, -0.7]))
    lens = SIE(1.3, e * 0.6, -e * 0.8, 0.1, -0.2, 0.06, -0.04)
    slope = torch.autograd.grad(lens.potential(px, py).sum(), (px, py), create_graph=True)
    alpha = lens.deflection(px, py)
    for got, want in zip(alpha, slope, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    f_xx, f_xy, f_yy = lens.hessian(px, py)
    torch.testing.assert_close(
        torch.autograd.grad(alpha[0].sum(), px, retain_graph=True)[0], f_xx, rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(
        torch.autograd.grad(alpha[0].sum(), py, retain_graph=True)[0], f_xy, rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(torch.autograd.grad(alpha[1].sum(), py)[0], f_yy, rtol=1e-9, atol=1e-9)


def test_round_lens_is_exact():
    lens = SIE(1.7, 0.0, 0.0, 0.0, 0.0)
    ax, ay = lens.deflection([3.0, -0.4], [4.0, 0.3])
    torch.testing.assert_close(ax, torch.tensor([0.6, -0.8], dtype=torch.float64) * 1.7, rtol=1e-15, atol=0)
    torch.testing.assert_close(ay, torch.tensor([0.8, 0.6], dtype=torch.float64) * 1.7, rtol=1e-15, atol=0)
    assert float(lens.magnification(3.4, 0.0)) == pytest.approx(2.0, rel=1e-14)


def test_area_inside_the_critical_curve_is_pi_theta_E_squared():
    lens = SIE(1.3, 0.25, 0.1, 0.0, 0.0)
    phi = torch.linspace(0, 2 * torch.pi, 100001, dtype=torch.float64)[:-1]
    radius = 2 * lens.convergence(torch.cos(phi), torch.sin(phi))  # kappa = 1/2 on the curve and falls as 1 / r
    assert float((0.5 * radius**2).mean() * 2 * torch.pi) == pytest.approx(np.pi * 1.3**2, rel=1e-9)


def test_float32_is_good_to_its_precision():
    values = (1.3, 0.2, -0.1, 0.05, 0.02, 0.03, 0.01)
    grid = torch.linspace(-3, 3, 101)
    single = SIE(*(torch.tensor(v) for v in values)).deflection(grid[:, None], grid[None])
    double = SIE(*values).deflection(grid[:, None].double(), grid[None].double())
    assert single[0].dtype == torch.float32
    for a, b in zip(single, double, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=3e-6)


def test_centre_has_no_deflection():
    ax, ay = SIE(1.0, 0.2, 0.1, 0.5, -0.5).deflection(0.5, -0.5)
    assert float(ax) == 0
    assert float(ay) == 0


def test_shear_moves_with_the_lens():
    here = SIE(1.1, 0.2, 0.1, 0.0, 0.0, 0.05, 0.02).deflection(0.7, -0.3)
    there = SIE(1.1, 0.2, 0.1, 2.0, 1.0, 0.05, 0.02).deflection(2.7, 0.7)
    torch.testing.assert_close(there, here, rtol=1e-12, atol=1e-12)


def test_half_turn_in_phi_is_the_same_lens():
    phi = 0.4
    e1, e2 = 0.3 * np.cos(2 * phi), 0.3 * np.sin(2 * phi)
    f1, f2 = 0.3 * np.cos(2 * (phi + np.pi)), 0.3 * np.sin(2 * (phi + np.pi))
    torch.testing.assert_close(
        SIE(1.0, e1, e2, 0.0, 0.0).deflection(0.5, 1.0), SIE(1.0, f1, f2, 0.0, 0.0).deflection(0.5, 1.0)
    )
