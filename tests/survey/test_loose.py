from __future__ import annotations

import dataclasses
from pathlib import Path

import fitsio
import numpy as np
import pytest
from astropy.io import fits
from survey import zoo

from lensscan.config import Band, load_survey
from lensscan.errors import ConfigError
from lensscan.schema import Flag, Status
from lensscan.survey.catalog import open_catalog
from lensscan.survey.stamps import Batch, Frame, Rows, allocate, open_source

SURVEY = load_survey("des")
FRAME = Frame(("g", "r", "i", "z"), 64, 0.263, 1)
NJY = 10 ** (-0.4 * (30.0 - 31.4))


def read(
    file: Path | str, survey=SURVEY, frame: Frame = FRAME, ra: float = np.nan, dec: float = np.nan, **options
) -> Batch:
    source = open_source(f"stamps:{file}", survey, frame, **options)
    nan = np.full(1, np.nan)
    rows = Rows(
        np.array([1]),
        np.array([ra]),
        np.array([dec]),
        nan,
        nan,
        [str(file)],
        np.zeros(1, np.int64),
        np.zeros(1, np.uint8),
    )
    batch = allocate(1, frame)
    source.reader().read(rows, 0, 1, batch)
    return batch


def one_band(path: Path, image: np.ndarray, *more: bytes, name: str = "SCI") -> None:
    path.write_bytes(zoo.primary() + zoo.extension(name, image, *more))


def test_one_file_per_band_with_a_band_missing(tmp_path):
    images = zoo.pixels()
    for band, image in zip("gri", images, strict=False):
        one_band(tmp_path / f"s_{band}.fits", image)
    batch = read(f"{tmp_path}/s_{{band}}.fits")
    assert batch.status[0] == Status.PENDING
    assert batch.present[0].tolist() == [True, True, True, False]
    assert batch.flags[0] == Flag.MISSING_BAND
    np.testing.assert_allclose(batch.images[0, :3], images[:3] * NJY, rtol=2e-7)
    assert not batch.images[0, 3].any()
    assert not batch.masked
    assert np.isnan(batch.fwhm[0, 3])
    strict = dataclasses.replace(FRAME, min_bands=4)
    assert read(f"{tmp_path}/s_{{band}}.fits", frame=strict).status[0] == Status.WRONG_BANDS
    assert read(f"{tmp_path}/t_{{band}}.fits").status[0] == Status.MISSING_FILE


@pytest.mark.parametrize("stated", [True, False])
def test_cubes(tmp_path, stated):
    survey = dataclasses.replace(SURVEY, bands={b: SURVEY.bands[b] for b in "grizY"})
    images = np.concatenate([zoo.pixels(), zoo.pixels(3)[:1]])
    order = [4, 1, 0, 2, 3]
    names = ["Y", "r", "g", "i", "z"]
    cards = [zoo.card(f"BAND{n}", name) for n, name in enumerate(names, 1)]
    cube = images[order] if stated else images
    (tmp_path / "c.fits").write_bytes(zoo.primary() + zoo.extension("CUBE", cube, *(cards if stated else [])))
    batch = read(tmp_path / "c.fits", survey)
    np.testing.assert_allclose(batch.images[0], images[:4] * NJY, rtol=2e-7)
    (tmp_path / "d.fits").write_bytes(zoo.primary() + zoo.extension("CUBE", images[:3]))
    assert read(tmp_path / "d.fits", survey).status[0] == Status.WRONG_BANDS


def test_names_are_found_in_any_case_and_with_suffixes(tmp_path):
    images = zoo.pixels()
    for names in (
        ("g", "r", "i", "z"),
        ("G_SCI", "R_SCI", "I_SCI", "Z_SCI"),
        ("IMAGE_g", "IMAGE_r", "IMAGE_i", "IMAGE_z"),
    ):
        (tmp_path / "a.fits").write_bytes(zoo.stamp(images, names))
        np.testing.assert_allclose(read(tmp_path / "a.fits").images[0], images * NJY, rtol=2e-7)


