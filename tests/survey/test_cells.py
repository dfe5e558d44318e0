"""Cells of the sky: equal areas, right ascensions that wrap, no position that is none."""

from __future__ import annotations

import numpy as np
import pytest

from lensscan.survey.cells import sky_cells

RNG = np.random.default_rng(8)
RA, DEC = RNG.uniform(0, 360, 5000), np.degrees(np.arcsin(RNG.uniform(-1, 1, 5000)))


def test_cells_have_equal_area_and_one_size():
    _, counts = np.unique(sky_cells(RA, DEC, 30.0), return_counts=True)
    assert len(counts) == 48
    assert abs(counts - 5000 / 48).max() < 5 * np.sqrt(5000 / 48)
    near = sky_cells(np.array([10.2, 10.4]), np.array([-3.6, -3.5]), 1.0)
    assert near[0] == near[1]


def test_right_ascension_wraps_and_poles_have_a_cell():
    turned = sky_cells(RA + 360.0, DEC)
    assert (turned == sky_cells(RA, DEC)).mean() > 0.999, "but for rounding at borders"
    assert sky_cells(np.array([-0.1]), np.array([0.0]))[0] == sky_cells(np.array([359.9]), np.array([0.0]))[0]
    assert np.isfinite(sky_cells(np.array([0.0, 359.999999]), np.array([-90.0, 90.0]))).all()


def test_positions_that_are_none_are_refused():
    holed = RA.copy()
    holed[17] = np.nan
    with pytest.raises(ValueError, match=r"1 of 5000 positions are not finite \(first in row 17\)"):
        sky_cells(holed, DEC)
    with pytest.raises(ValueError, match="not finite"):
        sky_cells(RA, np.full_like(DEC, np.inf))
