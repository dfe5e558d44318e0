"""What models say of a set: in the frame of the stamps, with the tail of the views, on rows that all could score."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from synthetic_scores import card

from lensscan.evaluate.predict import _of, _score, _scored_by_all
from lensscan.metrics.calibration import Calibration
from lensscan.metrics.scalemixture import ScaleMixture
from lensscan.nets.latent import N_COV, N_LATENT
from lensscan.schema import Status
from lensscan.survey.stamps import Frame, allocate

HEAVY, WIDER = ScaleMixture((0.7, 0.3), (0.5, 2.0)), ScaleMixture((0.5, 0.5), (0.5, 1.5))
N = 3


def columns(**changes):
    plain = {
        "logit": np.array([0.5, 1.0, -2.0]),
        "post_mean": np.zeros((N, 1, N_LATENT)),
        "post_cov": np.ones((N, 1, N_COV)),
        "post_weight": np.ones((N, 1)),
        "flags": np.zeros(N, np.uint32),
        "fwhm": np.ones((N, 2)),
        "status": np.full(N, Status.PENDING),
    }
    return plain | changes


def test_positions_and_sources_are_brought_to_the_stamp():
    slot = allocate(4, Frame(("g", "r"), 16, 0.2, 1))
    slot.origin[:] = np.array([[0.1, -0.2]] * 4)
    scored = columns(post_mean=np.tile(np.arange(7.0), (4, 1, 1)), logit=np.zeros((4, 1)))
    scored = {key: np.resize(value, (4, *value.shape[1:])) for key, value in scored.items()}
    scored |= {"sigma": np.ones((4, 2)), "snr": np.ones(4)}
    stub = SimpleNamespace(submit=lambda batch: SimpleNamespace(result=lambda: scored))
    found = _score(stub, slot, N)["post_mean"]
    np.testing.assert_allclose(found, np.tile([0, 1, 2, 3.1, 3.8, 5.1, 5.8], (N, 1, 1)), rtol=1e-6)


@pytest.mark.parametrize(("views", "tail"), [(1, HEAVY), (8, WIDER)])
def test_predictions_have_the_calibration_and_the_tail_of_their_views(views, tail):
    own = dataclasses.replace(
        card("own"),
        calibration=Calibration("platt", 2.0, 1.0),
        posterior_tail=HEAVY,
        posterior_tail_views=WIDER,
        posterior_scale_views=(1.0,) * 7,
    )
    found = _of(own, columns(), np.array([True, False, True]), views)
    assert (found.posterior.tail, found.views) == (tail, views)
    assert found.logit.tolist() == [2.0, -3.0]
    assert found.raw.tolist() == [0.5, -2.0]


def test_rows_that_one_model_could_not_score_are_left_out_for_all():
    broken = columns(status=np.array([Status.PENDING, Status.PENDING, Status.BLANK]))
    blind = columns(logit=np.array([0.0, np.nan, 1.0]))
    regressor = columns(logit=np.full(N, np.nan))
    assert _scored_by_all([columns(), regressor]).all(), "a model that only regresses has no logits"
    assert _scored_by_all([broken, blind, regressor]).tolist() == [True, False, False]
