"""The total order, and the K best of a stream."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensscan.candidates.rank import TopK, rank_order
from lensscan.metrics.calibration import Calibration

DTYPE = np.dtype([("logit", "f8"), ("id", "i8"), ("plan_row", "i8"), ("payload", "f4", (3,))])
ROW = st.tuples(st.sampled_from([-np.inf, -3.5, -0.0, 0.0, 1.25, 40.0, 41.0, np.nan]), st.integers(0, 3))


def records(rows):
    table = np.zeros(len(rows), DTYPE)
    for k, (logit, name) in enumerate(rows):
        table[k] = (logit, name, k, (k, logit, name))
    return table


def stream(table, top, min_logit, chunk):
    best = TopK(DTYPE, top, min_logit)
    for start in range(0, len(table), chunk):
        part = table[start : start + chunk]
        best.add(part[best.wanted(part["logit"])])
    return best.finish()


def by_hand(table, top, min_logit):
    fine = [r for r in table if not np.isnan(r["logit"]) and (min_logit is None or r["logit"] > min_logit)]
    fine = [r for r in fine if r["logit"] != -np.inf]
    fine.sort(key=lambda r: (-r["logit"], r["id"], r["plan_row"]))
    return [int(r["plan_row"]) for r in (fine[:top] if top else fine)]


@settings(max_examples=200, deadline=None)
@given(st.lists(ROW, max_size=60), st.integers(0, 12), st.sampled_from([None, -3.5, 0.0, 40.5]), st.integers(1, 70))
def test_stream_equals_sorting_everything(rows, top, min_logit, chunk):
    table = records(rows)
    found = stream(table, top, min_logit, chunk)
    assert found["plan_row"].tolist() == by_hand(table, top, min_logit)
    np.testing.assert_array_equal(found["payload"][:, 0], found["plan_row"])


def test_a_tie_with_the_worst_that_comes_late_is_decided_by_id():
    table = records([(3.0, 3), (0.0, 3), (0.0, 2), (0.0, 3), (0.0, 3), (0.0, 1)])
    assert stream(table, 2, None, 5)["plan_row"].tolist() == [0, 5]


def test_memory_is_bounded_by_k():
    best = TopK(DTYPE, 10)
    rng = np.random.default_rng(0)
    for _ in range(200):
        part = np.zeros(50, DTYPE)
        part["logit"] = rng.normal(size=50)
        best.add(part[best.wanted(part["logit"])])
        assert best._held <= 20 + 50


def test_text_and_unsigned_ids_break_ties():
    logit = np.zeros(4)
    rows = np.arange(4)
    assert rank_order(logit, np.array([b"b", b"a10", b"a1", b"a1"]), rows).tolist() == [2, 3, 1, 0]
    large = np.array([2**63 + 2, 2**63 + 1, 2**63, 5], dtype=np.uint64)
    assert rank_order(logit, large, rows).tolist() == [3, 2, 1, 0]


def test_order_survives_saturated_probabilities():
    logit = np.array([40.0, 45.0, 60.0])
    assert (Calibration().p_lens(logit, 0.5).astype(np.float32) == 1).all()
    assert rank_order(logit, np.arange(3), np.arange(3)).tolist() == [2, 1, 0]


def test_nan_is_last_and_never_kept():
    table = records([(np.nan, 0), (1.0, 1), (np.nan, 2)])
    assert rank_order(table["logit"], table["id"], table["plan_row"])[0] == 1
    assert stream(table, 5, None, 2)["plan_row"].tolist() == [1]


@pytest.mark.parametrize("n", [0, 1])
def test_tiny_streams(n):
    assert len(stream(records([(1.0, 1)] * n), 3, None, 1)) == n
