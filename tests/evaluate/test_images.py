"""Images of predicted lenses in a report: exact posteriors agree, wrong ones do not, wrong numbers are counted."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from lensscan.candidates.positions import TrueImages
from lensscan.evaluate.images import _Errors, measure_images
from lensscan.metrics.detection import wilson
from lensscan.nets.latent import TRIANGLE, to_latent
from lensscan.nets.mixture import Mixture

N = 40


@pytest.fixture(scope="module")
def truth():
    """Lenses with sources well inside theta_E."""
    rng = np.random.default_rng(4)
    theta_E = rng.uniform(0.5, 2.0, N)
    radius, angle = 0.4 * theta_E * np.sqrt(rng.random(N)), rng.uniform(0, 2 * np.pi, N)
    e1, e2, x, y = rng.normal(0, 0.1, (4, N))
    return {
        "theta_E": theta_E, "e1": e1, "e2": e2, "x": x, "y": y,
        "sx": x + radius * np.cos(angle), "sy": y + radius * np.sin(angle),
    }  # fmt: skip


def posterior(truth, width, shift=0.0):
    """Return Gaussians of a latent width whose centres are drawn about the truth (and off by `shift` in theta_E)."""
    names = ("theta_E", "e1", "e2", "x", "y", "sx", "sy")
    centre = to_latent(np.stack([truth[name] for name in names], axis=1))
    centre = centre + width * np.random.default_rng(1).standard_normal(centre.shape)
    centre[:, 0] += shift
    packed = [float(i == j) * max(width, 1e-5) ** 2 for i, j in TRIANGLE]
    return Mixture.single(centre, np.tile(packed, (N, 1)))


def measure(truth, mixture):
    return measure_images(mixture, truth, np.ones(N, bool), np.arange(N), 30, 0)


@pytest.fixture(scope="module")
def exact(truth):
    """Figures of posteriors that are the truth."""
    return measure(truth, posterior(truth, 0.0))


def test_exact_lenses_have_exact_images(exact):
    for mode in ("posterior", "first_image", "true_source"):
        assert exact.figures[f"{mode}.all.right_number"].value > 0.95
        assert exact.figures[f"{mode}.all.dx.half_width_68"].value < 2e-3
        assert abs(exact.figures[f"{mode}.all.delay.bias"].value) < 2e-3
    assert exact.isothermal
    assert exact.systems["all"] > exact.systems["above_0.8"] > 20


def test_shares_of_all_systems_are_not_certain(truth, exact):
    found, n = exact.figures["true_source.above_0.8.right_number"], exact.systems["above_0.8"]
    assert found.value == 1.0
    assert (found.low, found.high) == pytest.approx(wilson(n, n))
    wide = measure_images(posterior(truth, 0.0), truth, np.ones(N, bool), np.arange(N) // 2, 30, 0)
    assert wide.figures["true_source.above_0.8.right_number"].low < found.low, "fewer galaxies"


def test_intervals_of_delays_cover(truth):
    found = measure(truth, posterior(truth, 0.03)).figures
    assert found["posterior.all.delay.inside_68"].value == pytest.approx(0.68, abs=0.15)
    assert found["posterior.all.dx.half_width_68"].value > 0.03
    interval = found["first_image.all.right_number"]
    assert interval.low <= interval.value <= interval.high


def test_a_bias_shows(truth, exact):
    found = measure(truth, posterior(truth, 0.0, shift=np.log(1.2))).figures
    assert found["true_source.all.dx.half_width_68"].value > 0.1
    assert found["true_source.all.delay.bias"].value > 0.1
    assert abs(exact.figures["true_source.all.delay.bias"].value) < 0.01


def test_wrong_numbers_are_counted(truth):
    far = truth | {"sx": truth["sx"] + 1e-9}
    blind = posterior(truth | {"sx": truth["x"] + 3 * truth["theta_E"]}, 0.0)  # sources outside the caustics
    found = measure(far, blind).figures
    assert found["posterior.all.right_number"].value == 0
    assert np.isnan(found["posterior.all.dx.half_width_68"].value)
    assert found["true_source.all.right_number"].value > 0.95


def test_errors_are_those_of_the_later_images_and_of_the_true_delay():
    """Two images: the first arrives at 0 by definition, the second after 12 days, 10 in truth; one row has another."""
    nothing = np.full((2, 6), np.nan)

    def images(first, second):
        return np.column_stack([[first, first], [second, second], nothing])

    place = images(0.5, 1.0)
    true = TrueImages(place, place, np.ones((2, 8)), images(0.0, 10.0), np.array([2, 2]))
    delays = np.stack([images(0.0, days) for days in (12.0, 9.0, 13.0)], axis=1)
    places = np.stack([images(9.0, 1.25)] * 3, axis=1)
    guess = SimpleNamespace(n_images=np.array([2, 4]), values={"x": places, "y": places, "delay": delays})
    found = dict(_Errors.of(guess, true).figures(np.ones(2, bool), None))
    assert found["right_number"] == 0.5
    assert found["dx.bias"] == found["dy.bias"] == pytest.approx(0.25), "nobody looks at the first image"
    assert found["delay.bias"] == pytest.approx(0.2)
    assert found["delay.inside_68"] == 1.0


def test_other_masses_are_said_so_and_single_images_give_nothing(truth):
    assert not measure(truth | {"slope": np.full(N, 2.1)}, posterior(truth, 0.0)).isothermal
    outside = truth | {"sx": truth["x"] + 3 * truth["theta_E"]}
    assert measure(outside, posterior(outside, 0.0)) is None
