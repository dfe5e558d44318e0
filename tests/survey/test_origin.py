"""One galaxy, supplied in many ways, keeps its place on the sky."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import pixel_to_skycoord

from lensscan.config import load_survey
from lensscan.schema import Flag, Status
from lensscan.survey.stamps import Batch, Frame, Rows, allocate, open_source

SCALE = 0.263
SURVEY = dataclasses.replace(load_survey("des"), catalog=load_survey("des").catalog)
FRAME = Frame(("g", "r"), 64, SCALE, 2)
CENTRE = (1510.3, 1492.7)  # 0-based pixel of the galaxy in the coadd
ORIENTATIONS = {
    "standard": (150.1, 2.2, 0.0, 1),
    "rotated": (150.1, -31.0, 0.6, 1),
    "mirrored": (33.0, 12.0, 0.3, -1),
    "across 0": (359.99999, -5.0, 0.0, 1),
    "near the pole": (77.0, 86.0, 1.0, 1),
}


def wcs_header(orientation: str, shift: tuple[float, float] = (0.0, 0.0), scale: float = SCALE) -> fits.Header:
    ra, dec, turn, parity = ORIENTATIONS[orientation]
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRVAL1"], header["CRVAL2"] = ra, dec
    header["CRPIX1"], header["CRPIX2"] = 1501.0 - shift[0], 1501.0 - shift[1]
    step = scale / 3600
    header["CD1_1"], header["CD1_2"] = -step * np.cos(turn) * parity, step * np.sin(turn)
    header["CD2_1"], header["CD2_2"] = step * np.sin(turn) * parity, step * np.cos(turn)
    header["MAGZERO"] = 30.0
    return header


def galaxy(shape: tuple[int, int], x: float, y: float, width: float = 3.0) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return (1000 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * width**2))).astype(np.float32)


def truth(orientation: str) -> tuple[float, float]:
    sky = pixel_to_skycoord(*CENTRE, WCS(wcs_header(orientation)))
    return sky.ra.deg, sky.dec.deg


def rows(files: list[str], ra: float, dec: float) -> Rows:
    n = len(files)
    nan = np.full(n, np.nan)
    return Rows(
        np.arange(n), np.full(n, ra), np.full(n, dec), nan, nan, files, np.zeros(n, np.int64), np.zeros(n, np.uint8)
    )


def measured(batch: Batch, row: int, frame: Frame = FRAME) -> tuple[float, float]:
    """Centroid about the frame centre, plus origin, through the WCS: as a scan derives ra_lens, dec_lens."""
    image = np.where(batch.mask[row, 0] & batch.masked, 0, batch.images[row, 0]).astype(float)
    image[image < 0.02 * image.max()] = 0
    line, column = np.mgrid[: frame.size, : frame.size] - (frame.size - 1) / 2
    x = (image * column).sum() / image.sum() * frame.pixel_scale + batch.origin[row, 0]
    y = (image * line).sum() / image.sum() * frame.pixel_scale + batch.origin[row, 1]
    ra, dec, xi_x, xi_y, eta_x, eta_y = batch.wcs[row]
    xi, eta = xi_x * x + xi_y * y, eta_x * x + eta_y * y
    return ra + xi / 3600 / np.cos(np.radians(dec)), dec + eta / 3600


def distance(found: tuple[float, float], true: tuple[float, float]) -> float:
    east = ((found[0] - true[0] + 180) % 360 - 180) * np.cos(np.radians(true[1]))
    return float(np.hypot(east, found[1] - true[1]) * 3600)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_stamps_of_all_sizes_agree(tmp_path, orientation):
    files = []
    for side in (90, 91, 100, 101, 45):
        low = [int(np.floor(c - (side - 1) / 2)) for c in CENTRE]
        header = wcs_header(orientation, shift=(low[0], low[1]))
        image = galaxy((side, side), CENTRE[0] - low[0], CENTRE[1] - low[1])
        hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(image, header, name=band) for band in "GR")]
        path = tmp_path / f"{orientation}-{side}.fits"
        fits.HDUList(hdus).writeto(path)
        files.append(str(path))
    true = truth(orientation)
    batch = allocate(8, FRAME)
    source = open_source(f"stamps:{tmp_path}/{{id}}.fits", SURVEY, FRAME)
    source.reader().read(rows(files, *true), 0, len(files), batch)
    assert not batch.status.any()
    assert not batch.flags[:4].any()
    for row in range(len(files)):
        assert distance(measured(batch, row), true) < 0.002, files[row]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("orientation", ["standard", "rotated", "near the pole"])
def test_tile_cut_outs_at_sub_pixel_phases_agree(tmp_path, orientation, compressed):
    shift = (1400, 1400)
    ending = ".fits.fz" if compressed else ".fits"
    image = galaxy((200, 220), CENTRE[0] - shift[0], CENTRE[1] - shift[1])
    for band in "gr":
        header = wcs_header(orientation, shift=shift)
        if compressed:
            hdu = fits.CompImageHDU(image, header, compression_type="GZIP_1", quantize_level=0)
            fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / f"t_{band}{ending}")
        else:
            fits.PrimaryHDU(image, header).writeto(tmp_path / f"t_{band}{ending}")
    wcs = WCS(wcs_header(orientation))
    phases = [(0.0, 0.0), (0.3, -0.2), (0.5, 0.5), (-0.49, 0.1), (2.25, -3.75)]
    sky = [pixel_to_skycoord(CENTRE[0] + dx, CENTRE[1] + dy, wcs) for dx, dy in phases]
    template = f"{tmp_path}/t_{{band}}{ending}"
    source = open_source(f"tiles:{template}", SURVEY, FRAME)
    plan = rows([template] * len(phases), 0.0, 0.0)
    plan.ra[:], plan.dec[:] = [s.ra.deg for s in sky], [s.dec.deg for s in sky]
    batch = allocate(6, FRAME)
    source.reader().read(plan, 0, len(phases), batch)
    assert not batch.status.any()
    for row in range(len(phases)):
        assert np.abs(batch.origin[row]).max() <= 0.5 * SCALE + 1e-6
        assert distance(measured(batch, row), truth(orientation)) < 0.002, phases[row]


@pytest.mark.parametrize("kind", ["stamps", "tiles"])
def test_resampled_stamps_keep_place_and_flux(tmp_path, kind):
    native = 0.339
    survey = dataclasses.replace(SURVEY, pixel_scale=native)
    shift = (1400.0, 1400.0) if kind == "tiles" else (1461.0, 1442.0)
    shape = (200, 220) if kind == "tiles" else (101, 100)
    x, y = CENTRE[0] - shift[0], CENTRE[1] - shift[1]
    for band in "gr":
        header = wcs_header("rotated", shift=shift, scale=native)
        fits.PrimaryHDU(galaxy(shape, x, y), header).writeto(tmp_path / f"s_{band}.fits")
    sky = pixel_to_skycoord(*CENTRE, WCS(wcs_header("rotated", scale=native)))
    template = f"{tmp_path}/s_{{band}}.fits"
    source = open_source(f"{kind}:{template}", survey, FRAME, resample=True)
    batch = allocate(1, FRAME)
    source.reader().read(rows([template], sky.ra.deg, sky.dec.deg), 0, 1, batch)
    assert batch.status[0] == Status.PENDING
    assert batch.flags[0] == Flag.RESAMPLED
    assert distance(measured(batch, 0), (sky.ra.deg, sky.dec.deg)) < 0.005
    njy = 10 ** (-0.4 * (30.0 - 31.4))
    assert batch.images[0, 0].sum() == pytest.approx(1000 * 2 * np.pi * 9 * njy, rel=1e-3)


def test_a_wcs_of_another_place_is_stale(tmp_path):
    image = galaxy((64, 64), 31.5, 31.5)
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(image, wcs_header("standard"), name=band) for band in "GR")]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    batch = allocate(1, FRAME)
    source = open_source(f"stamps:{tmp_path}/{{id}}.fits", SURVEY, FRAME)
    source.reader().read(rows([str(tmp_path / "a.fits")], *truth("standard")), 0, 1, batch)
    assert batch.status[0] == Status.PENDING
    assert batch.flags[0] == Flag.STALE_WCS
    assert np.isnan(batch.wcs[0]).all()
