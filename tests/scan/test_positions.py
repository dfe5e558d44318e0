"""One galaxy, however it is cut out, ends up at one place on the sky."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS
from launch import run
from scipy.special import erf

SCALE = 0.263
COLOURS = {"g": 21.6, "r": 20.0, "i": 19.2, "z": 18.9}
NOISE = {"g": 2.8, "r": 4.0, "i": 6.4, "z": 11.9}
RA, DEC = 30.0, -45.0


def pixel_gaussian(n: int, centre: float, sigma: float) -> np.ndarray:
    """Integrate a unit Gaussian over pixels 0 .. n - 1; `centre` and `sigma` in pixels."""
    edges = (np.arange(n + 1) - 0.5 - centre) / (sigma * np.sqrt(2))
    return np.diff(erf(edges)) / 2


def galaxy(shape: tuple[int, int], x: float, y: float, band: str) -> np.ndarray:
    """Return counts (zero point 30) of a round two-component galaxy centred on pixel (x, y)."""
    counts = 10 ** (-0.4 * (COLOURS[band] - 30))
    parts = [(0.6, 0.55 / SCALE), (0.4, 1.2 / SCALE)]
    return counts * sum(w * np.outer(pixel_gaussian(shape[0], y, s), pixel_gaussian(shape[1], x, s)) for w, s in parts)


def header(shape: tuple[int, int], x: float, y: float) -> fits.Header:
    """Return a TAN header that puts pixel (x, y), 0-based, at (RA, DEC)."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [RA, DEC]
    wcs.wcs.crpix = [x + 1, y + 1]
    wcs.wcs.cd = np.array([[-1, 0], [0, 1]]) * SCALE / 3600
    return wcs.to_header()


def write(path, shape, x, y, rng) -> None:
    """Write one image of the galaxy, a band an extension."""
    hdus = [fits.PrimaryHDU()]
    for band in COLOURS:
        image = galaxy(shape, x, y, band) + rng.normal(0, NOISE[band], shape)
        head = header(shape, x, y)
        head["MAGZERO"], head["PSF_FWHM"] = 30.0, 1.0
        hdus.append(fits.ImageHDU(image.astype("f4"), head, name=band.upper()))
    fits.HDUList(hdus).writeto(path)


def scan(folder, out, rows: list[str], spec: str) -> QTable:
    """Scan with the shipped model; return the candidates in the order of their ids."""
    (folder / "catalog.csv").write_text("id,ra,dec,file\n" + "\n".join(rows) + "\n")
    args = ["scan", "--catalog", f"{folder}/catalog.csv", "--survey", "des", "--stamps", spec]
    result = run([*args, "--model", "des-griz", "-o", str(out)])
    assert result.code == 0, result
    table = QTable.read(out, path="candidates")
    table.sort("id")
    return table


def offsets(table: QTable) -> tuple[np.ndarray, np.ndarray]:
    """Return the offsets of the lens positions from the truth, arcsec East and North."""
    east = (table["ra_lens"].to_value("deg") - RA) * np.cos(np.radians(DEC)) * 3600
    return np.asarray(east), np.asarray((table["dec_lens"].to_value("deg") - DEC) * 3600)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The galaxy as stamps of four sizes, and as cut-outs of tiles at five sub-pixel phases."""
    folder = tmp_path_factory.mktemp("sky")
    rng = np.random.default_rng(11)
    rows = []
    for number, size in enumerate((90, 91, 100, 101)):
        centre = (size - 1) / 2
        write(folder / f"stamp{size}.fits", (size, size), centre, centre, rng)
        rows.append(f"{number},{RA},{DEC},stamp{size}.fits")
    loose = scan(folder, folder / "loose.h5", rows, f"stamps:{folder}/{{file}}")
    rows = []
    for number, phase in enumerate((0.0, 0.2, 0.4, 0.6, 0.8)):
        write(folder / f"tile{number}.fits", (200, 210), 100 + phase, 95 - phase, rng)
        rows.append(f"{number},{RA},{DEC},tile{number}.fits")
    tiles = scan(folder, folder / "tiles.h5", rows, f"tiles:{folder}/{{file}}")
    return loose, tiles


def test_all_nine_agree_within_the_networks_own_scatter(tables):
    for table in tables:
        east, north = offsets(table)
        scatter = np.hypot(table["x_err"].to_value("arcsec"), table["y_err"].to_value("arcsec"))
        distance = np.hypot(east, north)
        assert (distance < 0.02 + 2.5 * scatter).all(), (distance, scatter)
        assert (scatter < 0.25).all(), "the network itself knows the position to a pixel"


def test_the_mean_has_no_pixel_offset(tables):
    """A half-pixel mistake of one kind of cut-out would shift its mean by 0.13 arcsec."""
    for table in tables:
        east, north = offsets(table)
        assert abs(east.mean()) < 0.05, east
        assert abs(north.mean()) < 0.05, north
