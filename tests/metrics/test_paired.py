"""Paired comparison of classifiers against numbers worked out by hand and a brute-force coin."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from lensscan.metrics.paired import mcnemar


def answers(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    one = np.repeat([True, True, False, False], [both, first, second, neither])
    two = np.repeat([True, False, True, False], [both, first, second, neither])
    return one, two


def test_known_answer():
    """21 pairs, 1 against 7: exact p = 2 (1 + 8) / 2^8; interval from 2 / 23 and 8 / 23 by hand."""
    found = mcnemar(*answers(1, 1, 7, 12))
    assert (found.n, found.first_only, found.second_only) == (21, 1, 7)
    assert found.difference == pytest.approx(-6 / 21)
    assert found.p_value == pytest.approx(18 / 256)
    half = 1.96 * ((10 / 23 - (6 / 23) ** 2) / 23) ** 0.5
    assert (found.low, found.high) == pytest.approx((-6 / 23 - half, -6 / 23 + half), abs=1e-4)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (5, 5), (3, 11), (20, 2)])
def test_p_value_is_that_of_a_fair_coin(first, second):
    total = first + second
    chances = [comb(total, k) / 2**total for k in range(total + 1)]
    expected = sum(chance for chance in chances if chance <= chances[first] * (1 + 1e-9))
    assert mcnemar(*answers(9, first, second, 4)).p_value == pytest.approx(expected)


def test_interval_covers_and_does_not_depend_on_what_both_agree_about():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(400):
        kind = rng.choice(4, 300, p=[0.7, 0.12, 0.06, 0.12])
        found = mcnemar((kind == 0) | (kind == 1), (kind == 0) | (kind == 2))
        hits += found.low <= 0.06 <= found.high
    assert 0.92 < hits / 400 < 0.98
    one, other = (mcnemar(*answers(both, 6, 2, 50 - both)) for both in (0, 50))
    assert (one.low, one.high) == (other.low, other.high)


def test_swapping_changes_the_sign_only():
    one, two = answers(10, 8, 3, 5)
    there, back = mcnemar(one, two), mcnemar(two, one)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.p_value == back.p_value


def test_other_stamps_are_refused():
    with pytest.raises(ValueError, match="same stamps"):
        mcnemar(np.ones(3, bool), np.ones(4, bool))
    with pytest.raises(ValueError, match="same stamps"):
        mcnemar(np.ones(0, bool), np.ones(0, bool))
