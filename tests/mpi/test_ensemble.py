"""Several models in one scan: each one's logit is kept, their mean ranks, the ensemble's card calibrates it."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
from launch import run
from tiny_survey import content_hash

from lensscan.errors import ExitCode


def second_model(survey, folder):
    """Save a model with another weight beside the small survey's."""
    from lensscan.nets.model import Model

    model = Model.load(survey.folder / "tiny.safetensors")
    model.module.weight.data.fill_(-3.0)
    other = dataclasses.replace(model, card=dataclasses.replace(model.card, name="other"))
    other.save(folder / "other.safetensors")
    return folder / "other.safetensors"


def test_mean_logit_ranks_and_members_are_kept(survey, tmp_path):
    other = second_model(survey, tmp_path)
    card = tmp_path / "ensemble.toml"
    card.write_text('[calibration]\nkind = "platt"\na = 2.0\nb = -1.0\n')
    args = survey.args(
        tmp_path / "out.h5", "--set", f"ensemble={card}", "--model", str(survey.folder / "tiny.safetensors"), str(other)
    )
    result = run(args, 2)
    assert result.code == 0, result
    content_hash(tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as h5:
        first, second = h5["scores/logit_trivial"][()], h5["scores/logit_other"][()]
        np.testing.assert_allclose(second, -3 * first, rtol=1e-6)
        np.testing.assert_allclose(h5["scores/logit"][()], 2.0 * (first + second) / 2 - 1.0, rtol=1e-5, atol=1e-6)
        ranked = h5["candidates"]["logit"]
        assert (np.diff(ranked) <= 0).all()


def test_two_models_of_one_name_are_refused(survey, tmp_path):
    model = str(survey.folder / "tiny.safetensors")
    result = run(survey.args(tmp_path / "out.h5", "--model", model, model))
    assert result.code == ExitCode.ERROR, result
    assert "same name" in result.err
