"""The threshold that the highest score exceeds in half of all samples: covered as stated, and moved as scores are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lensscan.metrics.extremes import highest_thresholds


@pytest.mark.parametrize("tail", [stats.expon, stats.norm, stats.logistic], ids=["exponential", "normal", "logistic"])
def test_the_threshold_is_covered_as_stated(tail):
    """The bootstrap's interval ends at the highest score, which half of all samples have below the threshold."""
    rng = np.random.default_rng(1)
    n, samples = 2000, 400
    wanted = tail.isf(np.log(2) / n)
    below = above = 0
    for _ in range(samples):
        ends = np.quantile(highest_thresholds(tail.rvs(size=n, random_state=rng), 300, rng), (0.025, 0.975))
        below, above = below + (wanted < ends[0]), above + (wanted > ends[1])
    assert 0.92 < 1 - (below + above) / samples < 0.98
    assert max(below, above) < 0.05 * samples, "on both sides"


def test_draws_lie_among_the_highest_scores_by_the_order_statistics():
    """Above the highest in half of the draws; below the fourth as often as Poisson's ln 2 gives four or more."""
    scores = np.random.default_rng(2).exponential(size=50)
    drawn = highest_thresholds(scores, 20_000, np.random.default_rng(5))
    assert (drawn > scores.max()).mean() == pytest.approx(0.5, abs=0.015)
    for number in (2, 3, 4):
        expected = stats.poisson.sf(number - 1, np.log(2))
        assert (drawn < np.sort(scores)[-number]).mean() == pytest.approx(expected, abs=0.012), number


def test_units_do_not_matter_and_ties_stay_where_they_are():
    scores = np.random.default_rng(3).normal(size=40)
    plain, other = (highest_thresholds(each, 100, np.random.default_rng(4)) for each in (scores, 10 + 3 * scores))
    np.testing.assert_allclose(other, 10 + 3 * plain)
    assert (highest_thresholds(np.full(40, 2.5), 20, np.random.default_rng(4)) == 2.5).all()
    assert np.isnan(highest_thresholds(np.ones(1), 3, np.random.default_rng(4))).all()
    assert np.isfinite(highest_thresholds(np.arange(2.0), 3, np.random.default_rng(4))).all()
