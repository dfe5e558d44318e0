"""lensscan simulate, as a user runs it."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from lensscan.cli.main import main
from lensscan.mocks import proposal


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
        (["des-griz", "-n", "4", "--survey", "des"], "add --propose-cut"),
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


def test_hdf5_and_pictures(tmp_path, capsys):
    folder = tmp_path / "mocks"
    command = ["simulate", "demo-survey", "-n", "20", "-o", str(folder), "--hdf5", "--set", "size=24"]
    assert main(command) == 0
    assert f"{folder}/mocks.h5" in capsys.readouterr().out
    assert (folder / "priors.png").stat().st_size > 10_000
    assert (folder / "sheet.png").stat().st_size > 1000


def test_paths_in_a_recipe_hold_from_the_working_directory(tmp_path, capsys, monkeypatch):
    recipes, here = tmp_path / "recipes", tmp_path / "here"
    recipes.mkdir()
    here.mkdir()
    bands = "".join(f'[band.{band}]\npsf = "psf.fits"\n' for band in "griz")
    (recipes / "mine.toml").write_text(
        f'base = "demo-survey"\nname = "mine"\nsize = 24\n[psf]\nkind = "image"\n{bands}'
    )
    grid = np.arange(25) - 12.0
    psf = np.exp(-0.5 * (grid**2 + grid[:, None] ** 2) / 2.0**2)
    fits.writeto(recipes / "psf.fits", psf)
    monkeypatch.chdir(here)
    command = ["simulate", "../recipes/mine.toml", "-n", "4", "-o", "mocks", "--no-sheet"]
    assert main(command) == 2
    assert "psf.fits: cannot be read as the PSF of a band" in capsys.readouterr().err
    fits.writeto(here / "psf.fits", psf)
    assert main(command) == 0
    assert (here / "mocks" / "catalog.fits").is_file()


def test_no_cut_keeps_more_rows_than_there_are(tmp_path, capsys, monkeypatch):
    """Rows without one of the magnitudes count too: a cut in the others keeps them."""
    n = 40
    columns = {f"mag_{band}": np.full(n, mag) for band, mag in zip("griz", (21.0, 19.8, 19.2, 18.9), strict=True)}
    columns["mag_z"][3:] = 99.0
    Table({"id": np.arange(n), "ra": np.zeros(n), "dec": np.zeros(n), **columns}).write(tmp_path / "catalog.fits")
    command = ["simulate", "des-griz", "-n", "120", "--survey", "des", "-o", str(tmp_path / "cuts")]
    assert main([*command, "--propose-cut", str(tmp_path / "catalog.fits")]) == 0
    out = capsys.readouterr().out
    assert f"over {n} catalog rows" in out
    shares = [float(line.split()[-2]) for line in out.splitlines() if line.startswith(("des-", "proposed-"))]
    assert max(shares) == 100.0
    unseen = {band: np.full(5, 20.0 if band != "g" else np.nan) for band in "griz"}
    monkeypatch.setattr(proposal, "_lens_magnitudes", lambda *_: unseen)
    assert main([*command, "--propose-cut", str(tmp_path / "catalog.fits")]) == 2
    assert "is a lens seen in g, r, i, z; raise -n" in capsys.readouterr().err


def test_cuts_are_judged_and_proposed(tmp_path, capsys):
    from lensscan.config import load_cut

    survey = tmp_path / "survey"
    assert main(["simulate", "demo-survey", "-n", "300", "-o", str(survey), "--no-sheet", "--set", "size=16"]) == 0
    catalog, folder = str(survey / "catalog.fits"), tmp_path / "cuts"
    command = ["simulate", "des-griz", "-n", "600", "--propose-cut", catalog, "-o", str(folder)]
    assert main([*command, "--survey", "des"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith(("proposed", "des-jacobs"))}
    assert "des-jacobs2019a" in rows
    kept = [float(rows[f"proposed-{level}"][1]) for level in (99, 95, 90, 80)]
    assert kept == sorted(kept, reverse=True)
    assert kept[1] == pytest.approx(95, abs=1.5)
    box = load_cut(folder / "proposed-90.toml")
    assert [step.value for step in box.step] == ["g - r", "r - i", "i - z", "i"]
    assert (folder / "cuts.png").stat().st_size > 10_000
    assert main(command) == 2
    assert "--survey" in capsys.readouterr().err
