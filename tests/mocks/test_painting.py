"""Lensed sources painted on real stamps: the stamp is untouched but for the arcs, theta_E follows the galaxy."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lensscan.config import find, read_toml
from lensscan.errors import ConfigError
from lensscan.mocks import summary
from lensscan.mocks.realsky import real_sky
from lensscan.mocks.recipes import CLASSES, load_recipe, make_recipe
from lensscan.mocks.simulate import draw_truth, simulate
from lensscan.mocks.systems import draw_systems

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
CANVAS = {
    "catalog": str(DATA / "des_stamps" / "catalog.fits"),
    "survey": "des",
    "stamps": f"stamps:{DATA}/{{file}}",
    "sigma_v": "sigma_v_kms",
}
PAINTED, REAL, UNDETECTABLE = (CLASSES.index(name) for name in ("painted", "real", "undetectable"))


def recipe_with(**change):
    path = find("recipes", "des-jacobs2019")
    mapping = read_toml(path) | {"size": 64, "classes": {"painted": 0.5, "real": 0.5}} | change
    return make_recipe(mapping | {"canvas": CANVAS}, str(path))


@pytest.fixture(scope="module")
def recipe():
    if not (DATA / "des_stamps").is_dir():
        pytest.skip("../shared is absent: no real DES stamps to paint on")
    return recipe_with()


@pytest.fixture(scope="module")
def mocks(recipe):
    return simulate(recipe, seed=3, n=64)


def stamps_of(recipe, mocks):
    systems = draw_systems(recipe, 3, np.arange(len(mocks.images)))
    return real_sky(recipe).stamps(systems.stamp, systems.view)[0]


def test_real_rows_are_the_stamps_to_the_bit(recipe, mocks):
    stamps = stamps_of(recipe, mocks)
    real = mocks.truth["klass"] == REAL
    assert real.sum() > 15
    assert torch.equal(mocks.images[real], stamps[real])
    assert not mocks.truth["is_lens"][real].any()


def test_painted_rows_differ_by_the_lensed_flux_alone(recipe):
    """The median of some thirty bright arcs scatters by 1 %; which they are depends on where the stamps lie."""
    mocks = simulate(recipe, seed=3, n=256)
    added = mocks.images - stamps_of(recipe, mocks)
    painted = mocks.truth["klass"] == PAINTED
    assert painted.sum() > 60
    assert mocks.truth["is_lens"][painted].all()
    systems = draw_systems(recipe, 3, np.arange(256))
    want = 10 ** (0.4 * (31.4 - systems.source["mags"])) * systems.measured["magnification"][:, None]
    bright = painted.numpy() & (systems.measured["snr_arc"] > 40)
    assert bright.sum() > 12
    ratio = added.sum(dim=(2, 3)).numpy()[bright] / want[bright]
    assert np.median(ratio) == pytest.approx(1, abs=0.05)


def test_einstein_radius_follows_the_galaxys_dispersion(recipe, mocks):
    painted = mocks.truth["klass"] == PAINTED
    stamp = mocks.truth["stamp"][painted].numpy()
    known = real_sky(recipe).sigma_v[stamp]
    np.testing.assert_allclose(mocks.truth["sigma_v"][painted].numpy(), known)
    isothermal = 4 * np.pi * (known / 299792.458) ** 2 * 206264.8
    assert (mocks.truth["theta_E"][painted].numpy() < isothermal).all()


def test_observing_conditions_are_those_of_the_stamp(recipe, mocks):
    library, stamp = real_sky(recipe), mocks.truth["stamp"].numpy()
    np.testing.assert_allclose(mocks.sigma.numpy(), library.sigma[stamp], rtol=1e-6)
    np.testing.assert_allclose(mocks.fwhm.numpy(), library.fwhm[stamp], rtol=1e-6)


def test_rows_do_not_depend_on_the_batch(recipe, mocks):
    few = simulate(recipe, seed=3, start=10, n=5)
    torch.testing.assert_close(few.images, mocks.images[10:15], rtol=1e-5, atol=1e-2)
    truth = draw_truth(recipe, seed=3, start=10, n=5)
    for key in ("theta_E", "stamp", "klass"):
        np.testing.assert_array_equal(truth[key], mocks.truth[key][10:15].numpy())


def test_simulated_and_real_classes_stand_side_by_side(recipe):
    mixed = recipe_with(classes={"lens": 1, "elliptical": 1, "painted": 1, "real": 1})
    mocks = simulate(mixed, seed=4, n=48)
    on_stamp = mocks.truth["stamp"] >= 0
    names = {CLASSES[k] for k in mocks.truth["klass"][~on_stamp].tolist()}
    assert {"lens", "elliptical"} <= names
    assert set(mocks.truth["klass"][on_stamp].tolist()) <= {PAINTED, REAL, UNDETECTABLE}
    assert torch.isfinite(mocks.images).all()


def test_painted_lenses_are_lenses_in_the_picture_of_the_priors(monkeypatch, tmp_path):
    rng = np.random.default_rng(1)
    n, theta_E = 40, rng.uniform(0.5, 2.0, 40)
    klass = np.where(np.arange(n) < 15, PAINTED, np.where(np.arange(n) < 25, CLASSES.index("lens"), REAL))
    first, sky = {"mass.theta_E": theta_E}, {name: np.ones((n, 4)) for name in ("fwhm", "sigma")}
    monkeypatch.setattr(summary, "prior_draws", lambda *_: (first, first, klass, sky))
    drawn = {}
    draw = summary._histogram
    monkeypatch.setattr(summary, "_histogram", lambda axes, *of: (drawn.update({of[1]: of[0]}), draw(axes, *of)))
    summary.draw_priors(load_recipe("des-griz"), 1, n, tmp_path / "priors.png")
    np.testing.assert_array_equal(drawn["theta_E [arcsec]"]["lenses"], theta_E[:25])
    np.testing.assert_array_equal(drawn["theta_E [arcsec]"]["others"], theta_E[25:])


def test_missing_stamps_are_one_clear_line():
    mapping = read_toml(find("recipes", "des-jacobs2019-b"))
    with pytest.raises(ConfigError, match=r"canvas\.catalog"):
        draw_truth(make_recipe(mapping, "x"), seed=1, n=4)
