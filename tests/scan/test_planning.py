"""Planning: a template of loose stamps that matches no file is refused, a single missing file is not."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import pytest
from tiny_survey import Survey, make_survey

from lensscan.cli.main import main
from lensscan.config import load_survey
from lensscan.errors import ConfigError, ExitCode
from lensscan.nets.model import Card, Model, build_network
from lensscan.scan import planning
from lensscan.scan.planning import SomeFiles
from lensscan.survey.stamps import Frame, StampSource, open_source

FRAME = Frame(("g", "r"), 32, 0.263, 1)


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    return make_survey(tmp_path_factory.mktemp("survey"))


def loose(spec: str) -> StampSource:
    return open_source(spec, load_survey("des"), FRAME)


@pytest.fixture
def looked(monkeypatch):
    """The files that were looked for."""
    seen = []
    monkeypatch.setattr(planning, "_stands", lambda path: seen.append(path) or Path(path).exists())
    return seen


def test_one_look_is_enough_where_the_first_file_is_there(tmp_path, looked):
    (tmp_path / "0.fits").touch()
    first = SomeFiles(loose("stamps:x"), "stamps:x")
    for _ in range(3):
        first.look([f"{tmp_path}/{k}.fits" for k in range(1000)])
    first.require()
    assert looked == [f"{tmp_path}/0.fits"]


def test_no_more_looks_than_allowed(tmp_path, looked):
    (tmp_path / "990.fits").touch()
    paths = [f"{tmp_path}/{k}.fits" for k in range(1000)]
    SomeFiles(loose("stamps:x"), "stamps:x").look(paths)
    assert len(looked) == 100, "every tenth, for neighbours may be missing together"
    with pytest.raises(ConfigError, match=r"--stamps stamps:x: none of .* \(7 looked for, the first is .*/0\.fits\)"):
        SomeFiles(loose("stamps:x"), "stamps:x", 7).look(paths)
    assert len(looked) == 107


def test_files_of_every_band_are_looked_for_once(tmp_path, looked):
    (tmp_path / "b_r.fits").touch()
    first = SomeFiles(loose("stamps:x"), "stamps:x")
    first.look([f"{tmp_path}/a_{{band}}.fits", f"{tmp_path}/a_{{band}}.fits", f"{tmp_path}/b_{{band}}.fits"])
    first.require()
    assert [os.path.basename(path) for path in looked] == ["a_g.fits", "a_r.fits", "b_g.fits", "b_r.fits"]


def test_few_rows_are_refused_at_the_end_and_none_never(tmp_path):
    first = SomeFiles(loose("stamps:x"), "stamps:x")
    first.require()
    first.look([f"{tmp_path}/0.fits"])
    with pytest.raises(ConfigError, match="1 looked for"):
        first.require()


def test_what_cannot_be_told_is_left_to_the_reader(tmp_path):
    first = SomeFiles(loose("stamps:x"), "stamps:x")
    first.look([f"{tmp_path}/{'long' * 100}.fits"])
    first.require()


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_template_that_matches_nothing_is_refused_in_one_line(survey: Survey, tmp_path, capsys, more):
    spec = f"stamps:{survey.folder}/cuts/{{id}}.fits"
    assert main(survey.args(tmp_path / "out.h5", *more, stamps=spec)) == ExitCode.USAGE
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert said.startswith(f"lensscan scan: error: --stamps {spec}: none of the files of the rows tried is there (100")
    assert not list(tmp_path.iterdir()), "nothing stays behind"


def test_missing_files_among_others_are_failed_rows(survey: Survey, tmp_path):
    """Half of the stamps away, and a plan made again for a touched catalog when all are."""
    stamps, away = survey.folder / "stamps", tmp_path / "away"
    away.mkdir()
    names = sorted(path.name for path in stamps.iterdir())
    out = tmp_path / "out.h5"
    try:
        for name in names[::2]:
            (stamps / name).rename(away / name)
        assert main(survey.args(out)) == ExitCode.OK
        with h5py.File(out) as file:
            failed = file["failures"][()]
        assert set(failed["reason"]) == {b"missing_file"}
        assert 100 < len(failed) < 180
        for name in names[1::2]:
            (stamps / name).rename(away / name)
        os.utime(survey.folder / "catalog.fits")
        assert main(survey.args(out)) == ExitCode.OK, "a finished output stands, wherever its stamps are now"
    finally:
        for path in away.iterdir():
            path.rename(stamps / path.name)


@pytest.mark.parametrize(
    ("architecture", "evaluation"),
    [
        ({"kind": "holismokes-cnn"}, {}),
        ({"kind": "resnet", "widths": [4, 4], "depths": [1, 1]}, {"detection": "none: its recipe makes lenses only"}),
    ],
)
def test_a_model_without_a_score_is_refused_in_one_line(survey: Survey, tmp_path, capsys, architecture, evaluation):
    card = Card("mute", architecture, ("g", "r", "i", "z"), 32, 0.263, evaluation=evaluation)
    path = tmp_path / "mute.safetensors"
    Model(card, build_network(architecture, 4, 32).eval()).save(path)
    args = survey.args(tmp_path / "out.h5")
    args[args.index("--model") + 1] = str(path)
    assert main(args) == ExitCode.ERROR
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert said.startswith("lensscan scan: error: model mute learned to regress only")
    assert list(tmp_path.iterdir()) == [path], "nothing stays behind"
