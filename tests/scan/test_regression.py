"""A separate regressor in a scan: which rows it sees, what it leaves of them, and what is refused."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from small_networks import MEASURED, POINTS, RESNET, save_network
from survey_stamps import stamps_of
from tiny_survey import content_hash, make_survey

from lensscan.candidates.export import _training_prior
from lensscan.candidates.file import read_provenance
from lensscan.cli.main import main
from lensscan.errors import ExitCode
from lensscan.nets.card import ThetaPrior
from lensscan.nets.model import Model
from lensscan.schema import PARAMETERS, Flag

pytestmark = pytest.mark.usefixtures("quick_summaries")
BATCH = 4
POSTERIOR = (*PARAMETERS, *(f"{name}_err" for name in PARAMETERS), "theta_E_q025", "theta_E_q16", "theta_E_q84")


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    return make_survey(tmp_path_factory.mktemp("survey"), n=140)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return the folder of a classifier and of regressors of all kinds."""
    folder = tmp_path_factory.mktemp("models")
    save_network(folder / "judge.safetensors")
    save_network(folder / "alike.safetensors", seed=2)
    save_network(folder / "small.safetensors", seed=3, bands=("i",), size=12)
    save_network(folder / "odd.safetensors", seed=4, size=13)
    save_network(folder / "mixed.safetensors", seed=5, architecture={**RESNET, "components": 3})
    save_network(folder / "points.safetensors", seed=6, architecture=POINTS, evaluation=MEASURED)
    return folder


def scan(survey, models, out, regressor=None, *more):
    """Scan with the classifier; return the exit code."""
    args = survey.args(out, "--set", f"batch={BATCH}", "--set", "threads=1", *more)
    args[args.index("--model") + 1] = str(models / "judge.safetensors")
    return main([*args, *(["--regressor", str(models / f"{regressor}.safetensors")] if regressor else [])])


def columns(out):
    with h5py.File(out) as h5:
        return {name: h5["scores"][name][()] for name in h5["scores"]}


@pytest.fixture(scope="module")
def plain(survey, models, tmp_path_factory):
    """Columns of a scan without a regressor."""
    out = tmp_path_factory.mktemp("plain") / "out.h5"
    assert scan(survey, models, out) == ExitCode.OK
    return columns(out)


def above(found, limit):
    return found["logit"] > limit  # without a calibration the raw logit


def assert_posterior_is(found, table, rows):
    """The posterior of some rows is that of a table from Python, bit by bit, and NaN elsewhere."""
    for name in POSTERIOR:
        np.testing.assert_array_equal(found[name][rows], np.asarray(table[name])[rows], err_msg=name)
        assert np.isnan(found[name][~rows]).all(), name


@pytest.mark.parametrize("regressor", ["alike", "small", "odd", "mixed", "points"])
def test_rows_above_have_the_regressors_posterior(survey, models, plain, tmp_path, regressor):
    out = tmp_path / "out.h5"
    assert scan(survey, models, out, regressor) == ExitCode.OK
    found = columns(out)
    rows = above(found, 0)
    assert 20 < rows.sum() < len(rows) - 20
    model = Model.load(models / f"{regressor}.safetensors")
    images = stamps_of(survey, found["id"])[:, [("g", "i").index(band) for band in model.card.bands]]
    assert_posterior_is(found, model.score(images, batch=BATCH), rows)
    assert len(np.unique(found["theta_E"][rows])) > rows.sum() / 2
    assert not (found["theta_E"][rows] == plain["theta_E"][rows]).any()
    for name in ("logit", "logit_judge", "p_lens", "snr", "sigma_g", "status"):
        np.testing.assert_array_equal(found[name], plain[name], err_msg=name)


@pytest.mark.parametrize(("limit", "share"), [("1e9", 0.0), ("-inf", 1.0)])
def test_no_row_or_every_row(survey, models, tmp_path, limit, share):
    out = tmp_path / "out.h5"
    assert scan(survey, models, out, "alike", "--set", f"regress_above={limit}") == ExitCode.OK
    found = columns(out)
    assert np.isfinite(found["theta_E"]).mean() == share
    table = Model.load(models / "alike.safetensors").score(stamps_of(survey, found["id"]), batch=BATCH)
    assert_posterior_is(found, table, np.full(len(found["id"]), bool(share)))
    assert content_hash(out)


def test_eight_views_are_the_regressors_too(survey, models, tmp_path):
    out = tmp_path / "out.h5"
    assert scan(survey, models, out, "small", "--set", "views=8") == ExitCode.OK
    found = columns(out)
    table = Model.load(models / "small.safetensors").score(stamps_of(survey, found["id"])[:, 1:], batch=BATCH, views=8)
    assert_posterior_is(found, table, above(found, 0))


def test_the_batch_of_the_regressor_does_not_matter(survey, models, tmp_path):
    """Other batches, other blocks, other neighbours in the regressor's batches: the same bits."""
    found = []
    for batch in (4, 64):
        out = tmp_path / f"{batch}.h5"
        assert scan(survey, models, out, "alike", "--set", f"batch={batch}") == ExitCode.OK
        found.append(columns(out))
    for name in POSTERIOR:
        np.testing.assert_array_equal(found[0][name], found[1][name], err_msg=name)


