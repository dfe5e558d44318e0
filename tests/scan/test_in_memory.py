"""Stamps scored from Python against a scan of the same: every column they share, flags too."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import pytest
import torch
from small_networks import save_network
from survey_stamps import stamps_of
from tiny_survey import make_survey

from lensscan.cli.main import main
from lensscan.errors import ExitCode
from lensscan.nets.card import ThetaPrior
from lensscan.nets.model import Model
from lensscan.nets.novelty import Novelty, feature_width
from lensscan.schema import Flag

BATCH = 4


@pytest.mark.usefixtures("quick_summaries")
def test_the_table_from_python_is_the_scans(tmp_path):
    survey = make_survey(tmp_path, n=60)
    path = tmp_path / "judge.safetensors"
    save_network(path, theta_E_prior=ThetaPrior(0.9, 1.1, (1.0, 1.0)))
    model = Model.load(path)
    width = feature_width(model.module)
    novelty = Novelty(torch.eye(width), torch.zeros(width), torch.zeros(1, width))
    card = dataclasses.replace(model.card, ood_distances=(0.01, 0.02, 0.03, 0.04))
    model = Model(card, model.module, novelty)
    model.save(path)
    args = survey.args(tmp_path / "out.h5", "--set", f"batch={BATCH}", "--set", "threads=1")
    args[args.index("--model") + 1] = str(path)
    assert main(args) == ExitCode.OK
    with h5py.File(tmp_path / "out.h5") as h5:
        found = {name: h5["scores"][name][()] for name in h5["scores"]}
    table = Model.load(path).score(stamps_of(survey, found["id"]), prevalence=1e-3, batch=BATCH)
    shared = [name for name in table.colnames if name in found]
    assert {"logit", "p_lens", "theta_E", "e2_err", "theta_E_q975", "snr", "ood", "flags"} <= set(shared)
    for name in shared:
        np.testing.assert_array_equal(np.asarray(table[name]), found[name], err_msg=name)
    assert np.isfinite(found["ood"]).all()
    for flag in (Flag.OOD, Flag.POSTERIOR_AT_PRIOR):
        assert (found["flags"] & flag).any(), flag
