from __future__ import annotations

import resource

import numpy as np
import pytest
from astropy.table import Table

from lensscan.cli.main import main
from lensscan.config import Band, Cut, CutStep, Survey, load_cut, load_survey, shipped
from lensscan.errors import ConfigError, ExitCode
from lensscan.survey.catalog import open_catalog
from lensscan.survey.select import Selector, expression_bands, read_stored_flow
from lensscan.survey.selection import SelectionWriter

SURVEY = Survey("t", 0.2, {b: Band(mag=f"mag_{b}") for b in "gri"})


def catalog(tmp_path, **columns):
    n = len(next(iter(columns.values())))
    path = str(tmp_path / "c.fits")
    Table({"id": np.arange(n), **columns}).write(path, overwrite=True)
    return path


def test_limits_are_exclusive_and_losses_are_counted_apart(tmp_path):
    path = catalog(
        tmp_path,
        mag_g=[21.75, 21.9, 99.0, np.nan, 22.0, 25.0],
        mag_i=[20.0, 20.0, 20.0, 20.0, -99.0, 20.0],
        mag_r=[20.0, 21.0, 20.0, 20.0, 20.0, 20.0],
    )
    cut = Cut("c", (CutStep("g - i", 1.75, 5.0), CutStep("r", 20.5)))
    selector = Selector(SURVEY, cut)
    keep = np.concatenate([selector.apply(chunk) for chunk in open_catalog(path, SURVEY).chunks(4)])
    assert keep.tolist() == [False, True, False, False, False, False]
    first, second = selector.flow.steps
    assert (first.n_in, first.n_kept, first.n_nan, first.n_sentinel) == (6, 1, 1, 2)
    assert (second.n_in, second.n_kept) == (1, 1)
    assert (selector.flow.n_catalog, selector.flow.n_selected) == (6, 1)
    assert "1.75 < g - i < 5" in selector.flow.table()


def test_no_cut_keeps_every_row(tmp_path):
    path = catalog(tmp_path, mag_g=[1.0, 2.0])
    selector = Selector(SURVEY, None)
    assert next(open_catalog(path, SURVEY).chunks()).n == 2
    assert all(selector.apply(chunk).all() for chunk in open_catalog(path, SURVEY).chunks())


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "g.real", "g[0]", "'a'", "g if r else i", "lambda: 1", "g and r",
        "[g for g in r]", "g = 1", "", "3", "g; r", "eval(g)", "abs(x=g)", "log10(g, r)", "g < r", "True", "f'{g}'",
    ],
)  # fmt: skip
def test_only_arithmetic_is_evaluated(text):
    with pytest.raises(ConfigError):
        expression_bands(text)


def test_arithmetic_with_functions(tmp_path):
    assert expression_bands("abs(g - 2*r) ** 2 / (-i + 1.5)") == ("g", "r", "i")
    path = catalog(tmp_path, mag_g=[20.0, 21.0], mag_r=[19.0, 19.0], mag_i=[1.0, 1.0])
    selector = Selector(SURVEY, Cut("c", (CutStep("r - (g - i)/5 - 15", 0.1, None),)))
    (chunk,) = open_catalog(path, SURVEY).chunks()
    assert selector.apply(chunk).tolist() == [True, False]


def test_a_band_without_magnitudes_is_refused():
    with pytest.raises(ConfigError, match="no magnitude 'z'"):
        Selector(SURVEY, Cut("c", (CutStep("g - z", 0, 1),)))


def test_shipped_cuts_and_surveys_load_and_state_their_prevalence():
    assert {"des-jacobs2019a", "des-jacobs2019a-colours", "des-jacobs2019b"} <= set(shipped("cuts"))
    for name in shipped("cuts"):
        cut = load_cut(name)
        assert cut.prevalence
        assert "candidates" in cut.prevalence_source or "not measured" in cut.prevalence_source
    for name in shipped("surveys"):
        survey = load_survey(name)
        assert survey.catalog.magnitudes
        assert survey.name == name


