"""Loose stamps: one multi-extension file, one cube, or one file per band for every catalog row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lensscan.config import Survey
from lensscan.errors import StampError
from lensscan.schema import Status
from lensscan.survey.facts import Facts, FactsBook
from lensscan.survey.filling import Filling, FillingReader
from lensscan.survey.fits import Hdu, decode, open_fitsio, read_all, read_compressed, scan
from lensscan.survey.layout import Layout, find_layout, single_image
from lensscan.survey.placement import MIN_FILL, Placement, place_centred
from lensscan.survey.planes import bad_pixels, mask_bits, psf_fwhm, typical_noise
from lensscan.survey.stamps import (
    SCALE_TOLERANCE,
    Frame,
    Located,
    Rows,
    StampSource,
    check_scale,
)
from lensscan.survey.template import BAND, Template, band_label
from lensscan.survey.zeropoint import header_fwhm

if TYPE_CHECKING:
    from lensscan.survey.catalog import Chunk

__all__ = ["LooseReader", "LooseSource"]

LAYOUTS = 64
BAD_STAMP = (MemoryError, ValueError, OverflowError, ArithmeticError, OSError)


class LooseSource(StampSource):
    """Stamps in files of their own, ``stamps:TEMPLATE``."""

    def __init__(self, where: str, survey: Survey, frame: Frame, resample: bool) -> None:
        self._template = Template(where)
        self._survey, self._frame, self._resample = survey, frame, resample
        check_scale(survey.pixel_scale, frame, resample, f"survey {survey.name}")

    def fingerprint(self) -> list[tuple[str, int, int]]:
        """Nothing: loose stamps are too many to be looked at before they are read."""
        return []

    def required_columns(self) -> tuple[str, ...]:
        """Columns of the template."""
        return self._template.columns

    def locate(self, chunk: Chunk) -> Located:
        """Expand the template; whether a file exists shows when it is read."""
        paths = self._template.expand(chunk.named(self._template.columns), chunk.n)
        return Located(paths, np.zeros(chunk.n, np.int64), np.full(chunk.n, Status.PENDING, np.uint8))

    def files_of(self, path: str) -> list[str]:
        """Return the file of a row, or that of each band."""
        return self.stored_in(path)

    def stored_in(self, path: str) -> list[str]:
        """Return the file of a row, or that of each band."""
        if BAND not in path:
            return [path]
        bands = self._survey.bands
        return [path.replace(BAND, band_label(name, bands[name])) for name in self._frame.bands if name in bands]

    def reader(self) -> LooseReader:
        """Return a reader for one thread."""
        return LooseReader(self._survey, self._frame, self._resample)


@dataclass(slots=True)
class _File:
    """One stamp file in memory."""

    path: str
    data: bytes
    hdus: list[Hdu]
    _handle: Any = field(default=None)
    _last: tuple[int, NDArray[Any]] | None = field(default=None)

    @classmethod
    def load(cls, path: str) -> _File:
        data = read_all(path)
        return cls(path, data, scan(data))

    def pixels(self, index: int) -> NDArray[Any]:
        if self._last is None or self._last[0] != index:  # the planes of a cube are asked for one by one
            self._last = index, self._decode(self.hdus[index])
        return self._last[1]

    def _decode(self, hdu: Hdu) -> NDArray[Any]:
        if hdu.kind != "compressed":
            return decode(self.data, hdu)
        if self._handle is None:
            self._handle = open_fitsio(self.path)
        return read_compressed(self._handle, hdu)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None


class LooseReader(FillingReader):
    """Reads loose stamps; see `StampReader`."""

    def __init__(self, survey: Survey, frame: Frame, resample: bool) -> None:
        super().__init__(survey, frame, resample)
        self._survey_labels = [band_label(name, band) for name, band in survey.bands.items()]
        self._labels = [band_label(b, survey.bands[b]) if b in survey.bands else "" for b in frame.bands]
        self._layouts: dict[Any, Layout] = {}
        self._facts = FactsBook(survey)

    def _runs(self, rows: Rows, start: int, stop: int) -> Iterator[tuple[int, int]]:
        return ((row, row + 1) for row in np.flatnonzero(rows.status[start:stop] == Status.PENDING).tolist())

    def _read_run(self, rows: Rows, start: int, low: int, high: int, filling: Filling) -> None:
        for row in range(low, high):
            status = self._read_row(rows.file[start + row], filling, row)
            if status != Status.PENDING:
                filling.fail(row, status)

    def close(self) -> None:
        """Nothing stays open between stamps."""

    def _read_row(self, path: str, filling: Filling, row: int) -> int:
        try:
            if BAND in path:
                self._read_band_files(path, filling, row)
            else:
                self._read_file(path, filling, row)
        except StampError as error:
            return error.status
        except BAD_STAMP:
            return Status.UNREADABLE
        return Status.PENDING

    def _read_band_files(self, path: str, filling: Filling, row: int) -> None:
        for band, label in enumerate(self._labels):
            file = None
            if label:
                try:
                    file = _File.load(path.replace(BAND, label))
                except StampError as error:
                    if error.status != Status.MISSING_FILE:
                        raise
            if file is None:
                filling.absent(row, band)
                continue
            try:
                image, extra = single_image(file.hdus)
                self._read_band(file, image, -1, extra, filling, row, band)
            finally:
                file.close()
        if filling.first_band(row):
            raise StampError(Status.MISSING_FILE, f"{path}: no file of any band")

    def _read_file(self, path: str, filling: Filling, row: int) -> None:
        file = _File.load(path)
        try:
            layout = self._layout(file.hdus)
            for band, image in enumerate(layout.image):
                if image < 0:
                    filling.absent(row, band)
                else:
                    self._read_band(file, image, layout.plane[band], layout.extra[band], filling, row, band)
        finally:
            file.close()

    def _layout(self, hdus: list[Hdu]) -> Layout:
        key = tuple((hdu.header.name, hdu.kind, hdu.shape) for hdu in hdus)
        known = self._layouts.get(key)
        if known is None:
            known = find_layout(hdus, self._labels, self._survey_labels)
            if known.plane[0] < 0 and len(self._layouts) < LAYOUTS:
                self._layouts[key] = known
        return known

    def _read_band(
        self,
        file: _File,
        image: int,
        plane: int,
        extra: Sequence[tuple[str, int]],
        filling: Filling,
        row: int,
        band: int,
    ) -> None:
        name = self._frame.bands[band]
        facts = self._facts.of(file.hdus[image].header, file.hdus[0].header, name)
        if facts.factor is None:
            raise StampError(Status.NO_ZERO_POINT, f"{file.path}: no zero point for band {name}")
        pixels = file.pixels(image)
        if plane >= 0:
            pixels = pixels[plane]
        place = self._place(pixels.shape, facts.scale)
        if filling.first_band(row):
            _note_sky(filling, row, facts, pixels.shape)
        bad, noise, fwhm = self._planes(file, extra, pixels.shape, facts)
        filling.band(row, band, pixels, place, facts.factor, fwhm, bad, noise)

    def _place(self, shape: tuple[int, ...], scale: float) -> Placement:
        step = self._frame.pixel_scale / scale
        resample = abs(1 / step - 1) > SCALE_TOLERANCE
        if resample and not self._resample:
            raise StampError(Status.WRONG_SCALE, f"pixels of {scale:g} arcsec")
        reach = self._frame.size * (step if resample else 1.0) * MIN_FILL
        if len(shape) != 2 or min(shape) < reach:
            raise StampError(Status.WRONG_SHAPE, f"shape {shape}")
        return place_centred((shape[0], shape[1]), self._frame.size, step if resample else None)

    def _planes(
        self, file: _File, extra: Sequence[tuple[str, int]], shape: tuple[int, ...], facts: Facts
    ) -> tuple[NDArray[np.bool_] | None, float, float]:
        bad: NDArray[np.bool_] | None = None
        noise, fwhm = np.nan, facts.fwhm
        for kind, index in extra:
            plane = file.pixels(index)
            if kind == "psf":
                stated = header_fwhm(file.hdus[index].header, self._survey, facts.scale)
                fwhm = stated or psf_fwhm(plane, facts.scale)
                continue
            if plane.shape != shape:
                raise StampError(Status.WRONG_SHAPE, f"{kind} plane {plane.shape} beside image {shape}")
            worse = bad_pixels(kind, plane, mask_bits(file.hdus[index].header) if kind == "mask" else None)
            bad = worse if bad is None else bad | worse
            if kind != "mask":
                noise = typical_noise(kind, plane)
        return bad, noise, fwhm


def _note_sky(filling: Filling, row: int, facts: Facts, shape: tuple[int, ...]) -> None:
    height, width = shape
    if facts.wcs is not None:
        reach = 0.5 * float(np.hypot(height, width)) * facts.scale
        unit = filling.unit(facts.scale)
        filling.sky.add(row, facts.wcs, (width - 1) / 2, (height - 1) / 2, unit, reach)
    elif facts.stale:
        filling.sky.stale(row)
