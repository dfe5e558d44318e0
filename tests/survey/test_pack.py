from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from survey import zoo

from lensscan.cli.main import main
from lensscan.config import Survey, load_survey
from lensscan.errors import CatalogError, ConfigError, OutputError
from lensscan.schema import Flag, Status
from lensscan.survey.catalog import Chunk, open_catalog
from lensscan.survey.packfile import PackFile
from lensscan.survey.packwriter import PackWriter
from lensscan.survey.stamps import Batch, Frame, Rows, allocate, open_reader, open_source

SURVEY = load_survey("des")
FRAME = Frame(("g", "r"), 16, 0.263, 2)


def chunk_of(ids: np.ndarray) -> Chunk:
    nan = np.full(len(ids), np.nan)
    return Chunk(0, len(ids), ids, nan, nan, nan, nan)


def filled(n: int, frame: Frame = FRAME, seed: int = 0) -> Batch:
    batch = allocate(n, frame)
    rng = np.random.default_rng(seed)
    batch.images[...] = rng.normal(size=batch.images.shape)
    batch.present[...] = True
    batch.fwhm[...] = rng.uniform(0.5, 1.5, batch.fwhm.shape)
    batch.sigma[...] = 1.25
    batch.origin[...] = rng.normal(size=(n, 2))
    batch.wcs[...] = rng.normal(size=(n, 6))
    batch.close(n)
    return batch


def write(folder: Path, ids: np.ndarray, frame: Frame = FRAME, name: str = "a.fits", seed: int = 0) -> Batch:
    folder.mkdir(exist_ok=True)
    batch = filled(len(ids), frame, seed)
    with PackWriter(folder / name, frame, ids.dtype, SURVEY) as writer:
        writer.add(batch, ids, np.zeros(len(ids)), np.ones(len(ids)))
    return batch


def read(folder: Path, ids: np.ndarray, frame: Frame = FRAME, **options) -> tuple[Batch, Rows]:
    source = open_source(f"packs:{folder}", SURVEY, frame, **options)
    chunk = chunk_of(ids)
    rows = Rows.of(chunk, source.locate(chunk))
    batch = allocate(len(ids) + 2, frame)
    reader = source.reader()
    reader.read(rows, 0, len(ids), batch)
    reader.close()
    return batch, rows


IDS = {
    "int64": np.array([2**62 + 1, -7, 5, 9, 2**53 + 1], np.int64),
    "uint64": np.array([2**64 - 1, 0, 2**63, 5, 2**53 + 1], np.uint64),
    "text": np.array(["J1200+01", "b", "a longer name", "é", "0007"]),
}


@pytest.mark.parametrize("kind", IDS)
def test_what_is_written_is_read_back_bit_for_bit(tmp_path, kind):
    written = write(tmp_path / "p", IDS[kind])
    batch, rows = read(tmp_path / "p", IDS[kind])
    assert rows.id.tolist() == IDS[kind].tolist()
    assert batch.n == 5
    for name in ("images", "status", "flags", "present", "fwhm", "sigma", "origin", "wcs"):
        assert getattr(batch, name)[:5].tobytes() == getattr(written, name).tobytes(), name
    assert not batch.masked
    assert not batch.images[5:].any()


def test_packs_of_one_band(tmp_path):
    frame = Frame(("i",), 16, 0.263, 1)
    ids = np.arange(5) + 10
    written = write(tmp_path / "packs", ids, frame)
    batch, _ = read(tmp_path / "packs", ids, frame)
    np.testing.assert_array_equal(batch.images[:5], written.images)
    np.testing.assert_array_equal(batch.fwhm[:5], written.fwhm)
    np.testing.assert_array_equal(batch.sigma[:5], written.sigma)


def test_a_pack_is_plain_fits(tmp_path):
    written = write(tmp_path / "p", IDS["int64"])
    with fits.open(tmp_path / "p" / "a.fits") as file:
        file.verify("exception")
        assert file["STAMPS"].columns.names == ["ID", "RA", "DEC", "IMAGE"]
        header = file["STAMPS"].header
        assert (header["BAND1"], header["BAND2"], header["BUNIT"]) == ("g", "r", "nJy")
        assert (header["ZP1"], header["PIXSCALE"]) == (31.4, 0.263)
        assert file["STAMPS"].data["ID"].tolist() == IDS["int64"].tolist()
        np.testing.assert_array_equal(file["STAMPS"].data["IMAGE"], written.images)


