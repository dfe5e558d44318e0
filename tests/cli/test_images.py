"""lensscan images, as a user runs it, on a merged run with made-up scores."""

import json
import re
import resource
from pathlib import Path

import fitsio
import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable, Table
from synthetic_run import make_card, make_run

from lensscan.candidates.file import read_candidates
from lensscan.candidates.images import ImageRequest, predict_images
from lensscan.candidates.imagetable import COLUMNS, FORMATS, write_table
from lensscan.cli.images import FORMATS as CLI_FORMATS
from lensscan.cli.main import main
from lensscan.config import Band, Survey
from lensscan.errors import DiskError
from lensscan.lens import SIE
from lensscan.scan.merge import MergeSettings, merge
from lensscan.scan.settings import canonical

BANDS, SIZE, N = ("g", "r", "i"), 33, 8


def write_stamp(path, rng, ra, dec):
    """Three bands with a WCS that is rotated and mirrored."""
    step = 0.263 / 3600
    header = {"MAGZERO": 31.4, "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": ra, "CRVAL2": dec}
    header |= {"CRPIX1": (SIZE + 1) / 2, "CRPIX2": (SIZE + 1) / 2}
    header |= {"CD1_1": 0.6 * step, "CD1_2": 0.8 * step, "CD2_1": -0.8 * step, "CD2_2": 0.6 * step}
    with fitsio.FITS(str(path), "rw") as file:
        for number, band in enumerate(BANDS):
            y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
            image = rng.normal(0, 1, (SIZE, SIZE)) + 40 * (1 + number) * np.exp(-(x**2 + y**2) / 20)
            file.write(image.astype("f4"), extname=band.upper(), header=header)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Eight candidates on loose stamps; the catalog brings a redshift, missing for one."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(2)
    ra, dec = np.linspace(10, 80, N), np.linspace(-60, 84, N)
    files = [str(folder / f"{k}.fits") for k in range(N)]
    for k in range(N):
        write_stamp(files[k], rng, ra[k], dec[k])
    survey = Survey("demo", 0.263, {band: Band(zero_point=31.4) for band in BANDS}, stamp_size=SIZE)
    settings = {"survey": json.loads(canonical(survey)), "stamps": f"stamps:{folder}/{{id}}.fits"}
    settings |= {"resample": False, "stamp_size": 0}
    redshift = np.where(np.arange(N) == 3, np.nan, 0.3 + 0.05 * np.arange(N))
    run = make_run(
        folder,
        N,
        ids=np.arange(N),
        ra=ra,
        dec=dec,
        files=files,
        settings=settings,
        cards=[make_card(bands=BANDS, size=SIZE)],
        logit=np.arange(N)[::-1],
        failures=0.0,
        columns={"zphot": redshift},
    )
    merge(run.plan, run.folder, run.out, MergeSettings(prevalence=0.01), run.cards, {})
    return run.out


def truth_of(output, path):
    """A truth table: the posterior medians themselves, with a source that makes images."""
    table = read_candidates(output)
    columns = {name: np.asarray(getattr(table[name], "value", table[name]), float) for name in ("theta_E", "x", "y")}
    columns |= {"e1": np.asarray(table["e1"], float), "e2": np.asarray(table["e2"], float)}
    columns |= {f"s{axis}": columns[axis] + 0.1 * columns["theta_E"] for axis in "xy"}
    truth = Table({"id": np.asarray(table["id"]), **columns})
    truth.write(path, overwrite=True)
    return truth


def test_table_summary_and_page(output, tmp_path, capsys):
    file = tmp_path / "im.ecsv"
    words = ["--z-lens", "zphot", "0.45", "--z-source", "1.5", "--samples", "60", "--top", "4", "-o", str(file)]
    assert main(["images", str(output), *words]) == 0
    out = capsys.readouterr().out
    assert "mode posterior" in out
    assert "column zphot for 7, assumed 0.45 for 1 candidates" in out
    assert "assumed 1.5 for 8" in out
    assert re.search(r"Planck18: H0 = 67\.66", out)
    assert (tmp_path / "im.png").stat().st_size > 20_000
    table = QTable.read(file)
    assert table.colnames == [column.name for column in COLUMNS]
    assert set(np.asarray(table["id"]).tolist()) == set(range(N)), "no candidate is dropped"
    assert table["delay"].unit == "d"
    assert table["x"].info.description
    assert table.meta["cosmology"] == "Planck18"
    assert table.meta["z_lens"] == "zphot else 0.45"
    assert set(table["z_lens_from"]) == {"column zphot", "assumed"}
    first = table[table["image"] == 1]
    np.testing.assert_array_equal(first["delay"].value, 0)
    assert (np.asarray(first["parity"]) == 1).all()


