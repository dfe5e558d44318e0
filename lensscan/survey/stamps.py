"""Stamps in constant-shape batches: the interface between a survey's storage and a network.

A `Frame` says what a network wants, a `Batch` is one slot of the ring between readers and network,
`Rows` are the plan's rows of one block.  A `StampSource` finds the rows of a catalog in the storage
(packs, loose files or tiles) and hands out one `StampReader` per reader thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lensscan.config import Survey
from lensscan.errors import ConfigError, ModelError
from lensscan.schema import Status

if TYPE_CHECKING:
    from lensscan.survey.catalog import Chunk

__all__ = [
    "KINDS",
    "SCALE_TOLERANCE",
    "Batch",
    "Frame",
    "Located",
    "Rows",
    "StampReader",
    "StampSource",
    "allocate",
    "check_bands",
    "check_scale",
    "number_files",
    "open_reader",
    "open_source",
    "split_spec",
    "survey_frame",
]

KINDS = ("packs", "stamps", "tiles")
SCALE_TOLERANCE = 0.01
"""Relative difference of two pixel scales that passes without resampling."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What the network wants to see; made from the model's card.

    Attributes
    ----------
    bands : tuple of str
        Bands in the order of the network's channels.
    size : int
        Side of the square frame, pixels.
    pixel_scale : float
        Arcsec per pixel.
    min_bands : int
        A row with fewer bands present than this fails as ``wrong_bands``.
    """

    bands: tuple[str, ...]
    size: int
    pixel_scale: float
    min_bands: int


@dataclass(slots=True)
class Batch:
    """One slot of the ring: B rows of constant shape, of which the first `n` are in use.

    One thread fills a batch.  B rows, C bands, S = frame size.

    Attributes
    ----------
    images : (B, C, S, S) float32
        nJy per pixel; 0 where masked, failed or not in use.
    mask : (B, C, S, S) bool
        True = missing pixel; meaningful only if `masked`.  Absent bands are not masked, see `present`.
    status : (B,) uint8
        `Status.PENDING` = to be scored, else the failure.
    flags : (B,) uint32
        `lensscan.schema.Flag` bits.
    present : (B, C) bool
    fwhm : (B, C) float32
        Seeing, arcsec; NaN = unknown.
    sigma : (B, C) float32
        Noise per pixel from inverse variance, nJy; NaN = to be estimated from the image's border.
    origin : (B, 2) float32
        Arcsec; centre of the frame minus the origin of x and y (docs/datamodel.md).
    wcs : (B, 6) float64
        ra0, dec0 (deg) of the origin, then dxi/dx, dxi/dy, deta/dx, deta/dy: tangent plane towards East and
        North, arcsec per arcsec; NaN without WCS.
    padding : (B,) int32
        Frame pixels per band beyond the supplied stamp; masked, but not counted as missing data.
    masked : bool
        Any True in `mask`.
    n : int
        Rows in use.
    """

    images: NDArray[np.float32]
    mask: NDArray[np.bool_]
    status: NDArray[np.uint8]
    flags: NDArray[np.uint32]
    present: NDArray[np.bool_]
    fwhm: NDArray[np.float32]
    sigma: NDArray[np.float32]
    origin: NDArray[np.float32]
    wcs: NDArray[np.float64]
    padding: NDArray[np.int32]
    masked: bool = False
    n: int = 0
    _written: int = field(default=0, repr=False)

    def clear(self) -> None:
        """Empty the slot: all rows unused, nothing masked; pixels of earlier use are zeroed on the next `close`."""
        self.masked = False
        self.n = 0
        self.reset(0, len(self.status))

    def open(self, start: int, stop: int) -> None:
        """Begin to fill rows [start, stop): small columns get their defaults, nothing is masked."""
        if start == 0:
            self.masked = False
        elif self.masked:
            self.mask[start:stop] = False
        self.reset(start, stop)

    def reset(self, start: int, stop: int) -> None:
        """Give the small columns of rows [start, stop) their defaults."""
        rows = slice(start, stop)
        self.status[rows] = Status.PENDING
        self.flags[rows] = 0
        self.present[rows] = False
        self.fwhm[rows] = np.nan
        self.sigma[rows] = np.nan
        self.origin[rows] = 0.0
        self.wcs[rows] = np.nan
        self.padding[rows] = 0

    def fail(self, row: int, status: int) -> None:
        """Record a failure of one row and zero its pixels."""
        self.images[row] = 0.0
        if self.masked:
            self.mask[row] = False
        self.reset(row, row + 1)
        self.status[row] = status

    def mask_of(self, row: int) -> NDArray[np.bool_]:
        """Return the row's mask, shape (C, S, S), to be written to; marks the batch as masked."""
        if not self.masked:
            self.mask[...] = False
            self.masked = True
        return self.mask[row]

    def close(self, n: int) -> None:
        """Declare the first `n` rows used; rows beyond, left over from an earlier use, are zeroed."""
        if self._written > n:
            self.images[n : self._written] = 0.0
            self.reset(n, self._written)
            if self.masked:
                self.mask[n : self._written] = False
        self._written = n
        self.n = n