@pytest.mark.parametrize(
    ("plane", "good", "bad", "noise"),
    [("IVAR", 4.0, 0.0, 0.5), ("RMS", 0.5, 1e16, 0.5), ("VAR", 0.25, -1.0, 0.5), ("MASK", 0.0, 4.0, None)],
)
def test_planes_mask_and_state_the_noise(tmp_path, plane, good, bad, noise):
    image, beside = zoo.pixels()[0], np.full((64, 64), good, np.float32)
    beside[3, 7] = bad
    psf = np.exp(-(np.hypot(*(np.mgrid[:25, :25] - 12)) ** 2) / (2 * 2.0**2)).astype(np.float32)
    raw = zoo.primary() + b"".join(
        zoo.extension(n, i) for n, i in (("G", image), (f"G_{plane}", beside), ("G_PSF", psf))
    )
    (tmp_path / "a.fits").write_bytes(raw)
    batch = read(tmp_path / "a.fits", frame=Frame(("g",), 64, 0.263, 1))
    assert batch.status[0] == Status.PENDING
    assert np.argwhere(batch.mask[0, 0]).tolist() == [[3, 7]]
    assert batch.images[0, 0, 3, 7] == 0
    assert batch.flags[0] == Flag.MASKED
    if noise is None:
        assert np.isnan(batch.sigma[0, 0])
    else:
        assert batch.sigma[0, 0] == pytest.approx(noise * NJY, rel=1e-5)
    assert batch.fwhm[0, 0] == pytest.approx(2.3548 * 2.0 * 0.263, rel=1e-3)


def test_mask_value_and_nan_band(tmp_path):
    images = zoo.pixels()
    images[0, 10, 11] = -999.0
    images[3] = np.nan
    (tmp_path / "a.fits").write_bytes(zoo.stamp(images))
    batch = read(tmp_path / "a.fits", dataclasses.replace(SURVEY, mask_value=-999.0))
    assert batch.present[0].tolist() == [True, True, True, False]
    assert np.argwhere(batch.mask[0]).tolist() == [[0, 10, 11]]
    assert batch.flags[0] == Flag.MASKED | Flag.MISSING_BAND


def test_zero_points_in_their_order(tmp_path):
    image = zoo.pixels()[0]
    frame = Frame(("g",), 64, 0.263, 1)

    def factor(*cards: bytes, zero_point: float | None = None) -> float:
        raw = zoo.primary() + zoo.extension("SCI", image, *cards).replace(zoo.card("MAGZERO", 30.0), b" " * 80)
        (tmp_path / "x_g.fits").write_bytes(raw)
        survey = dataclasses.replace(SURVEY, bands={"g": Band(zero_point=zero_point)})
        batch = read(f"{tmp_path}/x_{{band}}.fits", survey, frame)
        if batch.status[0]:
            return -float(batch.status[0])
        brightest = np.unravel_index(image.argmax(), image.shape)
        return float(batch.images[0, 0][brightest] / image[brightest])

    assert factor() == -float(Status.NO_ZERO_POINT)
    assert factor(zero_point=27.5) == pytest.approx(10 ** (-0.4 * (27.5 - 31.4)))
    assert factor(zoo.card("MAGZPT", 25.0), zero_point=27.5) == pytest.approx(10 ** (0.4 * 6.4))
    assert factor(zoo.card("BUNIT", "nJy"), zoo.card("MAGZPT", 25.0)) == pytest.approx(1.0)
    assert factor(zoo.card("BUNIT", "uJy")) == pytest.approx(1000.0)
    assert factor(zoo.card("BUNIT", "nanomaggy")) == pytest.approx(10 ** (-0.4 * (22.5 - 31.4)))
    hst = (zoo.card("PHOTFLAM", 7.08e-20), zoo.card("PHOTPLAM", 8045.0), zoo.card("BUNIT", "ELECTRONS/S"))
    zero_point = -2.5 * np.log10(7.08e-20) - 5 * np.log10(8045.0) - 2.408
    assert factor(*hst) == pytest.approx(10 ** (-0.4 * (zero_point - 31.4)), rel=1e-3)


