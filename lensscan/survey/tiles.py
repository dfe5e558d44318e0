"""Coadd tiles as a stamp source, ``tiles:TEMPLATE`` or ``tiles:INDEX.csv``: cut-outs about catalog positions."""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lensscan.config import Survey
from lensscan.errors import StampError
from lensscan.schema import Status
from lensscan.survey.facts import Facts, FactsBook
from lensscan.survey.filling import Filling, FillingReader
from lensscan.survey.footprint import Geometry, TileIndex, band_file, read_geometry
from lensscan.survey.placement import Placement, place_at, place_centred
from lensscan.survey.planes import bad_pixels, mask_bits, typical_noise
from lensscan.survey.stamps import (
    SCALE_TOLERANCE,
    Frame,
    Located,
    Rows,
    StampSource,
    check_scale,
    number_files,
)
from lensscan.survey.template import Template
from lensscan.survey.tilefile import TileFile

if TYPE_CHECKING:
    from lensscan.survey.catalog import Chunk

__all__ = ["TileReader", "TileSource", "open_tiles"]

PENDING = int(Status.PENDING)
OPEN_TILES = 4
MARGIN = 6
"""Tile pixels read beyond the frame on both sides together, where a cut-out is resampled."""
ALIGNED = 0.05
"""Pixels by which the bands of a tile may disagree about a position."""
BAD_TILE = (MemoryError, ValueError, OverflowError, ArithmeticError, OSError)


def open_tiles(where: str, survey: Survey, frame: Frame, resample: bool) -> TileSource:
    """Open tiles by template or by index file."""
    if where.lower().endswith((".csv", ".txt")):
        return TileSource(None, TileIndex(where, survey, frame.bands), survey, frame, resample)
    return TileSource(Template(where), None, survey, frame, resample)