def allocate(n: int, frame: Frame, pinned: bool = False) -> Batch:
    """Allocate an empty batch of `n` rows; `pinned` puts images and mask into page-locked memory (needs CUDA)."""
    shape = (n, len(frame.bands), frame.size, frame.size)
    if pinned:
        import torch

        images = torch.zeros(shape, dtype=torch.float32, pin_memory=True).numpy()
        mask = torch.zeros(shape, dtype=torch.bool, pin_memory=True).numpy()
    else:
        images = np.zeros(shape, np.float32)
        images.fill(0.0)  # touches the pages now, not while the clock of the first batch runs
        mask = np.zeros(shape, np.bool_)
    bands = shape[:2]
    batch = Batch(
        images=images,
        mask=mask,
        status=np.empty(n, np.uint8),
        flags=np.empty(n, np.uint32),
        present=np.empty(bands, np.bool_),
        fwhm=np.empty(bands, np.float32),
        sigma=np.empty(bands, np.float32),
        origin=np.empty((n, 2), np.float32),
        wcs=np.empty((n, 6), np.float64),
        padding=np.empty(n, np.int32),
    )
    batch.clear()
    return batch


@dataclass(slots=True)
class Located:
    """Where the rows of a chunk are stored.

    Attributes
    ----------
    file : list of str
        Path (may contain ``{band}``); empty where the row has no place.
    offset : (n,) int64
        Position within the file that sorts rows into storage order: table row, 0, or row-major pixel index.
    status : (n,) uint8
        `Status.PENDING`, or the failure known already.
    """

    file: list[str]
    offset: NDArray[np.int64]
    status: NDArray[np.uint8]

    def order(self) -> NDArray[np.intp]:
        """Return the stable permutation into storage order, by (file, offset)."""
        by = np.argsort(self.offset, kind="stable").tolist()
        by.sort(key=self.file.__getitem__)
        return np.array(by, np.intp)


def number_files(files: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Return the sorted distinct paths and each row's number among them (without a fixed-width text array)."""
    names = sorted(set(files))
    number = {name: index for index, name in enumerate(names)}
    return names, np.fromiter((number[file] for file in files), np.int64, len(files))


@dataclass(slots=True)
class Rows:
    """The plan's rows of one block: arrays of equal length.

    Attributes
    ----------
    id : (n,) int64, uint64 or str
    ra, dec : (n,) float64
        Degrees; NaN if unknown.
    px, py : (n,) float64
        0-based pixel position from the catalog's pixel columns; NaN if none.
    file, offset, status
        As in `Located`.
    """

    id: NDArray[Any]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    px: NDArray[np.float64]
    py: NDArray[np.float64]
    file: Sequence[str]
    offset: NDArray[np.int64]
    status: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.file)

    def cut(self, start: int, stop: int) -> Rows:
        """Return a copy of the rows [start, stop)."""
        piece = slice(start, stop)
        return self._at(piece, self.file[piece])

    def take(self, chosen: NDArray[np.intp]) -> Rows:
        """Return a copy of some rows, in the order given."""
        return self._at(chosen, [self.file[row] for row in chosen.tolist()])

    def _at(self, rows: slice | NDArray[np.intp], file: Sequence[str]) -> Rows:
        return Rows(
            id=self.id[rows],
            ra=self.ra[rows],
            dec=self.dec[rows],
            px=self.px[rows],
            py=self.py[rows],
            file=file,
            offset=self.offset[rows],
            status=self.status[rows].copy(),
        )

    @classmethod
    def of(cls, chunk: Chunk, located: Located, order: NDArray[np.intp] | None = None) -> Rows:
        """Join a catalog chunk and its places, permuted by `order` (default: storage order)."""
        by = located.order() if order is None else order
        return cls(
            id=chunk.id[by],
            ra=chunk.ra[by],
            dec=chunk.dec[by],
            px=chunk.px[by],
            py=chunk.py[by],
            file=[located.file[i] for i in by],
            offset=located.offset[by],
            status=located.status[by],
        )


class StampReader(ABC):
    """Reads rows into batches; one per reader thread, shares no mutable state with others."""

    @abstractmethod
    def read(self, rows: Rows, start: int, stop: int, batch: Batch, at: int = 0) -> None:
        """Fill ``batch[at : at + stop - start]`` with rows [start, stop) and set ``batch.n`` to the end.

        Never raises for a bad stamp: sets the row's status.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the files."""


