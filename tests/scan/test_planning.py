"""Planning: a template of loose stamps that matches no file is refused, a single missing file is not."""

from __future__ import annotations

import os
from dataclasses import replace

import fitsio
import h5py
import numpy as np
import pytest
from astropy.table import Table
from tiny_survey import Survey, make_survey

from lensscan.candidates.file import read_candidates
from lensscan.cli.main import main
from lensscan.errors import ExitCode
from lensscan.nets.model import Card, Model, build_network, common_frame, make_trivial
from lensscan.nets.scorer import Scorer
from lensscan.scan import planning
from lensscan.survey.stamps import Frame

FRAME = Frame(("g", "r"), 32, 0.263, 1)


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    return make_survey(tmp_path_factory.mktemp("survey"))


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


def test_a_scan_never_replaces_its_catalog(survey: Survey, tmp_path, capsys):
    out = tmp_path / "catalog.h5"
    with h5py.File(out, "w") as file:
        file["catalog"] = fitsio.read(str(survey.folder / "catalog.fits"))
    before = out.read_bytes()
    assert main(survey.args(out, "--catalog", str(out), "--set", "overwrite=true")) == ExitCode.ERROR
    assert "would be lost; give another output" in capsys.readouterr().err
    assert out.read_bytes() == before


@pytest.mark.parametrize("more", [[], ["--overwrite"], ["--dry-run"]])
def test_an_output_that_is_a_folder_is_refused_before_the_plan(survey: Survey, tmp_path, capsys, more):
    (tmp_path / "out.h5").mkdir()
    assert main(survey.args(tmp_path / "out.h5", *more)) == ExitCode.ERROR
    said = capsys.readouterr().err.splitlines()
    assert said == [f"lensscan scan: error: cannot write {tmp_path}/out.h5: it is a folder; give a file"]
    assert list(tmp_path.rglob("*")) == [tmp_path / "out.h5"]


def with_columns(survey: Survey, folder, keep: list[str]) -> list[str]:
    """Write a catalog with odd columns, and a survey file that keeps some of them; return the changed arguments."""
    table = fitsio.read(str(survey.folder / "catalog.fits"))[:6]
    odd = {"S/N": np.arange(6.0), "S_N": np.ones(6), "vec": np.ones((6, 3)), "turn": np.ones(6, complex)}
    columns = {name: table[name] for name in table.dtype.names} | odd
    fitsio.write(str(folder / "odd.fits"), columns)
    text = (survey.folder / "tiny.toml").read_text().replace('keep = ["mag_i"]', f"keep = {keep}")
    (folder / "odd.toml").write_text(text)
    return ["--catalog", str(folder / "odd.fits"), "--survey", str(folder / "odd.toml")]


def test_columns_with_a_slash_and_elements_of_vectors_are_carried(survey: Survey, tmp_path):
    assert main(survey.args(tmp_path / "out.h5", *with_columns(survey, tmp_path, ["S/N", "vec[1]"]))) == ExitCode.OK
    with h5py.File(tmp_path / "out.h5") as file:
        rows = file["scores/row"][()]
        np.testing.assert_array_equal(file["scores/cat_S_N"][()], rows)
        np.testing.assert_array_equal(file["scores/cat_vec[1]"][()], np.ones(len(rows)))
    assert len(rows) > 0


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        (["vec"], "'vec' of catalog.keep holds 3 values a row; name elements, such as 'vec[0]'"),
        (["turn"], "'turn' of catalog.keep has dtype complex128; keep numbers or text only"),
        (["S/N", "S_N"], "would be named cat_S_N like another; keep one of them"),
    ],
)
def test_columns_that_no_output_can_carry_are_refused_before_the_scan(survey: Survey, tmp_path, capsys, keep, words):
    more = with_columns(survey, tmp_path, keep)
    assert main(survey.args(tmp_path / "out.h5", "--dry-run", *more)) == ExitCode.ERROR
    assert words in capsys.readouterr().err


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


