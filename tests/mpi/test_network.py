"""A real network in a scan: the same bytes for any number of ranks and threads, the same bits from Python."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from launch import run
from small_networks import save_network
from survey_stamps import stamps_of
from tiny_survey import content_hash

BATCH = 8


@pytest.mark.slow
@pytest.mark.mpi
def test_ranks_threads_and_python_give_the_same_bits(survey, tmp_path):
    model, hashes = save_network(tmp_path / "small.safetensors"), set()
    for number, (ranks, threads) in enumerate(((0, 1), (0, 3), (2, 1), (3, 2))):
        out = tmp_path / f"{number}.h5"
        options = ["--model", str(tmp_path / "small.safetensors"), "--set", f"batch={BATCH}"]
        options += ["--set", f"threads={threads}"]
        result = run(survey.args(out, *options), ranks)
        assert result.code == 0, result
        hashes.add(content_hash(out))
    assert len(hashes) == 1
    with h5py.File(out) as h5:
        ids, logit = h5["scores/id"][()], h5["scores/logit"][()]
    assert len(np.unique(logit)) == len(ids) > 200, "rows must differ, or this proves nothing"
    np.testing.assert_array_equal(model.score(stamps_of(survey, ids), batch=BATCH)["logit"], logit)
