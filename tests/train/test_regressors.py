"""Published regressors: they learn, and know the training stamps alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lensscan.nets.classic.losses import sign_free_loss
from lensscan.train.regressors import HOLISMOKES4, fit_regressor, square_error

FAST = dataclasses.replace(HOLISMOKES4, optimiser="adam", lr=1e-3, epochs=12, validation=0.25)
LOSS = square_error((5, 1, 1, 1, 1))


def rings(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rings of radius theta_E (pixels / 4) about x, y, flattened by the ellipticity."""
    rng = np.random.default_rng(seed)
    truth = np.column_stack([rng.uniform(1, 2, n), *rng.uniform(-0.2, 0.2, (2, n)), *rng.uniform(-0.5, 0.5, (2, n))])
    axis = (np.arange(20) - 9.5) / 4
    x, y = np.meshgrid(axis, axis)
    dx, dy = x - truth[:, 3, None, None], y - truth[:, 4, None, None]
    twist = truth[:, 1, None, None] * (dx**2 - dy**2) + 2 * truth[:, 2, None, None] * dx * dy
    radius = np.sqrt(dx**2 + dy**2 + twist)
    images = 50 * np.exp(-0.5 * ((radius - truth[:, 0, None, None]) / 0.3) ** 2) + rng.normal(0, 1, (n, 20, 20))
    return images[:, None], truth


@pytest.fixture(scope="module")
def set_of_rings():
    return rings(400, 1)


@pytest.fixture(scope="module")
def fitted(set_of_rings):
    return fit_regressor(*set_of_rings, FAST, LOSS, seed=1)


def test_it_learns(fitted):
    images, truth = rings(200, 2)
    error = fitted.predict(images) - truth
    assert error[:, 0].std() < 0.5 * truth[:, 0].std()
    assert error[:, 3].std() < 0.7 * truth[:, 3].std()
    assert fitted.history[-1].validation_loss < fitted.history[0].validation_loss


def test_what_is_held_back_changes_nothing(fitted, set_of_rings):
    images, truth = (part.copy() for part in set_of_rings)
    images[fitted.held_back], truth[fitted.held_back] = 1e4, 9.0
    short = dataclasses.replace(FAST, epochs=2)
    first, second = (fit_regressor(*each, short, LOSS, seed=1) for each in (set_of_rings, (images, truth)))
    assert torch.equal(first.mean, second.mean)
    for key, value in first.body.state_dict().items():
        assert torch.equal(value, second.body.state_dict()[key]), key
    assert [line.loss for line in first.history] == [line.loss for line in second.history]


def test_peak_scaling_does_not_know_the_flux(set_of_rings):
    images, truth = set_of_rings
    peak = dataclasses.replace(FAST, scaling="peak", epochs=1)
    fitted = fit_regressor(images, truth, peak, sign_free_loss)
    np.testing.assert_allclose(fitted.predict(images[:5] * 7), fitted.predict(images[:5]), rtol=1e-4, atol=1e-5)


def test_weights_of_the_square_error():
    guess, truth = torch.ones(3, 5), torch.zeros(3, 5)
    assert LOSS(guess, truth) == pytest.approx(1.0)
    guess[:, 1:] = 0
    assert LOSS(guess, truth) == pytest.approx(5 / 9)


def test_truth_of_no_lens_is_refused(set_of_rings):
    images, truth = (part.copy() for part in set_of_rings)
    truth[3, 0] = np.nan
    with pytest.raises(ValueError, match="lenses only"):
        fit_regressor(images, truth, FAST, LOSS)
    with pytest.raises(ValueError, match="do not fit"):
        fit_regressor(images, truth[1:], FAST, LOSS)


def test_a_dead_band_is_refused_and_a_training_can_be_stopped(set_of_rings):
    """Scaled by its own spread of zero, a constant band would make every weight NaN."""
    images, truth = set_of_rings
    two = np.concatenate([images, np.full_like(images, 3.0)], axis=1)
    with pytest.raises(ValueError, match="band 1 has the same value"):
        fit_regressor(two, truth, FAST, LOSS)
    stopped = fit_regressor(images, truth, FAST, LOSS, report=lambda line: line.epoch == 2)
    assert len(stopped.history) == 2
