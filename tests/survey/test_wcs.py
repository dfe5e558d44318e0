from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from lensscan.survey.header import parse_header
from lensscan.survey.wcs import General, Tan, read_wcs, separation, tan_frames

SCALE = 0.263 / 3600
CASES = {
    "plain": (150.0, 2.2, -SCALE, 0.0, 0.0, SCALE),
    "rotated": (150.0, -31.0, -SCALE * np.cos(0.7), SCALE * np.sin(0.7), SCALE * np.sin(0.7), SCALE * np.cos(0.7)),
    "mirrored": (10.0, 44.0, SCALE, 0.0, 0.0, SCALE),
    "across 0": (359.9999, -5.0, -SCALE, 0.0, 0.0, SCALE),
    "near the pole": (77.0, 88.5, -SCALE, 1e-6, 2e-6, SCALE),
    "near the south pole": (12.0, -83.1, -SCALE, 0.0, 0.0, SCALE),
    "sheared": (200.0, 52.7, -SCALE, 1e-5, -2e-5, 1.1 * SCALE),
}


def header(case: tuple[float, ...], *more: tuple[str, object]) -> fits.Header:
    ra, dec, a, b, c, d = case
    result = fits.Header()
    for key, value in (
        ("SIMPLE", True), ("CTYPE1", "RA---TAN"), ("CTYPE2", "DEC--TAN"), ("CRVAL1", ra), ("CRVAL2", dec),
        ("CRPIX1", 40.3), ("CRPIX2", 51.9), ("CD1_1", a), ("CD1_2", b), ("CD2_1", c), ("CD2_2", d), *more,
    ):  # fmt: skip
        result[key] = value
    return result


def parsed(cards: fits.Header):
    return parse_header(cards.tostring(padding=True).encode())


def reference(cards: fits.Header, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Jacobian by offsets on the sphere, through astropy."""
    from astropy.coordinates import SkyCoord

    wcs = WCS(cards)
    here = SkyCoord(*wcs.all_pix2world(x, y, 0), unit="deg")
    columns = []
    for dx, dy in ((0.5, 0), (0, 0.5)):
        ahead = SkyCoord(*wcs.all_pix2world(x + dx, y + dy, 0), unit="deg")
        behind = SkyCoord(*wcs.all_pix2world(x - dx, y - dy, 0), unit="deg")
        east1, north1 = here.spherical_offsets_to(ahead)
        east0, north0 = here.spherical_offsets_to(behind)
        columns.append(((east1 - east0).arcsec, (north1 - north0).arcsec))
    return np.stack([here.ra.deg, here.dec.deg, columns[0][0], columns[1][0], columns[0][1], columns[1][1]], axis=1)


@pytest.mark.parametrize("name", CASES)
def test_tan_agrees_with_astropy(name):
    cards = header(CASES[name])
    wcs = read_wcs(parsed(cards))
    assert isinstance(wcs, Tan)
    x, y = np.array([0.0, 45.0, 90.5, -300.0]), np.array([0.0, 45.0, 12.25, 800.0])
    expected = reference(cards, x, y)
    found = wcs.frames(x, y)
    assert separation(found[:, 0], found[:, 1], expected[:, 0], expected[:, 1]).max() < 1e-7
    np.testing.assert_allclose(found[:, 2:], expected[:, 2:], atol=2e-7)
    back = wcs.pixels(found[:, 0], found[:, 1])
    np.testing.assert_allclose(back, (x, y), atol=1e-6)


@pytest.mark.parametrize("name", ["plain", "near the pole"])
def test_general_agrees_with_tan(name):
    cards = header(CASES[name])
    general, tan = General(cards.tostring()), read_wcs(parsed(cards))
    x, y = np.array([3.0, 70.0]), np.array([9.0, 11.5])
    np.testing.assert_allclose(general.frames(x, y)[:, 2:], tan.frames(x, y)[:, 2:], atol=1e-6)
    assert general.scale == pytest.approx(tan.scale, rel=1e-9)
    np.testing.assert_allclose(general.pixels(*tan.frames(x, y)[:, :2].T), (x, y), atol=1e-6)


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ([("CDELT1", -SCALE), ("CDELT2", SCALE), ("CROTA2", 30.0)], None),
        (
            [("CDELT1", -SCALE), ("CDELT2", SCALE), ("PC1_1", 0.8), ("PC1_2", -0.6), ("PC2_1", 0.6), ("PC2_2", 0.8)],
            None,
        ),
    ],
)
def test_old_and_new_matrices(cards, expected):
    base = header(CASES["plain"])
    for key in ("CD1_1", "CD1_2", "CD2_1", "CD2_2"):
        del base[key]
    for key, value in cards:
        base[key] = value
    x, y = np.array([10.0]), np.array([80.0])
    np.testing.assert_allclose(read_wcs(parsed(base)).frames(x, y), reference(base, x, y), atol=2e-7)


def test_headers_without_or_with_a_broken_wcs():
    assert read_wcs(parsed(fits.Header([("SIMPLE", True)]))) is None
    for key, value in (("CD1_1", 0.0), ("CRVAL2", 123.0)):
        broken = header(CASES["plain"])
        broken[key] = value
        with pytest.raises(ValueError):
            read_wcs(parsed(broken))
    missing = header(CASES["plain"])
    del missing["CRPIX1"]
    with pytest.raises(ValueError):
        read_wcs(parsed(missing))


def test_distorted_projections_go_through_astropy(shared_data):
    path = next((shared_data / "decam_single_exposures").glob("*ooi_g*.fits"))
    cards = fits.getheader(path, 1)
    wcs = read_wcs(parse_header(cards.tostring(padding=True).encode()))
    assert isinstance(wcs, General)
    assert wcs.scale == pytest.approx(0.262, abs=0.003)
    sky = WCS(cards).all_pix2world([[100, 50]], 0)[0]
    np.testing.assert_allclose(wcs.frames(100, 50)[0, :2], sky, atol=1e-9)


def test_rows_without_wcs_stay_nan():
    parameters = np.full((2, 8), np.nan)
    parameters[1] = (10.0, 20.0, 5.0, 5.0, -SCALE, 0.0, 0.0, SCALE)
    found = tan_frames(parameters, np.array([5.0, 5.0]), np.array([5.0, 5.0]))
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1, :2], (10.0, 20.0), atol=1e-12)
