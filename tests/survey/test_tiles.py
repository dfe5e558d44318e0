from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import fitsio
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from lensscan.config import load_survey
from lensscan.errors import ConfigError
from lensscan.schema import Flag, Status
from lensscan.survey.catalog import Chunk, open_catalog
from lensscan.survey.packwriter import PackWriter
from lensscan.survey.stamps import Batch, Frame, Rows, allocate, open_source
from lensscan.survey.tilefile import TileFile

SURVEY = load_survey("des")
FRAME = Frame(("g", "r"), 32, 0.263, 2)
NJY = 10 ** (-0.4 * (30.0 - 31.4))
SIDE = 200


def header(ra: float = 40.0, dec: float = -20.0) -> fits.Header:
    cards = fits.Header([("CTYPE1", "RA---TAN"), ("CTYPE2", "DEC--TAN"), ("CRVAL1", ra), ("CRVAL2", dec)])
    cards["CRPIX1"], cards["CRPIX2"] = SIDE / 2 + 0.5, SIDE / 2 + 0.5
    cards["CD1_1"], cards["CD2_2"] = -0.263 / 3600, 0.263 / 3600
    cards["MAGZERO"] = 30.0
    return cards


def write_tile(folder: Path, name: str, ending: str = ".fits", seed: int = 0, **where: float) -> np.ndarray:
    """Write bands g and r; return the (2, side, side) counts."""
    images = np.random.default_rng(seed).normal(0, 100, (2, SIDE, SIDE)).astype(np.float32)
    for band, image in zip("gr", images, strict=True):
        path = folder / f"{name}_{band}{ending}"
        if ending.endswith(".fz"):
            hdu = fits.CompImageHDU(image, header(**where), compression_type="GZIP_1", quantize_level=0)
            fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
        else:
            fits.PrimaryHDU(image, header(**where)).writeto(path)
    return images


def chunk_at(ra: np.ndarray, dec: np.ndarray, px=None, py=None, **columns) -> Chunk:
    n = len(ra)
    nan = np.full(n, np.nan)
    return Chunk(
        0, n, np.arange(n), np.asarray(ra, float), np.asarray(dec, float),
        nan if px is None else np.asarray(px, float), nan if py is None else np.asarray(py, float), columns=columns,
    )  # fmt: skip


def cut(spec: str, chunk: Chunk, survey=SURVEY, frame: Frame = FRAME, **options) -> tuple[Batch, Rows]:
    source = open_source(spec, survey, frame, **options)
    rows = Rows.of(chunk, source.locate(chunk))
    batch = allocate(chunk.n, frame)
    reader = source.reader()
    reader.read(rows, 0, chunk.n, batch)
    reader.close()
    return batch, rows


def sky(x, y, **where) -> tuple[np.ndarray, np.ndarray]:
    ra, dec = WCS(header(**where)).all_pix2world(np.asarray(x, float), np.asarray(y, float), 0)
    return ra, dec


@pytest.mark.parametrize("ending", [".fits", ".fits.fz"])
def test_cut_outs_are_the_tile_s_pixels(tmp_path, ending):
    images = write_tile(tmp_path, "t", ending)
    rng = np.random.default_rng(4)
    x, y = rng.uniform(40, 150, 30), rng.uniform(40, 150, 30)
    batch, rows = cut(f"tiles:{tmp_path}/t_{{band}}{ending}", chunk_at(*sky(x, y)))
    assert not batch.status.any()
    assert not batch.flags.any()
    assert (np.diff(rows.offset) >= 0).all()
    for row in range(30):
        column, line = x[rows.id[row]], y[rows.id[row]]
        low = [int(np.ceil(value - 15.5 - 0.5)) for value in (column, line)]
        expected = images[:, low[1] : low[1] + 32, low[0] : low[0] + 32]
        np.testing.assert_allclose(batch.images[row], expected * NJY, rtol=3e-7)
        np.testing.assert_allclose(
            batch.origin[row], [(low[0] + 15.5 - column) * 0.263, (low[1] + 15.5 - line) * 0.263], atol=1e-5
        )
    np.testing.assert_allclose(batch.wcs[:, 0], rows.ra, atol=1e-9)
    np.testing.assert_allclose(batch.wcs[:, 1], rows.dec, atol=1e-9)