class StampSource(ABC):
    """A survey's stamps in one kind of storage."""

    @abstractmethod
    def fingerprint(self) -> list[tuple[str, int, int]]:
        """Return (path, size, mtime_ns) of index, pack and tile files (not of loose stamps)."""

    @abstractmethod
    def required_columns(self) -> tuple[str, ...]:
        """Return the catalog columns that the SPEC's template needs."""

    @abstractmethod
    def locate(self, chunk: Chunk) -> Located:
        """Find the rows of a catalog chunk in the storage."""

    def files_of(self, path: str) -> list[str]:
        """Return the files that may hold a row, of which one must be there; none if `locate` has looked already."""
        return []

    def stored_in(self, path: str) -> list[str]:
        """Return the files that hold a row which `locate` has put at `path`."""
        return [path]

    @abstractmethod
    def reader(self) -> StampReader:
        """Return a reader for one thread."""


def survey_frame(survey: Survey, size: int | None = None) -> Frame:
    """Return the frame of a survey itself: all its bands at its own pixel scale."""
    return Frame(tuple(survey.bands), size or survey.stamp_size, survey.pixel_scale, 1)


def split_spec(spec: str) -> tuple[str, str]:
    """Split ``kind:where``; anything that is not packs:, stamps: or tiles: is a `ConfigError` (never guessed)."""
    kind, sep, where = spec.partition(":")
    if not sep or kind not in KINDS or not where:
        raise ConfigError(f"--stamps {spec!r}: write packs:DIR, stamps:TEMPLATE, tiles:TEMPLATE or tiles:INDEX.csv")
    return kind, where


def check_scale(
    found: float,
    frame: Frame,
    resample: bool,
    where: str,
    remedy: str = "give --resample (flux-conserving), or a model for this pixel scale",
) -> bool:
    """Compare a storage's pixel scale with the frame's; return True if pixels must be resampled, else see `remedy`.

    Raises
    ------
    ConfigError
        If they differ by more than 1 % and `resample` is False.
    """
    if abs(found / frame.pixel_scale - 1) <= SCALE_TOLERANCE:
        return False
    if not resample:
        raise ConfigError(f'{where}: pixels of {found:g}" do not fit the model\'s {frame.pixel_scale:g}"; {remedy}')
    return True


def check_bands(survey: Survey, frame: Frame, model: str) -> None:
    """Raise a `ModelError` if a survey has fewer of a model's bands than this needs."""
    there = [band for band in frame.bands if band in survey.bands]
    if len(there) < frame.min_bands:
        raise ModelError(
            f"model {model} needs {frame.min_bands} of the bands {' '.join(frame.bands)}, "
            f"but survey {survey.name} has {' '.join(survey.bands)}; choose a model for these bands"
        )


def open_source(
    spec: str,
    survey: Survey,
    frame: Frame | None,
    *,
    resample: bool = False,
    stamp_size: int | None = None,
) -> StampSource:
    """Open the storage that a SPEC names.

    Parameters
    ----------
    spec : str
        ``packs:DIR``, ``stamps:TEMPLATE``, ``tiles:TEMPLATE`` or ``tiles:INDEX.csv``.
    survey : Survey
    frame : Frame or None
        What the network wants; None = the survey's own bands and pixel scale, `stamp_size` pixels wide.
    resample : bool
        Resample to the frame's pixel scale, flux-conserving, where it differs by more than 1 %.
    stamp_size : int, optional
        Frame size in pixels if `frame` is None; default the survey's.

    Raises
    ------
    ConfigError
        For a SPEC of unknown kind, a template without fields where one is needed, or a pixel scale that does
        not fit.
    """
    kind, where = split_spec(spec)
    wanted = frame or survey_frame(survey, stamp_size)
    if kind == "packs":
        from lensscan.survey.pack import PackSource

        return PackSource(where, survey, wanted, resample)
    if kind == "stamps":
        from lensscan.survey.loose import LooseSource

        return LooseSource(where, survey, wanted, resample)
    from lensscan.survey.tiles import open_tiles

    return open_tiles(where, survey, wanted, resample)


def open_reader(spec: str, survey: Survey, frame: Frame, *, resample: bool = False) -> StampReader:
    """Return a reader for one thread of rows that a source of the same SPEC has located.

    Unlike `open_source` it looks at no file: thousands of ranks need not open every pack or tile to read a few.

    Raises
    ------
    ConfigError
        For a SPEC of unknown kind.
    """
    kind, _ = split_spec(spec)
    if kind == "packs":
        from lensscan.survey.pack import PackReader

        return PackReader(survey, frame, resample)
    if kind == "stamps":
        from lensscan.survey.loose import LooseReader

        return LooseReader(survey, frame, resample)
    from lensscan.survey.tiles import TileReader

    return TileReader(survey, frame, resample)
