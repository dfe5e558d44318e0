"""Friends of friends on the sphere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensscan.candidates.groups import group_on_sky

ARCSEC = 1 / 3600


def test_pairs_across_right_ascension_zero():
    ra = np.array([359.9999, 0.0001, 180.0])
    group, rank = group_on_sky(ra, np.zeros(3))
    assert group.tolist() == [1, 1, 2]
    assert rank.tolist() == [1, 2, 1]


@pytest.mark.parametrize("pole", [90.0, -90.0])
def test_near_the_pole_right_ascension_means_little(pole):
    dec = np.array([1, 1, 1]) * (pole - np.sign(pole) * 0.5 * ARCSEC)
    group, _ = group_on_sky(np.array([0.0, 180.0, 77.0]), dec)
    assert group.tolist() == [1, 1, 1]
    apart, _ = group_on_sky(np.array([0.0, 180.0]), np.array([1, 1]) * (pole - np.sign(pole) * 2 * ARCSEC))
    assert apart.tolist() == [1, 2]


def test_radius_is_two_arcsec_at_any_declination():
    for dec in (0.0, 60.0, -85.0):
        step = ARCSEC / np.cos(np.radians(dec))
        assert group_on_sky(np.array([10, 10 + 1.9 * step]), np.full(2, dec))[0].tolist() == [1, 1]
        assert group_on_sky(np.array([10, 10 + 2.1 * step]), np.full(2, dec))[0].tolist() == [1, 2]


def test_chains_and_ranks():
    ra = np.array([50.0, 10.0, 10 + 3 * ARCSEC, 10 + 1.5 * ARCSEC, 50 + ARCSEC])
    group, rank = group_on_sky(ra, np.zeros(5))
    assert group.tolist() == [1, 2, 2, 2, 1]
    assert rank.tolist() == [1, 1, 2, 3, 2]


def test_rows_without_position_stand_alone():
    ra = np.array([np.nan, 10.0, np.nan, 10.0])
    dec = np.array([np.nan, 0.0, 0.0, 0.0])
    assert group_on_sky(ra, dec)[0].tolist() == [1, 2, 3, 2]
    assert group_on_sky(np.zeros(0), np.zeros(0))[0].tolist() == []


def test_thousands_at_one_place_cost_no_pairs():
    n = 20_000
    group, rank = group_on_sky(np.full(n, 12.0), np.full(n, -3.0))
    assert (group == 1).all()
    assert rank.tolist() == list(range(1, n + 1))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=25))
def test_equals_brute_force(points):
    ra = np.array([1.3 * a * ARCSEC for a, _ in points])
    dec = np.array([1.3 * d * ARCSEC for _, d in points])
    group, rank = group_on_sky(ra, dec)
    label = list(range(len(points)))
    for i in range(len(points)):
        for j in range(i):
            close = np.hypot(ra[i] - ra[j], dec[i] - dec[j]) < 2 * ARCSEC
            if close and label[i] != label[j]:
                label = [label[j] if x == label[i] else x for x in label]
    assert all((group[i] == group[j]) == (label[i] == label[j]) for i in range(len(points)) for j in range(i))
    for number in np.unique(group):
        assert rank[group == number].tolist() == list(range(1, np.count_nonzero(group == number) + 1))
