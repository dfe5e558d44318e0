"""A template that matches no file is found out by a few looks; a single missing file is not held against it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from lensscan.cli.main import main
from lensscan.config import load_survey
from lensscan.errors import ConfigError, ExitCode
from lensscan.survey import presence
from lensscan.survey.presence import SomeFiles
from lensscan.survey.stamps import Frame, StampSource, open_source

FRAME = Frame(("g", "r"), 32, 0.263, 1)


def loose(spec: str) -> StampSource:
    return open_source(spec, load_survey("des"), FRAME)


@pytest.fixture
def looked(monkeypatch):
    """The files that were looked for."""
    seen = []
    monkeypatch.setattr(presence, "_stands", lambda path: seen.append(path) or Path(path).exists())
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


def test_tiles_of_a_template_are_looked_for_in_every_band(tmp_path):
    spec = f"tiles:{tmp_path}/{{tile}}_{{band}}.fits"
    source = open_source(spec, load_survey("des"), FRAME)
    row = f"{tmp_path}/DES0001_{{band}}.fits"
    assert source.files_of(row) == [f"{tmp_path}/DES0001_g.fits", f"{tmp_path}/DES0001_r.fits"]
    tried = SomeFiles(source, spec)
    tried.look([row] * 1000)
    with pytest.raises(ConfigError, match="2 looked for"):
        tried.require()
    Path(source.files_of(row)[1]).touch()
    again = SomeFiles(source, spec)
    again.look([row] * 1000)
    again.require()


@pytest.mark.parametrize("kind", ["stamps", "tiles"])
def test_packing_what_is_not_there_is_refused_in_one_line(tmp_path, capsys, kind):
    table = tmp_path / "c.fits"
    Table({"id": np.arange(500), "ra": np.full(500, 40.0), "dec": np.full(500, -20.0)}).write(table)
    where = f"{tmp_path}/coadds/{'{id}' if kind == 'stamps' else 'tile'}_{{band}}.fits"
    spec, packs = f"{kind}:{where}", tmp_path / "packs"
    assert main(["pack", str(table), "--survey", "des", "--stamps", spec, "-o", str(packs)]) == ExitCode.USAGE
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert said.startswith(f"lensscan pack: error: --stamps {spec}: none of the files of the rows tried is there")
    assert list(tmp_path.iterdir()) == [table], "nothing stays behind"


def test_rows_without_a_value_for_the_template_are_named_so():
    first = SomeFiles(loose("stamps:{file}"), "stamps:{file}")
    first.look([""])
    with pytest.raises(ConfigError, match="the first is that of a row without a value for the template"):
        first.require()