def test_edges_are_padded_and_flagged_and_the_outside_fails(tmp_path):
    images = write_tile(tmp_path, "t")
    x = np.array([100, 5.0, 15.0, 0.0, -10.0, -40.0, np.nan])
    y = np.array([100, 100.0, 194.0, 0.0, 100.0, 100.0, 100.0])
    nan = np.full(7, np.nan)
    batch, rows = cut(f"tiles:{tmp_path}/t_{{band}}.fits", chunk_at(nan, nan, x, y))
    status = dict(zip(rows.id.tolist(), batch.status.tolist(), strict=True))
    assert [status[i] for i in range(7)] == [
        0,
        0,
        0,
        Status.MASKED,
        Status.MASKED,
        Status.OUTSIDE_IMAGE,
        Status.NO_POSITION,
    ]
    row = rows.id.tolist().index(1)
    assert batch.flags[row] == Flag.EDGE | Flag.MASKED
    low = int(np.ceil(5.0 - 15.5 - 0.5))
    assert batch.mask[row, :, :, :-low].all()
    assert not batch.mask[row, :, :, -low:].any()
    assert not batch.images[row, :, :, :-low].any()
    np.testing.assert_allclose(batch.images[row, 0, :, -low:], images[0, 84:116, : 32 + low] * NJY, rtol=3e-7)
    assert not batch.flags[rows.id.tolist().index(0)]


def test_templates_over_columns_and_missing_tiles(tmp_path):
    write_tile(tmp_path, "A")
    write_tile(tmp_path, "B", seed=1)
    (tmp_path / "B_r.fits").unlink()
    ra, dec = sky([100.0] * 4, [100.0] * 4)
    tiles = np.array(["A", "B", "C", "A"])
    batch, rows = cut(f"tiles:{tmp_path}/{{tile}}_{{band}}.fits", chunk_at(ra, dec, tile=tiles))
    status = dict(zip(rows.id.tolist(), batch.status.tolist(), strict=True))
    assert status == {0: 0, 1: Status.WRONG_BANDS, 2: Status.MISSING_FILE, 3: 0}
    assert open_source(f"tiles:{tmp_path}/{{tile}}_{{band}}.fits", SURVEY, FRAME).fingerprint() == []
    fixed = open_source(f"tiles:{tmp_path}/A_{{band}}.fits", SURVEY, FRAME).fingerprint()
    assert [Path(path).name for path, _, _ in fixed] == ["A_g.fits", "A_r.fits"]


@pytest.mark.parametrize("columns", ["", "corners", "band"])
def test_an_index_finds_the_tile_that_holds_the_position(tmp_path, columns):
    step = 180 * 0.263 / 3600 / np.cos(np.radians(-20.0))
    where = [{"ra": (359.99 + number * step) % 360, "dec": -20.0} for number in range(3)]
    for number, place in enumerate(where):
        write_tile(tmp_path, f"t{number}", seed=number, **place)
    half = 100 * 0.263 / 3600
    lines = []
    for number, place in enumerate(where):
        wide = half / np.cos(np.radians(20))
        corners = f"{(place['ra'] - wide) % 360},{-20 - half},{(place['ra'] + wide) % 360},{-20 + half}"
        if columns == "band":
            lines += [f"t{number}_{band}.fits,{band}" for band in "gr"]
        else:
            lines.append(f"t{number}_{{band}}.fits" + (f",{corners}" if columns else ""))
    head = {"": "file", "corners": "file,ra_min,dec_min,ra_max,dec_max", "band": "file,band"}[columns]
    (tmp_path / "index.csv").write_text("\n".join([head, *lines]) + "\n")
    if columns == "band":
        for number in range(3):
            for band in "gr":
                (tmp_path / f"t{number}_{band}.fits").rename(tmp_path / f"x{number}_{band}.fits")
        text = (tmp_path / "index.csv").read_text(encoding="utf-8")
        (tmp_path / "index.csv").write_text(text.replace("\nt", "\nx"))
    ra = np.concatenate([sky([100, 187.0], [100, 100], **place)[0] for place in where])
    dec = np.full(6, -20.0)
    batch, rows = cut(f"tiles:{tmp_path}/index.csv", chunk_at(np.append(ra, 100.0), np.append(dec, 50.0)))
    named = {i: Path(f).name[1] for i, f in zip(rows.id.tolist(), rows.file, strict=True) if i < 6}
    # a position 187 pixels into one tile lies 7 pixels into the next one's overlap: the deeper place wins
    assert [named[i] for i in range(6)] == ["0", "0", "1", "1", "2", "2"]
    status = dict(zip(rows.id.tolist(), batch.status.tolist(), strict=True))
    assert status[6] == Status.NO_POSITION, "the index lists no tile there"
    assert [status[i] for i in range(6)] == [0] * 6