def test_truth_gives_all_modes_and_their_agreement(output, tmp_path):
    truth = truth_of(output, tmp_path / "truth.fits")
    report = predict_images(output, ImageRequest(truth=str(tmp_path / "truth.fits"), samples=40))
    assert [p.mode for p in report.predictions] == ["posterior", "first_image", "true_source"]
    fine = np.isfinite(truth["theta_E"])
    names = ("theta_E", "e1", "e2", "x", "y")
    images = SIE(*(np.asarray(truth[name])[fine] for name in names)).images(
        np.asarray(truth["sx"])[fine], np.asarray(truth["sy"])[fine]
    )
    figures = report.agreement
    assert len(figures) == 6
    assert figures[0].n_systems == int((images.count >= 2).sum())
    assert any("against the truth" in line for line in report.lines())
    modes = set(np.asarray(report.table["mode"]).tolist())
    assert modes == {"posterior", "first_image", "true_source"}


def test_sky_positions_follow_the_wcs(output):
    report = predict_images(output, ImageRequest(samples=20))
    table = report.table[np.asarray(report.table["image"]) > 0]
    candidates = {row["id"]: row for row in read_candidates(output)}
    for row in table:
        ra0, dec0 = (candidates[row["id"]][name].value for name in ("ra", "dec"))
        east = (row["ra"].value - ra0) * np.cos(np.radians(row["dec"].value)) * 3600
        north = (row["dec"].value - dec0) * 3600
        x, y = row["x"].value, row["y"].value
        assert east == pytest.approx(0.6 * x + 0.8 * y, abs=2e-3)
        assert north == pytest.approx(-0.8 * x + 0.6 * y, abs=2e-3)


def test_known_positions_on_the_sky_and_in_arcsec_are_one(output, tmp_path):
    report = predict_images(output, ImageRequest(samples=20))
    first = report.table[(np.asarray(report.table["image"]) == 1)]
    columns = {"id": first["id"], "px": first["x"].value, "py": first["y"].value}
    Table({**columns, "r": first["ra"].value, "d": first["dec"].value}).write(tmp_path / "seen.csv")
    seen = str(tmp_path / "seen.csv")
    flat = predict_images(output, ImageRequest(samples=20, table=seen, first_image=("px", "py")))
    sky = predict_images(output, ImageRequest(samples=20, table=seen, first_image=("r", "d"), sky=True))
    a, b = flat.predictions[1], sky.predictions[1]
    np.testing.assert_array_equal(a.n_images, b.n_images)
    np.testing.assert_allclose(a.values["x"], b.values["x"], atol=1e-6)


@pytest.mark.parametrize("to", FORMATS)
def test_formats_read_back(output, tmp_path, to):
    ending = {"ecsv": "ecsv", "fits": "fits", "hdf5": "h5"}[to]
    file = tmp_path / f"im.{ending}"
    assert main(["images", str(output), "--samples", "20", "--top", "0", "-o", str(file)]) == 0
    found = QTable.read(file, **({"path": "images", "character_as_bytes": False} if to == "hdf5" else {}))
    assert found["x"].unit == "arcsec"
    assert found["p_number"].shape == (len(found), 9)
    assert {str(mode) for mode in found["mode"]} == {"posterior"}
    assert not (tmp_path / "im.png").exists()
    if to == "fits":
        header = fits.getheader(file, "IMAGES")
        assert (header["COSMO"], header["NSAMPLES"], header["ZLENS"]) == ("Planck18", 20, "0.5")
        assert header["TCOMM1"] == "Rank of the candidate"
    if to == "hdf5":
        with h5py.File(file) as h5:
            assert "images" in h5


def test_a_fits_file_of_no_row_keeps_its_columns(output, tmp_path):
    report = predict_images(output, ImageRequest(samples=20))
    write_table(report.table[:0], tmp_path / "none.fits", "fits")
    found = Table.read(tmp_path / "none.fits", character_as_bytes=False)
    assert len(found) == 0
    assert found.colnames == [column.name for column in COLUMNS]
    assert {name for name in found.colnames if found[name].dtype.kind in "SU"} >= {"mode", "z_lens_from"}


def test_same_results_whatever_is_asked_beside(output):
    few, all_of_them = (predict_images(output, ImageRequest(n=n, samples=30)).predictions[0] for n in (3, N))
    for name, values in few.values.items():
        np.testing.assert_array_equal(values, all_of_them.values[name][:3])


def test_gone_stamps_cost_the_sky_only(output, tmp_path, monkeypatch):
    from lensscan.candidates import images
    from lensscan.errors import OutputError
    from lensscan.view import images as view

    class Gone:
        def __init__(self, path):
            raise OutputError("no folder stamps")

    monkeypatch.setattr(images, "CandidateStamps", Gone)
    report = predict_images(output, ImageRequest(samples=20))
    assert np.isnan(report.table["ra"].value).all()
    assert any("no folder stamps" in line for line in report.lines())
    monkeypatch.setattr(view, "CandidateStamps", Gone)
    (page,) = view.draw_pages(output, report, tmp_path / "page.png", 3)
    assert page.stat().st_size > 5_000


