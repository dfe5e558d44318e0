"""Spectra, bands and colours: closed forms, the recipe's track, and real and simulated galaxies by redshift."""

import numpy as np
import pytest

from lensscan.mocks import sed
from lensscan.mocks.population import band_magnitudes
from lensscan.mocks.priors import Draws
from lensscan.mocks.recipes import load_recipe

ORDER = list(sed.BANDS)


def colour(mags, blue, red):
    return mags[..., ORDER.index(blue)] - mags[..., ORDER.index(red)]


def drawn(z):
    draws = Draws("sed", 1, np.arange(len(z)))
    return sed.sed_colours(draws, "source", z, sed.draw_type(draws.uniform("source.type"), z))


def test_passive_track_is_that_of_the_recipe():
    """Declared: within the recipe's own scatter (0.05 mag) rms, and twice that at worst."""
    recipe = load_recipe("des-griz")
    z = np.array(recipe.galaxy.track["z"])
    mags = sed.table().magnitudes(np.zeros_like(z), z, np.zeros_like(z))
    for name in ("g-r", "r-i", "i-z"):
        off = colour(mags, *name.split("-")) - np.array(recipe.galaxy.track[name])
        assert np.sqrt((off**2).mean()) < recipe.galaxy.colour_scatter, name
        assert np.abs(off).max() < 2 * recipe.galaxy.colour_scatter, name


def test_the_break_moves_through_the_bands():
    z = np.array([0.05, 0.4, 0.8, 1.1])
    mags = sed.table().magnitudes(np.zeros(4), z, np.zeros(4))
    blue = sed.table().magnitudes(np.full(4, 3.0), z, np.zeros(4))
    assert colour(mags, "g", "r")[1] > colour(mags, "g", "r")[0] + 0.7, "the 4000 A break enters r at z = 0.4"
    assert colour(mags, "r", "i")[2] > colour(mags, "r", "i")[1] + 0.4, "and i at z = 0.8"
    for pair in (("g", "r"), ("r", "i"), ("i", "z")):
        assert (colour(mags, *pair) > colour(blue, *pair)).all(), "a starburst is bluer"


def test_intergalactic_hydrogen_takes_the_blue_light_of_distant_galaxies():
    assert sed.transmission(np.array([5000.0]), np.array([1.0])) == 1.0
    through = sed.transmission(np.array([4500.0]), np.array([3.0, 3.5, 4.0]))
    assert (np.diff(through) < 0).all()
    assert 0.4 < sed.transmission(np.array([4700.0]), np.array(3.0))[0] < 0.85, "the Lyman-alpha forest at z = 3"
    assert sed.transmission(np.array([3300.0]), np.array(3.0))[0] < 0.35, "below the Lyman limit"
    kind = np.full(3, 2.5)
    mags = sed.table().magnitudes(kind, np.array([2.0, 3.2, 4.2]), np.zeros(3))
    assert colour(mags, "u", "g")[1] > 1.2, "a u dropout"
    assert colour(mags, "g", "r")[2] > 1.2, "a g dropout"
    assert colour(mags, "r", "i")[2] < 0.5 * colour(mags, "g", "r")[2]


def test_dust_reddens_and_dims_as_calzetti():
    wavelength = np.array([1500.0, 5500.0, 6300.0])
    np.testing.assert_allclose(sed.dust(wavelength), [10.33, 4.05, 3.48], atol=0.06)
    assert sed.dust(np.array([6299.0]))[0] == pytest.approx(sed.dust(np.array([6301.0]))[0], abs=0.05)
    z, kind = np.array([0.3]), np.array([2.0])
    more = sed.table().magnitudes(kind, z, np.array([0.2])) - sed.table().magnitudes(kind, z, np.array([0.0]))
    rest = 0.2 * sed.dust(np.array([4650.0, 7600.0]) / 1.3)
    assert more[0, ORDER.index("g")] - more[0, ORDER.index("i")] == pytest.approx(rest[0] - rest[1], abs=0.03)


def test_interpolation_matches_integration():
    """A flat spectrum per unit frequency has no colour at any redshift below the Lyman forest."""
    wavelength = np.exp(np.linspace(np.log(300), np.log(11000), 3000))
    flat = np.ones((1, len(wavelength)))
    z = np.array([0.0, 0.7, 1.5])
    for band in ("g", "r", "VIS"):
        np.testing.assert_allclose(sed._through(band, wavelength, flat, z), 1.0, atol=1e-9)


