"""Ensembles in an evaluation: pooled from their members' predictions as a scan pools them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from synthetic_scores import scored

from lensscan.candidates.ensemble import Ensemble
from lensscan.evaluate.members import Group, pool
from lensscan.metrics.calibration import Calibration
from lensscan.metrics.scalemixture import GAUSSIAN, ScaleMixture
from lensscan.nets.mixture import Mixture, Pooling
from lensscan.nets.model import Model, make_trivial
from lensscan.schema import Flag

HEAVY = ScaleMixture((0.7, 0.3), (0.5, 3.0))
N = 60


@pytest.fixture(scope="module")
def members():
    """Two members of other logits, tails and flags."""
    first, second = scored(N, widths=(1.0, 1.5)).models
    flagged = np.zeros(N, np.uint32)
    flagged[3] = Flag.OUT_OF_RANGE
    tailed = Mixture(first.posterior.mean + 0.1, first.posterior.cov, first.posterior.weight, HEAVY)
    return [dataclasses.replace(first, posterior=tailed, flags=flagged), second]


def pooled(members, **card):
    ensemble = Ensemble(Calibration("platt", 2.0, -1.0), **card)
    made = make_trivial(("g", "r"), 32, 0.263)
    shown = Model(dataclasses.replace(made.card, calibration=ensemble.calibration), made.module)
    return pool(Group(ensemble, shown, (0, 1)), members), ensemble


def test_logits_are_averaged_before_their_calibration(members):
    found, _ = pooled(members)
    raw = (members[0].raw + members[1].raw) / 2
    np.testing.assert_allclose(found.raw, raw)
    np.testing.assert_allclose(found.logit, 2 * raw - 1)


def test_what_any_member_flags_is_flagged(members):
    found, _ = pooled(members)
    assert np.flatnonzero(found.flags).tolist() == [3]
    assert found.out_of_range == pytest.approx(1 / N)


@pytest.mark.parametrize("card", [{}, {"posterior_scale": (2.0, *(1.0,) * 6), "posterior_tail": HEAVY}])
def test_posteriors_are_those_of_a_scan(members, card):
    """By hand, without factors of its own, an ensemble leaves each member the tail of its card."""
    found, ensemble = pooled(members, **card)
    cards = [
        dataclasses.replace(make_trivial(("g", "r"), 32, 0.263).card, posterior_tail=tail) for tail in (HEAVY, GAUSSIAN)
    ]
    parts = [np.concatenate([getattr(each.posterior, name) for each in members], axis=1) for name in ("mean", "cov")]
    expected = ensemble.pooling(cards, 0).columns(*parts)
    assert (ensemble.pooling(cards, 0) == Pooling.of(cards)) == (not card)
    columns = found.posterior.columns()
    for name in ("theta_E", "theta_E_q025", "x_err", "sy_err"):
        np.testing.assert_allclose(columns[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(found.posterior.weight.sum(axis=1), 1.0)
