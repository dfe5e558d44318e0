"""Distances against astropy and the textbook."""

import numpy as np
import pytest
from astropy.cosmology import FlatLambdaCDM, LambdaCDM, Planck18

from lensscan.lens.cosmology import distances, einstein_radius, time_delay_scale, velocity_dispersion


def test_tabulated_distances_match_astropy():
    z = np.linspace(0.05, 5.0, 200)
    table = distances()
    np.testing.assert_allclose(table.angular(z), Planck18.angular_diameter_distance(z).to_value("Mpc"), rtol=1e-5)
    np.testing.assert_allclose(table.modulus(z), Planck18.distmod(z).value, atol=1e-5)
    ratio = 1 - Planck18.comoving_distance(0.5).value / Planck18.comoving_distance(2.0).value
    assert float(table.ratio(0.5, 2.0)) == pytest.approx(ratio, rel=1e-6)
    assert float(table.ratio(2.0, 0.5)) == 0.0


def test_einstein_radius_of_a_known_lens():
    ratio = distances().ratio(0.5, 2.0)
    radius = float(einstein_radius(250.0, ratio))
    assert radius == pytest.approx(4 * np.pi * (250 / 299792.458) ** 2 * float(ratio) * 206264.806, rel=1e-8)
    assert float(velocity_dispersion(radius, ratio)) == pytest.approx(250.0, rel=1e-12)


@pytest.mark.parametrize("cosmology", [FlatLambdaCDM(H0=70, Om0=0.3), LambdaCDM(H0=70, Om0=0.3, Ode0=0.6)])
def test_time_delay_scale_matches_angular_diameter_distances(cosmology):
    d_l, d_s = (cosmology.angular_diameter_distance(z).to_value("Mpc") for z in (0.5, 2.0))
    d_m = [cosmology.comoving_transverse_distance(z).to_value("Mpc") for z in (0.5, 2.0)]
    h = cosmology.hubble_distance.to_value("Mpc")
    k = float(cosmology.Ok0)
    d_ls = (d_m[1] * np.sqrt(1 + k * (d_m[0] / h) ** 2) - d_m[0] * np.sqrt(1 + k * (d_m[1] / h) ** 2)) / 3.0
    want = 1.5 * d_l * d_s / d_ls * 3.0856775814913673e19 / 299792.458 / 86400 * (np.pi / 648000) ** 2
    assert float(time_delay_scale(0.5, 2.0, cosmology)) == pytest.approx(want, rel=1e-12)


def test_source_in_front_has_no_delay_scale():
    scale = time_delay_scale([0.5, 0.5], [0.4, 1.0])
    assert np.isnan(scale[0])
    assert np.isfinite(scale[1])