@pytest.mark.parametrize(
    ("survey", "file", "expected"),
    [
        ("sdss", "sdss_dr8_catalog/test_dr8_gals_with_zred.fit", (4830, 744)),
        ("gama", "gama_grizy_tile_a/catalog.fits", (723, 120)),
        ("gama", "gama_grizy_tile_a/catalog.csv", (723, 120)),
    ],
)
def test_real_catalogs_keep_the_published_numbers(shared_data, tmp_path, capsys, survey, file, expected):
    out = tmp_path / "selection.fits"
    arguments = [
        "select",
        str(shared_data / file),
        "--survey",
        survey,
        "--cut",
        "des-jacobs2019a-colours",
        "-o",
        str(out),
    ]
    assert main(arguments) == 0
    assert f"selected {expected[1]:,} of {expected[0]:,}" in capsys.readouterr().out
    flow = read_stored_flow(out)
    assert (flow.n_catalog, flow.n_selected) == expected
    assert flow.name == "des-jacobs2019a-colours"
    assert flow.prevalence == load_cut("des-jacobs2019a-colours").prevalence
    assert flow.steps[0].name == "1.8 < g - i < 5"
    (chunk,) = open_catalog(str(out), load_survey(survey)).chunks()
    assert chunk.n == expected[1]
    assert main(arguments) == 1
    assert "exists; give --overwrite" in capsys.readouterr().err


def test_an_empty_selection_is_a_valid_catalog(tmp_path, capsys):
    path = catalog(tmp_path, mag_g=[1.0, 2.0], mag_r=[1.0, 2.0], mag_i=[1.0, 2.0])
    survey = tmp_path / "s.toml"
    survey.write_text('name = "s"\npixel_scale = 0.2\n' + "".join(f'[bands.{b}]\nmag = "mag_{b}"\n' for b in "gri"))
    out = tmp_path / "empty.fits"
    assert main(["select", path, "--survey", str(survey), "--cut", "des-jacobs2019a", "-o", str(out)]) == 0
    assert list(open_catalog(str(out), load_survey(survey)).chunks()) == []
    flow = read_stored_flow(out)
    assert (flow.n_catalog, flow.n_selected, flow.prevalence) == (2, 0, load_cut("des-jacobs2019a").prevalence)


