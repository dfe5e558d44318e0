"""Whose galaxy a row is: the real stamp's where there is one."""

from __future__ import annotations

import numpy as np

from lensscan.mocks.labels import galaxies

ROWS = np.array([4, 7, 8, 9])


def test_rows_on_one_real_stamp_share_a_galaxy_and_others_stand_alone():
    found = galaxies({"stamp": np.array([3, -1, 3, 0])}, ROWS)
    assert found.tolist() == [-4, 7, -4, -1], "no stamp's number can be a row's"
    assert galaxies({}, ROWS) is ROWS