def test_masks_absent_bands_and_failures_survive(tmp_path):
    batch = filled(4)
    batch.mask_of(1)[0, :3] = True
    batch.images[1, 0, :3] = 0
    batch.flags[1] = Flag.MASKED | Flag.EDGE
    batch.present[2, 1] = False
    batch.images[2, 1] = 0
    batch.fail(3, Status.BLANK)
    with PackWriter(tmp_path / "a.fits", FRAME, np.dtype("i8"), SURVEY) as writer:
        assert writer.add(batch, np.arange(4), np.zeros(4), np.zeros(4)).tolist() == [True, True, True, False]
    loose = Frame(("g", "r"), 16, 0.263, 1)
    found, rows = read(tmp_path, np.arange(4), loose)
    assert rows.id.tolist() == [3, 0, 1, 2]  # rows without a place sort first
    assert found.status[:4].tolist() == [Status.MISSING_FILE, 0, 0, 0]
    np.testing.assert_array_equal(found.mask[1:4], batch.mask[:3])
    np.testing.assert_array_equal(found.images[1:4], batch.images[:3])
    assert found.present[1:4].tolist() == [[True, True], [True, True], [True, False]]
    assert found.flags[1:4].tolist() == [0, Flag.MASKED | Flag.EDGE, Flag.MISSING_BAND]
    strict, _ = read(tmp_path, np.arange(4))
    assert strict.status[3] == Status.WRONG_BANDS


def test_any_order_and_any_subset_of_rows(tmp_path):
    ids = np.arange(100, 200)
    written = write(tmp_path / "p", ids)
    more = write(tmp_path / "p", np.arange(1000, 1050), name="b.fits", seed=1)
    rng = np.random.default_rng(1)
    wanted = rng.permutation(np.concatenate([ids[rng.random(100) < 0.4], [1003, 1004, 1020, 5, 3000]]))
    batch, rows = read(tmp_path / "p", wanted)
    assert (np.diff(rows.offset[rows.status == 0]) > 0).sum() > 10
    for row, name in enumerate(rows.id.tolist()):
        if name in (5, 3000):
            assert batch.status[row] == Status.MISSING_FILE
        else:
            source = written.images[name - 100] if name < 1000 else more.images[name - 1000]
            np.testing.assert_array_equal(batch.images[row], source)


@pytest.mark.parametrize(
    ("size", "bands"), [(16, ("r", "g")), (11, ("g", "r")), (20, ("g", "r")), (23, ("g", "r")), (16, ("r",))]
)
def test_other_bands_and_sizes(tmp_path, size, bands):
    written = write(tmp_path / "p", np.arange(4))
    frame = Frame(bands, size, 0.263, 1)
    batch, _ = read(tmp_path / "p", np.arange(4), frame)
    assert not batch.status.any()
    order = [FRAME.bands.index(band) for band in bands]
    low = (16 - size) // 2
    for row in range(4):
        # an odd frame in an even stamp: of two equally central places the one nearer to the object
        x, y = (low + (16 - size) % 2 * int(value < 0) for value in written.origin[row])
        if low >= 0:
            expected = written.images[row, order, y : y + size, x : x + size]
            np.testing.assert_array_equal(batch.images[row], expected)
        else:
            inside = batch.images[row, :, -y : 16 - y, -x : 16 - x]
            np.testing.assert_array_equal(inside, written.images[row, order])
            assert batch.mask[row].sum() == len(bands) * (size**2 - 256)
        shift = np.array([x, y]) + (size - 1) / 2 - 7.5
        np.testing.assert_allclose(batch.origin[row], written.origin[row] + shift * 0.263, atol=1e-6)


def test_rows_that_moved_are_noticed(tmp_path):
    write(tmp_path / "p", np.arange(10))
    source = open_source(f"packs:{tmp_path}/p", SURVEY, FRAME)
    rows = Rows.of(chunk_of(np.arange(10)), source.locate(chunk_of(np.arange(10))))
    write(tmp_path / "p", np.array([0, 1, 2, 4, 3, 5, 6, 7, 8]))
    batch = allocate(10, FRAME)
    source.reader().read(rows, 0, 10, batch)
    expected = [0] * 3 + [Status.WRONG_ID] * 2 + [0] * 4
    assert set(batch.status.tolist()) == {Status.WRONG_ID}, "ten rows of a pack that has nine by now"
    source.reader().read(rows, 0, 9, batch)
    assert batch.status[:9].tolist() == expected


