"""Packs as a stamp source, ``packs:DIR``: memory-mapped whole-row slices into batches."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lensscan.config import Survey
from lensscan.errors import CatalogError, ConfigError, StampError
from lensscan.schema import Flag, Status
from lensscan.survey.facts import FactsBook
from lensscan.survey.filling import Filling, FillingReader
from lensscan.survey.packfile import PackFile
from lensscan.survey.placement import MIN_FILL, Placement, place_about, place_centred
from lensscan.survey.planes import bad_pixels, psf_fwhm, typical_noise
from lensscan.survey.quality import PIECE, check_piece
from lensscan.survey.stamps import Frame, Located, Rows, StampSource, check_scale

if TYPE_CHECKING:
    from lensscan.survey.catalog import Chunk

__all__ = ["PackReader", "PackSource", "list_packs"]

OPEN_PACKS = 4
PENDING = int(Status.PENDING)
INDEX_COLUMNS = ("ORIGIN", "WCS", "FWHM", "SIGMA", "FLAGS", "PADDING")
KEPT_FLAGS = int(Flag.EDGE | Flag.STALE_WCS | Flag.RESAMPLED)
ID_CACHE = 32


def list_packs(folder: str | Path) -> list[str]:
    """Return the packs of a folder (and its sub-folders) in sorted order.

    Raises
    ------
    ConfigError
        If there are none.
    """
    paths = sorted(str(path) for path in Path(folder).rglob("*.fits") if not path.name.startswith("."))
    if not paths:
        raise ConfigError(f"packs:{folder}: no *.fits there; write packs with lensscan pack")
    return paths


class PackSource(StampSource):
    """A folder of packs."""

    def __init__(self, where: str, survey: Survey, frame: Frame, resample: bool) -> None:
        self._paths = list_packs(where)
        self._survey, self._frame, self._resample = survey, frame, resample
        self._ranges: list[tuple[Any, Any]] = []
        self._ids: OrderedDict[int, tuple[NDArray[Any], NDArray[np.intp]]] = OrderedDict()
        self._kind = ""
        for path in self._paths:
            self._inspect(path)

    def _inspect(self, path: str) -> None:
        try:
            pack = PackFile.open(path)
        except StampError as error:
            raise ConfigError(f"packs: {error.reason}; remove the file or pack it again") from None
        try:
            scale = pack.header.number("PIXSCALE") or self._survey.pixel_scale
            check_scale(scale, self._frame, self._resample, path)
            if not set(pack.bands) & set(self._frame.bands):
                wanted = ", ".join(self._frame.bands)
                raise ConfigError(f"{path}: has bands {', '.join(pack.bands)}, none of the model's {wanted}")
            ids = pack.ids()
        finally:
            pack.close()
        kind = ids.dtype.kind
        if self._kind and kind != self._kind:
            raise ConfigError(f"{path}: its ids are of another kind than those of {self._paths[0]}; pack again")
        self._kind = kind
        ordered = np.sort(ids)  # text has no minimum in numpy
        self._ranges.append((ordered[0], ordered[-1]) if len(ids) else (None, None))

    def fingerprint(self) -> list[tuple[str, int, int]]:
        """Return (path, size, mtime_ns) of every pack."""
        return [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in self._paths]

    def required_columns(self) -> tuple[str, ...]:
        """None: packs are found by identifier."""
        return ()

    def locate(self, chunk: Chunk) -> Located:
        """Find rows by identifier; memory is bounded by a few packs' ids, and only packs in range are looked at."""
        files = np.full(chunk.n, -1, np.int64)
        offset = np.zeros(chunk.n, np.int64)
        wanted = self._comparable(chunk.id)
        order = np.argsort(wanted, kind="stable")
        sorted_ids = wanted[order]
        if chunk.n:
            for number, (low, high) in enumerate(self._ranges):
                if low is None or high < sorted_ids[0] or low > sorted_ids[-1]:
                    continue
                ids, rows = self._load(number)
                place = np.minimum(np.searchsorted(ids, sorted_ids), len(ids) - 1)
                hit = (ids[place] == sorted_ids) & (files[order] < 0)
                files[order[hit]] = number
                offset[order[hit]] = rows[place[hit]]
        status = np.where(files >= 0, Status.PENDING, Status.MISSING_FILE).astype(np.uint8)
        return Located([self._paths[number] if number >= 0 else "" for number in files.tolist()], offset, status)

    def _comparable(self, ids: NDArray[Any]) -> NDArray[Any]:
        kind = ids.dtype.kind
        if kind == self._kind:
            return ids
        if kind in "iu" and self._kind in "iu" and (not len(ids) or (ids.min() >= 0 and ids.max() < 2**63)):
            return ids.astype(np.uint64 if self._kind == "u" else np.int64)
        names = {"i": "integers", "u": "unsigned integers", "U": "text"}
        raise CatalogError(
            f"ids of the catalog are {names[kind]}, those of the packs {names[self._kind]}; "
            "name the id column used for packing in the survey file (catalog.id)"
        )

    def _load(self, number: int) -> tuple[NDArray[Any], NDArray[np.intp]]:
        known = self._ids.pop(number, None)
        if known is None:
            pack = PackFile.open(self._paths[number])
            ids = pack.ids()
            pack.close()
            rows = np.argsort(ids, kind="stable")
            known = ids[rows], rows
        self._ids[number] = known
        while len(self._ids) > ID_CACHE:
            self._ids.popitem(last=False)
        return known

    def reader(self) -> PackReader:
        """Return a reader for one thread."""
        return PackReader(self._survey, self._frame, self._resample)


