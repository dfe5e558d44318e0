"""The elliptical power law: beside the isothermal closed form, lenstronomy run live, and its own derivatives."""

import numpy as np
import pytest
import torch

from lensscan.lens import sie
from lensscan.lens.epl import EPL, series_terms

CENTRE = (0.13, -0.21)
SHEAR = (0.06, -0.11)
SLOPES = (1.6, 1.85, 2.0, 2.2, 2.5)
RATIOS = (0.2, 0.35, 0.6, 0.9, 0.999, 1.0)


def lens(q, phi=0.7, theta_E=1.4, dtype=torch.float64):
    """theta_E, e1, e2, x, y as tensors."""
    e = (1 - q) / (1 + q)
    values = (theta_E, e * np.cos(2 * phi), e * np.sin(2 * phi), *CENTRE)
    return tuple(torch.tensor(v, dtype=dtype) for v in values)


def field(n=400, seed=3):
    """Positions from 1e-3 to 10 arcsec about the centre."""
    rng = np.random.default_rng(seed)
    r, a = 10 ** rng.uniform(-3, 1, n), rng.uniform(0, 2 * np.pi, n)
    return torch.from_numpy(CENTRE[0] + r * np.cos(a)), torch.from_numpy(CENTRE[1] + r * np.sin(a))