def test_provenance_and_show_name_it(survey, models, tmp_path, capsys):
    out = tmp_path / "out.h5"
    assert scan(survey, models, out, "alike", "--set", "regress_above=0.5") == ExitCode.OK
    card = Model.load(models / "alike.safetensors").card
    stored = read_provenance(out)
    assert stored["regressor"] == {"name": "alike", "version": "1", "sha256": card.hash, "label": "", "above": 0.5}
    assert stored["plan_settings"]["regressor"] == {"name": "alike", "sha256": card.hash}
    assert any("regressor alike" in note and "above 0.5" in note for note in stored["merge"]["notes"])
    capsys.readouterr()
    assert main(["show", str(out)]) == ExitCode.OK
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  regressor ")]
    assert line.split(None, 1)[1] == f"alike 1 {card.hash[:12]}, of rows with a raw logit above 0.5"


def test_a_dry_run_names_it(survey, models, tmp_path, capsys):
    assert scan(survey, models, tmp_path / "out.h5", "alike", "--dry-run") == ExitCode.OK
    assert "regressor alike: rows with a raw logit above 0\n" in capsys.readouterr().out


def test_the_prior_is_the_regressors(survey, models, tmp_path):
    prior = ThetaPrior(0.9, 1.1, (1.0, 1.0))
    save_network(tmp_path / "narrow.safetensors", seed=2, theta_E_prior=prior)
    (tmp_path / "judge.safetensors").write_bytes((models / "judge.safetensors").read_bytes())
    out = tmp_path / "out.h5"
    assert scan(survey, tmp_path, out, "narrow") == ExitCode.OK
    assert _training_prior(out) == prior
    found = columns(out)
    beyond = (found["theta_E_q16"] < 0.9 * 1.02) | (found["theta_E_q84"] > 1.1 * 0.98)
    assert 10 < beyond.sum() <= above(found, 0).sum()
    np.testing.assert_array_equal((found["flags"] & Flag.POSTERIOR_AT_PRIOR) != 0, beyond)


def test_another_regressor_is_another_plan(survey, models, tmp_path, capsys):
    out = tmp_path / "out.h5"
    assert scan(survey, models, out, "alike", "--keep-shards") == ExitCode.OK
    out.unlink()
    for regressor, more in (("small", ()), (None, ()), (None, ("--set", "regress_above=0.0"))):
        capsys.readouterr()
        assert scan(survey, models, out, regressor, *more) == ExitCode.ERROR
        (said,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert "belongs to another plan: " in said
        assert ("regress_above, " if not more and not regressor else "") + "regressor changed" in said
    assert scan(survey, models, out, "alike") == ExitCode.OK


def test_the_same_weights_under_another_path_resume(survey, models, tmp_path):
    out, copy = tmp_path / "out.h5", tmp_path / "alike.safetensors"
    assert scan(survey, models, out, "alike", "--keep-shards") == ExitCode.OK
    out.unlink()
    copy.write_bytes((models / "alike.safetensors").read_bytes())
    (tmp_path / "judge.safetensors").write_bytes((models / "judge.safetensors").read_bytes())
    assert scan(survey, tmp_path, out, "alike") == ExitCode.OK


def test_a_posterior_that_is_not_finite_costs_the_posterior_and_flags_the_row(survey, models, plain, tmp_path):
    broken = Model.load(models / "alike.safetensors")
    with torch.no_grad():
        broken.module.posterior.output.bias.fill_(3e38)  # finite, or the file is refused; the covariance overflows
    broken.save(tmp_path / "broken.safetensors")
    (tmp_path / "judge.safetensors").write_bytes((models / "judge.safetensors").read_bytes())
    out = tmp_path / "out.h5"
    assert scan(survey, tmp_path, out, "broken") == ExitCode.OK
    found = columns(out)
    rows = above(found, 0)
    assert (((found["flags"] & Flag.NO_POSTERIOR) != 0) == rows).all()
    assert np.isnan(found["theta_E"]).all()
    np.testing.assert_array_equal(found["logit"], plain["logit"])
    np.testing.assert_array_equal(found["status"], plain["status"])


REFUSED = {
    "other bands": ({"bands": ("g", "r")}, "wants the band r, the scan reads g i"),
    "larger stamps": ({"size": 20}, "wants 20 pixels, the scan reads 16"),
    "points without errors": ({"architecture": POINTS}, "has no errors measured on mocks"),
    "a classifier": ({"evaluation": {"posterior": "none: it only classifies"}}, "learned to classify only"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_regressor_that_does_not_fit_is_refused_in_one_line(survey, models, tmp_path, capsys, case):
    changes, text = REFUSED[case]
    save_network(tmp_path / "wrong.safetensors", **changes)
    (tmp_path / "judge.safetensors").write_bytes((models / "judge.safetensors").read_bytes())
    assert scan(survey, tmp_path, tmp_path / "out.h5", "wrong") == ExitCode.ERROR
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert said.startswith("lensscan scan: error: regressor wrong ")
    assert text in said
    assert not list(tmp_path.glob("out.h5*")), "nothing stays behind"


def test_a_network_without_posterior_is_no_regressor(survey, models, tmp_path, capsys):
    args = ["--regressor", str(survey.folder / "tiny.safetensors")]
    assert scan(survey, models, tmp_path / "out.h5", None, *args) == ExitCode.ERROR
    assert "regressor trivial learned to classify only" in capsys.readouterr().err


def test_a_threshold_that_is_no_number_is_refused(survey, models, tmp_path, capsys):
    assert scan(survey, models, tmp_path / "out.h5", None, "--set", "regress_above=nan") == ExitCode.USAGE
    assert "regress_above must be a number" in capsys.readouterr().err
