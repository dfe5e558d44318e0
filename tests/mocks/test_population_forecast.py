"""Detectable lenses against the forecasts of Collett 2015 for DES, LSST and Euclid.

Observation and label are those of the forecast as its code has them (LensPop): sky, exposure and pixels give sigma
and electrons; the ring is resolved if 2 theta_E^2 > (2 r_s)^2 + seeing^2.  Two things differ by definition, and are
measured on the forecast's own systems instead of assumed: their S/N is that of an aperture in those exposures whose
seeing resolves the lens, ours the matched filter's in all exposures (`test_signal_to_noise_...`: the thresholds below
are 20 over that ratio), and single-exposure seeing of DES and LSST is taken as 1 and 0.75 arcsec.

Tolerances, declared before the comparison: medians within 15 %, 5 and 95 % within 30 %; magnitudes 0.5 and 1 mag.
`MISSES` lists what lies outside, and why; nothing was tuned to bring it inside.
"""

import dataclasses
import warnings

import numpy as np
import pytest

from lensscan.config import find, read_toml
from lensscan.mocks.arcs import measure, signal_to_noise
from lensscan.mocks.population import flux
from lensscan.mocks.recipes import make_recipe
from lensscan.mocks.systems import draw_systems

SURVEYS = {  # bands, pixel scale, sigma per pixel (nJy), nJy per electron, seeing with scatter, smallest theta_E, S/N
    "DESc": (("g", "r", "i"), 0.263, (6.5, 10.3, 13.6), 0.081, ((1.1, 0.1), (1.0, 0.1), (0.95, 0.1)), 0.5, 35.0),
    "LSSTc": (("g", "r", "i"), 0.18, (1.29, 1.44, 1.90), 0.0045, ((0.75, 0.08),) * 3, 0.3, 37.0),
    "Euclid": (("VIS",), 0.1, (2.68,), 0.142, ((0.17, 0.003),), 0.1, 24.0),
}
LENSES = 1500
COLUMNS = {  # of the files: ground, Euclid
    "z_lens": (0, 0),
    "z_source": (1, 1),
    "theta_E": (2, 2),
    "sigma_v": (3, 3),
    "q": (4, 4),
    "lens r": (7, 6),
    "source r": (15, 12),
    "r_s": (13, 11),
    "mu": (17, 13),
}
REDSHIFT = (
    "the Science Book's p(z | i), extrapolated beyond i = 25.5, holds fewer sources at z > 2 than their catalogue"
)
PIXELS = "their mu of sources below 0.05 arcsec, up to hundreds, is that of coarse pixels (test_magnifications_...)"
SEEING = "their stack is chosen for each lens, so that wide rings and large sources take exposures of worse seeing"
SIZES = "without their luminous distant sources ours are fainter by 0.3 mag, and so smaller"
TRACK = "the recipe's galaxies beyond z = 0.6 are younger and bluer than their 10-Gyr population"
MISSES = {  # why, and how large the miss may be: of a ratio or in magnitudes
    ("DESc", "z_source", 50): (REDSHIFT, 0.35),
    ("LSSTc", "z_source", 50): (REDSHIFT, 0.35),
    ("DESc", "mu", 95): (PIXELS, 0.75),
    ("LSSTc", "mu", 95): (PIXELS, 0.45),
    ("DESc", "source r", 95): (PIXELS, 1.2),
    ("DESc", "r_s", 5): (PIXELS, 3.2),
    ("LSSTc", "r_s", 5): (PIXELS, 0.8),
    ("Euclid", "r_s", 5): (PIXELS, 0.65),
    ("LSSTc", "theta_E", 50): (SEEING, 0.35),
    ("DESc", "r_s", 50): (SEEING, 0.35),
    ("Euclid", "r_s", 50): (SIZES, 0.35),
    ("DESc", "lens r", 95): (TRACK, 1.2),
    ("LSSTc", "lens r", 95): (TRACK, 1.2),
    ("Euclid", "lens r", 95): (TRACK, 1.2),
}


def forecast(folder, name):
    return np.loadtxt(folder / "lens_population" / f"lenses_{name}.txt.gz")


def recipe(name):
    bands, pixel, sigma, poisson, seeing, smallest, snr = SURVEYS[name]
    mapping = read_toml(find("recipes", "des-griz"))
    mapping |= {"name": "forecast", "bands": list(bands), "pixel_scale": pixel, "noise": {}, "scene": {}}
    mapping["psf"] = {"kind": "gaussian", "common": 0.9}
    mapping["classes"] = {"lens": 1.0}
    mapping["band"] = {
        band: {"sigma": [s, s * 1.0001, s * 1.0002], "fwhm": list(w), "poisson": poisson}
        for band, s, w in zip(bands, sigma, seeing, strict=True)
    }
    mapping["lens"] |= {"z": [0.5, 0.2, 0.01, 2.0], "sigma_v": [250.0, 50.0, 100.0, 400.0], "flat_fraction": 0.0}
    mapping["lens"] |= {"theta_E": [smallest, 5.0], "shear": 0.0, "population": "collett2015"}
    mapping["lens"] |= {"q_scatter": 0.0, "angle_scatter": 0.0, "centre_scatter": 0.0}
    mapping["galaxy"] |= {"sersic_n": [4.0, 0.01, 3.9, 4.1], "double": 0.0, "mag_scatter": 0.0625}
    mapping["galaxy"] |= {"mag": [8.0, 32.0], "radius": [0.01, 30.0]}
    mapping["source"] = {"counts": "lsst", "colours": "sed", "mag": [18.0, 27.5], "z_max": 6.0}
    mapping["source"] |= {"radius_scatter": 0.35, "n": [1.0, 1.0], "clumps": 0.0}
    mapping["label"] = {"magnification": 3.0, "snr": snr, "attempts": 200}
    return make_recipe(mapping, "forecast")