def test_a_selection_is_not_written_into_the_void(tmp_path, capsys):
    path = catalog(tmp_path, mag_g=[1.0], mag_r=[1.0], mag_i=[1.0])
    arguments = ["select", path, "--survey", "des", "--cut", "des-jacobs2019a", "-o"]
    assert main([*arguments, str(tmp_path / "no" / "s.fits")]) == 1
    assert main([*arguments, str(tmp_path / "s.csv")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "no folder" in errors[0]


def test_other_files_have_no_stored_flow(tmp_path):
    assert read_stored_flow(catalog(tmp_path, mag_g=[1.0])) is None
    assert read_stored_flow(tmp_path / "a.csv") is None


@pytest.mark.parametrize("limit", [1000, 30_000])
def test_a_full_disk_is_74_and_leaves_nothing(tmp_path, capsys, limit):
    path = catalog(tmp_path, mag_g=np.full(5000, 21.0), mag_r=np.full(5000, 20.0))
    survey, cut, out = tmp_path / "s.toml", tmp_path / "c.toml", tmp_path / "new"
    survey.write_text('name = "s"\npixel_scale = 0.2\n' + "".join(f'[bands.{b}]\nmag = "mag_{b}"\n' for b in "gr"))
    cut.write_text('name = "c"\n[[step]]\nvalue = "g - r"\nmin = 0.5\n')
    out.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        code = main(["select", path, "--survey", str(survey), "--cut", str(cut), "-o", str(out / "s.fits")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == ExitCode.DISK
    assert "free disk space" in capsys.readouterr().err
    assert not list(out.iterdir())


def test_a_selection_holds_vectors_of_text_and_complex_numbers(tmp_path, capsys):
    data = Table({"id": [1, 2], "mag_g": [20.0, 20.0], "mag_i": [18.0, 18.0]})
    data["words"], data["turn"] = [["a", "bb"], ["c", "d"]], np.array([1j, 2])
    data.write(tmp_path / "c.fits")
    (tmp_path / "cut.toml").write_text('name = "c"\n[[step]]\nvalue = "g - i"\nmin = 1\n')
    out = str(tmp_path / "s.fits")
    assert (
        main(["select", str(tmp_path / "c.fits"), "--survey", "des", "--cut", f"{tmp_path}/cut.toml", "-o", out]) == 0
    )
    found = Table.read(out, hdu=1)
    assert found["words"].tolist() == [["a", "bb"], ["c", "d"]]
    assert found["turn"].tolist() == [1j, 2]


def test_a_value_that_overflows_is_said_in_one_line(tmp_path):
    cut = Cut("c", (CutStep("g ** 9999 ** 99", min=0.0),))
    data = Table({"id": [1], "mag_g": [20.0]})
    data.write(tmp_path / "c.fits")
    survey = load_survey("des")
    (chunk,) = open_catalog(str(tmp_path / "c.fits"), survey).chunks()
    with pytest.raises(ConfigError, match=r"'g \*\* 9999 \*\* 99' cannot be evaluated"):
        Selector(survey, cut).apply(chunk)


def test_a_selection_never_replaces_its_catalog(tmp_path, capsys):
    path = catalog(tmp_path, mag_g=[20.0, 20.0], mag_i=[18.0, 19.9])
    (tmp_path / "cut.toml").write_text('name = "c"\n[[step]]\nvalue = "g - i"\nmin = 1\n')
    command = ["select", path, "--survey", "des", "--cut", f"{tmp_path}/cut.toml", "-o", path, "--overwrite"]
    assert main(command) == 1
    assert "is the input" in capsys.readouterr().err
    assert len(Table.read(path)) == 2


def test_text_beyond_ascii_survives_a_selection(tmp_path):
    (tmp_path / "c.csv").write_text("id,name,mag\nÜnï-星,größe,20\nJ2,,21\nJ3,x,30\n", encoding="utf-8")
    (tmp_path / "s.toml").write_text('name = "s"\npixel_scale = 0.2\n[bands."ü"]\nmag = "mag"\n', encoding="utf-8")
    (tmp_path / "c.toml").write_text('name = "schön"\n[[step]]\nvalue = "ü"\nmax = 25\n', encoding="utf-8")
    arguments = [
        "--survey",
        str(tmp_path / "s.toml"),
        "--cut",
        str(tmp_path / "c.toml"),
        "-o",
        str(tmp_path / "s.fits"),
    ]
    assert main(["select", str(tmp_path / "c.csv"), *arguments]) == 0
    (chunk,) = open_catalog(str(tmp_path / "s.fits"), load_survey(tmp_path / "s.toml"), ("name",)).chunks()
    assert chunk.id.tolist() == ["Ünï-星", "J2"]
    assert chunk.columns["name"].tolist() == ["größe", ""]
    flow = read_stored_flow(tmp_path / "s.fits")
    assert flow is not None
    assert flow.name == r"sch\xf6n", "headers are ASCII"
    assert [step.name for step in flow.steps] == ["ü < 25"]


def test_a_column_that_fits_cannot_name_is_said_so(tmp_path, capsys):
    (tmp_path / "c.csv").write_text("id,größe,mag_g\n1,2,20\n", encoding="utf-8")
    (tmp_path / "c.toml").write_text('name = "c"\n[[step]]\nvalue = "g"\nmax = 25\n')
    output = tmp_path / "s.fits"
    options = ["--survey", "des", "--cut", str(tmp_path / "c.toml"), "-o", str(output)]
    assert main(["select", str(tmp_path / "c.csv"), *options]) == 1
    assert "column 'größe': a FITS table names columns in ASCII; rename it" in capsys.readouterr().err
    assert not output.exists()


def test_text_of_a_later_chunk_may_be_longer(tmp_path):
    """The width of a FITS column is that of the file, not that of the first chunk's longest word."""
    path = catalog(tmp_path, name=["", "a", "a long name of a galaxy"])
    with SelectionWriter(tmp_path / "s.fits") as writer:
        for chunk in open_catalog(path, SURVEY, everything=True).chunks(2):
            writer.add(chunk.columns)
        writer.finish(Selector(SURVEY, None).flow, {})
    (chunk,) = open_catalog(str(tmp_path / "s.fits"), SURVEY, ("name",)).chunks()
    assert chunk.columns["name"].tolist() == ["", "a", "a long name of a galaxy"]
