"""Critical curves, caustics and cut: against closed forms, the magnification and an independent code."""

import numpy as np
import pytest
import torch

from lensscan.lens import SIE
from lensscan.lens.caustics import caustic, critical_curve, cut, image_number

SHEARED = SIE(1.3, 0.25, -0.1, 0.4, -0.2, 0.12, 0.07)


def test_critical_curve_without_shear_is_the_ellipse_of_theta_E():
    q, phi, theta_E = 0.45, 0.6, 1.4
    e = (1 - q) / (1 + q)
    x, y = critical_curve(SIE(theta_E, e * np.cos(2 * phi), e * np.sin(2 * phi), 0.3, -0.1), 721)
    u = (x - 0.3) * np.cos(phi) + (y + 0.1) * np.sin(phi)
    v = (y + 0.1) * np.cos(phi) - (x - 0.3) * np.sin(phi)
    radius = (u * np.sqrt(q) / theta_E) ** 2 + (v / np.sqrt(q) / theta_E) ** 2
    np.testing.assert_allclose(radius, 1.0, rtol=1e-12)


def test_critical_curve_is_where_the_jacobian_vanishes():
    x, y = critical_curve(SHEARED)
    assert float((1 / SHEARED.magnification(x, y)).abs().max()) < 1e-12
    assert (x[0], y[0]) == (pytest.approx(float(x[-1])), pytest.approx(float(y[-1])))


def test_there_is_no_other_critical_curve():
    inside, outside = (
        (SHEARED.x + f * (x - SHEARED.x), SHEARED.y + f * (y - SHEARED.y))
        for x, y in [critical_curve(SHEARED)]
        for f in (torch.linspace(0.01, 0.999, 200)[:, None], torch.linspace(1.001, 50, 200)[:, None])
    )
    assert bool((SHEARED.magnification(*inside) < 0).all())
    assert bool((SHEARED.magnification(*outside) > 0).all())


def test_caustic_and_cut_of_a_round_lens():
    lens = SIE(1.2, 0.0, 0.0, 0.5, 0.5)
    x, y = caustic(lens)
    assert float(torch.hypot(x - 0.5, y - 0.5).max()) < 1e-14
    x, y = cut(lens)
    np.testing.assert_allclose(torch.hypot(x - 0.5, y - 0.5), 1.2, rtol=1e-14)


def test_cusps_and_cut_lie_where_the_closed_form_says():
    q, theta_E = 0.5, 1.0  # Keeton, Mao & Witt 2000: astroid half widths along both axes
    x, y = caustic(SIE(theta_E, (1 - q) / (1 + q), 0.0, 0.0, 0.0), 4 * 360 + 1)
    f = np.sqrt(1 - q * q)
    b = theta_E * np.sqrt(q)
    assert float(x.max()) == pytest.approx(b / q - b / f * np.arctan(f / q), rel=1e-12)
    assert float(y.max()) == pytest.approx(b / f * np.arctanh(f) - b, rel=1e-12)
    u, v = cut(SIE(theta_E, (1 - q) / (1 + q), 0.0, 0.0, 0.0), 4 * 360 + 1)
    assert float(u.max()) == pytest.approx(b / f * np.arctan(f / q), rel=1e-12)
    assert float(v.max()) == pytest.approx(b / f * np.arctanh(f), rel=1e-12)


def test_image_numbers_across_the_curves():
    lens = SIE(1.0, 0.2, 0.0, 0.0, 0.0)
    at = torch.tensor([0.02, 0.5, 3.0], dtype=torch.float64)
    assert image_number(lens, at, torch.zeros(3, dtype=torch.float64)).tolist() == [4, 2, 1]
    naked = SIE(1.0, 0.6, 0.0, 0.0, 0.0, 0.15, 0.0)
    line = torch.linspace(0, 2, 41, dtype=torch.float64)
    assert (
        3
        in image_number(naked, torch.zeros(41, dtype=torch.float64), line).tolist()
        + image_number(naked, line, torch.zeros(41, dtype=torch.float64)).tolist()
    )


def test_shapes_and_precision():
    lens = SIE(np.ones((3, 2)), 0.1, 0.0, 0.0, 0.0)
    assert critical_curve(lens, 50)[0].shape == (3, 2, 50)
    single = SIE(*(torch.tensor(v) for v in (1.0, 0.1, 0.0, 0.0, 0.0)))
    assert caustic(single)[0].dtype == torch.float32


def test_agrees_with_lenstronomy():
    extensions = pytest.importorskip("lenstronomy.LensModel.lens_model_extensions", reason="needs lensscan[test]")
    from lenstronomy.LensModel.lens_model import LensModel

    values = [float(getattr(SHEARED, n)) for n in ("theta_E", "e1", "e2", "x", "y", "gamma1", "gamma2")]
    # EPL with slope 2: lenstronomy's own SIE differentiates numerically with a coarse step
    model = LensModel(["EPL", "SHEAR"])
    names = ("theta_E", "e1", "e2", "center_x", "center_y")
    shear = {"gamma1": values[5], "gamma2": values[6], "ra_0": values[3], "dec_0": values[4]}
    kwargs = [dict(zip(names, values[:5], strict=True), gamma=2.0), shear]
    x, y = critical_curve(SHEARED, 61)
    inverse = 1 / model.magnification(x.numpy(), y.numpy(), kwargs)
    assert np.abs(inverse).max() < 1e-9
    bx, by = model.ray_shooting(x.numpy(), y.numpy(), kwargs)
    ours = caustic(SHEARED, 61)
    np.testing.assert_allclose(ours[0], bx, atol=1e-8)
    np.testing.assert_allclose(ours[1], by, atol=1e-8)
    curves = extensions.LensModelExtensions(model).critical_curve_caustics(
        kwargs, compute_window=5, grid_scale=0.02, center_x=values[3], center_y=values[4]
    )
    radius = np.hypot(curves[0][0] - values[3], curves[1][0] - values[4])
    ring = torch.hypot(x - SHEARED.x, y - SHEARED.y)
    assert radius.min() == pytest.approx(float(ring.min()), abs=0.02)
    assert radius.max() == pytest.approx(float(ring.max()), abs=0.02)
