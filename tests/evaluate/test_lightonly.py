"""What needs no network: finds what is in the light, finds nothing where nothing is, and never sees its own half."""

from __future__ import annotations

import numpy as np
import pytest

from lensscan.evaluate.lightonly import GROUPS, Features, columns_of, halves, linear_scores, linear_values
from lensscan.metrics.detection import auroc
from lensscan.survey.stamps import Frame, allocate

FRAME = Frame(("g", "r"), 33, 0.25, 1)
SIGMA = np.full((1, 2), 1.0, np.float32)


def blob(x=0.0, y=0.0, flux=(300.0, 600.0), stretch=1.0, angle=0.0):
    """Return the features of one Gaussian blob, dictionary by group."""
    axis = (np.arange(33) - 16) * 0.25
    px, py = np.meshgrid(axis - x, axis - y)
    u, v = px * np.cos(angle) + py * np.sin(angle), py * np.cos(angle) - px * np.sin(angle)
    shape = np.exp(-0.5 * ((u / (0.5 * stretch)) ** 2 + (v * stretch / 0.5) ** 2))
    batch = allocate(1, FRAME)
    batch.images[0] = np.array(flux)[:, None, None] * shape
    batch.close(1)
    features = Features(FRAME)
    features.add(batch, SIGMA)
    (row,) = features.table()
    return {group: row[columns_of(group, 2)] for group in GROUPS}


def test_centroid_follows_the_light():
    light = blob(x=0.3, y=-0.2)["light"]
    assert light[0] == pytest.approx(0.27, abs=0.04)  # the weight pulls to the centre
    assert light[1] == pytest.approx(-0.18, abs=0.03)
    np.testing.assert_allclose(blob()["light"][:2], 0, atol=1e-6)


def test_moments_are_spin_two():
    along, across = blob(stretch=1.3)["light"], blob(stretch=1.3, angle=np.pi / 2)["light"]
    assert along[3] > 0.1
    assert across[3] == pytest.approx(-along[3], abs=1e-3)
    diagonal = blob(stretch=1.3, angle=np.pi / 4)["light"]
    assert diagonal[4] == pytest.approx(along[3], abs=0.02)
    np.testing.assert_allclose(blob(stretch=1.3, angle=np.pi / 4 + np.pi)["light"], diagonal, atol=1e-6)


def test_colour_and_flux():
    assert blob()["colour"][0] == pytest.approx(np.log(2), abs=1e-6)
    assert blob(flux=(600.0, 600.0))["colour"][0] == pytest.approx(0.0, abs=1e-6)
    assert (blob(flux=(600.0, 1200.0))["flux"] > blob()["flux"]).all()
    assert blob()["radial"][0] > blob()["radial"][-1]


def test_columns_are_all_and_disjoint():
    columns = [column for group in GROUPS for column in columns_of(group, 4)]
    assert columns == list(range(4 + 3 + 5 + 8))


def test_regression_finds_what_is_there():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(4000, 3))
    lens = rng.random(4000) < 1 / (1 + np.exp(-2 * features[:, 1]))
    assert auroc(linear_scores(features, lens), lens) > 0.8
    assert auroc(linear_scores(rng.normal(size=(4000, 20)), lens), lens) == pytest.approx(0.5, abs=0.03)
    truth = features[:, :1] * 3 + 1 + 0.01 * rng.normal(size=(4000, 1))
    np.testing.assert_allclose(linear_values(features, truth), truth, atol=0.15)


def test_squares_see_a_shell():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(3000, 1))
    lens = np.abs(features[:, 0]) > 1
    assert auroc(linear_scores(features, lens), lens) > 0.95


def test_no_row_is_predicted_by_itself():
    rng = np.random.default_rng(3)
    features, truth = rng.normal(size=(40, 15)), rng.normal(size=(40, 1))
    error = np.std(linear_values(features, truth) - truth)
    assert error > np.std(truth), "forty numbers fitted by sixteen coefficients predict nothing"


def test_a_galaxy_never_predicts_itself():
    """Painted and unpainted twins share their light: split, each would tell the other's class."""
    rng = np.random.default_rng(4)
    galaxy = np.repeat(np.arange(300), 2)
    light = np.repeat(rng.normal(size=(300, 4)), 2, axis=0)
    truth = np.repeat(rng.normal(size=(300, 1)), 2, axis=0)
    first = halves(galaxy)
    assert (first[::2] == first[1::2]).all()
    assert first.sum() == 300
    np.testing.assert_array_equal(halves(np.arange(10) * 7), np.arange(10) % 2 == 0)
    width = np.std(linear_values(np.repeat(rng.normal(size=(300, 280)), 2, axis=0), truth, galaxy) - truth)
    assert width > np.std(truth), "no row has seen its twin"
    assert np.isfinite(linear_scores(light, np.arange(600) % 2 == 0, galaxy)).all()


def test_classes_that_alternate_are_still_in_both_halves():
    rng = np.random.default_rng(5)
    lens = np.arange(400) % 2 == 0
    features = rng.normal(np.where(lens, 1.0, -1.0)[:, None], size=(400, 1))
    assert auroc(linear_scores(features, lens), lens) > 0.9


def test_one_lens_teaches_nothing():
    lens = np.arange(30) == 3
    score = linear_scores(np.random.default_rng(6).normal(size=(30, 2)), lens)
    assert np.isfinite(score).all()
    assert (score == 0).sum() == 16, "the half that would be told by others alone is told nothing"