def test_relations_of_bands_hold_for_the_spectra():
    """What `band_magnitudes` derives from three colours, against the bands themselves, below z = 1.2."""
    kind, z = (v.ravel() for v in np.meshgrid(np.linspace(0, 3, 31), np.arange(0.05, 1.2, 0.05)))
    mags = sed.table().magnitudes(kind, z, np.zeros_like(z))
    i = mags[:, ORDER.index("i")]
    three = np.stack([colour(mags, *pair) for pair in sed.COLOURS[:3]], axis=-1)
    five = np.stack([colour(mags, *pair) for pair in sed.COLOURS], axis=-1)
    bands = ("u", "g", "r", "i", "z", "y", "VIS", "F814W")
    got = band_magnitudes(bands, i, three) - mags[:, [ORDER.index(b) for b in bands]]
    rms = dict(zip(bands, np.sqrt((got**2).mean(axis=0)), strict=True))
    assert max(rms[b] for b in "griz") < 1e-9
    assert rms["F814W"] < 0.02
    assert rms["y"] < 0.06
    assert rms["VIS"] < 0.1
    assert rms["u"] < 0.35
    exact = band_magnitudes(bands, i, five) - mags[:, [ORDER.index(b) for b in bands]]
    assert np.abs(exact[:, :6]).max() < 1e-9


def test_types_grow_later_with_redshift_and_scatter():
    u = (np.arange(1000) + 0.5) / 1000
    early = [(sed.draw_type(u, np.full(1000, z)) < 0.5).mean() for z in (0.2, 1.0, 2.0)]
    assert early[0] > early[1] > early[2]
    colours = drawn(np.full(2000, 0.6))
    assert colours.shape == (2000, 5)
    assert 0.15 < colours[:, 0].std() < 0.6
    assert np.isfinite(drawn(np.linspace(0.05, 7.5, 500))).all()


LENSPOP_BINS = [(0.2, 0.5), (0.5, 0.75), (0.75, 1.0), (1.0, 1.25), (1.25, 1.5), (1.5, 2.0), (2.0, 2.5), (2.5, 3.0)]


def test_colours_follow_those_of_the_forecast_sources(shared_data):
    """g-r and r-i of lensed sources by redshift (LensPop, LSST).  Declared: medians within 0.3 and 0.2 mag.

    Beyond z = 3 their catalogue dims blue light less than Madau's mean absorption; real galaxies do not (below).
    """
    rows = np.loadtxt(shared_data / "lens_population" / "lenses_LSSTc.txt.gz", usecols=(1, 14, 15, 16))
    z, theirs = rows[:, 0], -np.diff(rows[:, 1:], axis=1)
    ours = drawn(z)[:, :2]
    for low, high in LENSPOP_BINS:
        inside = (z > low) & (z < high)
        off = np.median(ours[inside], axis=0) - np.median(theirs[inside], axis=0)
        assert abs(off[0]) < 0.31, (low, high)
        assert abs(off[1]) < 0.2, (low, high)


HSC_BINS = [(0.0, 0.5), (0.5, 0.8), (0.8, 1.1), (1.1, 1.6), (1.6, 2.5), (2.5, 3.5)]


def test_colours_follow_those_of_real_galaxies(shared_data):
    """g-r, r-i, i-z, z-y of HSC galaxies with photometric redshift.  Declared: medians within 0.25 mag in every bin.

    A dozen galaxies a bin have medians good to 0.1 mag; 16 to 84 % ranges overlap ours in all bins.
    """
    from astropy.io import fits

    folder = shared_data / "cosmos_hst_galaxies"
    data = fits.getdata(folder / "real_galaxy_catalog_26_extension_example_fits.fits")
    z = np.asarray(data["ZPHOT"], dtype=float)
    mags = {b: np.asarray(data[f"HSC_{b}"], dtype=float) for b in "grizy"}
    for low, high in HSC_BINS:
        inside = (z > low) & (z < high) & (mags["i"] < 26)
        ours = drawn(np.repeat(z[inside], 100))
        for pair, column in (("gr", 0), ("ri", 1), ("iz", 2), ("zy", 4)):
            real = (mags[pair[0]] - mags[pair[1]])[inside]
            mine = ours[:, column]
            assert abs(np.median(real) - np.median(mine)) < 0.25, (low, pair)
            (a, b), (c, d) = np.percentile(real, (16, 84)), np.percentile(mine, (16, 84))
            assert max(a, c) < min(b, d), (low, pair)