class _Opened:
    """A pack and how its bands and pixels map onto the frame."""

    def __init__(self, pack: PackFile, survey: Survey, frame: Frame, resample: bool) -> None:
        self.pack = pack
        self.scale = pack.header.number("PIXSCALE") or survey.pixel_scale
        shape = pack.rows.dtype["IMAGE"].shape
        resampled = check_scale(self.scale, frame, resample, pack.path)
        step = frame.pixel_scale / self.scale if resampled else None
        if min(shape[1:]) < MIN_FILL * frame.size * (step or 1.0):
            raise StampError(Status.WRONG_SHAPE, f"{pack.path}: stamps of {shape[1:]} pixels")
        self.place: Placement = place_centred((shape[1], shape[2]), frame.size, step)
        self.places, self.which = self._crops(frame)
        self.source = [pack.bands.index(band) if band in pack.bands else -1 for band in frame.bands]
        self.factor = [self._factor(survey, number) for number in self.source]
        self.fwhm = [self._fwhm(survey, band) for band in frame.bands]
        straight = self.source == list(range(len(pack.bands)))
        self.fast = (
            straight and all(place.whole for place in self.places) and pack.planes is None and survey.mask_value is None
        )
        self.unit = all(factor == 1.0 for factor in self.factor)
        self.beside = _Beside.of(self, frame)

    def _crops(self, frame: Frame) -> tuple[list[Placement], NDArray[np.intp] | None]:
        """Return the ways to lay a stamp into the frame, and which one suits each row; None if all take the first.

        A stamp cut out of a tile is cropped about the object, so that it is the same frame as one cut out
        directly; see `place_about`.
        """
        shape, index = self.pack.rows.dtype["IMAGE"].shape, self.pack.index
        if self.place.resampling is not None or index is None or "ORIGIN" not in (index.dtype.names or ()):
            return [self.place], None
        after = (index["ORIGIN"] < 0) & (np.array([shape[2] - frame.size, shape[1] - frame.size]) % 2 == 1)
        if not after.any():
            return [self.place], None
        ways = [(False, False), (True, False), (False, True), (True, True)]
        places = [place_about((shape[1], shape[2]), frame.size, way) for way in ways]
        return places, after[:, 0] + 2 * after[:, 1]

    def place_of(self, number: int) -> Placement:
        """Return how row `number` lies in the frame."""
        return self.places[0 if self.which is None else self.which[number]]

    def _factor(self, survey: Survey, number: int) -> float:
        if number < 0:
            return 1.0
        name = self.pack.bands[number]
        stated = self.pack.header.number(f"ZP{number + 1}")
        if self.pack.header.text("BUNIT").upper() != "NJY" and stated is not None:
            return float(10.0 ** (-0.4 * (stated - 31.4)))
        if name not in survey.bands:
            return 1.0 if self.pack.header.text("BUNIT").upper() == "NJY" else np.nan
        factor = FactsBook(survey).of(self.pack.header, self.pack.header, name).factor
        return np.nan if factor is None else factor

    def _fwhm(self, survey: Survey, band: str) -> float:
        if band not in self.pack.bands:
            return np.nan
        stated = self.pack.header.number(f"FWHM{self.pack.bands.index(band) + 1}")
        known = survey.bands[band].fwhm if band in survey.bands else None
        return stated or known or np.nan


