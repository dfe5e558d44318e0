"""Logistic regression: the same answer in both forms and as scikit-learn's; folds that keep groups whole."""

from __future__ import annotations

import numpy as np
import pytest

from lensscan.metrics.detection import auroc
from lensscan.nets.logistic import cross_scores, deal_folds, fit_logistic, solve_logistic


def rows(n: int, f: int, seed: int, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Normal features; a tenth of them carries the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2 == 0
    features = rng.normal(size=(n, f))
    features[:, : max(1, f // 10)] += strength * labels[:, None]
    return features, labels


@pytest.mark.parametrize("f", [12, 300])
@pytest.mark.parametrize("penalty", [1e-3, 1.0])
def test_solution_is_that_of_scikit_learn(f, penalty):
    linear = pytest.importorskip("sklearn.linear_model")
    features, labels = rows(120, f, 1, 0.4)
    features = features * np.linspace(0.1, 30, f) + 5
    ours = fit_logistic(features, labels, penalties=[penalty])
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    theirs = linear.LogisticRegression(C=penalty, max_iter=5000, tol=1e-8).fit(scaled, labels)
    np.testing.assert_allclose(ours.score(features), theirs.decision_function(scaled), atol=5e-3)


def test_penalty_is_chosen_and_new_rows_are_scored():
    features, labels = rows(400, 60, 2)
    other, truth = rows(400, 60, 3)
    fitted = fit_logistic(features, labels)
    assert auroc(fitted.score(other), truth) > 0.9
    assert fitted.cross_validated == pytest.approx(auroc(fitted.score(other), truth), abs=0.06)


def test_noise_is_not_learnt_in_cross_scores():
    features, labels = rows(300, 600, 4, strength=0.0)
    assert auroc(fit_logistic(features, labels).score(features), labels) > 0.9, "what it has seen, it knows"
    assert auroc(cross_scores(features, labels), labels) == pytest.approx(0.5, abs=0.12)


def test_groups_are_never_split():
    rng = np.random.default_rng(5)
    galaxy = np.repeat(np.arange(40), 8)
    labels = galaxy % 2 == 0
    own = rng.normal(size=(40, 300))[galaxy] + 0.1 * rng.normal(size=(320, 300))
    fold = deal_folds(labels, galaxy, 5, 1)
    assert all(len(set(fold[galaxy == each])) == 1 for each in range(40))
    assert all(labels[fold == k].mean() == 0.5 for k in range(5))
    assert auroc(cross_scores(own, labels), labels) > 0.95, "views of one galaxy give each other away"
    assert auroc(cross_scores(own, labels, groups=galaxy), labels) < 0.75


def test_weights_count_as_copies():
    features, labels = rows(60, 5, 6)
    weights = np.where(labels, 3.0, 1.0)
    copies = np.repeat(np.arange(60), weights.astype(int))
    exact = {"ftol": 0.0, "gtol": 1e-9, "maxiter": 500}
    weighted = solve_logistic(features, labels, weights, 0.1, options=exact)
    copied = solve_logistic(features[copies], labels[copies], np.ones(len(copies)), 0.1, options=exact)
    np.testing.assert_allclose(weighted, copied, rtol=1e-6, atol=1e-7)


def test_weights_of_a_class_move_the_intercept():
    features, labels = rows(60, 5, 6)
    weights = np.where(labels, 3.0, 1.0)
    weighted = fit_logistic(features, labels, penalties=[0.1], weights=weights)
    assert weighted.intercept > fit_logistic(features, labels, penalties=[0.1]).intercept + 0.5


def test_many_features_that_all_go_together():
    """Their scalar products have eigenvalues next to nothing beside one of n f."""
    rng = np.random.default_rng(8)
    labels = np.arange(240) % 2 == 0
    own = rng.normal(size=240) + labels
    features = own[:, None] + 1e-5 * rng.normal(size=(240, 2000))
    assert auroc(cross_scores(features, labels), labels) == pytest.approx(auroc(own, labels), abs=0.02)
    assert auroc(fit_logistic(features, labels).score(features), labels) == pytest.approx(auroc(own, labels), abs=0.05)


def test_labels_must_fit():
    features, labels = rows(10, 3, 7)
    with pytest.raises(ValueError, match="both classes"):
        fit_logistic(features, np.ones(10, bool))
    with pytest.raises(ValueError, match="as many labels"):
        cross_scores(features, labels[1:])
