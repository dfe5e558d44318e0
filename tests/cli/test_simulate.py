"""lensscan simulate, as a user runs it."""

import pytest
from astropy.table import Table

from lensscan.cli.main import main


def test_loose_stamps_catalog_and_sheet(tmp_path, capsys):
    folder = tmp_path / "survey"
    command = ["simulate", "demo-survey", "-n", "40", "--seed", "3", "-o", str(folder), "--fits", "--set", "size=32"]
    assert main(command) == 0
    out = capsys.readouterr()
    assert f"stamps:{folder}" in out.out
    assert "40/40 objects" in out.err
    catalog = Table.read(folder / "catalog.fits")
    assert all((folder / name).is_file() for name in catalog["file"])
    assert (folder / "sheet.png").stat().st_size > 1000
    assert (folder / "truth.fits").is_file()
    assert main(command) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no-such", "-n", "4"], "no shipped 'no-such'"),
        (["des-griz", "-n", "0"], "at least 1"),
        (["des-griz", "-n", "4", "--set", "lens.shea=1"], "did you mean 'shear'"),
    ],
)
def test_mistakes_cost_one_line(tmp_path, capsys, words, message):
    assert main(["simulate", *words, "-o", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_other_seed_in_the_same_folder_is_refused(tmp_path, capsys):
    command = ["simulate", "demo-survey", "-n", "4", "-o", str(tmp_path), "--fits", "--no-sheet", "--set", "size=16"]
    assert main([*command, "--seed", "1"]) == 0
    assert main([*command, "--seed", "2"]) == 1
    assert "another seed" in capsys.readouterr().err
