"""Systems are what their class says, and their populations sane."""

import dataclasses

import numpy as np
import pytest

from lensscan.mocks.recipes import CLASSES, load_recipe
from lensscan.mocks.systems import LENS, draw_systems

RECIPE = load_recipe("des-griz")


@pytest.fixture(scope="module")
def systems():
    return draw_systems(RECIPE, 1, np.arange(3000))


def test_class_shares(systems):
    share = np.bincount(systems.klass, minlength=len(CLASSES)) / 3000
    want = np.array(RECIPE.weights) / sum(RECIPE.weights)
    assert np.abs(share - want).max() < 0.03


def test_every_lens_obeys_the_label(systems):
    lens = systems.klass == LENS
    truth = {k: v[lens] for k, v in systems.truth.items()}
    assert (truth["n_images"] >= 2).all()
    assert (truth["magnification"] >= RECIPE.label.magnification).all()
    assert (truth["snr_arc"] >= RECIPE.label.snr).all()
    assert ((truth["theta_E"] >= 0.5) & (truth["theta_E"] <= 3.0)).all()
    assert (truth["z_source"] > truth["z_lens"]).all()


def test_truth_is_blank_where_nothing_is_lensed(systems):
    lensed = np.isin(systems.klass, [LENS, CLASSES.index("undetectable")])
    for key in ("theta_E", "e1", "e2", "x", "y", "sx", "sy", "magnification", "snr_arc"):
        assert np.isfinite(systems.truth[key][lensed]).all(), key
        assert np.isnan(systems.truth[key][~lensed]).all(), key


def test_undetectable_lenses_fail_the_label():
    recipe = dataclasses.replace(RECIPE, classes={"undetectable": 1.0})
    systems = draw_systems(recipe, 1, np.arange(200))
    assert (systems.klass == CLASSES.index("undetectable")).mean() > 0.98
    truth = systems.truth
    below = (truth["snr_arc"] < 20) | (truth["magnification"] < 3) | (truth["theta_E"] < 0.5) | (truth["theta_E"] > 3)
    assert below.mean() > 0.6, "the rest is unresolved"


def test_light_of_twins_does_not_tell_lenses_apart(systems):
    lens, other = systems.klass == LENS, systems.klass == CLASSES.index("elliptical")
    for key in ("mag_i", "radius", "q"):
        a, b = systems.light[key][lens], systems.light[key][other]
        auc = np.searchsorted(np.sort(b), a).mean() / len(b)
        assert abs(auc - 0.5) < 0.08, key


def test_mass_follows_light_with_scatter(systems):
    lens = systems.klass == LENS
    offset = systems.mass["x"][lens] - systems.light["x"][lens]
    assert offset.std() == pytest.approx(RECIPE.lens.centre_scatter, rel=0.1)
    flat = lens & (np.hypot(systems.light["e1"], systems.light["e2"]) > 0.25)
    mass, light = (part["e1"][flat] + 1j * part["e2"][flat] for part in (systems.mass, systems.light))
    assert np.degrees(np.angle(mass / light)).std() / 2 < 10.0
    shear = np.hypot(systems.mass["gamma1"], systems.mass["gamma2"])[lens]
    assert shear.mean() == pytest.approx(RECIPE.lens.shear, rel=0.15)


def test_population_of_lenses_is_that_of_the_forecast(systems, shared_data):
    """theta_E, sigma_v and lens redshift lie near the DES forecast of Collett 2015 where theta_E is not flat."""
    recipe = dataclasses.replace(
        RECIPE, lens=dataclasses.replace(RECIPE.lens, flat_fraction=0.0), classes={"lens": 1.0}
    )
    truth = draw_systems(recipe, 1, np.arange(600)).truth
    forecast = np.loadtxt(shared_data / "lens_population" / "lenses_DESc.txt.gz", usecols=range(4))
    for key, column, slack in (("z_lens", 0, 0.15), ("theta_E", 2, 0.35), ("sigma_v", 3, 40.0)):
        assert abs(np.nanmedian(truth[key]) - np.median(forecast[:, column])) < slack, key


def test_rows_do_not_depend_on_the_batch(systems):
    rows = np.array([17, 2000, 3, 2999])
    part = draw_systems(RECIPE, 1, rows)
    np.testing.assert_array_equal(part.klass, systems.klass[rows])
    for key, value in part.truth.items():
        np.testing.assert_array_equal(value, systems.truth[key][rows], err_msg=key)
