"""The report's detection figures worked out by hand on ten rows, plain and resampled."""

from __future__ import annotations

import numpy as np
import pytest

from lensscan.evaluate.detection import _Statistic, _Wanted
from lensscan.evaluate.detectionpage import _shown

P = np.array([0.9, 0.8, 0.5, 0.2, 0.75, 0.4, 0.3, 0.1, 0.05, 0.01])
"""p_lens at even odds of four lenses, then of six others; no two alike."""
LENS = np.arange(10) < 4
SURVEYED = np.ones(10, bool)
DRAWN = np.array([1, 2, 0, 2, 2, 1, 1, 0, 1, 1])
"""A resample: five lenses, six others."""
WANTED = _Wanted((0.25,), {"tpr0": 0, "tpr10": 1}, ((1e-3, 100), (1e-3, 1000), (1e-3, 10_000)), (1e-3,), {})
RARE = {p: 1 / (1 + 999 * (1 - p) / p) for p in P}
"""The same probabilities at a prevalence of 0.001."""
PLAIN = {
    "auroc": (6 + 6 + 5 + 3) / 24,
    "tpr_at_fpr_0.25": 3 / 4,
    "tpr0": 2 / 4,
    "tpr10": 3 / 4,
    "recall": 3 / 4,
    "precision": 9 / 11,
    "accuracy": 19 / 24,
    "f1": 18 / 23,
    "kappa": 14 / 24,
    "brier": (0.94 / 4 + 0.8251 / 6) / 2,
    "log_loss": -(np.log(0.9 * 0.8 * 0.5 * 0.2) / 4 + np.log(0.25 * 0.6 * 0.7 * 0.9 * 0.95 * 0.99) / 6) / 2,
    "ece_prevalence_0.5": (1.6 / 4 + 1.61 / 6) / 2,
    # bins of as many rows: each of the ten has one of its own
    "ece_prevalence_0.001": 1e-3 * (4 - sum(RARE[p] for p in P[:4])) / 4 + 0.999 * sum(RARE[p] for p in P[4:]) / 6,
    "purity_at_fpr_0.25_prevalence_0.001": 0.75e-3 / (0.75e-3 + 0.25 * 0.999),
    "inspected_per_lens_at_fpr_0.25_prevalence_0.001": (0.75e-3 + 0.25 * 0.999) / 0.75e-3,
    # of 1,000,000 objects 1,000 are lenses, 250 for each row; each other row stands for 166,500
    "purity_top_100_prevalence_0.001": 1.0,
    "completeness_top_100_prevalence_0.001": 0.1,
    "inspected_per_lens_top_100_prevalence_0.001": 1.0,
    "stated_over_true_top_100_prevalence_0.001": RARE[0.9],
    "purity_top_1000_prevalence_0.001": 0.5,
    "completeness_top_1000_prevalence_0.001": 0.5,
    "inspected_per_lens_top_1000_prevalence_0.001": 2.0,
    "stated_over_true_top_1000_prevalence_0.001": (RARE[0.9] + RARE[0.8] + 2 * RARE[0.75]) / 2,
    "purity_top_10000_prevalence_0.001": 0.05,
    "completeness_top_10000_prevalence_0.001": 0.5,
    "inspected_per_lens_top_10000_prevalence_0.001": 20.0,
}
RESAMPLED = {
    "auroc": (6 + 2 * 6 + 2 * 2) / 30,
    "recall": 3 / 5,
    "precision": (3 / 5) / (3 / 5 + 2 / 6),
    "accuracy": (1 + 3 / 5 - 2 / 6) / 2,
    "f1": 2 * (3 / 5) / (1 + 3 / 5 + 2 / 6),
    "kappa": 3 / 5 - 2 / 6,
    "tpr_at_fpr_0.25": 3 / 5,
    "tpr0": 3 / 5,
    "brier": ((0.01 + 2 * 0.04 + 2 * 0.64) / 5 + (2 * 0.5625 + 0.16 + 0.09 + 0.0025 + 0.0001) / 6) / 2,
    "log_loss": -(np.log(0.9 * 0.8**2 * 0.2**2) / 5 + np.log(0.25**2 * 0.6 * 0.7 * 0.95 * 0.99) / 6) / 2,
    # 200 lenses for each lens drawn, 166,500 others for each other
    "purity_top_1000_prevalence_0.001": 0.6,
    "completeness_top_1000_prevalence_0.001": 0.6,
    "inspected_per_lens_top_1000_prevalence_0.001": 1 / 0.6,
    "stated_over_true_top_1000_prevalence_0.001": (RARE[0.9] + 2 * RARE[0.8] + 2 * RARE[0.75]) / 3,
    "purity_top_10000_prevalence_0.001": 0.06,
    "completeness_top_10000_prevalence_0.001": 0.6,
    "inspected_per_lens_top_10000_prevalence_0.001": 1 / 0.06,
}