def test_models_that_need_other_numbers_of_bands_are_scanned_together(survey: Survey, tmp_path):
    """A stamp has as many as the strictest needs, whichever is named first."""
    models = []
    for name, least in (("lax", 1), ("strict", 2)):
        made = make_trivial(("g", "i"), 16, 0.263)
        models.append(Model(replace(made.card, name=name, min_bands=least), made.module))
        models[-1].save(tmp_path / f"{name}.safetensors")
    for order in (models, models[::-1]):
        assert common_frame(order).min_bands == 2
        assert Scorer(order).frame.min_bands == 2
        args = survey.args(tmp_path / "out.h5", "--dry-run")
        place = args.index("--model") + 1
        args[place : place + 1] = [str(tmp_path / f"{model.card.name}.safetensors") for model in order]
        assert main(args) == ExitCode.OK


EMPTY = {
    "csv": lambda table, path: ascii_table(table).write(path),
    "fits": lambda table, path: ascii_table(table).write(path),
    "parquet": lambda table, path: ascii_table(table).write(path),
    "hdf5": lambda table, path: write_hdf5(path, catalog=table),
    "h5": lambda table, path: write_hdf5(path, **{f"catalog/{name}": table[name] for name in table.dtype.names}),
}


def ascii_table(table):
    return Table(np.asarray(table))


def write_hdf5(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values


@pytest.mark.parametrize("kind", EMPTY)
def test_a_catalog_without_rows_gives_an_output_without_candidates(survey: Survey, tmp_path, capsys, kind):
    catalog, out = tmp_path / f"empty.{kind}", tmp_path / "out.h5"
    EMPTY[kind](fitsio.read(str(survey.folder / "catalog.fits"))[:0], catalog)
    assert main(survey.args(out, "--catalog", str(catalog))) == ExitCode.OK
    assert "none of the 0 catalog rows is selected" in capsys.readouterr().err
    assert main(["verify", str(out)]) == ExitCode.OK
    assert "n_catalog = 0 = 0 cut + 0 scored + 0 failed" in capsys.readouterr().out
    assert len(read_candidates(out)) == 0
    assert not out.with_name("out.h5.run").exists()
    assert main(["show", str(out)]) == ExitCode.OK
    assert main(survey.args(out, "--catalog", str(catalog))) == ExitCode.OK
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["scan", "select"])
def test_a_cut_that_selects_nothing_gives_an_output_without_candidates(survey: Survey, tmp_path, capsys, where):
    cut, out, catalog = tmp_path / "none.toml", tmp_path / "out.h5", survey.folder / "catalog.fits"
    cut.write_text((survey.folder / "red.toml").read_text().replace("min = 0.5", "min = 50"))
    more = ["--cut", str(cut)]
    if where == "select":
        selection = tmp_path / "selection.fits"
        args = ["select", str(catalog), "--survey", f"{survey.folder}/tiny.toml", *more, "-o", str(selection)]
        assert main(args) == ExitCode.OK
        more = ["--catalog", str(selection), "--set", 'cut=""']
    assert main(survey.args(out, *more)) == ExitCode.OK
    assert "none of the 420 catalog rows is selected" in capsys.readouterr().err
    assert main(["verify", str(out)]) == ExitCode.OK
    assert "n_catalog = 420 = 420 cut + 0 scored + 0 failed" in capsys.readouterr().out


def test_text_ids_of_chunks_that_the_cut_leaves_empty(survey: Survey, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "CHUNK_ROWS", 50)
    table = Table(fitsio.read(str(survey.folder / "catalog.fits")))
    ids = table["id"].copy()
    table["id"] = [f"J{number}" for number in ids]
    table["number"] = ids
    for start in (0, 100, 400):
        table["mag_i"][start : start + 50] = table["mag_g"][start : start + 50]
    table.write(tmp_path / "text.fits")
    spec, out = f"stamps:{survey.folder}/stamps/{{number}}.fits", tmp_path / "out.h5"
    assert main(survey.args(out, "--catalog", str(tmp_path / "text.fits"), stamps=spec)) == ExitCode.OK
    with h5py.File(out) as file:
        found = set(file["scores/id"][()])
    passed = np.asarray(table["mag_g"] - table["mag_i"]) > 0.5
    assert found == {name.encode() for name in table["id"][passed]}
    assert len(found) > 100
