"""Bootstrap: the spread it finds is the known one, clusters are drawn together, differences are paired."""

from __future__ import annotations

import numpy as np
import pytest

from lensscan.metrics.bootstrap import Bootstrap, Estimate, difference, resample


def mean_of(values):
    def statistic(counts):
        return {"mean": float(np.average(values, weights=counts))}

    return statistic


def test_interval_of_a_mean_is_the_known_one():
    values = np.random.default_rng(1).normal(3.0, 2.0, 900)
    found = resample(mean_of(values), Bootstrap(np.arange(900), 800))["mean"]
    half = 1.96 * values.std() / 30
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * half, rel=0.12)
    assert len(found.replicates) == 800


def test_rows_of_a_cluster_are_drawn_together():
    cluster = np.repeat(np.arange(50), 4)
    for counts in Bootstrap(cluster, 20).counts():
        assert (counts.reshape(50, 4) == counts.reshape(50, 4)[:, :1]).all()
        assert counts.sum() == 200


def test_four_copies_of_a_galaxy_are_no_four_galaxies():
    values = np.random.default_rng(2).normal(size=400)
    alone = resample(mean_of(values), Bootstrap(np.arange(400), 400))["mean"]
    copied = resample(mean_of(np.repeat(values, 4)), Bootstrap(np.repeat(np.arange(400), 4), 400))["mean"]
    naive = resample(mean_of(np.repeat(values, 4)), Bootstrap(np.arange(1600), 400))["mean"]
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.15)
    assert naive.high - naive.low < 0.65 * (copied.high - copied.low)


@pytest.mark.parametrize("cluster", [np.arange(30)[::-1], np.array([f"g{k}" for k in range(30)])])
def test_clusters_may_be_anything(cluster):
    for counts in Bootstrap(cluster, 5).counts():
        assert counts.sum() == 30


def test_the_same_seed_gives_the_same_resamples():
    first, second = (list(Bootstrap(np.arange(40), 3, seed=7).counts()) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], next(Bootstrap(np.arange(40), 3, seed=8).counts()))


def test_differences_are_paired():
    rng = np.random.default_rng(3)
    shared = rng.normal(size=600)
    bootstrap = Bootstrap(np.arange(600), 300)
    ours = resample(mean_of(shared + 0.05 * rng.normal(size=600) + 0.02), bootstrap)["mean"]
    theirs = resample(mean_of(shared), bootstrap)["mean"]
    gap = difference(ours, theirs)
    assert gap.low > 0, "0.02 is ten standard errors of the paired difference"
    assert ours.low < theirs.value < ours.high, "and nothing beside the spread of either"
    with pytest.raises(ValueError, match="same resamples"):
        difference(ours, resample(mean_of(shared), Bootstrap(np.arange(600), 10))["mean"])


def test_resamples_without_a_value_do_not_count():
    found = Estimate.of(1.0, [0.0, np.nan, 2.0])
    assert 0 <= found.low < found.high <= 2
    assert np.isnan(Estimate.of(1.0, [np.nan]).low)


def test_infinite_resamples_make_the_upper_limit_infinite():
    """More than 2.5 % of them do; with fewer the limit is a resample, never a line towards infinity."""
    values = np.arange(1000.0)
    for n_infinite, high in ((0, 974.025), (1, 974.0), (25, 974.0), (26, np.inf), (1000, np.inf)):
        values[1000 - n_infinite :] = np.inf
        found = Estimate.of(500.0, np.append(values, [np.nan] * 7))
        assert found.high == pytest.approx(high), n_infinite
    assert found.low == np.inf
    values = np.r_[[-np.inf] * 26, np.arange(974.0)]
    assert Estimate.of(0.0, values).low == -np.inf


def test_an_odds_of_few_lenses_has_no_upper_limit():
    """Three lenses among 30 objects: one resample in twenty draws none, and inspects without end for one."""
    lens = np.arange(30) < 3

    def inspected(counts):
        found = lens.sum() if counts is None else counts[lens].sum()
        return {"inspected": 30 / found if found else float("inf")}

    found = resample(inspected, Bootstrap(np.arange(30), 400))["inspected"]
    assert found.value == 10.0
    assert found.high == np.inf
    assert 4 < found.low < 10