def test_a_pack_that_shrinks_in_use_costs_its_rows_not_the_process(tmp_path):
    write(tmp_path / "p", np.arange(50))
    source = open_source(f"packs:{tmp_path}/p", SURVEY, FRAME)
    rows = Rows.of(chunk_of(np.arange(50)), source.locate(chunk_of(np.arange(50))))
    reader = source.reader()
    batch = allocate(50, FRAME)
    reader.read(rows, 0, 10, batch)
    os.truncate(tmp_path / "p" / "a.fits", 20_000)
    batch.clear()
    reader.read(rows, 0, 50, batch)
    assert set(batch.status.tolist()) == {Status.UNREADABLE}
    with pytest.raises(ConfigError, match="pack it again"):
        open_source(f"packs:{tmp_path}/p", SURVEY, FRAME)


def test_foreign_packs_with_counts_and_planes(tmp_path):
    n, images = 3, np.random.default_rng(2).normal(size=(3, 2, 16, 16)).astype(np.float32)
    ivar = np.full_like(images, 4.0)
    ivar[1, 0, 5, 5] = 0
    stamps = fits.BinTableHDU.from_columns(
        [
            fits.Column("ID", "K", array=np.arange(n)),
            fits.Column("RA", "D", array=np.zeros(n)),
            fits.Column("DEC", "D", array=np.zeros(n)),
            fits.Column("IMAGE", "512E", dim="(16,16,2)", array=images),
        ],
        name="STAMPS",
    )
    for key, value in (("BAND1", "g"), ("BAND2", "r"), ("ZP1", 30.0), ("ZP2", 27.5), ("PIXSCALE", 0.263)):
        stamps.header[key] = value
    planes = fits.BinTableHDU.from_columns([fits.Column("IVAR", "512E", dim="(16,16,2)", array=ivar)], name="PLANES")
    fits.HDUList([fits.PrimaryHDU(), stamps, planes]).writeto(tmp_path / "x.fits")
    batch, _ = read(tmp_path, np.arange(n))
    factor = 10 ** (-0.4 * (np.array([30.0, 27.5]) - 31.4))
    expected = images * factor[:, None, None]
    expected[1, 0, 5, 5] = 0
    np.testing.assert_allclose(batch.images[:n], expected, rtol=1e-5)
    np.testing.assert_allclose(batch.sigma[:n], np.tile(0.5 * factor, (n, 1)), rtol=1e-6)
    assert batch.mask[:n].sum() == 1
    assert batch.flags[:n].tolist() == [0, Flag.MASKED, 0]
    np.testing.assert_allclose(batch.fwhm[0], [SURVEY.bands["g"].fwhm, SURVEY.bands["r"].fwhm])


def test_packs_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="write packs with lensscan pack"):
        open_source(f"packs:{tmp_path}", SURVEY, FRAME)
    write(tmp_path / "p", np.arange(3))
    with pytest.raises(ConfigError, match="--resample"):
        open_source(f"packs:{tmp_path}/p", SURVEY, Frame(("g",), 16, 0.2, 1))
    with pytest.raises(ConfigError, match="none of the model's u"):
        open_source(f"packs:{tmp_path}/p", SURVEY, Frame(("u",), 16, 0.263, 1))
    source = open_source(f"packs:{tmp_path}/p", SURVEY, FRAME)
    with pytest.raises(CatalogError, match="ids of the catalog are text"):
        source.locate(chunk_of(np.array(["a"])))
    batch, _ = read(tmp_path / "p", np.arange(3), Frame(("g",), 16, 0.2, 1), resample=True)
    assert (batch.flags[:3] & Flag.RESAMPLED).all()


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    def interrupted() -> None:
        with PackWriter(tmp_path / "a.fits", FRAME, np.dtype("i8")) as writer:
            writer.add(filled(2), np.arange(2), np.zeros(2), np.zeros(2))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def survey_file(tmp_path: Path) -> Path:
    path = tmp_path / "s.toml"
    path.write_text('name = "s"\npixel_scale = 0.263\nstamp_size = 64\n' + "".join(f"[bands.{b}]\n" for b in "griz"))
    return path