def statistic(chosen=slice(None), surveyed=SURVEYED):
    logit = np.log(P / (1 - P))[chosen]
    return _Statistic(logit, logit, LENS[chosen], surveyed[chosen], WANTED)


@pytest.mark.parametrize("name", PLAIN)
def test_figures_of_ten_rows(name):
    assert statistic()(None)[name] == pytest.approx(PLAIN[name], rel=1e-9)


@pytest.mark.parametrize("name", RESAMPLED)
def test_figures_of_a_resample(name):
    assert statistic()(DRAWN)[name] == pytest.approx(RESAMPLED[name], rel=1e-9)


def test_a_resample_is_the_rows_it_drew():
    """All but the errors over bins, which cut a row that was drawn twice in no two."""
    resampled, rows = statistic()(DRAWN), statistic(np.repeat(np.arange(10), DRAWN))(None)
    assert resampled.keys() == rows.keys()
    for name, value in resampled.items():
        if not name.startswith("ece"):
            assert value == pytest.approx(rows[name], rel=1e-9, nan_ok=True), name


def test_rows_that_no_survey_has_do_not_judge_probabilities():
    """Without the lens of 0.9: what is left are three lenses, each 333.3 of a survey's thousand."""
    part = statistic(surveyed=SURVEYED & (P != 0.9))
    found, drawn = part(None), part(DRAWN)
    assert found["brier"] == pytest.approx((0.93 / 3 + 0.8251 / 6) / 2)
    assert found["purity_top_1000_prevalence_0.001"] == pytest.approx(1 / 3)
    assert found["recall"] == PLAIN["recall"]
    assert drawn["purity_top_1000_prevalence_0.001"] == pytest.approx(0.5)
    assert drawn["completeness_top_10000_prevalence_0.001"] == pytest.approx(0.5)


def test_errors_at_rare_prevalences_are_of_bins_of_equally_many_rows():
    """Thirty rows, two to a bin, whatever their mass; drawn 0 to 2 times, bins are of the rows drawn."""
    rng = np.random.default_rng(8)
    lens = rng.permutation(30) < 12
    logit = np.sort(rng.normal(size=30))
    found = _Statistic(logit, logit, lens, np.ones(30, bool), WANTED)
    drawn = rng.permutation(np.repeat([0, 1, 2], [6, 18, 6]))
    for counts in (None, drawn):
        times = np.ones(30, int) if counts is None else counts
        p = 1 / (1 + np.exp(-logit) * 999)
        mass = times * np.where(lens, 1e-3 / times[lens].sum(), 0.999 / times[~lens].sum())
        place = ((np.cumsum(times) - times / 2) / times.sum() * 15).astype(int).clip(0, 14)
        error = sum(abs((mass * (p - lens))[place == k].sum()) for k in range(15))
        assert found(counts)["ece_prevalence_0.001"] == pytest.approx(error)


def test_a_page_shows_rare_calibration_errors_over_their_prevalence():
    assert _shown("ece_prevalence_0.001", {"value": 5e-5, "low": 4e-5, "high": None}) == pytest.approx(
        {"value": 0.05, "low": 0.04, "high": None}
    )
    for key in ("ece_prevalence_0.5", "auroc"):
        assert _shown(key, {"value": 0.3})["value"] == 0.3