@pytest.mark.parametrize("q", RATIOS)
def test_slope_two_is_the_isothermal_ellipsoid(q):
    px, py = field()
    mine, other = EPL(*lens(q), *SHEAR, 2.0), (px, py, *lens(q), *SHEAR)
    for a, b in zip(mine.deflection(px, py), sie.deflection(*other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mine.potential(px, py), sie.potential(*other), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mine.convergence(px, py), sie.convergence(*other[:7]), rtol=1e-13, atol=0)
    for a, b in zip(mine.hessian(px, py), sie.hessian(*other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("q", RATIOS)
def test_agrees_with_lenstronomy(q, slope):
    pytest.importorskip("lenstronomy", reason="lenstronomy comes with lensscan[test]")
    from lenstronomy.LensModel.lens_model import LensModel

    px, py = field()
    ours = EPL(*lens(q), *SHEAR, slope)
    names = ("theta_E", "e1", "e2", "center_x", "center_y")
    keywords = dict(zip(names, (float(v) for v in lens(q)), strict=True), gamma=slope)
    shear = {"gamma1": SHEAR[0], "gamma2": SHEAR[1], "ra_0": CENTRE[0], "dec_0": CENTRE[1]}
    model, both = LensModel(["EPL", "SHEAR"]), [keywords, shear]
    x, y = px.numpy(), py.numpy()
    for got, want in zip(ours.deflection(px, py), model.alpha(x, y, both), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.potential(px, py), model.potential(x, y, both), rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.convergence(px, py), model.kappa(x, y, both), rtol=1e-9)
    f_xx, f_xy, _, f_yy = model.hessian(x, y, both)
    for got, want in zip(ours.hessian(px, py), (f_xx, f_xy, f_yy), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
    mu = model.magnification(x, y, both)
    np.testing.assert_allclose(1 / ours.magnification(px, py), 1 / mu, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("slope", [1.2, 1.7, 2.3, 2.8])
@pytest.mark.parametrize("q", [0.15, 0.5, 0.9999])
def test_derivatives_agree_with_autograd(q, slope):
    px, py = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([0.3, -1.2, 2.0], [0.9, 0.1, -0.7]))
    ours = EPL(*lens(q), *SHEAR, slope)
    alpha = ours.deflection(px, py)
    slopes = torch.autograd.grad(ours.potential(px, py).sum(), (px, py))
    for got, want in zip(alpha, slopes, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    f_xx, f_xy, f_yy = ours.hessian(px, py)
    for value, along, want in ((alpha[0], px, f_xx), (alpha[0], py, f_xy), (alpha[1], px, f_xy), (alpha[1], py, f_yy)):
        got = torch.autograd.grad(value.sum(), along, retain_graph=True)[0]
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(0.5 * (f_xx + f_yy), ours.convergence(px, py), rtol=1e-12, atol=0)


@pytest.mark.parametrize("slope", [1.6, 2.5])
def test_area_inside_the_critical_curve_without_shear_is_that_of_theta_E_when_round(slope):
    at = (torch.tensor(CENTRE[0] + 1.4, dtype=torch.float64), torch.tensor(CENTRE[1], dtype=torch.float64))
    assert float(1 / EPL(*lens(1.0), slope=slope).magnification(*at)) == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("q", RATIOS)
def test_series_has_converged(q, slope):
    px, py = field()
    e = (1 - q) / (1 + q)
    for dtype, limit in ((torch.float32, 1e-7), (torch.float64, 1e-12)):
        terms = series_terms(e, dtype)
        few, many = (EPL(*lens(q), 0.0, 0.0, slope, n).deflection(px, py) for n in (terms, 4 * terms + 100))
        size = torch.hypot(*many)
        for a, b in zip(few, many, strict=True):
            assert float(((a - b).abs() / size).max()) < limit


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("q", RATIOS)
def test_float32_is_good_to_its_precision(q, slope):
    px, py = field()
    away = torch.hypot(px - CENTRE[0], py - CENTRE[1]) > 0.05  # nearer, rounding the position itself matters more
    single = EPL(*lens(q, dtype=torch.float32), *SHEAR, slope).deflection(px.float(), py.float())
    double = EPL(*lens(q), *SHEAR, slope).deflection(px, py)
    for a, b in zip(single, double, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.double()[away], b[away], rtol=2e-6, atol=2e-5 if slope > 2.3 else 4e-6)


def test_batches_broadcast_and_rows_do_not_depend_on_each_other():
    px, py = (v.view(1, 20, 20) for v in field())
    many = [torch.stack([a, b])[:, None, None] for a, b in zip(lens(0.3), lens(0.8, 0.1, 0.9), strict=True)]
    slope = torch.tensor([1.8, 2.3], dtype=torch.float64)[:, None, None]
    ax, ay = EPL(*many, 0.02, -0.03, slope).deflection(px, py)
    assert ax.shape == ay.shape == (2, 20, 20)
    for k in range(2):
        alone = EPL(*(v[k, 0, 0] for v in many), 0.02, -0.03, slope[k, 0, 0]).deflection(px[0], py[0])
        torch.testing.assert_close((ax[k], ay[k]), alone, rtol=1e-14, atol=1e-14)
    flat = EPL(*lens(0.5), slope=slope[:, 0]).deflection(px[0, 0], py[0, 0])
    assert flat[0].shape == (2, 20), "one lens shape, several slopes"


@pytest.mark.parametrize("slope", [1.5, 2.0, 2.7])
def test_centre_has_no_deflection_and_nothing_is_infinite(slope):
    for dtype in (torch.float32, torch.float64):
        parameters = lens(0.4, dtype=dtype)
        mass, centre = EPL(*parameters, *SHEAR, slope), parameters[3:]
        ax, ay = mass.deflection(*centre)
        assert (float(ax), float(ay)) == (0, 0)
        assert float(mass.potential(*centre)) == 0


def test_shear_moves_with_the_lens():
    px, py = field()
    here = EPL(*lens(0.4), *SHEAR, 2.2).deflection(px, py)
    theta_E, e1, e2, x, y = lens(0.4)
    there = EPL(theta_E, e1, e2, x + 2, y - 1, *SHEAR, 2.2).deflection(px + 2, py - 1)
    torch.testing.assert_close(there, here, rtol=1e-11, atol=1e-11)


def test_rows_without_a_lens_cost_nothing_and_empty_batches_are_fine():
    px, py = field(10)
    e1 = torch.tensor([[0.2], [torch.nan]], dtype=torch.float64)
    theta_E, _, e2, x, y = lens(0.7)
    ax, _ = EPL(theta_E, e1, e2, x, y, slope=2.1).deflection(px, py)
    assert bool(torch.isfinite(ax[0]).all())
    assert bool(torch.isnan(ax[1]).all())
    assert EPL(theta_E, e1[:0], e2, x, y, slope=2.1).deflection(px, py)[0].shape == (0, 10)