def test_an_index_must_make_sense(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the index"):
        open_source(f"tiles:{tmp_path}/none.csv", SURVEY, FRAME)
    (tmp_path / "a.csv").write_text("path\nx.fits\n")
    with pytest.raises(ConfigError, match="needs a column 'file'"):
        open_source(f"tiles:{tmp_path}/a.csv", SURVEY, FRAME)


@pytest.mark.parametrize("damage", ["truncated", "html", "other-grid", "other-shape"])
def test_a_broken_tile_costs_its_rows_only(tmp_path, damage):
    write_tile(tmp_path, "A")
    write_tile(tmp_path, "B", seed=1)
    bad = tmp_path / "B_r.fits"
    if damage == "truncated":
        bad.write_bytes(bad.read_bytes()[:50_000])
    elif damage == "html":
        bad.write_bytes(b"<html></html>")
    elif damage == "other-grid":
        cards = header()
        cards["CRPIX1"] += 3
        fits.PrimaryHDU(np.ones((SIDE, SIDE), np.float32), cards).writeto(bad, overwrite=True)
    else:
        fits.PrimaryHDU(np.ones((SIDE, 90), np.float32), header()).writeto(bad, overwrite=True)
    ra, dec = sky([100.0] * 4, [100.0] * 4)
    tiles = np.array(["A", "B", "A", "B"])
    batch, rows = cut(f"tiles:{tmp_path}/{{tile}}_{{band}}.fits", chunk_at(ra, dec, tile=tiles))
    reason = Status.WRONG_SHAPE if damage.startswith("other") else Status.UNREADABLE
    for row, name in enumerate(rows.id.tolist()):
        assert batch.status[row] == (0 if name % 2 == 0 else reason)
        assert batch.images[row].any() == (name % 2 == 0)


def test_strips_of_a_row_tiled_image_read_every_row_once(tmp_path, monkeypatch):
    images = write_tile(tmp_path, "t", ".fits.fz")
    from lensscan.survey import tilefile

    seen = []
    whole = tilefile.read_compressed

    def counted(handle, hdu, section):
        seen.append((section[0].start, section[0].stop))
        return whole(handle, hdu, section)

    monkeypatch.setattr(tilefile, "read_compressed", counted)
    file = TileFile(str(tmp_path / "t_g.fits.fz"))
    for start in (0, 3, 3, 20, 60, 61, 120, 10):
        part = file.section(file.image, slice(start, start + 32), slice(7, 50))
        np.testing.assert_array_equal(part, images[0, start : start + 32, 7:50])
    file.close()
    assert seen == [(0, 32), (32, 35), (35, 52), (60, 92), (92, 93), (120, 152), (10, 42)]


@pytest.mark.filterwarnings("ignore:Keyword name:astropy.io.fits.verify.VerifyWarning")
def test_lsst_masks_mean_damage_not_detections(tmp_path):
    images = write_tile(tmp_path, "t")
    mask = np.zeros((SIDE, SIDE), np.int32)
    mask[100, 100], mask[101, 101] = 1 << 5, 1 << 0
    for band, image in zip("gr", images, strict=True):
        plane = fits.ImageHDU(mask, fits.Header([("MP_BAD", 0), ("MP_DETECTED", 5)]), name="MASK")
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(image, header(), name="IMAGE"), plane]
        fits.HDUList(hdus).writeto(tmp_path / f"t_{band}.fits", overwrite=True)
    batch, _ = cut(f"tiles:{tmp_path}/t_{{band}}.fits", chunk_at(*sky([100.0], [100.0])))
    assert batch.mask[0].sum() == 2
    assert batch.flags[0] == Flag.MASKED


