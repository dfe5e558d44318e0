"""Classical baselines: missing pixels, the features themselves, fits that can and that cannot learn."""

from __future__ import annotations

import numpy as np
import pytest

from lensscan.metrics.detection import auroc
from lensscan.nets.baseline import (
    BASELINES,
    Baseline,
    central_colour,
    core_pixels,
    fill_missing,
    hog_features,
    log_contrast,
    radial_profile,
    total_flux,
)

SIZE = 24


def stamps(n: int, seed: int, bands: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Bars along x (lenses) and along y, with noise: only their direction tells them apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2 == 0
    axis = np.arange(SIZE) - (SIZE - 1) / 2
    x, y = np.meshgrid(axis, axis)
    along, across = np.where(labels[:, None, None], x, y), np.where(labels[:, None, None], y, x)
    shift = rng.uniform(-4, 4, (n, 1, 1))
    bars = 100 * np.exp(-0.5 * ((across - shift) / 1.5) ** 2 - 0.5 * (along / 6) ** 2)
    return bars[:, None] + rng.normal(0, 3, (n, bands, SIZE, SIZE)), labels


def test_missing_pixels_become_the_mean_of_their_neighbours():
    image = np.arange(25.0).reshape(1, 1, 5, 5)
    holed = image.copy()
    holed[0, 0, 2, 2] = np.nan
    np.testing.assert_allclose(fill_missing(holed), image, err_msg="a plane is its own mean")
    corner = image.copy()
    corner[0, 0, 0, 0] = np.nan
    assert fill_missing(corner)[0, 0, 0, 0] == pytest.approx((1 + 5 + 6) / 3)
    wide = np.full((1, 2, 9, 9), 7.0)
    wide[0, 0, 2:7, 2:7] = np.nan
    wide[0, 1] = np.nan
    filled = fill_missing(wide)
    np.testing.assert_allclose(filled[0, 0], 7.0)
    np.testing.assert_array_equal(filled[0, 1], 0.0)
    assert np.isnan(wide[0, 1]).all(), "the given stamps stay as they are"


def test_log_contrast_lies_between_0_and_1_and_does_not_know_the_unit():
    images, _ = stamps(4, 1)
    contrast = log_contrast(images)
    np.testing.assert_allclose(contrast.min(axis=(2, 3)), 0.0)
    np.testing.assert_allclose(contrast.max(axis=(2, 3)), 1.0)
    np.testing.assert_allclose(log_contrast(images * 37 + 5), contrast, atol=1e-12)
    np.testing.assert_array_equal(log_contrast(np.ones((1, 1, 4, 4))), 0.0)


def test_hog_joins_bands_and_sees_direction():
    images, labels = stamps(6, 2, bands=3)
    joined = hog_features(images)
    single = hog_features(images[:, 1:2])
    assert joined.shape == (6, 3 * single.shape[1])
    np.testing.assert_array_equal(joined[:, single.shape[1] : 2 * single.shape[1]], single)
    along, across = (single[labels == side].reshape(3, -1, 9).sum(axis=1).mean(axis=0) for side in (True, False))
    assert along[4] > across[4], "a bar along x has its gradients along y: the bin about 90 degrees"
    assert across[0] + across[8] > along[0] + along[8]


def test_hog_is_that_of_scikit_image():
    hog = pytest.importorskip("skimage.feature").hog
    images, _ = stamps(3, 9, bands=2)
    settings = {"orientations": 9, "pixels_per_cell": (5, 5), "cells_per_block": (2, 2)}
    want = [np.concatenate([hog(band, **settings) for band in stamp]) for stamp in log_contrast(images)]
    np.testing.assert_allclose(hog_features(images), want, atol=2e-6)


def test_plain_features():
    images = np.zeros((2, 2, 20, 20))
    images[0, 0] = 1.0
    images[1, 1, 9:11, 9:11] = 50.0
    np.testing.assert_allclose(np.sinh(total_flux(images)) * 10, [[400, 0], [0, 200]], atol=1e-9)
    np.testing.assert_allclose(central_colour(images)[1], np.arcsinh(20.0))
    assert central_colour(images[:, :1]).tolist() == [[0.0], [0.0]]
    assert core_pixels(images).shape == (2, 2 * 256)
    assert (np.sinh(core_pixels(images)[1]) * 10).sum() == pytest.approx(200)
    profile = np.sinh(radial_profile(images)).reshape(2, 2, 10) * 10
    np.testing.assert_allclose(profile[0], [[1] * 10, [0] * 10], atol=1e-12)
    assert profile[1, 1, 0] == pytest.approx(50)
    assert profile[1, 1, 2:].max() == 0


def test_hog_learns_direction_and_the_trivial_ones_do_not():
    images, labels = stamps(120, 3)
    other, truth = stamps(120, 4)
    area = {name: auroc(baseline.fit(images, labels).score(other), truth) for name, baseline in BASELINES.items()}
    assert area["hog"] > 0.95
    assert area["total-flux"] < 0.7
    assert area["central-colour"] == 0.5
    assert area["radial"] < 0.7


def test_fit_is_deterministic_and_scores_each_stamp_alone():
    images, labels = stamps(60, 5)
    first, second = (BASELINES["hog"].fit(images, labels) for _ in range(2))
    np.testing.assert_array_equal(first.score(images), second.score(images))
    assert first.estimator.penalty == second.estimator.penalty
    assert 0.5 < first.estimator.cross_validated <= 1.0
    np.testing.assert_allclose(first.score(images[7:8]), first.score(images)[7:8], rtol=1e-10)
    assert first.score(images[:0]).shape == (0,)


def test_scaler_knows_the_training_set_only():
    images, labels = stamps(60, 6)
    fitted = Baseline(total_flux).fit(images, labels)
    np.testing.assert_allclose(fitted.estimator.mean, total_flux(images).mean(axis=0))
    fitted.score(images * 1000)
    np.testing.assert_allclose(fitted.estimator.mean, total_flux(images).mean(axis=0))


def test_missing_pixels_do_not_break_a_fit():
    images, labels = stamps(60, 7)
    images[::3, :, 5:8, 10:14] = np.nan
    images[0] = np.nan
    scores = BASELINES["hog"].fit(images, labels).score(images)
    assert np.isfinite(scores).all()


def test_labels_must_fit():
    images, labels = stamps(10, 8)
    with pytest.raises(ValueError, match="as many labels"):
        BASELINES["hog"].fit(images, labels[1:])
    with pytest.raises(ValueError, match="both classes"):
        BASELINES["hog"].fit(images, np.ones(10, bool))
