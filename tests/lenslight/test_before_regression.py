"""Removal of the lens's light as a stage before a regression."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lensscan.lenslight.stage import remove_lens_light
from lensscan.train.regressors import HOLISMOKES4, fit_regressor, square_error

SIDE, SCALE = 32, 0.2
FEW = dataclasses.replace(HOLISMOKES4, optimiser="adam", lr=1e-3, epochs=15, validation=0.2)


def lenses(n, seed):
    """Blue rings of radius theta_E (arcsec) around red galaxies up to a hundred times as bright at the peak."""
    rng = np.random.default_rng(seed)
    truth = np.column_stack([rng.uniform(1, 2.2, n), rng.uniform(-0.2, 0.2, (n, 2)), np.zeros((n, 2))])
    axis = (np.arange(SIDE) - (SIDE - 1) / 2) * SCALE
    x, y = np.meshgrid(axis, axis)
    twist = truth[:, 1, None, None] * (x**2 - y**2) + 2 * truth[:, 2, None, None] * x * y
    radius = np.sqrt(x**2 + y**2 + twist)
    ring = 20 * np.exp(-0.5 * ((radius - truth[:, 0, None, None]) / 0.35) ** 2)
    width = rng.uniform(0.4, 1.4, (n, 1, 1))
    galaxy = rng.uniform(200, 2000, (n, 1, 1)) * np.exp(-((x**2 + y**2) ** 0.5) / width)
    images = np.stack([ring + 0.3 * galaxy, 0.4 * ring + galaxy], axis=1)
    return (images + rng.normal(0, 1, images.shape)).astype(np.float32), truth


@pytest.mark.slow
def test_a_regression_on_the_arcs_alone_finds_the_ring_better():
    error = {}
    (images, truth), (others, wanted) = lenses(400, 1), lenses(150, 2)
    for stage in (False, True):
        shown = []
        for stamps in (images, others):
            light = remove_lens_light(stamps, pixel_scale=SCALE, fwhm=np.full((len(stamps), 2), 0.7), method="ica")
            assert light.ok.mean() > 0.9
            shown.append(light.arcs if stage else stamps)
        fitted = fit_regressor(shown[0], truth, FEW, square_error((5, 1, 1, 1, 1)), seed=1)
        error[stage] = np.abs(fitted.predict(shown[1])[:, 0] - wanted[:, 0]).mean()
    assert error[True] < 0.6 * error[False]
