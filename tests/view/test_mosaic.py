"""Mosaic pages from an output and its stamps."""

import json

import fitsio
import numpy as np
import pytest
from astropy.table import Table
from synthetic_run import make_card, make_run

from lensscan.candidates.file import read_candidates
from lensscan.cli.main import main
from lensscan.config import Band, Survey
from lensscan.errors import OutputError
from lensscan.render.sheet import RING
from lensscan.scan.merge import MergeSettings, merge
from lensscan.scan.settings import canonical
from lensscan.view.mosaic import EMPTY, NO_LENS, TRUE_LENS, Layout, mosaic, read_truth

BANDS = ("g", "r", "i")
SIZE = 33


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """A run of ten loose stamps, one of which is gone."""
    folder = tmp_path_factory.mktemp("mosaic")
    rng = np.random.default_rng(2)
    files = []
    for k in range(10):
        path = folder / f"{k}.fits"
        with fitsio.FITS(str(path), "rw") as fits:
            for number, band in enumerate(BANDS):
                y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
                image = rng.normal(0, 1, (SIZE, SIZE)) + 40 * (1 + number) * np.exp(-(x**2 + y**2) / 20)
                fits.write(image.astype("f4"), extname=band.upper(), header={"MAGZERO": 31.4})
        files.append(str(path))
    survey = Survey("demo", 0.263, {band: Band(zero_point=31.4) for band in BANDS}, stamp_size=SIZE)
    settings = {
        "survey": json.loads(canonical(survey)),
        "stamps": f"stamps:{folder}/{{id}}.fits",
        "resample": False,
        "stamp_size": 0,
    }
    cards = [make_card(bands=BANDS, size=SIZE)]
    logit = np.arange(10.0)
    run = make_run(
        folder, 10, ids=np.arange(10), files=files, settings=settings, cards=cards, logit=logit, failures=0.0
    )
    merge(run.plan, run.folder, run.out, MergeSettings(prevalence=0.01), run.cards, {})
    (folder / "7.fits").unlink()
    return run.out


def has(page, colour):
    return bool((np.asarray(page) == colour).all(axis=2).any())


def test_pages_hold_the_ranked_stamps(output):
    layout = Layout(columns=3, rows=2, stamp=66)
    pages = list(mosaic(output, 10, layout=layout))
    assert len(pages) == 2
    assert pages[0].size == pages[1].size
    assert has(pages[0], EMPTY)
    assert not has(pages[1], EMPTY)
    assert not has(pages[0], RING)
    assert len(list(mosaic(output, 4, layout=layout))) == 1


def test_ring_and_truth(output, tmp_path):
    regressed = np.isfinite(read_candidates(output)["theta_E"].value)
    assert regressed.any()
    table = Table({"ID": np.arange(10), "is_lens": np.arange(10) > 6})
    for name in ("truth.fits", "truth.csv"):
        table.write(tmp_path / name)
        truth = read_truth(tmp_path / name)
        assert truth == {str(k): k > 6 for k in range(10)}
    (page,) = mosaic(output, 10, layout=Layout(5, 2, 99, ring=True), truth=truth)
    assert has(page, TRUE_LENS)
    assert has(page, NO_LENS)
    assert has(page, RING)


def test_truth_without_its_columns(tmp_path):
    Table({"name": [1]}).write(tmp_path / "truth.csv")
    for name, reason in (("truth.csv", "no column id"), ("none.csv", "No such file or directory")):
        path = tmp_path / name
        with pytest.raises(OutputError, match=rf"as truth \({reason}\); give a table with the columns id and is_lens"):
            read_truth(path)


def test_command_writes_numbered_pages(output, tmp_path, capsys):
    code = main(
        ["mosaic", str(output), "-n", "10", "--columns", "2", "--rows", "2", "--stamp", "40", "-o", str(tmp_path / "p")]
    )
    assert code == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / f"p-0{k}.png") for k in (1, 2, 3)]


def test_stamps_that_lie_elsewhere_are_one_line_and_no_page(output, tmp_path, capsys):
    """As from another folder than the scan's, where its paths are relative."""
    away = [path.rename(path.with_suffix(".away")) for path in output.parent.glob("[0-9].fits")]
    try:
        assert main(["mosaic", str(output), "-o", str(tmp_path / "p")]) == 1
        said = capsys.readouterr().err
        assert "none of the 10 best stamps can be read any more (failed:missing_file)" in said
        assert said.count("\n") == 1
        assert not list(tmp_path.iterdir())
    finally:
        for path in away:
            path.rename(path.with_suffix(".fits"))


def test_nothing_to_show(tmp_path):
    run = make_run(tmp_path, 5, failures=1.0)
    merge(run.plan, run.folder, run.out, MergeSettings(), run.cards, {})
    with pytest.raises(OutputError, match="no candidate"):
        next(mosaic(run.out))
