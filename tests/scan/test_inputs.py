"""Whole scans of the small survey in one process: from packs, resampled, with eight views; and plans that changed."""

from __future__ import annotations

import shlex
import shutil

import h5py
import numpy as np
import pytest
from small_networks import save_network
from survey_stamps import stamps_of
from tiny_survey import content_hash, make_survey

from lensscan.candidates.file import read_provenance
from lensscan.cli.main import main
from lensscan.errors import ExitCode
from lensscan.nets.model import make_trivial
from lensscan.scan.engine import device_key
from lensscan.schema import Flag

pytestmark = pytest.mark.usefixtures("quick_summaries")
BATCH = 4
OUTSIDE = ("file", "offset", "row")


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    return make_survey(tmp_path_factory.mktemp("survey"), n=60)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Return a network and the arguments that score with it."""
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    return save_network(path), ["--model", str(path), "--set", f"batch={BATCH}", "--set", "threads=1"]


def by_id(out):
    with h5py.File(out) as h5:
        order = np.argsort(h5["scores/id"][()])
        return {name: h5["scores"][name][()][order] for name in h5["scores"] if name not in OUTSIDE}


def error_of(capsys):
    """Return the one line that says what is wrong."""
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    return said


def test_packs_give_the_bits_of_the_stamps_they_were_made_of(survey, network, tmp_path):
    folder = survey.folder
    args = ["pack", f"{folder}/catalog.fits", "--stamps", f"stamps:{folder}/stamps/{{id}}.fits"]
    assert main([*args, "--survey", f"{folder}/tiny.toml", "-o", str(tmp_path / "packs")]) == ExitCode.OK
    found = []
    for stamps in (None, f"packs:{tmp_path / 'packs'}"):
        out = tmp_path / f"{len(found)}.h5"
        assert main(survey.args(out, *network[1], stamps=stamps)) == ExitCode.OK
        assert content_hash(out)
        found.append(by_id(out))
    assert len(np.unique(found[0]["logit"])) == len(found[0]["logit"]) > 20
    for name in found[0]:
        np.testing.assert_array_equal(found[0][name], found[1][name], err_msg=name)


def test_other_pixels_are_refused_and_with_resample_flagged(survey, tmp_path, capsys):
    shutil.copytree(survey.folder, tmp_path / "coarse")
    path = tmp_path / "coarse" / "tiny.toml"
    path.write_text(path.read_text(encoding="utf-8").replace("pixel_scale = 0.263", "pixel_scale = 0.29"))
    coarse, out = type(survey)(tmp_path / "coarse"), tmp_path / "out.h5"
    assert main(coarse.args(out)) == ExitCode.USAGE
    assert "--resample" in error_of(capsys)
    assert main(coarse.args(out, "--resample")) == ExitCode.OK
    assert main(survey.args(tmp_path / "plain.h5")) == ExitCode.OK
    resampled, plain = by_id(out), by_id(tmp_path / "plain.h5")
    scored = resampled["status"] == 1
    assert scored.sum() > 20
    flags = resampled["flags"][scored]
    assert (flags & Flag.RESAMPLED).all()
    assert (flags & Flag.OUT_OF_RANGE).all()
    assert not (plain["flags"] & Flag.RESAMPLED).any()
    assert (resampled["logit"][scored] != plain["logit"][scored]).all()


def test_eight_views_are_those_of_python(survey, network, tmp_path):
    model, args = network
    out = tmp_path / "out.h5"
    assert main(survey.args(out, *args, "--set", "views=8")) == ExitCode.OK
    found = by_id(out)
    images = stamps_of(survey, found["id"])
    table, one = model.score(images, batch=BATCH, views=8), model.score(images, batch=BATCH, views=1)
    assert not (table["logit"] == one["logit"]).any(), "views must matter, or this proves nothing"
    for name in ("logit", "theta_E", "e1", "e2", "x", "sy", "theta_E_err"):
        np.testing.assert_array_equal(found[name], np.asarray(table[name]), err_msg=name)


@pytest.fixture(scope="module")
def interrupted(survey, tmp_path_factory):
    """Return the output of a scan whose run folder stands; the output itself does not."""
    out = tmp_path_factory.mktemp("interrupted") / "out.h5"
    assert main(survey.args(out, "--keep-shards", "--set", "batch=2")) == ExitCode.OK
    out.unlink()
    return out


def edited(survey, folder, name, old, new):
    """Write an edited copy of one of the survey's files; return its path."""
    text = (survey.folder / name).read_text(encoding="utf-8")
    assert old in text
    (folder / name).write_text(text.replace(old, new))
    return str(folder / name)


