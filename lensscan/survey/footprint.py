"""Which tile a sky position lies in: tiles from an index file, their footprints from columns or headers."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lensscan.config import Survey
from lensscan.errors import ConfigError, StampError
from lensscan.schema import Status
from lensscan.survey.facts import FactsBook
from lensscan.survey.template import BAND, band_label
from lensscan.survey.tilefile import TileFile
from lensscan.survey.wcs import General, Tan, read_wcs

__all__ = ["Geometry", "TileIndex", "band_file", "read_geometry"]

NEIGHBOURS = 8
Floats = NDArray[np.float64]
CORNERS = (("rall", "decll", "raur", "decur"), ("ra_min", "dec_min", "ra_max", "dec_max"))


@dataclass(frozen=True, slots=True)
class Geometry:
    """Shape and WCS of a tile.

    Attributes
    ----------
    shape : (int, int)
        Height and width, pixels.
    wcs : Tan, General or None
    scale : float
        Arcsec per pixel.
    """

    shape: tuple[int, int]
    wcs: Tan | General | None
    scale: float

    def positions(self, ra: Floats, dec: Floats, px: Floats, py: Floats) -> tuple[Floats, Floats]:
        """Return 0-based pixels: the catalog's own where it has them, else by the WCS; NaN if neither."""
        x, y = np.array(px, float), np.array(py, float)
        sky = ~(np.isfinite(x) & np.isfinite(y)) & np.isfinite(ra) & np.isfinite(dec)
        if self.wcs is not None and sky.any():
            x[sky], y[sky] = self.wcs.pixels(ra[sky], dec[sky])
        return x, y

    def centre(self) -> tuple[Floats, float]:
        """Return the unit vector of the tile's centre and its half diagonal (arcsec)."""
        height, width = self.shape
        if self.wcs is None:
            raise ConfigError("tiles in an index need a WCS, or corner columns")
        ra, dec = np.radians(self.wcs.frames((width - 1) / 2, (height - 1) / 2)[0, :2])
        vector = np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
        return vector, 0.5 * float(np.hypot(height, width)) * self.scale


def band_file(path: str, survey: Survey, band: str) -> str:
    """Return a tile path for one band of the survey."""
    return path.replace(BAND, band_label(band, survey.bands[band]))


def read_geometry(path: str, survey: Survey, bands: tuple[str, ...]) -> Geometry:
    """Read shape and WCS from the first band whose file exists.

    Raises
    ------
    StampError
        MISSING_FILE if there is none, UNREADABLE.
    """
    missing: StampError | None = None
    for band in bands:
        if band not in survey.bands:
            continue
        try:
            file = TileFile(band_file(path, survey, band))
        except StampError as error:
            missing = missing or error
            continue
        try:
            facts = FactsBook(survey).of(file.header, file.hdus[0].header, band)
            return Geometry(file.shape, _wcs(file), facts.scale)
        finally:
            file.close()
    raise missing or StampError(Status.MISSING_FILE, f"{path}: no band of the survey")


def _wcs(file: TileFile) -> Tan | General | None:
    """Return the WCS for finding positions, also where the survey does not trust it on the sky."""
    try:
        return read_wcs(file.header) or read_wcs(file.hdus[0].header)
    except ValueError:
        return None


class TileIndex:
    """The tiles of a CSV file with a column ``file`` (may hold ``{band}``) and perhaps corner columns."""

    def __init__(self, path: str, survey: Survey, bands: tuple[str, ...]) -> None:
        self.path, self._survey, self._bands = path, survey, bands
        self._geometry: dict[str, Geometry] = {}
        folder = Path(path).parent
        try:
            with open(path, newline="", encoding="utf-8-sig") as stream:
                sample = stream.readline()
                stream.seek(0)
                rows = list(csv.DictReader(stream, delimiter=";" if ";" in sample else ","))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"tiles:{path}: cannot read the index ({error})") from None
        if not rows or "file" not in rows[0]:
            raise ConfigError(f"tiles:{path}: the index needs a column 'file' (and at least one tile)")
        self.files = list(dict.fromkeys(str(folder / self._template(row)) for row in rows))
        first = {str(folder / self._template(row)): row for row in reversed(rows)}
        self._centres = np.array([self._centre(first[file], file) for file in self.files])

    def _template(self, row: dict[str, str]) -> str:
        """Return the row's path; where the index has a column ``band``, with the band's label made a field."""
        file, band = row["file"].strip(), (row.get("band") or "").strip()
        if not band or BAND in file:
            return file
        folder, name = os.path.split(file)
        if name.count(band) != 1:
            raise ConfigError(f"tiles:{self.path}: band {band!r} must stand exactly once in the file name {name!r}")
        return os.path.join(folder, name.replace(band, BAND))

    def _centre(self, row: dict[str, str], file: str) -> Floats:
        for names in CORNERS:
            if all(row.get(name) for name in names):
                ra1, dec1, ra2, dec2 = (float(row[name]) for name in names)
                middle = ra1 + (((ra2 - ra1) + 180) % 360 - 180) / 2
                ra, dec = np.radians(middle), np.radians((dec1 + dec2) / 2)
                return np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
        try:
            return self.geometry(file).centre()[0]
        except StampError as error:
            raise ConfigError(f"tiles:{self.path}: {error.reason}; correct the index") from None

    def geometry(self, file: str) -> Geometry:
        """Return a tile's geometry, read once."""
        known = self._geometry.get(file)
        if known is None:
            known = self._geometry[file] = read_geometry(file, self._survey, self._bands)
        return known

    def find(self, ra: Floats, dec: Floats) -> NDArray[np.int64]:
        """Return for each position the tile that holds it farthest from its border; -1 if none is near."""
        from scipy.spatial import cKDTree

        result = np.full(len(ra), -1, np.int64)
        known = np.isfinite(ra) & np.isfinite(dec)
        lon, lat = np.radians(ra[known]), np.radians(dec[known])
        points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
        count = min(NEIGHBOURS, len(self.files))
        near = cKDTree(self._centres).query(points, k=count)[1].reshape(len(points), count)
        best = np.full(len(points), -np.inf)
        chosen = near[:, 0].astype(np.int64) if len(points) else np.empty(0, np.int64)
        for tile in np.unique(near):
            rows = np.flatnonzero((near == tile).any(axis=1))
            depth = self._depth(self.files[int(tile)], ra[known][rows], dec[known][rows])
            better = depth > best[rows]
            best[rows[better]] = depth[better]
            chosen[rows[better]] = tile
        result[known] = chosen
        return result

    def _depth(self, file: str, ra: Floats, dec: Floats) -> Floats:
        """Return the distance to the nearest border, pixels; negative outside."""
        try:
            geometry = self.geometry(file)
        except StampError:
            return np.full(len(ra), -np.inf)
        nan = np.full(len(ra), np.nan)
        x, y = geometry.positions(ra, dec, nan, nan)
        height, width = geometry.shape
        depth = np.minimum(np.minimum(x, width - 1 - x), np.minimum(y, height - 1 - y))
        return np.where(np.isfinite(depth), depth, -np.inf)
