"""Lens positions and position angles against astropy's WCS and spherical geometry."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS

from lensscan.candidates.sky import deproject, lens_on_sky, project

SCALE = 0.263


def make_wcs(ra, dec, rotation, mirrored):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [1, 1]
    t = np.radians(rotation)
    east = 1.0 if mirrored else -1.0
    turn = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    wcs.wcs.cd = turn @ np.diag([east, 1.0]) * SCALE / 3600
    return wcs


def row_of(wcs):
    jacobian = wcs.wcs.cd * 3600 / SCALE
    return np.array([[*wcs.wcs.crval, *jacobian.ravel()]])


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rotation", [0.0, 33.0, 90.0, 200.0])
@pytest.mark.parametrize("place", [(150.0, 2.0), (0.0001, -30.0), (359.99995, 85.0), (20.0, -88.0)])
def test_against_astropy(place, rotation, mirrored):
    wcs = make_wcs(*place, rotation, mirrored)
    x, y, phi, e = 1.7, -2.3, np.radians(25.0), 0.2
    got = lens_on_sky(row_of(wcs), [x], [y], [e * np.cos(2 * phi)], [e * np.sin(2 * phi)])
    lens = SkyCoord(*wcs.wcs_pix2world(x / SCALE, y / SCALE, 0), unit="deg")
    found = SkyCoord(got["ra_lens"][0], got["dec_lens"][0], unit="deg")
    assert lens.separation(found) < 1e-6 * u.arcsec
    assert 0 <= got["ra_lens"][0] < 360
    back = project(row_of(wcs), got["ra_lens"], got["dec_lens"])
    np.testing.assert_allclose(np.ravel(back), [x, y], atol=1e-6)
    ends = wcs.wcs_pix2world((x + np.array([0, np.cos(phi)])) / SCALE, (y + np.array([0, np.sin(phi)])) / SCALE, 0)
    start, tip = SkyCoord(*ends, unit="deg")
    difference = (start.position_angle(tip).deg - got["pa"][0] + 90) % 180 - 90
    meridians = abs(x) / 3600 * np.tan(np.radians(abs(place[1])))
    assert abs(difference) < 1e-3 + 3 * meridians


def test_rule_of_the_design_for_the_standard_orientation():
    standard = np.array([[10.0, 0.0, -1.0, 0.0, 0.0, 1.0]])
    phi = np.radians(30)
    got = lens_on_sky(standard, [0.0], [0.0], [np.cos(2 * phi)], [np.sin(2 * phi)])
    assert got["pa"][0] == pytest.approx((-90 + 30) % 180)
    mirrored = np.array([[10.0, 0.0, 1.0, 0.0, 0.0, 1.0]])
    got = lens_on_sky(mirrored, [0.0], [0.0], [np.cos(2 * phi)], [np.sin(2 * phi)])
    assert got["pa"][0] == pytest.approx((90 - 30) % 180)


def test_pa_is_periodic_and_in_range():
    rng = np.random.default_rng(3)
    wcs = np.tile([10.0, 0.0, -1.0, 0.0, 0.0, 1.0], (500, 1))
    pa = lens_on_sky(wcs, *np.zeros((2, 500)), rng.normal(size=500), rng.normal(size=500))["pa"]
    assert ((pa >= 0) & (pa < 180)).all()


def test_nan_without_wcs_or_posterior():
    wcs = np.array([[np.nan] * 6, [10.0, 0.0, -1.0, 0.0, 0.0, 1.0]])
    got = lens_on_sky(wcs, [0.0, np.nan], [0.0, np.nan], [0.1, np.nan], [0.0, np.nan])
    assert all(np.isnan(column).all() for column in got.values())


def test_exactly_at_the_pole():
    ra, dec = deproject(np.array([30.0]), np.array([90.0]), np.array([0.0]), np.array([-3600.0]))
    assert dec[0] == pytest.approx(89.0, abs=1e-3)
    assert ra[0] == pytest.approx(30.0, abs=1e-9)