def models(folder, **changes):
    shape = {"bands": ("g", "i"), "size": 16, "pixel_scale": 0.263} | changes
    make_trivial(**shape).save(folder / "other.safetensors")
    return str(folder / "other.safetensors")


CHANGED = {
    "bands": ("models", lambda survey, folder: ["--model", models(folder, bands=("i",))]),
    "size": ("models", lambda survey, folder: ["--model", models(folder, size=14)]),
    "weights": ("models", lambda survey, folder: ["--model", models(folder, pixel_scale=0.2631)]),
    "cut": ("cut", lambda survey, folder: ["--cut", edited(survey, folder, "red.toml", "min = 0.5", "min = 0.6")]),
    "survey": (
        "survey",
        lambda survey, folder: [
            "--survey",
            edited(survey, folder, "tiny.toml", "zero_point = 30.0", "zero_point = 29"),
        ],
    ),
    "stamps": ("stamps", lambda survey, folder: ["--stamps", f"stamps:{survey.folder}/./stamps/{{id}}.fits"]),
    "resample": ("resample", lambda survey, folder: ["--resample"]),
    "views": ("views", lambda survey, folder: ["--set", "views=8"]),
    "precision": ("precision", lambda survey, folder: ["--set", 'precision="bf16"']),
    "regress_above": ("regress_above", lambda survey, folder: ["--set", "regress_above=1.5"]),
    "batch": ("batch", lambda survey, folder: ["--set", "batch=4"]),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_resumed_scan_with_another_setting_is_refused_and_the_field_named(
    survey, interrupted, tmp_path, capsys, case
):
    field, change = CHANGED[case]
    args = survey.args(interrupted, "--set", "batch=2", *change(survey, tmp_path))
    assert main(args) == ExitCode.ERROR
    assert f"belongs to another plan: {field} changed; undo the change" in error_of(capsys)
    assert not interrupted.exists()


@pytest.mark.parametrize(
    "more",
    [["--set", "top=7"], ["--prevalence", "0.01"], ["--set", "readers=2"], ["--max-failed", "0.5"], ["--cut", "cut"]],
)
def test_what_changes_no_byte_of_a_shard_is_no_other_plan(survey, interrupted, tmp_path, more):
    if "--cut" in more:  # its prevalence acts at the merge
        more = ["--cut", edited(survey, tmp_path, "red.toml", "prevalence = 1e-3", "prevalence = 1e-2")]
    shards = {path: path.stat().st_mtime_ns for path in interrupted.parent.rglob("B*.h5")}
    assert main(survey.args(interrupted, "--keep-shards", "--set", "batch=2", *more)) == ExitCode.OK
    assert shards == {path: path.stat().st_mtime_ns for path in interrupted.parent.rglob("B*.h5")} != {}
    interrupted.unlink()


def test_the_recorded_command_can_be_pasted_back(survey, tmp_path, monkeypatch, capsys):
    """Whatever started it: python -m lensscan has the path of a script for its first word."""
    out = tmp_path / "my search" / "out.h5"
    args = survey.args(out, "--set", "batch=16")
    monkeypatch.setattr("sys.argv", ["/somewhere/lensscan/__main__.py", *args])
    assert main(args) == ExitCode.OK
    command = read_provenance(out)["command"]
    assert command.startswith("lensscan scan --catalog ")
    assert shlex.split(command) == ["lensscan", *args]
    capsys.readouterr()
    assert main(shlex.split(command)[1:]) == ExitCode.OK
    assert "nothing to do" in "".join(capsys.readouterr())


def test_the_kind_of_device_has_the_precision(survey, network, tmp_path):
    """Scores in bf16 are others, on a CPU too, and whoever compares two outputs must see why."""
    found = {}
    for precision in ("fp32", "bf16"):
        out = tmp_path / f"{precision}.h5"
        assert main(survey.args(out, *network[1], "--set", f"precision={precision}")) == ExitCode.OK
        (key,) = read_provenance(out)["blocks"]["device_keys"]
        found[precision] = key, by_id(out)["logit"]
    assert "bf16" not in found["fp32"][0]
    assert found["bf16"][0].startswith(f"{found['fp32'][0]}; bf16")
    assert not np.array_equal(found["fp32"][1], found["bf16"][1])
    assert device_key("cpu", "tf32") == f"{found['fp32'][0]}; tf32"