def quantities(name):
    made = recipe(name)
    systems = draw_systems(made, 3, np.arange(LENSES))
    seeing = systems.sky.fwhm.min(axis=1)
    ring = 2 * systems.mass["theta_E"] ** 2 > 4 * systems.source["radius"] ** 2 + seeing**2
    keep = (systems.klass == 0) & ring
    assert (systems.klass == 0).mean() > 0.99, "the attempts suffice"
    e = np.hypot(systems.mass["e1"], systems.mass["e2"])
    band = made.bands.index("r") if "r" in made.bands else 0
    table = {key: systems.mass[key] for key in ("z_lens", "z_source", "theta_E", "sigma_v")}
    table |= {"q": (1 - e) / (1 + e), "lens r": systems.light["mags"][:, band]}
    table |= {"source r": systems.source["mags"][:, band], "r_s": systems.source["radius"]}
    table |= {"mu": systems.measured["magnification"]}
    return {key: value[keep] for key, value in table.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", SURVEYS)
def test_detectable_lenses_are_those_of_the_forecast(name, shared_data):
    theirs, ours = forecast(shared_data, name), quantities(name)
    outside = set()
    for key, columns in COLUMNS.items():
        want = np.percentile(theirs[:, columns[name == "Euclid"]], (5, 50, 95))
        got = np.percentile(ours[key], (5, 50, 95))
        magnitudes = key.endswith(" r")
        off = got - want if magnitudes else got / want - 1
        bounds = (1.0, 0.5, 1.0) if magnitudes else (0.3, 0.15, 0.3)
        for level, miss, bound in zip((5, 50, 95), off, bounds, strict=True):
            if abs(miss) > bound:
                outside.add((name, key, level))
                assert abs(miss) < MISSES.get((name, key, level), ("", np.inf))[1], (name, key, level, miss)
    assert outside <= set(MISSES), sorted(outside - set(MISSES))


def lensed(theirs, euclid):
    """Measure the forecast's systems with our own arcs; their mass lies along y."""
    theta_E, q = theirs[:, 2], theirs[:, 4]
    bx, by, qs, pa, radius = theirs[:, 7:12].T if euclid else theirs[:, 9:14].T
    e, s = (1 - q) / (1 + q), (1 - qs) / (1 + qs)
    angle, nothing = 2 * np.radians(pa), np.zeros_like(q)
    size = np.maximum(radius, 0.01)
    ones = np.ones_like(q)
    return measure(theta_E, -e, nothing, nothing, nothing, bx, by, size, ones, s * np.cos(angle), s * np.sin(angle))


def test_magnifications_agree_where_their_pixels_resolve_the_source(shared_data):
    theirs = forecast(shared_data, "DESc")
    ratio, radius = lensed(theirs, euclid=False).magnification / theirs[:, 17], theirs[:, 13]
    assert np.median(ratio[radius > 0.2]) == pytest.approx(1.0, abs=0.01)
    assert np.std(np.log(ratio[radius > 0.2])) < 0.05
    assert np.median(ratio[(radius >= 0.03) & (radius < 0.06)]) < 0.8, "their pixels are 0.26 arcsec"


@pytest.mark.parametrize("name", SURVEYS)
def test_signal_to_noise_of_the_same_systems_sets_the_threshold(name, shared_data):
    theirs, euclid = forecast(shared_data, name)[:1500], name == "Euclid"
    bands, pixel, sigma, poisson, seeing, _, threshold = SURVEYS[name]
    arcs, size = lensed(theirs, euclid), theirs[:, 5]
    ours, lens, snr = ((12,), (6,), (15,)) if euclid else ((14, 15, 16), (6, 7, 8), (19, 21, 23))
    # The brightness of a de Vaucouleurs profile of unit flux at theta_E.
    glare = np.exp(-7.67 * (theirs[:, 2] / size) ** 0.25) * 7.67**8 / (8 * np.pi * size**2 * 5040)
    wide = np.ones((len(theirs), 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        got = signal_to_noise(
            flux(theirs[:, ours]) * arcs.magnification[:, None],
            arcs.area,
            wide * np.array([w[0] for w in seeing]),
            wide * np.array(sigma),
            pixel,
            np.full(len(bands), poisson),
            flux(theirs[:, lens]) * glare[:, None],
        ).max(axis=1)
    column = 11 if euclid else 13
    extended = theirs[:, column] > 0.1
    ratio = np.median((theirs[:, snr].max(axis=1) / got)[extended])
    assert 20 / ratio == pytest.approx(threshold, rel=0.1)


def test_attempts_suffice_in_every_physical_recipe():
    """Of all lenses asked for, 99 in 100 are found within the recipe's attempts, with or without flat theta_E."""
    made = recipe("DESc")
    for flat in (0.0, 1.0):
        one = dataclasses.replace(made, lens=dataclasses.replace(made.lens, flat_fraction=flat, theta_E=(0.5, 3.0)))
        systems = draw_systems(one, 9, np.arange(300))
        assert (systems.klass == 0).mean() > 0.99, flat