def test_templates(tmp_path):
    assert open_source("stamps:a/{tile}/{id:06d}_{band}.fits", SURVEY, FRAME).required_columns() == ("tile", "id")
    for wrong in ("stamps:{a.b}.fits", "stamps:{}.fits", "stamps:{a", "stamps:{a[0]}"):
        with pytest.raises(ConfigError):
            open_source(wrong, SURVEY, FRAME)
    for wrong in ("cutouts/{id}.fits", "stamps:", "zip:x"):
        with pytest.raises(ConfigError, match="packs:DIR"):
            open_source(wrong, SURVEY, FRAME)
    with pytest.raises(ConfigError, match="--resample"):
        open_source("stamps:{id}.fits", SURVEY, dataclasses.replace(FRAME, pixel_scale=0.2))
    open_source("stamps:{id}.fits", SURVEY, dataclasses.replace(FRAME, pixel_scale=0.2), resample=True)


def test_compressed_stamps_go_through_cfitsio(tmp_path):
    image = zoo.pixels()[0]
    header = fits.Header([("MAGZERO", 30.0)])
    hdu = fits.CompImageHDU(image, header, compression_type="GZIP_1", quantize_level=0)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "c_g.fits")
    frame = Frame(("g",), 64, 0.263, 1)
    batch = read(f"{tmp_path}/c_{{band}}.fits", frame=frame)
    np.testing.assert_allclose(batch.images[0, 0], image * NJY, rtol=2e-7)
    raw = (tmp_path / "c_g.fits").read_bytes()
    for old, new in (
        (b"ZNAXIS1 =                   64", b"ZNAXIS1 =               226000"),
        (b"ZNAXIS2 =                   64", b"ZNAXIS2 =            226000000"),
    ):
        assert old in raw
        (tmp_path / "f_g.fits").write_bytes(raw.replace(old, new))
        assert read(f"{tmp_path}/f_{{band}}.fits", frame=frame).status[0] == Status.UNREADABLE


def test_des_stamps(shared_data):
    spec = f"stamps:{shared_data}/{{file}}"
    source = open_source(spec, SURVEY, FRAME)
    (chunk,) = open_catalog(str(shared_data / "des_stamps/catalog.fits"), SURVEY, source.required_columns()).chunks()
    rows = Rows.of(chunk, source.locate(chunk))
    batch = allocate(40, FRAME)
    source.reader().read(rows, 0, 36, batch)
    assert not batch.status[:36].any()
    assert not batch.flags[:36].any()
    assert not batch.masked
    with fitsio.FITS(rows.file[5]) as file:
        theirs = file["I"].read()[13:77, 13:77]
    np.testing.assert_allclose(batch.images[5, 2], theirs * NJY, rtol=2e-7)
    np.testing.assert_allclose(batch.origin[:36], -0.1315)
    assert np.isnan(batch.wcs[:36]).all()


def test_euclid_stamp(shared_data):
    (path,) = (shared_data / "lenses/euclid_q1").glob("*.fits")
    survey = load_survey("euclid-vis")
    batch = read(path, survey, Frame(tuple(survey.bands), 100, 0.1, 8))
    assert batch.status[0] == Status.PENDING
    assert batch.present[0].all()
    with fits.open(path) as file:
        for band, name in enumerate(("VIS", "DES_G", "DES_R", "DES_I", "DES_Z", "NIR_Y", "NIR_J", "NIR_H")):
            image, rms = file[f"{name}_BGSUB"], file[f"{name}_RMS"].data
            factor = 10 ** (-0.4 * (image.header["MAGZERO"] - 31.4))
            good = ~batch.mask[0, band]
            np.testing.assert_allclose(batch.images[0, band][good], image.data[good] * factor, rtol=1e-5, atol=1e-6)
            assert batch.fwhm[0, band] == pytest.approx(file[f"{name}_PSF"].header["FWHM"], rel=1e-6)
            sane = rms[rms < 1e10]
            assert batch.sigma[0, band] == pytest.approx(np.median(sane) * factor, rel=0.02)
            assert not (rms[good] > 1e10).any()
    assert np.isfinite(batch.wcs[0]).all()


def test_hst_stamps(shared_data):
    survey = load_survey("hst-acs")
    paths = sorted((shared_data / "lenses/hst_acs_f814w").glob("SDSS*.fits"))
    assert len(paths) == 2
    for path in paths:
        batch = read(path, survey, Frame(("F814W",), 198, 0.05, 1))
        assert batch.status[0] == Status.PENDING
        assert np.isfinite(batch.wcs[0]).all()
        magnitude = 31.4 - 2.5 * np.log10(batch.images[0, 0, 79:119, 79:119].sum())
        assert 15 < magnitude < 20