def test_pack_command_resumes_and_accounts_for_failures(tmp_path, capsys):
    specimens = zoo.build(tmp_path / "zoo")
    files = [s.file for s in specimens] + ["good.fits"] * 11
    names = np.array([f"o{i:03d}" for i in range(len(files))])
    Table({"id": names, "file": files}).write(tmp_path / "c.fits")
    arguments = [
        "pack", str(tmp_path / "c.fits"), "--survey", str(survey_file(tmp_path)), "--rows", "12",
        "--stamps", f"stamps:{tmp_path}/zoo/{{file}}", "-o", str(tmp_path / "p"),
    ]  # fmt: skip
    environment = {**os.environ, "LENSSCAN_FAULT": "point=pack:before_finish,do=SIGKILL,hit=2"}
    killed = subprocess.run([sys.executable, "-m", "lensscan", *arguments], env=environment, check=False)
    assert killed.returncode == -9
    done = sorted(path.name for path in (tmp_path / "p").glob("*.fits"))
    assert done == ["pack-000000.fits"]
    assert main([*arguments, "--max-failed", "1"]) == 0
    assert "(1 stood already)" in capsys.readouterr().out
    assert main(arguments) == 3, "most of the zoo fails"
    # a pack takes what has at least one band: whether that is enough is the model's affair
    broken = [s for s in specimens if s.status != Status.PENDING and s.name != "too-few-bands"]
    expected = {names[specimens.index(s)]: s.status for s in broken}
    with open(tmp_path / "p" / "failures.csv") as stream:
        listed = {row["id"]: row["reason"] for row in csv.DictReader(stream)}
    assert listed == {n: s.name.lower() for n, s in expected.items()}
    survey = load_survey(tmp_path / "s.toml")
    frame = Frame(tuple("griz"), 64, 0.263, 1)
    source = open_source(f"packs:{tmp_path}/p", survey, frame)
    (chunk,) = open_catalog(str(tmp_path / "c.fits"), survey).chunks()
    located = source.locate(chunk)
    missing = set(chunk.id[located.status == Status.MISSING_FILE].tolist())
    assert missing == set(expected)
    assert not list((tmp_path / "p").glob("*.part"))
    assert main([*arguments[:-4], "--stamps", "stamps:/elsewhere/{file}", "-o", str(tmp_path / "p")]) == 1
    assert "packed from another catalog, other files or other settings" in capsys.readouterr().err
    os.truncate(tmp_path / "p" / "pack-000000.fits", 100_000)
    assert main(arguments) == 1
    assert f"{tmp_path}/p/pack-000000.fits: " in capsys.readouterr().err


def test_packs_equal_their_source(tmp_path, shared_data, capsys):
    data = shared_data / "gama_grizy_tile_a"
    spec = f"tiles:{data}/tile_{{band}}.fits.fz"
    options = ["--survey", "gama", "--bands", "g", "r", "i", "z", "--size", "45", "--rows", "300"]
    assert main(["pack", str(data / "catalog.fits"), "--stamps", spec, "-o", str(tmp_path / "p"), *options]) == 0
    gama, frame = load_survey("gama"), Frame(tuple("griz"), 45, 0.339, 4)
    (chunk,) = open_catalog(str(data / "catalog.fits"), gama).chunks()
    batches = []
    for where in (spec, f"packs:{tmp_path}/p"):
        source = open_source(where, gama, frame)
        rows = Rows.of(chunk, source.locate(chunk))
        batch = allocate(chunk.n, frame)
        source.reader().read(rows, 0, chunk.n, batch)
        batches.append((batch, np.argsort(rows.id)))
    for name in ("images", "mask", "status", "flags", "present", "fwhm", "sigma", "origin", "wcs"):
        one, two = (getattr(batch, name)[order] for batch, order in batches)
        np.testing.assert_array_equal(one, two, err_msg=name)


def test_too_many_rows_for_a_pack(tmp_path, monkeypatch):
    monkeypatch.setattr("lensscan.survey.packwriter.MAX_ROWS", 3)
    with pytest.raises(OutputError, match="at most 3 rows"):
        write(tmp_path / "p", np.arange(4))


