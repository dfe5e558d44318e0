"""Detection metrics against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lensscan.metrics.bootstrap import Estimate
from lensscan.metrics.detection import auroc, purity, share_estimate, tpr_at_fpr, wilson
from lensscan.metrics.ranking import Ranking

SCORE = np.array([0.9, 0.8, 0.7, 0.6, 0.55, 0.54, 0.53, 0.52, 0.51, 0.505])
LENS = np.array([1, 1, 0, 1, 1, 1, 0, 0, 1, 0], bool)


def test_roc_by_hand():
    curve = Ranking(SCORE, LENS).select()
    np.testing.assert_array_equal(curve.threshold, SCORE)
    np.testing.assert_allclose(curve.tpr * 6, [1, 2, 2, 3, 4, 5, 5, 5, 6, 6])
    np.testing.assert_allclose(curve.fpr * 4, [0, 0, 1, 1, 1, 1, 2, 3, 3, 4])
    # pairs (lens, other) in the right order: 2 lenses beat 4 others, 3 beat 3, 1 beats 1
    assert auroc(SCORE, LENS) == pytest.approx((2 * 4 + 3 * 3 + 1) / 24)


def test_auroc_is_the_probability_of_the_right_order():
    rng = np.random.default_rng(1)
    score, lens = np.round(rng.normal(size=400), 1), rng.random(400) < 0.4
    lens_score, other = score[lens][:, None], score[~lens]
    expected = (lens_score > other).mean() + 0.5 * (lens_score == other).mean()
    assert auroc(score, lens) == pytest.approx(expected, abs=1e-12)
    assert auroc(score, lens) == pytest.approx(auroc(np.exp(score), lens), abs=1e-12)
    assert auroc(-score, lens) == pytest.approx(1 - auroc(score, lens), abs=1e-12)


def test_all_tied_is_one_half():
    assert auroc(np.zeros(10), LENS) == 0.5
    assert tpr_at_fpr(np.zeros(10), LENS, 0.5) == (0.0, np.inf)


def test_tpr_at_fpr():
    assert tpr_at_fpr(SCORE, LENS, 0.0) == (pytest.approx(2 / 6), 0.8)
    assert tpr_at_fpr(SCORE, LENS, 0.25) == (pytest.approx(5 / 6), 0.54)
    assert tpr_at_fpr(SCORE, LENS, 1.0) == (1.0, 0.505)


def test_threshold_is_inclusive():
    rate, threshold = tpr_at_fpr(SCORE, LENS, 0.25)
    assert (SCORE[LENS] >= threshold).mean() == rate
    assert (SCORE[~LENS] >= threshold).mean() <= 0.25


def test_purity():
    assert purity(0.75, 1e-4, 1e-3) == pytest.approx(0.88, abs=0.003)
    assert purity(0.75, 1e-4, 1e-4) == pytest.approx(0.43, abs=0.003)
    assert np.isnan(purity(0.0, 0.0, 1e-3))


def test_wilson():
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0, 100)[0] == pytest.approx(0.0, abs=1e-12)
    assert wilson(100, 100)[1] == pytest.approx(1.0)


def test_a_share_of_all_or_none_has_the_interval_of_its_clusters():
    every = Estimate.of(1.0, np.ones(9))
    found = share_estimate(every, np.array([3, 3, 5, 5, 7]))
    assert (found.value, found.low, found.high) == (1.0, *wilson(3, 3))
    assert found.low < 0.5
    none = share_estimate(Estimate.of(0.0, np.zeros(9)), np.arange(290))
    assert (none.low, none.high) == wilson(0, 290)
    some = Estimate.of(0.5, np.linspace(0.4, 0.6, 9))
    assert share_estimate(some, np.arange(4)) is some
    unknown = Estimate.of(np.nan, np.full(9, np.nan))
    assert share_estimate(unknown, np.arange(4)) is unknown


def test_refusals():
    with pytest.raises(ValueError, match="NaN"):
        auroc(np.array([1.0, np.nan]), np.array([True, False]))
    with pytest.raises(ValueError, match="needs lenses"):
        auroc(np.ones(2), np.array([True, True]))
