from __future__ import annotations

import math

import numpy as np
import pytest

from lensscan.survey.placement import Resampling, place_at, place_centred
from lensscan.survey.resample import coverage, noise_gain, resampling_matrix


@pytest.mark.parametrize("step", [0.5, 0.776, 1.0, 1.289, 2.0])
def test_every_input_pixel_lands_once(step):
    n_out = int(60 / step) + 8
    first = 29.5 - step * (n_out - 1) / 2
    matrix = resampling_matrix(60, n_out, step, first)
    np.testing.assert_allclose(matrix.sum(axis=0), 1.0, atol=1e-12)


@pytest.mark.parametrize("step", [0.6, 1.289])
def test_surface_brightness_is_kept(step):
    matrix = resampling_matrix(80, 30, step, 39.5 - step * 14.5)
    np.testing.assert_allclose(matrix @ np.ones(80), step, rtol=1e-12)
    linear = np.arange(80.0)
    centres = 39.5 + step * (np.arange(30) - 14.5)
    np.testing.assert_allclose(matrix @ linear, step * centres, rtol=1e-12)


def pixel_gaussian(centres: np.ndarray, width: float, sigma: float) -> np.ndarray:
    """Return the flux of a unit Gaussian in pixels of the given width."""
    edges = np.concatenate([centres - width / 2, centres[-1:] + width / 2]) / (sigma * np.sqrt(2))
    return np.diff([0.5 * (1 + math.erf(edge)) for edge in edges])


@pytest.mark.parametrize(("sigma", "tolerance"), [(1.5, 0.01), (3.0, 0.001)])
@pytest.mark.parametrize("step", [0.776, 1.289])
def test_a_gaussian_stays_a_gaussian(sigma, tolerance, step):
    axis = pixel_gaussian(np.arange(91) - 45.0, 1.0, sigma)
    placed = place_centred((91, 91), 64, step)
    out = np.empty((64, 64), np.float32)
    placed.put(np.outer(axis, axis), 1.0, out)
    expected = pixel_gaussian(step * (np.arange(64) - 31.5), step, sigma)
    assert np.abs(out - np.outer(expected, expected)).max() < tolerance * expected.max() ** 2
    assert placed.offset == (0.0, 0.0)


def test_missing_pixels_spread_to_what_draws_on_them():
    resampling = Resampling.of((40, 40), 30, 0.8, (19.5 - 0.8 * 14.5,) * 2)
    bad = np.zeros((40, 40), bool)
    bad[20, 20] = True
    spread = resampling.spread(bad)
    assert 9 <= spread.sum() <= 36
    centre = np.argwhere(spread).mean(axis=0)
    np.testing.assert_allclose(centre, (20 - 19.5) / 0.8 + 14.5, atol=1.0)


def test_noise_gain_predicts_the_noise():
    rng = np.random.default_rng(5)
    resampling = Resampling.of((120, 120), 64, 1.289, (59.5 - 1.289 * 31.5,) * 2)
    out = resampling.rows @ rng.normal(size=(120, 120)) @ resampling.columns.T
    assert out.std() == pytest.approx(resampling.noise, rel=0.05)
    assert noise_gain(np.eye(5), np.eye(5)) == pytest.approx(1.0)


def test_coverage_counts_what_lies_on_the_image():
    cover = coverage(10, 12, 1.0, -1.0)
    np.testing.assert_allclose(cover, [0] + [1] * 10 + [0])


@pytest.mark.parametrize(
    ("side", "size", "expected"), [(91, 64, -0.5), (90, 64, 0.0), (91, 91, 0.0), (60, 91, -0.5), (45, 64, -0.5)]
)
def test_offsets_of_centred_crops_and_pads(side, size, expected):
    placed = place_centred((side, side), size)
    assert abs(placed.offset[0]) == pytest.approx(abs(expected))
    rows, columns = placed.source
    assert placed.padding == size**2 - (rows.stop - rows.start) * (columns.stop - columns.start)
    # offset = position of the frame centre minus the image centre, counted in image pixels
    first = rows.start - placed.target[0].start
    assert placed.offset[1] == pytest.approx(first + (size - 1) / 2 - (side - 1) / 2)


@pytest.mark.parametrize("x", [0.0, 10.5, 49.2, 99.0, 103.4])
def test_cut_outs_are_centred_on_the_nearest_pixel(x):
    placed = place_at((100, 100), 32, x, 50.0)
    assert abs(placed.offset[0]) <= 0.5
    rows, columns = placed.source
    assert placed.padding == 32 * (32 - (columns.stop - columns.start))
    assert rows.stop - rows.start == 32


def test_far_outside_is_all_padding():
    assert place_at((100, 100), 32, 300.0, 50.0).padding == 32 * 32