def test_a_reader_looks_at_no_pack_before_it_reads(tmp_path, monkeypatch):
    """Each of ten thousand ranks reads a few packs: it must not open all of them first."""
    for name in "abc":
        write(tmp_path / "p", np.arange(10) + 10 * ord(name), name=f"{name}.fits")
    spec, chunk = f"packs:{tmp_path}/p", chunk_of(np.arange(10) + 10 * ord("b"))
    rows = Rows.of(chunk, open_source(spec, SURVEY, FRAME).locate(chunk))
    opened = []
    real = PackFile.open
    monkeypatch.setattr(PackFile, "open", lambda path: opened.append(path) or real(path))
    reader, batch = open_reader(spec, SURVEY, FRAME), allocate(10, FRAME)
    assert opened == []
    reader.read(rows, 0, 10, batch)
    reader.close()
    assert (batch.status[:10] == Status.PENDING).all()
    assert opened == [f"{tmp_path}/p/b.fits"]


def pack_two(tmp_path: Path, stamps: str, survey: Path | None = None) -> int:
    """Pack the two rows of the catalog c.csv."""
    arguments = ["pack", str(tmp_path / "c.csv"), "--survey", str(survey or survey_file(tmp_path))]
    return main([*arguments, "--stamps", stamps, "-o", str(tmp_path / "p")])


def test_packs_of_other_files_for_the_same_rows_are_refused(tmp_path, capsys):
    zoo.build(tmp_path / "zoo")
    stamps, catalog = f"stamps:{tmp_path}/zoo/{{file}}", tmp_path / "c.csv"
    shutil.copy(tmp_path / "zoo/good.fits", tmp_path / "zoo/better.fits")
    catalog.write_text("id,file\n1,good.fits\n2,good.fits\n")
    assert pack_two(tmp_path, stamps) == 0
    assert pack_two(tmp_path, stamps) == 0
    assert "(1 stood already)" in capsys.readouterr().out
    catalog.write_text("id,file\n1,good.fits\n2,better.fits\n")
    assert pack_two(tmp_path, stamps) == 1
    assert "remove it to pack its rows again" in capsys.readouterr().err
    (tmp_path / "p/pack-000000.fits").unlink()
    assert pack_two(tmp_path, stamps) == 0
    assert pack_two(tmp_path, stamps) == 0
    os.utime(tmp_path / "zoo/better.fits", (1, 1))
    assert pack_two(tmp_path, stamps) == 1, "the same path, another file"
    assert "packed from another catalog, other files" in capsys.readouterr().err


def test_packs_of_other_tiles_in_the_index_are_refused(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        image = fits.ImageHDU(rng.normal(size=(200, 200)).astype(np.float32), name="g")
        image.header.update({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 0.0})
        image.header.update({"CRPIX1": 100.5, "CRPIX2": 100.5, "CD1_1": -0.263 / 3600, "CD2_2": 0.263 / 3600})
        image.header["MAGZERO"] = 30.0
        fits.HDUList([fits.PrimaryHDU(), image]).writeto(tmp_path / f"{name}.fits")
    (tmp_path / "c.csv").write_text("id,ra,dec\n1,10.0,0.0\n2,10.001,0.001\n")
    survey = tmp_path / "one-band.toml"
    survey.write_text('name = "s"\npixel_scale = 0.263\nstamp_size = 32\n[bands.g]\n')
    index = tmp_path / "index.csv"
    index.write_text("file\none.fits\n")
    assert pack_two(tmp_path, f"tiles:{index}", survey) == 0
    assert pack_two(tmp_path, f"tiles:{index}", survey) == 0
    assert "(1 stood already)" in capsys.readouterr().out
    index.write_text("file\ntwo.fits\n")
    assert pack_two(tmp_path, f"tiles:{index}", survey) == 1
    assert "packed from another catalog, other files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "card"), [("größe", r"gr\xf6\xdfe"), ("d" * 90, "d" * 68), ("o'" * 60, "o'" * 22 + "o")]
)
def test_any_name_of_a_survey_fits_the_header(tmp_path, name, card):
    survey = Survey(name, 0.263, SURVEY.bands)
    with PackWriter(tmp_path / "a.fits", FRAME, np.dtype("i8"), survey, "key") as writer:
        writer.add(filled(2), np.arange(2), np.zeros(2), np.zeros(2))
    with fits.open(tmp_path / "a.fits") as file:
        file.verify("exception")
        assert file["STAMPS"].header["SURVEY"] == card
        assert file["STAMPS"].header["PACKKEY"] == "key"


def test_a_band_that_a_header_cannot_name_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="a pack cannot name band 'ü'"):
        PackWriter(tmp_path / "a.fits", Frame(("ü",), 16, 0.263, 1), np.dtype("i8"))
