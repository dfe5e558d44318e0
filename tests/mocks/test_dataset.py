"""Mocks as files: readable by others, complete, resumable."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from lensscan.errors import OutputError
from lensscan.mocks import dataset as module
from lensscan.mocks.dataset import Dataset
from lensscan.mocks.recipes import load_recipe
from lensscan.mocks.simulate import simulate

RECIPE = load_recipe("demo-survey")
N = 60


@pytest.fixture(scope="module")
def loose(tmp_path_factory):
    data = Dataset(dataclasses.replace(RECIPE, size=32), 1, N, tmp_path_factory.mktemp("mocks") / "survey", "fits")
    data.write()
    return data


def test_stamps_hold_the_images_in_counts(loose):
    mocks = simulate(loose.recipe, seed=1, n=N)
    for row in (0, N - 1):
        with fits.open(loose.folder / loose.file_of(row)) as hdus:
            hdus.verify("exception")
            assert [hdu.name for hdu in hdus[1:]] == ["G", "R", "I", "Z"]
            for k, hdu in enumerate(hdus[1:]):
                njy = hdu.data.astype(np.float64) * 10 ** (-0.4 * (hdu.header["MAGZERO"] - 31.4))
                np.testing.assert_allclose(njy, mocks.images[row, k].numpy(), rtol=1e-5, atol=1e-3)
                assert hdu.header["PIXSCALE"] == RECIPE.pixel_scale
                assert hdu.header["PSF_FWHM"] == pytest.approx(float(mocks.fwhm[row, k]), rel=1e-5)


def test_catalog_positions_are_those_of_the_pixels(loose):
    catalog, truth = (Table.read(loose.folder / f"{name}.fits") for name in ("catalog", "truth"))
    for row in range(0, N, 7):
        wcs = WCS(fits.getheader(loose.folder / catalog["file"][row], 1))
        for x, y, ra, dec in (
            (truth["x_light"][row], truth["y_light"][row], catalog["ra"][row], catalog["dec"][row]),
            (truth["x"][row], truth["y"][row], truth["ra_lens"][row], truth["dec_lens"][row]),
        ):
            if np.ma.is_masked(x):
                continue
            column, line = (v / RECIPE.pixel_scale + 15.5 for v in (x, y))
            place = SkyCoord(*wcs.pixel_to_world_values(column, line), unit="deg")
            assert place.separation(SkyCoord(ra, dec, unit="deg")).arcsec < 1e-4


def test_tables_have_units_and_every_row(loose):
    catalog, truth = (Table.read(loose.folder / f"{name}.fits") for name in ("catalog", "truth"))
    assert catalog["id"].tolist() == truth["id"].tolist() == list(range(N))
    assert str(truth["theta_E"].unit) == "arcsec"
    assert str(catalog["mag_i"].unit) == "mag"
    assert str(truth["magnification"].unit) in ("None", "")
    seen = catalog["mag_i"] < 90
    pull = (catalog["mag_i"] - truth["mag_i"])[seen] / catalog["magerr_i"][seen]
    assert 0.6 < np.std(pull) < 1.5


def test_resume_completes_what_is_missing_and_touches_nothing_else(loose):
    gone, kept, empty = (loose.folder / loose.file_of(row) for row in (3, 4, 5))
    data, stamp = [gone.read_bytes(), empty.read_bytes()], kept.stat().st_mtime_ns
    gone.unlink()
    empty.write_bytes(b"")
    loose.write()
    assert [gone.read_bytes(), empty.read_bytes()] == data
    assert kept.stat().st_mtime_ns == stamp


def test_a_longer_run_extends_the_folder(loose, tmp_path):
    small = dataclasses.replace(loose, n=20, folder=tmp_path / "grow")
    small.write()
    dataclasses.replace(small, n=30).write()
    assert len(Table.read(small.folder / "catalog.fits")) == 30
    for row in (5, 25):
        assert (small.folder / small.file_of(row)).read_bytes() == (loose.folder / loose.file_of(row)).read_bytes()


def test_rows_that_stood_are_not_told_as_made(loose, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 10)
    told = []
    first = dataclasses.replace(loose, n=20, folder=tmp_path / "grow")
    first.write(lambda *state: told.append(state))
    dataclasses.replace(first, n=30).write(lambda *state: told.append(state))
    assert told == [(10, 20, 10), (20, 20, 20), (10, 30, 0), (20, 30, 0), (30, 30, 10)]


@pytest.mark.parametrize("change", [{"seed": 2}, {"layout": "packs"}, {"recipe": dataclasses.replace(RECIPE, size=34)}])
def test_a_folder_of_other_mocks_is_refused(loose, change):
    with pytest.raises(OutputError, match="another"):
        dataclasses.replace(loose, **change).write()
    assert json.loads((loose.folder / "recipe.json").read_text(encoding="utf-8"))["seed"] == 1


def blob(path, size, noise=0.0):
    grid = np.arange(41) - 20.0
    image = np.exp(-0.5 * (grid**2 + grid[:, None] ** 2) / size**2)
    fits.writeto(path, image + noise * np.random.default_rng(1).normal(size=image.shape), overwrite=True)


def measured(tmp_path):
    """A recipe with measured PSFs and images of galaxies, in files of one name whatever they hold."""
    blob(tmp_path / "psf.fits", 1.5)
    (tmp_path / "galaxies").mkdir()
    blob(tmp_path / "galaxies" / "one.fits", 5.0, 0.01)
    psf = {name: dataclasses.replace(band, psf=str(tmp_path / "psf.fits")) for name, band in RECIPE.band.items()}
    source = dataclasses.replace(RECIPE.source, profile="images", images=str(tmp_path / "galaxies"))
    kind = dataclasses.replace(RECIPE.psf, kind="image")
    return dataclasses.replace(RECIPE, size=32, classes={"lens": 1.0}, band=psf, psf=kind, source=source)


@pytest.mark.parametrize(("name", "size", "what"), [("psf", 2.5, "psf"), ("galaxies/one", 4.0, "source")])
def test_other_files_of_the_same_names_are_other_mocks(tmp_path, name, size, what):
    data = Dataset(measured(tmp_path), 1, 4, tmp_path / "mocks")
    data.write()
    before = simulate(data.recipe, seed=1, n=4).images
    data.write()
    blob(tmp_path / f"{name}.fits", size, 0.01 * (what == "source"))
    assert not torch.equal(simulate(data.recipe, seed=1, n=4).images, before)
    with pytest.raises(OutputError, match=rf"another {what} \(.*images changed\)"):
        data.write()


def test_a_folder_that_does_not_say_its_files_is_still_completed(tmp_path):
    data = Dataset(measured(tmp_path), 1, 4, tmp_path / "mocks")
    data.write()
    path = data.folder / "recipe.json"
    old = {
        key: value
        for key, value in json.loads(path.read_text(encoding="utf-8")).items()
        if key not in ("psf", "source")
    }
    path.write_text(json.dumps(old))
    assert data.write()
    path.write_text("[1]")
    with pytest.raises(OutputError, match="another recipe"):
        data.write()


def test_names_of_recipes_need_not_be_ascii(loose, tmp_path):
    named = dataclasses.replace(loose.recipe, name="gr\xfcn")
    data = Dataset(named, 1, 2, tmp_path / "mocks")
    assert data.write()
    assert fits.getheader(data.folder / "truth.fits", 1)["RECIPE"] == "gr\\xfcn"


def test_packs_grow_and_hold_the_same_pixels(loose, tmp_path, monkeypatch):
    packfile = pytest.importorskip("lensscan.survey.packfile")
    monkeypatch.setattr(module, "BLOCK", 16)
    data = dataclasses.replace(loose, layout="packs", folder=tmp_path / "packs", n=24)
    data.write()
    dataclasses.replace(data, n=40).write()
    rows = 0
    want = simulate(loose.recipe, seed=1, n=40).images
    for path in sorted((data.folder / "packs").glob("*.fits")):
        pack = packfile.PackFile.open(str(path))
        ids = pack.ids()
        got = torch.from_numpy(np.array(pack.rows["IMAGE"], dtype=np.float32))
        torch.testing.assert_close(got, want[torch.from_numpy(ids.astype(np.int64))], rtol=1e-5, atol=1e-2)
        rows += len(ids)
        pack.close()
    assert rows == 40


def test_hdf5_blocks_show_as_one_file(loose, tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    monkeypatch.setattr(module, "BLOCK", 16)
    data = dataclasses.replace(loose, layout="hdf5", folder=tmp_path / "h5", n=24)
    data.write()
    dataclasses.replace(data, n=40).write()
    want = simulate(loose.recipe, seed=1, n=40)
    with h5py.File(data.folder / "mocks.h5", "r") as file:
        torch.testing.assert_close(torch.from_numpy(file["images"][:]), want.images, rtol=1e-5, atol=1e-2)
        np.testing.assert_array_equal(file["theta_E"][:], want.truth["theta_E"].numpy())
        np.testing.assert_array_equal(file["index"][:], np.arange(40))
        assert file["images"].attrs["unit"] == "nJy"
        assert file["theta_E"].attrs["unit"] == "arcsec"
        assert list(file.attrs["bands"]) == list(loose.recipe.bands)
    assert Table.read(data.folder / "catalog.fits")["file"][39] == "blocks/0002.h5"
    (data.folder / "blocks/0002.h5").unlink()
    with h5py.File(data.folder / "mocks.h5", "r") as file:
        assert np.isnan(file["images"][32:]).all(), "a lost block must not read as empty sky"
        assert (file["index"][32:] == -1).all()
        np.testing.assert_array_equal(file["index"][:32], np.arange(32))


def test_a_torn_block_is_written_again(loose, tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    monkeypatch.setattr(module, "BLOCK", 16)
    data = dataclasses.replace(loose, layout="hdf5", folder=tmp_path / "h5", n=20)
    data.write()
    block = data.folder / "blocks/0000.h5"
    block.write_bytes(block.read_bytes()[:1000])
    data.write()
    with h5py.File(block, "r") as file:
        assert len(file["index"]) == 16