class TileSource(StampSource):
    """Coadd tiles; made by `open_tiles`."""

    def __init__(
        self, template: Template | None, index: TileIndex | None, survey: Survey, frame: Frame, resample: bool
    ) -> None:
        self._template, self._index = template, index
        self._survey, self._frame, self._resample = survey, frame, resample
        self._seen: dict[str, Geometry | int] = {}
        check_scale(survey.pixel_scale, frame, resample, f"survey {survey.name}")

    def fingerprint(self) -> list[tuple[str, int, int]]:
        """Return (path, size, mtime_ns) of the index and its tiles, or of the tile of a template without columns.

        The tiles of a template over catalog columns are not looked at: which they are shows only row by row.
        """
        tiles = self._index.files if self._index else []
        if self._template is not None and not self._template.columns:
            tiles = self._template.expand({}, 1)
        paths = [self._index.path] if self._index else []
        for tile in tiles:
            files = {band_file(tile, self._survey, b) for b in self._frame.bands if b in self._survey.bands}
            paths += sorted(file for file in files if os.path.exists(file))
        return [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in paths]

    def required_columns(self) -> tuple[str, ...]:
        """Columns of the template."""
        return self._template.columns if self._template else ()

    def locate(self, chunk: Chunk) -> Located:
        """Find each row's tile and pixel; the offset is the row-major pixel index."""
        status = np.full(chunk.n, PENDING, np.uint8)
        if self._template is not None:
            files = self._template.expand(chunk.named(self._template.columns), chunk.n)
        elif self._index is not None:
            number = self._index.find(chunk.ra, chunk.dec)
            files = [self._index.files[n] if n >= 0 else "" for n in number.tolist()]
            status[number < 0] = Status.NO_POSITION
        offset = np.zeros(chunk.n, np.int64)
        names, which = number_files(files)
        order = np.argsort(which, kind="stable")
        borders = np.searchsorted(which[order], np.arange(len(names) + 1))
        for tile, name in enumerate(names):
            rows = order[borders[tile] : borders[tile + 1]]
            rows = rows[status[rows] == PENDING]
            if len(rows):
                offset[rows], status[rows] = self._place(name, chunk, rows)
        return Located(files, offset, status)

    def files_of(self, path: str) -> list[str]:
        """Return a row's tile in every band; nothing where an index says which tiles there are."""
        return [] if self._template is None else self.stored_in(path)

    def stored_in(self, path: str) -> list[str]:
        """Return a row's tile in every band."""
        return sorted({band_file(path, self._survey, band) for band in self._frame.bands if band in self._survey.bands})

    def _place(self, name: str, chunk: Chunk, rows: NDArray[np.intp]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        offset, status = np.zeros(len(rows), np.int64), np.full(len(rows), PENDING, np.uint8)
        geometry = self._geometry(name)
        if isinstance(geometry, int):
            status[:] = geometry
            return offset, status
        x, y = geometry.positions(chunk.ra[rows], chunk.dec[rows], chunk.px[rows], chunk.py[rows])
        known = np.isfinite(x) & np.isfinite(y)
        status[~known] = Status.NO_POSITION
        height, width = geometry.shape
        reach = self._frame.size * self._frame.pixel_scale / geometry.scale / 2
        inside = (x > -reach) & (x < width - 1 + reach) & (y > -reach) & (y < height - 1 + reach)
        status[known & ~inside] = Status.OUTSIDE_IMAGE
        column = np.clip(np.rint(np.where(known, x, 0)), 0, width - 1).astype(np.int64)
        row = np.clip(np.rint(np.where(known, y, 0)), 0, height - 1).astype(np.int64)
        offset[:] = row * width + column
        return offset, status

    def _geometry(self, name: str) -> Geometry | int:
        known = self._seen.get(name)
        if known is None:
            try:
                known = read_geometry(name, self._survey, self._frame.bands)
            except StampError as error:
                known = int(error.status)
            self._seen[name] = known
        return known

    def reader(self) -> TileReader:
        """Return a reader for one thread."""
        return TileReader(self._survey, self._frame, self._resample)


class TileReader(FillingReader):
    """Cuts stamps out of tiles; see `StampReader`."""

    def __init__(self, survey: Survey, frame: Frame, resample: bool) -> None:
        super().__init__(survey, frame, resample)
        self._bands = [(number, band) for number, band in enumerate(frame.bands) if band in survey.bands]
        self._open: OrderedDict[str, OpenTile] = OrderedDict()

    def _runs(self, rows: Rows, start: int, stop: int) -> Iterator[tuple[int, int]]:
        return _same_file(rows, start, stop)

    def close(self) -> None:
        """Close the tiles."""
        for tile in self._open.values():
            tile.close()
        self._open.clear()

    def _tile(self, name: str) -> OpenTile:
        tile = self._open.pop(name, None)
        if tile is None:
            tile = OpenTile(name, self._survey, self._bands)
        self._open[name] = tile
        while len(self._open) > OPEN_TILES:
            self._open.popitem(last=False)[1].close()
        return tile

    def _read_run(self, rows: Rows, start: int, low: int, high: int, filling: Filling) -> None:
        wanted = [row for row in range(low, high) if rows.status[start + row] == PENDING]
        if not wanted:
            return
        try:
            tile = self._tile(rows.file[start + low])
            part = np.array(wanted) + start
            x, y = tile.geometry.positions(rows.ra[part], rows.dec[part], rows.px[part], rows.py[part])
        except StampError as error:
            for row in wanted:
                filling.fail(row, error.status)
            return
        except BAD_TILE:
            for row in wanted:
                filling.fail(row, Status.UNREADABLE)
            return
        for row, column, line in zip(wanted, x.tolist(), y.tolist(), strict=True):
            status = self._cut(tile, row, column, line, filling)
            if status != PENDING:
                filling.fail(row, status)
        tile.release()

    def _cut(self, tile: OpenTile, row: int, x: float, y: float, filling: Filling) -> int:
        if not (math.isfinite(x) and math.isfinite(y)):
            return Status.NO_POSITION
        try:
            for band, name in enumerate(self._frame.bands):
                if name in tile.files:
                    self._cut_band(tile, name, band, row, x, y, filling)
                else:
                    filling.absent(row, band)
        except StampError as error:
            return error.status
        except BAD_TILE:
            return Status.UNREADABLE
        facts = tile.first
        if facts.wcs is not None:
            filling.sky.add(row, facts.wcs, x, y, filling.unit(facts.scale))
        elif facts.stale:
            filling.sky.stale(row)
        return PENDING

    def _cut_band(self, tile: OpenTile, name: str, band: int, row: int, x: float, y: float, filling: Filling) -> None:
        facts, file = tile.facts[name], tile.files[name]
        if facts.factor is None:
            raise StampError(Status.NO_ZERO_POINT, f"{file.path}: no zero point for band {name}")
        step = self._frame.pixel_scale / facts.scale
        resampled = abs(1 / step - 1) > SCALE_TOLERANCE
        if resampled and not self._resample:
            raise StampError(Status.WRONG_SCALE, f"{file.path}: pixels of {facts.scale:g} arcsec")
        size = math.ceil(self._frame.size * step) + MARGIN if resampled else self._frame.size
        if resampled:  # odd or even as the survey's stamps, so that a pack of these tiles gives the same pixels
            size += (size - self._survey.stamp_size) % 2
        place = place_at(file.shape, size, x, y)
        if place.padding == size * size:
            raise StampError(Status.OUTSIDE_IMAGE, f"{file.path}: position {x:.1f}, {y:.1f}")
        image = file.section(file.image, *place.source)
        bad, noise, fwhm = _planes(file, place, facts)
        if resampled:
            image, bad, place = _to_frame(image, bad, place, size, self._frame.size, step)
        else:
            height, width = image.shape
            place = replace(place, source=(slice(0, height), slice(0, width)))
        filling.band(row, band, image, place, facts.factor, fwhm, bad, noise, outside=True)


class OpenTile:
    """The files of one tile, one per band, all on one pixel grid."""

    def __init__(self, name: str, survey: Survey, bands: list[tuple[int, str]]) -> None:
        self.files: dict[str, TileFile] = {}
        self.facts: dict[str, Facts] = {}
        try:
            for _, band in bands:
                try:
                    file = TileFile(band_file(name, survey, band))
                except StampError as error:
                    if error.status != Status.MISSING_FILE:
                        raise
                    continue
                self.files[band] = file
                self.facts[band] = FactsBook(survey).of(file.header, file.hdus[0].header, band)
            if not self.files:
                raise StampError(Status.MISSING_FILE, f"{name}: no file of any band")
            self.geometry = read_geometry(name, survey, tuple(band for _, band in bands))
            self.first = self.facts[next(iter(self.files))]
            self._check(name)
        except BaseException:
            self.close()
            raise

    def _check(self, name: str) -> None:
        """All bands must share one pixel grid."""
        height, width = self.geometry.shape
        corner = np.array([0.0]), np.array([0.0])
        for band, file in self.files.items():
            if file.shape != (height, width):
                raise StampError(Status.WRONG_SHAPE, f"{name}: band {band} has shape {file.shape}")
            mine, first = self.facts[band].wcs, self.first.wcs
            if mine is None or first is None or mine == first:
                continue
            sky = first.frames(*corner)[:, :2]
            x, y = mine.pixels(sky[:, 0], sky[:, 1])
            if not (abs(x[0]) < ALIGNED and abs(y[0]) < ALIGNED):
                raise StampError(Status.WRONG_SHAPE, f"{name}: band {band} lies on another pixel grid")

    def release(self) -> None:
        """Give mapped pages back."""
        for file in self.files.values():
            file.release()

    def close(self) -> None:
        """Close the files."""
        for file in self.files.values():
            file.close()
        self.files.clear()


def _same_file(rows: Rows, start: int, stop: int) -> Iterator[tuple[int, int]]:
    low = start
    for row in range(start + 1, stop + 1):
        if row == stop or rows.file[row] != rows.file[low]:
            yield low - start, row - start
            low = row


def _planes(file: TileFile, place: Placement, facts: Facts) -> tuple[NDArray[np.bool_] | None, float, float]:
    bad: NDArray[np.bool_] | None = None
    noise, fwhm = math.nan, facts.fwhm
    for kind, index in file.extra:
        if kind == "psf":
            continue  # one image cannot hold for a whole tile; the header or the survey file states the seeing
        plane = file.section(index, *place.source)
        worse = bad_pixels(kind, plane, mask_bits(file.hdus[index].header) if kind == "mask" else None)
        bad = worse if bad is None else bad | worse
        if kind != "mask":
            noise = typical_noise(kind, plane)
    return bad, noise, fwhm


def _to_frame(
    image: NDArray[Any], bad: NDArray[np.bool_] | None, place: Placement, size: int, frame_size: int, step: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_], Placement]:
    """Lay a section into its square of tile pixels and resample that; the rest of the offset is carried on."""
    square = np.full((size, size), np.nan)
    square[place.target] = image
    missing = ~np.isfinite(square)
    if bad is not None:
        missing[place.target] |= bad
        square[missing] = np.nan
    resampled = place_centred((size, size), frame_size, step)
    offset = place.offset[0] / step, place.offset[1] / step
    reached = resampled.resampling is not None and bool(place.padding) and resampled.resampling.spread(missing).any()
    return square, missing, replace(resampled, offset=offset, padding=int(reached))
