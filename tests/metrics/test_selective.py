"""Uncertainty as a predictor of mistakes, against answers known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lensscan.metrics.images import psnr
from lensscan.metrics.selective import Misclassified, ambiguity


def test_ambiguity_is_what_it_says():
    logit = np.array([0.0, 1.0, -3.0, 40.0])
    p = 1 / (1 + np.exp(-logit))
    np.testing.assert_allclose(ambiguity(logit), 1 - np.abs(2 * p - 1), atol=1e-15)


def test_known_answers():
    uncertainty = np.arange(10) / 10
    wrong = np.zeros(10, bool)
    wrong[[9, 8, 3]] = True
    judge = Misclassified(uncertainty, wrong)
    assert judge.auroc() == pytest.approx((7 + 7 + 3) / 21)
    assert judge.accuracy_after(0.0) == pytest.approx(0.7)
    assert judge.accuracy_after(0.1) == pytest.approx(7 / 9)
    assert judge.accuracy_after(0.2) == pytest.approx(7 / 8)
    assert judge.accuracy_after(0.7) == pytest.approx(1.0)
    assert judge.figures((0.0, 0.2)) == {"auroc": judge.auroc(), "accuracy.0": 0.7, "accuracy.0.2": 7 / 8}


def test_counts_are_rows_repeated():
    rng = np.random.default_rng(1)
    uncertainty, wrong = rng.random(60), rng.random(60) < 0.3
    counts = rng.integers(0, 4, 60)
    there = Misclassified(uncertainty, wrong)
    repeated = Misclassified(np.repeat(uncertainty, counts), np.repeat(wrong, counts))
    assert there.auroc(counts) == pytest.approx(repeated.auroc())
    for share in (0.0, 0.05, 0.33):
        assert there.accuracy_after(share, counts) == pytest.approx(repeated.accuracy_after(share))


def test_nothing_wrong_and_nothing_left():
    judge = Misclassified(np.arange(4.0), np.zeros(4, bool))
    assert math.isnan(judge.auroc())
    assert judge.accuracy_after(0.5) == 1.0
    assert math.isnan(judge.accuracy_after(1.0))


def test_psnr_by_hand():
    truth = np.zeros((3, 2, 4, 4), np.float32)
    estimate = truth.copy()
    estimate[0] += 0.1
    estimate[1, 0] += 1.0
    found = psnr(estimate, truth, np.array([1.0, 10.0, 5.0]))
    np.testing.assert_allclose(found[:2], [20.0, 20 + 10 * np.log10(2)], rtol=1e-6)
    assert found[2] == math.inf
    assert math.isnan(psnr(estimate, truth, np.zeros(3))[0])
