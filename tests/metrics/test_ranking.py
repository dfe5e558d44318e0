"""A ranked list: figures against scikit-learn and by hand, thresholds that move with the resample."""

from __future__ import annotations

import numpy as np
import pytest

from lensscan.metrics.ranking import Population, Ranking, supported


def scores(n=4000, step=0.05, seed=1):
    """Scores with many ties."""
    rng = np.random.default_rng(seed)
    lens = rng.random(n) < 0.4
    return np.round(rng.normal(np.where(lens, 1.2, 0.0)) / step) * step, lens


def test_against_scikit_learn_also_resampled():
    metrics = pytest.importorskip("sklearn.metrics")
    score, lens = scores()
    counts = np.random.default_rng(2).integers(1, 4, len(score))
    ranking = Ranking(score, lens)
    assert ranking.select().auroc() == pytest.approx(metrics.roc_auc_score(lens, score), abs=1e-12)
    weighted = metrics.roc_auc_score(lens, score, sample_weight=counts)
    assert ranking.select(counts).auroc() == pytest.approx(weighted, abs=1e-12)
    fpr, tpr, _ = metrics.roc_curve(lens, score, sample_weight=counts, drop_intermediate=False)
    np.testing.assert_allclose(ranking.select(counts).tpr, tpr[1:], atol=1e-12)
    np.testing.assert_allclose(ranking.select(counts).fpr, fpr[1:], atol=1e-12)


def test_rates_by_counting():
    score, lens = scores()
    selection = Ranking(score, lens).select()
    for fpr in (0.0, 1e-3, 1e-2, 0.1):
        threshold = selection.threshold_at(fpr)
        assert selection.tpr_at(fpr) == (score[lens] >= threshold).mean()
        assert (score[~lens] >= threshold).mean() <= fpr
        below = score[score < threshold].max()
        assert (score[~lens] >= below).mean() > fpr, "a lower threshold would do"
    others = np.sort(score[~lens])[::-1]
    for n in (0, 9, 100):
        assert selection.tpr_before(n) == (score[lens] > others[n]).mean(), n
    assert selection.tpr_before(10_000) == 1.0


def test_before_false_positives_by_hand():
    score = np.array([0.9, 0.8, 0.7, 0.6, 0.55, 0.54, 0.53, 0.52, 0.51, 0.505])
    lens = np.array([1, 1, 0, 1, 1, 1, 0, 0, 1, 0], bool)
    selection = Ranking(score, lens).select()
    assert [selection.tpr_before(n) for n in (0, 1, 9)] == pytest.approx([2 / 6, 5 / 6, 1.0])
    tied = Ranking(np.array([0.9, 0.9, 0.5]), np.array([True, False, True])).select()
    assert tied.tpr_before(0) == 0.0


@pytest.mark.parametrize("drawn", [[2, 1, 0, 0], [0, 0, 1, 2]])
def test_a_resample_of_one_class_has_no_figures(drawn):
    """Few lenses, few galaxies: some resamples draw no lens.  They tell nothing, and must not pass for zeros."""
    ranking = Ranking(np.array([4.0, 2.0, 3.0, 1.0]), np.array([True, True, False, False]))
    found = ranking.select(np.array(drawn)).figures((0.5,), {"tpr0": 0})
    assert list(found) == ["auroc", "tpr_at_fpr_0.5", "tpr0"]
    assert np.isnan(list(found.values())).all()
    selection = ranking.select(np.array(drawn))
    assert np.isnan(selection.threshold_at(0.5))
    assert np.isnan(selection.inspected(Population(1000, 0.1), 10)).all()


def test_a_resample_is_the_set_it_stands_for():
    score, lens = scores(300)
    counts = np.random.default_rng(4).integers(0, 3, 300)
    left = Ranking(score, lens).select(counts).figures((1e-2, 0.1), {"tpr0": 0, "tpr10": 9})
    drawn = np.repeat(np.arange(300), counts)
    right = Ranking(score[drawn], lens[drawn]).select().figures((1e-2, 0.1), {"tpr0": 0, "tpr10": 9})
    assert left == pytest.approx(right)


def test_perfect_random_and_tied():
    lens = np.arange(100) < 50
    perfect = Ranking(lens.astype(float), lens).select()
    assert (perfect.auroc(), perfect.tpr_before(0), perfect.tpr_at(0.0)) == (1.0, 1.0, 1.0)
    tied = Ranking(np.zeros(100), lens).select()
    assert tied.auroc() == 0.5
    assert tied.tpr_before(0) == 0.0, "ties are broken against us"
    assert tied.tpr_at(0.5) == 0.0
    rng = np.random.default_rng(5)
    lens = rng.random(20_000) < 0.5
    assert Ranking(rng.normal(size=20_000), lens).select().auroc() == pytest.approx(0.5, abs=0.015)


def test_inspected_by_hand():
    """Half of the lenses lead, then come 1 % of the others, then the other half."""
    score = np.concatenate([np.full(50, 3.0), np.full(50, 1.0), np.full(10, 2.0), np.full(990, 0.0)])
    lens = np.arange(1100) < 100
    survey = Population(1_000_000, 1e-3)  # 1,000 lenses: 500 lead, then 9,990 others
    selection = Ranking(score, lens).select()
    assert selection.inspected(survey, 100) == pytest.approx((1.0, 0.1, 0.0))
    assert selection.inspected(survey, 500)[0] == pytest.approx(1.0)
    pure, complete, fpr = selection.inspected(survey, 1000)
    assert (pure, complete) == pytest.approx((0.5, 0.5))
    assert fpr == pytest.approx(500 / 999_000)
    assert selection.inspected(survey, 1_000_000) == pytest.approx((1e-3, 1.0, 1.0))


def test_what_a_sample_can_show():
    assert supported(1e-3, 10_000)
    assert not supported(1e-3, 9_999)


def test_refusals():
    with pytest.raises(ValueError, match="NaN"):
        Ranking(np.array([0.0, np.nan]), np.array([True, False]))
    with pytest.raises(ValueError, match="non-lenses"):
        Ranking(np.zeros(2), np.array([True, True]))


def test_the_head_of_a_ranking_holds_the_same_lists():
    score, is_lens = scores()
    whole, head = Ranking(score, is_lens), Ranking(score, is_lens, depth=len(score) // 4)
    counts = np.random.default_rng(2).integers(0, 3, len(score))
    population, n = Population(1000, 0.05), np.array([1.0, 20.0, 90.0])
    for resampled in (None, counts):
        ours, theirs = head.select(resampled), whole.select(resampled)
        assert len(ours.tpr) < len(theirs.tpr)
        assert (ours.n_lens, ours.n_other) == (theirs.n_lens, theirs.n_other)
        assert ours.tpr[-1] == ours.fpr[-1] == 1
        np.testing.assert_allclose(ours.listed(population, n), theirs.listed(population, n))
        assert ours.tpr_at(0.02) == theirs.tpr_at(0.02)