def test_who_has_the_known_position_is_on_its_page(output, tmp_path, monkeypatch):
    """A transient was seen in one candidate, far below those of the page of the posteriors."""
    from lensscan.view import images as view

    Table({"id": read_candidates(output)["id"][-1:], "px": [0.5], "py": [0.4]}).write(tmp_path / "seen.csv")
    request = ImageRequest(samples=20, table=str(tmp_path / "seen.csv"), first_image=("px", "py"))
    drawn = {}

    def draw(candidates, chosen, prediction, stamps, page):
        drawn[prediction.mode] = (chosen.tolist(), len(stamps), page.name)
        return page

    monkeypatch.setattr(view, "draw_page", draw)
    view.draw_pages(output, predict_images(output, request), tmp_path / "page.png", 3)
    assert drawn == {
        "posterior": ([0, 1, 2], 3, "page.png"),
        "first_image": ([N - 1, 0, 1], 3, "page-first_image.png"),
    }


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--z-lens", "redshift"], 2, "--z-lens redshift: no such column"),
        (["--z-lens", "-1"], 2, "a redshift lies between 0 and 20"),
        (["--cosmology", "Plank18"], 2, "astropy has"),
        (["--first-image", "a", "b"], 2, "--first-image a: no such column"),
        (["--truth", "nowhere.fits"], 1, "cannot use nowhere.fits: no such file; give a table with a column id"),
        (["--table", "nowhere.csv"], 1, "cannot use nowhere.csv: no such file"),
        (["--table", "nowhere"], 1, "cannot use nowhere: no such file"),
        (["--page", "/dev/null/p.png"], 1, "cannot write /dev/null"),
        (["--page", "."], 1, "cannot write .: it is a folder"),
        (["-n", "0"], 2, "at least 1"),
        (["-o", "x.dat"], 2, "--to ecsv, fits, hdf5"),
    ],
)
def test_mistakes_cost_one_line(output, tmp_path, monkeypatch, capsys, words, code, message):
    monkeypatch.chdir(tmp_path)
    assert main(["images", str(output), "--samples", "20", *words]) == code
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_twice_the_same_id_is_refused(output, tmp_path, capsys):
    Table({"id": [1, 1], "a": [0.1, 0.2], "b": [0.1, 0.2]}).write(tmp_path / "t.csv")
    words = ["--table", str(tmp_path / "t.csv"), "--first-image", "a", "b"]
    assert main(["images", str(output), *words, "-o", str(tmp_path / "x.ecsv")]) == 2
    assert "id 1 stands there 2 times" in capsys.readouterr().err


def test_source_in_front_of_the_lens_has_no_delay(output):
    report = predict_images(output, ImageRequest(samples=20, z_lens=("0.5",), z_source=("0.4",)))
    assert np.isnan(report.table["delay"].value).all()
    assert np.isfinite(report.table["x"].value).any()
    assert any("not behind the lens" in note for note in report.notes)
    text = "\n".join(report.lines())
    assert "nan" not in text
    assert re.search(r" -(  -)*$", text, re.MULTILINE)


def test_the_page_of_the_documentation_names_every_column():
    page = (Path(__file__).parents[2] / "docs" / "images.md").read_text(encoding="utf-8")
    assert not [column.name for column in COLUMNS if not re.search(rf"[`\s]{column.name}[`\s]", page)]


def test_names_of_the_command_line():
    assert tuple(FORMATS) == CLI_FORMATS


def test_a_full_disk_under_a_table_of_images_is_74(tmp_path):
    """HDF5 would leave a torn file, and might crash later."""
    table = QTable({"x": np.zeros(10_000)})
    write_table(table, tmp_path / "a.h5", "hdf5")
    assert len(QTable.read(tmp_path / "a.h5", path="images")) == 10_000
    whole = (tmp_path / "a.h5").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(DiskError, match="free disk space"):
            write_table(table, tmp_path / "a.h5", "hdf5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "a.h5").read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["a$b^$ x_{", "Ünï-星"])
def test_any_id_stands_on_the_page(output, tmp_path, monkeypatch, name):
    """No formula is read into it, and no warning of matplotlib shows."""
    monkeypatch.setattr("lensscan.view.images._name", lambda value: name)
    assert main(["images", str(output), "--samples", "30", "--top", "1", "-o", str(tmp_path / "im.ecsv")]) == 0
    assert (tmp_path / "im.png").stat().st_size > 10_000
