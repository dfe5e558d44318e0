"""A real network in a scan: the same bytes for any number of ranks and threads, the same bits from Python."""

from __future__ import annotations

from pathlib import Path

import fitsio
import h5py
import numpy as np
import pytest
import torch
from launch import run
from tiny_survey import SIZE, Survey, content_hash

from lensscan.nets.model import Card, Model, build_network
from lensscan.survey.zeropoint import counts_to_njy

BATCH = 8
ARCHITECTURE = {"kind": "resnet", "widths": [8, 12], "depths": [0, 1], "hidden": 16, "squeeze": 4}


def save_network(path: Path) -> Model:
    """Save and load a network with random weights, whose scores differ between rows."""
    torch.manual_seed(1)
    network = build_network(ARCHITECTURE, 2, SIZE).eval()
    with torch.no_grad():
        network.posterior.output.weight.mul_(30)
        network.logit.output.weight.mul_(30)
    Model(Card("small", ARCHITECTURE, ("g", "i"), SIZE, 0.263), network).save(path)
    return Model.load(path)


def stamps_of(survey: Survey, ids: np.ndarray) -> np.ndarray:
    """Return the stamps (n, 2, side, side) of objects, nJy."""
    files = [str(survey.folder / "stamps" / f"{number}.fits") for number in ids]
    counts = np.array([[fitsio.read(file, ext=band) for band in "GI"] for file in files])
    return counts * np.float32(counts_to_njy(30.0))


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