def test_reader_threads_agree(tmp_path):
    write_tile(tmp_path, "t", ".fits.fz")
    rng = np.random.default_rng(4)
    chunk = chunk_at(*sky(rng.uniform(20, 180, 64), rng.uniform(20, 180, 64)))
    source = open_source(f"tiles:{tmp_path}/t_{{band}}.fits.fz", SURVEY, FRAME)
    rows = Rows.of(chunk, source.locate(chunk))
    batches = [allocate(64, FRAME) for _ in range(4)]
    threads = [threading.Thread(target=lambda b=b: source.reader().read(rows, 0, 64, b)) for b in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert batches[0].n == 64
    for batch in batches[1:]:
        assert batch.images.tobytes() == batches[0].images.tobytes()
        assert batch.wcs.tobytes() == batches[0].wcs.tobytes()


def test_gama_tile(shared_data):
    data = shared_data / "gama_grizy_tile_a"
    gama, frame = load_survey("gama"), Frame(("g", "r", "i", "z"), 45, 0.339, 4)
    source = open_source(f"tiles:{data}/tile_{{band}}.fits.fz", gama, frame)
    (chunk,) = open_catalog(str(data / "catalog.fits"), gama).chunks()
    rows = Rows.of(chunk, source.locate(chunk))
    batch = allocate(chunk.n, frame)
    source.reader().read(rows, 0, chunk.n, batch)
    assert not batch.status.any()
    assert (batch.flags & Flag.STALE_WCS).all()
    with fitsio.FITS(str(data / "tile_Z.fits.fz")) as file:
        tile = file["SCI"].read()
    row = int(np.argmin(np.hypot(rows.px - 650, rows.py - 650)))
    low = [int(np.ceil(v - 22 - 0.5)) for v in (rows.px[row], rows.py[row])]
    expected = tile[low[1] : low[1] + 45, low[0] : low[0] + 45] * NJY
    np.testing.assert_allclose(batch.images[row, 3], expected, rtol=3e-7)
    aperture = np.hypot(*(np.mgrid[:45, :45] - 22)) < 1.5 / 0.339
    table = open_catalog(str(data / "catalog.fits"), gama, ("mag_r", "mag_z"))
    (chunk,) = table.chunks()
    for band, name in ((1, "mag_r"), (3, "mag_z")):
        flux = batch.images[:, band][:, aperture].sum(axis=1)
        good = (flux > 0) & (batch.flags == Flag.STALE_WCS)
        theirs = chunk.columns[name][np.argsort(chunk.id)][np.argsort(np.argsort(rows.id))]
        difference = 31.4 - 2.5 * np.log10(flux[good]) - theirs[good]
        assert abs(np.nanmedian(difference)) < 0.03


def test_cfhtls_tile(shared_data):
    data = shared_data / "cfhtls_w3_tile"
    survey, frame = load_survey("cfhtls"), Frame(("g", "r", "i"), 101, 0.186, 3)
    source = open_source(f"tiles:{data}/CFHTLS-test_{{band}}.fits", survey, frame)
    (chunk,) = open_catalog(str(data / "catalog.csv"), survey).chunks()
    rows = Rows.of(chunk, source.locate(chunk))
    batch = allocate(chunk.n, frame)
    source.reader().read(rows, 0, chunk.n, batch)
    good = batch.status == 0
    assert good.sum() >= 45
    np.testing.assert_allclose(batch.wcs[good, 0], rows.ra[good], atol=1e-8)
    np.testing.assert_allclose(batch.fwhm[good][0], [0.816, 0.879, 0.732], atol=1e-3)
    np.testing.assert_allclose(batch.wcs[good, 2], -1.0, atol=1e-3)
    other = dataclasses.replace(frame, size=64, pixel_scale=0.263)
    with pytest.raises(ConfigError, match="--resample"):
        open_source(f"tiles:{data}/CFHTLS-test_{{band}}.fits", survey, other)


@pytest.mark.parametrize("side", [44, 45])
@pytest.mark.parametrize("scale", [0.263, 0.3])
def test_a_pack_of_cut_outs_gives_the_pixels_of_the_tile(tmp_path, side, scale):
    write_tile(tmp_path, "t")
    rng = np.random.default_rng(2)
    chunk = chunk_at(*sky(rng.uniform(60, 140, 20), rng.uniform(60, 140, 20)))
    survey = dataclasses.replace(SURVEY, stamp_size=side)
    cut_out = Frame(FRAME.bands, side, 0.263, 2)
    spec = f"tiles:{tmp_path}/t_{{band}}.fits"
    stamps, rows = cut(spec, chunk, survey, cut_out)
    (tmp_path / "packs").mkdir()
    with PackWriter(tmp_path / "packs" / "a.fits", cut_out, rows.id.dtype, survey) as writer:
        writer.add(stamps, rows.id, rows.ra, rows.dec)
    frame = Frame(FRAME.bands, 32, scale, 2)
    direct, rows = cut(spec, chunk, survey, frame, resample=True)
    packed, others = cut(f"packs:{tmp_path}/packs", chunk, survey, frame, resample=True)
    order, other = np.argsort(rows.id), np.argsort(others.id)
    assert not direct.status.any()
    assert not packed.status.any()
    if scale == 0.263:
        np.testing.assert_array_equal(packed.images[other], direct.images[order])
    else:
        np.testing.assert_allclose(packed.images[other], direct.images[order], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(packed.origin[other], direct.origin[order], atol=1e-6)
    np.testing.assert_allclose(packed.wcs[other], direct.wcs[order], rtol=1e-6)
