"""Predicted images of posterior samples, and their agreement with true ones."""

import numpy as np
import pytest

from lensscan.candidates.agreement import compare
from lensscan.candidates.positions import predict, true_images
from lensscan.lens import SIE
from lensscan.lens.cosmology import time_delay_scale

TRUTH = {
    "theta_E": np.array([1.2, 1.2, 1.0, np.nan]),
    "e1": np.array([0.15, 0.15, 0.0, np.nan]),
    "e2": np.array([-0.05, -0.05, 0.1, np.nan]),
    "x": np.array([0.1, 0.1, 0.0, np.nan]),
    "y": np.array([0.0, 0.0, 0.2, np.nan]),
    "sx": np.array([0.4, 0.13, 0.1, np.nan]),  # a double, a quad, one image pair that is faint
    "sy": np.array([0.2, 0.02, 0.9, np.nan]),
}
SCALE = np.full(4, float(time_delay_scale(0.5, 2.0)))


def scattered(width, samples=400, seed=1):
    """Samples about the truth, (4, samples, 7)."""
    rng = np.random.default_rng(seed)
    centre = np.stack([TRUTH[name] for name in ("theta_E", "e1", "e2", "x", "y", "sx", "sy")], axis=1)
    return centre[:, None] + width * rng.normal(size=(4, samples, 7))


def known(mode):
    true = true_images(TRUTH, SCALE)
    return {
        "posterior": None,
        "first_image": np.stack([true.x[:, 0], true.y[:, 0]], axis=1),
        "true_source": np.stack([TRUTH["sx"], TRUTH["sy"]], axis=1),
    }[mode]


def test_true_images_are_those_of_the_solver():
    true = true_images(TRUTH, SCALE)
    assert true.count.tolist() == [2, 4, 2, 0]
    lens = SIE(*(TRUTH[name][1] for name in ("theta_E", "e1", "e2", "x", "y")))
    # Not to the bit: on some processors the mathematical library rounds a batch of one differently.
    np.testing.assert_allclose(true.x[1], lens.images(0.13, 0.02).x, rtol=1e-13)
    np.testing.assert_allclose(true.delay[1], lens.time_delays(0.13, 0.02, 0.5, 2.0), rtol=1e-12)
    assert np.isnan(true.x[3]).all()


@pytest.mark.parametrize("mode", ["posterior", "first_image", "true_source"])
def test_certain_posterior_gives_the_true_images(mode):
    true = true_images(TRUTH, SCALE)
    found = predict(scattered(1e-9, 20), SCALE, mode, known(mode))
    np.testing.assert_array_equal(found.n_images, true.count)
    for name in ("x", "y", "magnification", "delay"):
        for level in range(3):
            np.testing.assert_allclose(found.values[name][:, level], getattr(true, name), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.p_number[:3].max(axis=1), 1.0)
    assert np.isnan(found.p_number[3]).all()
    if mode == "first_image":
        np.testing.assert_array_equal(found.p_first, [1, 1, 1, np.nan])
    else:
        assert np.isnan(found.p_first).all()


def test_known_first_image_is_an_image_of_every_sample():
    place = known("first_image")
    found = predict(scattered(0.03), SCALE, "first_image", place)
    for k in range(3):
        away = np.hypot(found.samples["x"][k] - place[k, 0], found.samples["y"][k] - place[k, 1])
        assert np.nanmin(away, axis=1).max() < 1e-8
    assert 0.5 < found.p_first[0] <= 1


def test_intervals_hold_the_truth_and_shrink_with_knowledge():
    free = predict(scattered(0.02), SCALE)
    source = predict(scattered(0.02), SCALE, "true_source", known("true_source"))
    true = true_images(TRUTH, SCALE)
    assert free.n_images[0] == 2
    low, high = free.values["delay"][0, 1:, 1]
    assert low < true.delay[0, 1] < high
    assert high - low > np.diff(source.values["delay"][0, 1:, 1])[0]
    assert free.p_number[1, 4] < 1, "a quad near its caustic is a double in some samples"
    np.testing.assert_allclose(free.p_number[:3].sum(axis=1), 1)
    assert (free.values["magnification"][0, 0, :2] * [1, -1] > 0).all(), "a minimum, then a saddle"


def test_neighbours_and_order_do_not_matter():
    samples = scattered(0.05, 50)
    all_of_them = predict(samples, SCALE)
    alone = predict(samples[1:2], SCALE[1:2])
    turned = predict(samples[::-1], SCALE[::-1])
    for name, values in all_of_them.values.items():
        np.testing.assert_array_equal(values[1], alone.values[name][0])
        np.testing.assert_array_equal(values, turned.values[name][::-1])


def test_unknown_position_gives_no_prediction():
    place = known("true_source")
    place[0] = np.nan
    found = predict(scattered(0.02, 20), SCALE, "true_source", place)
    assert found.n_images.tolist() == [0, 4, 2, 0]
    with pytest.raises(ValueError, match="mode"):
        predict(scattered(0.02, 20), SCALE, "true_source")
    with pytest.raises(ValueError, match="mode"):
        predict(scattered(0.02, 20), SCALE, "posterior", place)


def test_wrong_numbers_of_images_are_counted():
    true = true_images(TRUTH, SCALE)
    place = known("true_source")
    place[1] = TRUTH["x"][1] + 0.5, TRUTH["y"][1]  # outside the caustic: a double
    found = predict(scattered(1e-6, 20), SCALE, "true_source", place)
    figures = compare(found, true, TRUTH["theta_E"])
    assert (figures.n_systems, figures.n_wrong, figures.n_images) == (3, 1, 2)
    assert figures.delay.median == pytest.approx(0, abs=1e-4)
    assert figures.cells()[3] == "1 (33 %)"
    large = compare(found, true, TRUTH["theta_E"], above=1.1)
    assert (large.selection, large.n_systems, large.n_wrong) == ("> 1.1", 2, 1)
    none = compare(found, true, np.full(4, np.nan), above=0.1)
    assert none.n_systems == 0
    assert none.cells()[-1] == "-"


def test_fractional_delay_and_offsets():
    true = true_images(TRUTH, SCALE)
    found = predict(scattered(1e-9, 20), 1.1 * SCALE)
    found.values["x"][:, 0] += 0.2
    figures = compare(found, true, TRUTH["theta_E"])
    assert figures.n_images == 1 + 3 + 1
    assert figures.delay.median == pytest.approx(0.1, abs=1e-4)
    assert figures.dx.median == pytest.approx(0.2, abs=1e-4)
    assert figures.dy.median == pytest.approx(0.0, abs=1e-4)
    assert figures.inside == 0.0