class PackReader(FillingReader):
    """Reads packs; see `StampReader`.

    Attributes
    ----------
    open_packs : int
        Packs kept open; who reads rows at random wants more than a scan, which goes through them in order.
    """

    def __init__(self, survey: Survey, frame: Frame, resample: bool) -> None:
        super().__init__(survey, frame, resample)
        self.open_packs = OPEN_PACKS
        self._open: OrderedDict[str, _Opened] = OrderedDict()

    def _runs(self, rows: Rows, start: int, stop: int) -> Iterator[tuple[int, int]]:
        return _runs(rows, start, stop)

    def close(self) -> None:
        """Close the packs."""
        for opened in self._open.values():
            opened.pack.close()
        self._open.clear()

    def _pack(self, path: str) -> _Opened:
        opened = self._open.pop(path, None)
        if opened is None:
            opened = _Opened(PackFile.open(path), self._survey, self._frame, self._resample)
        self._open[path] = opened
        while len(self._open) > self.open_packs:
            self._open.popitem(last=False)[1].pack.close()
        return opened

    def _read_run(self, rows: Rows, start: int, row: int, end: int, filling: Filling) -> None:
        low = int(rows.offset[start + row])
        high = low + end - row
        try:
            opened = self._pack(rows.file[start + row])
            if high > len(opened.pack.rows) or low < 0:
                raise StampError(Status.WRONG_ID, "the pack has fewer rows than the plan")
            opened.pack.check()
        except (StampError, ConfigError, OSError, ValueError) as error:
            for index in range(row, end):
                filling.fail(index, getattr(error, "status", Status.UNREADABLE))
            return
        if opened.fast:
            self._copy(opened, low, high, row, filling)
        else:
            for index in range(row, end):
                self._place(opened, low + index - row, index, filling)
        self._columns(opened, low, high, row, filling)
        same = opened.pack.ids_at(low, high) == rows.id[start + row : start + end]
        opened.pack.release(low, high)
        for wrong in np.flatnonzero(~same).tolist():
            filling.fail(row + wrong, Status.WRONG_ID)

    def _copy(self, opened: _Opened, low: int, high: int, row: int, filling: Filling) -> None:
        """Copy whole rows in pieces that stay in the cache while they are swapped, scaled and checked."""
        images = opened.pack.rows["IMAGE"]
        batch, slot = filling.batch, filling.at + row
        windows = [(slice(None), *place.source) for place in opened.places]
        which = [0] if opened.which is None else opened.which[low:high].tolist()
        offsets = np.array([place.offset for place in opened.places])
        batch.origin[slot : slot + high - low] = offsets[which] * self._frame.pixel_scale
        step = max(1, PIECE // batch.images[0].nbytes)
        factor = None if opened.unit else np.array(opened.factor, np.float32)[:, None, None]
        for first in range(low, high, step):
            last = min(first + step, high)
            out = batch.images[slot + first - low : slot + last - low]
            if opened.which is None:
                np.copyto(out, images[first:last][:, *windows[0]])
            else:
                for one, image, way in zip(out, images[first:last], which[first - low : last - low], strict=True):
                    np.copyto(one, image[windows[way]])
            if factor is not None:
                out *= factor
            filling.fine[row + first - low : row + last - low] = check_piece(out)
        filling.checked[row : row + high - low] = True
        batch.present[slot : slot + high - low] = True
        batch.fwhm[slot : slot + high - low] = opened.fwhm

    def _place(self, opened: _Opened, number: int, row: int, filling: Filling) -> None:
        """Bring one row into the frame, band by band, with its planes."""
        pack = opened.pack
        images, place = pack.rows["IMAGE"][number], opened.place_of(number)
        try:
            for band, source in enumerate(opened.source):
                if source < 0:
                    filling.absent(row, band)
                    continue
                bad, noise, fwhm = _planes(pack, number, source, opened.scale, opened.fwhm[band])
                filling.band(row, band, images[source], place, opened.factor[band], fwhm, bad, noise)
        except StampError as error:
            filling.fail(row, error.status)

    def _columns(self, opened: _Opened, low: int, high: int, row: int, filling: Filling) -> None:
        """Fill seeing, noise, origin, sky position and flags from INDEX; fail rows without a zero point."""
        slots = slice(filling.at + row, filling.at + row + high - low)
        batch = filling.batch
        if not np.isfinite(opened.factor).all():
            for lost in range(row, row + high - low):
                filling.fail(lost, Status.NO_ZERO_POINT)
            return
        beside = opened.beside
        if beside is None:
            return
        batch.origin[slots] += beside.origin[low:high]
        batch.wcs[slots] = beside.wcs[low:high]
        batch.flags[slots] |= beside.flags[low:high]
        batch.padding[slots] += beside.padding[low:high]
        if opened.pack.planes is None:
            batch.fwhm[slots] = beside.fwhm[low:high]
            batch.sigma[slots] = beside.sigma[low:high]


@dataclass(frozen=True, slots=True)
class _Beside:
    """The INDEX of a pack in the frame's bands and units, native byte order: one row per stamp."""

    origin: NDArray[np.float32]
    wcs: NDArray[np.float64]
    flags: NDArray[np.uint32]
    padding: NDArray[np.int32]
    fwhm: NDArray[np.float32]
    sigma: NDArray[np.float32]

    @classmethod
    def of(cls, opened: _Opened, frame: Frame) -> _Beside | None:
        """Convert the INDEX of a pack; None if it has none of ours."""
        index, place = opened.pack.index, opened.place
        if index is None or not set(INDEX_COLUMNS) <= set(index.dtype.names or ()):
            return None
        resampling = place.resampling
        stretch = 1.0 if resampling is not None else frame.pixel_scale / opened.scale
        wcs = index["WCS"].astype(np.float64)
        wcs[:, 2:] /= stretch
        height, width = opened.pack.rows.dtype["IMAGE"].shape[1:]
        whole = resampling is None and place.source == (slice(0, height), slice(0, width))
        fwhm = np.full((len(index), len(frame.bands)), np.nan, np.float32)
        sigma = fwhm.copy()
        # FITS has no arrays of length 1: the columns of a pack of one band come back flat
        stated_fwhm, stated_sigma = (index[name].reshape(len(index), -1) for name in ("FWHM", "SIGMA"))
        for band, source in enumerate(opened.source):
            if source >= 0:
                stated = stated_fwhm[:, source]
                fwhm[:, band] = np.where(np.isfinite(stated), stated, opened.fwhm[band])
                gain = opened.factor[band] * (resampling.noise if resampling is not None else 1.0)
                sigma[:, band] = stated_sigma[:, source] * np.float32(gain)
        return cls(
            index["ORIGIN"].astype(np.float32) * np.float32(stretch),
            wcs,
            index["FLAGS"].astype(np.uint32) & np.uint32(KEPT_FLAGS),
            index["PADDING"].astype(np.int32) * np.int32(whole),
            fwhm,
            sigma,
        )


def _runs(rows: Rows, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of readable rows, counted from `start`, that follow each other in one file."""
    readable = rows.status[start:stop] == PENDING
    joined = (np.diff(rows.offset[start:stop]) == 1) & readable[1:] & readable[:-1]
    borders = [0, *(np.flatnonzero(~joined) + 1).tolist(), stop - start]
    for low, high in pairwise(borders):
        if not readable[low]:
            continue
        files = list(rows.file[start + low : start + high])
        while files and files.count(files[0]) != len(files):
            other = next(index for index, file in enumerate(files) if file != files[0])
            yield low, low + other
            low, files = low + other, files[other:]
        yield low, high


def _planes(
    pack: PackFile, number: int, source: int, scale: float, fwhm: float
) -> tuple[NDArray[np.bool_] | None, float, float]:
    """Return bad pixels, noise and seeing of one band of one row from the PLANES table."""
    bad, noise = None, np.nan
    if pack.planes is None:
        return bad, noise, fwhm
    names = pack.planes.dtype.names or ()
    for name, kind in (("IVAR", "ivar"), ("MASK", "mask")):
        if name in names:
            plane = pack.planes[name][number][source]
            worse = bad_pixels(kind, plane)
            bad = worse if bad is None else bad | worse
            noise = typical_noise(kind, plane) if kind == "ivar" else noise
    if "PSF" in names:
        fwhm = psf_fwhm(pack.planes["PSF"][number][source], scale)
    return bad, noise, fwhm
