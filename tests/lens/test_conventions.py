"""Every converter both ways, and against definitions."""

import numpy as np
import pytest

from lensscan.lens import conventions as c

RNG = np.random.default_rng(7)
Q, PHI = RNG.uniform(0.2, 0.99, 500), RNG.uniform(-np.pi / 2, np.pi / 2, 500)
THETA = RNG.uniform(0.3, 3.0, 500)
E1, E2 = c.from_axis_ratio(Q, PHI)


def test_axis_ratio_round_trip():
    q, phi = c.to_axis_ratio(E1, E2)
    np.testing.assert_allclose(q, Q, rtol=1e-12)
    np.testing.assert_allclose(np.exp(2j * phi), np.exp(2j * PHI), atol=1e-12)


@pytest.mark.parametrize("name", ["hezaveh", "holismokes", "pyautolens"])
def test_round_trips(name):
    there = getattr(c, f"to_{name}")(THETA, E1, E2)
    back = getattr(c, f"from_{name}")(*there)
    for got, want in zip(back, (THETA, E1, E2), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-13)


def test_hezaveh_is_the_minor_axis_up_to_a_sign():
    theta, ex, ey = c.to_hezaveh(THETA, E1, E2)
    np.testing.assert_allclose(np.hypot(ex, ey), 1 - Q, rtol=1e-11)
    assert np.all(np.abs(np.cos(np.arctan2(ey, ex) - PHI)) < 1e-9), "at right angles to the major axis"
    for got, want in zip(c.from_hezaveh(theta, -ex, -ey), (THETA, E1, E2), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)


def test_holismokes_definition():
    theta, ex, ey = c.to_holismokes(THETA, E1, E2)
    eps = (1 - Q**2) / (1 + Q**2)
    np.testing.assert_allclose(ex, eps * np.cos(2 * PHI), atol=1e-13)
    np.testing.assert_allclose(ey, eps * np.sin(2 * PHI), atol=1e-13)
    np.testing.assert_allclose(theta, THETA * (1 + Q) / (2 * np.sqrt(Q)), rtol=1e-12)


def test_holismokes_radius_is_glees_as_lenstronomy_converts_it():
    module = pytest.importorskip(
        "lenstronomy.Sampling.Likelihoods.kinematic_2D_likelihood", reason="lenstronomy comes with lensscan[test]"
    )
    likelihood = object.__new__(module.KinLikelihood)
    likelihood._idx_lens = 0
    light, special = {"q": 1.0, "phi": 0.0, "n_sersic": 4, "R_sersic": 1}, {"b_ani": 0, "incli": 0}
    for k in range(20):
        mass = {"theta_E": THETA[k], "q": Q[k], "phi": PHI[k], "gamma": 2.0}
        want = likelihood.convert_to_nn_params([mass], [light], special)[0][2]
        assert float(c.to_holismokes(THETA[k], E1[k], E2[k])[0]) == pytest.approx(float(want), rel=1e-12)


def test_pyautolens_order_is_sine_first():
    _, first, second = c.to_pyautolens(THETA, E1, E2)
    np.testing.assert_array_equal(first, E2)
    np.testing.assert_array_equal(second, E1)


def test_radii():
    np.testing.assert_allclose(c.from_major_axis(c.to_major_axis(THETA, Q), Q), THETA, rtol=1e-13)
    np.testing.assert_allclose(c.mean_to_product(c.product_to_mean(THETA, Q), Q), THETA, rtol=1e-13)
    for q, want in ((0.9, 1.054), (0.7, 1.195), (0.5, 1.414), (0.3, 1.826)):
        assert float(c.to_major_axis(1.0, q)) == pytest.approx(want, abs=6e-4)


def test_position_angle_standard_and_mirrored():
    standard = np.array([-1.0, 0.0, 0.0, 1.0])  # East left, North up: +x is West, PA 270 = 90
    assert float(c.to_position_angle(0.0, standard)) == pytest.approx(90.0)
    assert float(c.to_position_angle(np.pi / 2, standard)) == pytest.approx(0.0, abs=1e-9)
    assert float(c.to_position_angle(np.radians(30), standard)) == pytest.approx((270 + 30) % 180)
    mirrored = np.array([1.0, 0.0, 0.0, 1.0])
    assert float(c.to_position_angle(np.radians(30), mirrored)) == pytest.approx(60.0)


@pytest.mark.parametrize("turn", [0.0, 0.7, 2.5])
@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_position_angle_round_trip(turn, flip):
    j = np.array([flip * np.cos(turn), -flip * np.sin(turn), np.sin(turn), np.cos(turn)])
    phi = np.linspace(0, np.pi, 25, endpoint=False)
    back = c.from_position_angle(c.to_position_angle(phi, j), j)
    np.testing.assert_allclose(np.exp(2j * back), np.exp(2j * phi), atol=1e-12)
