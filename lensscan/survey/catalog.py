"""Survey catalogs in any table format, one file or a glob of thousands, streamed in chunks."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.config import Band, Survey
from lensscan.errors import CatalogError
from lensscan.survey.tables import Table, open_table
from lensscan.survey.template import whole_values

__all__ = ["CHUNK", "Catalog", "Chunk", "open_catalog"]

log = logging.getLogger(__name__)
CHUNK = 1_000_000
"""Rows of a catalog chunk; part of the plan's definition of a block."""
Floats = NDArray[np.float64]


@dataclass(slots=True)
class Chunk:
    """Consecutive rows of a catalog.

    Attributes
    ----------
    start : int
        Catalog row of the first.
    n : int
        Number of rows.
    id : (n,) int64, uint64 or str array
    ra, dec : (n,) float64
        Degrees, NaN if absent or impossible.
    px, py : (n,) float64
        0-based pixel position in the tiles, NaN if the survey names no columns for it.
    mags : dict of (n,) float64
        AB magnitudes per band, corrected for extinction where the survey names a column; NaN where missing,
        a sentinel, or no positive flux.
    sentinel : dict of (n,) bool
        Where a band's value was a sentinel.
    columns : dict of arrays
        Further columns by their name in the catalog.
    id_column : str
        Name of the identifier's column.
    """

    start: int
    n: int
    id: NDArray[Any]
    ra: Floats
    dec: Floats
    px: Floats
    py: Floats
    mags: dict[str, Floats] = field(default_factory=dict)
    sentinel: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    id_column: str = "id"

    def named(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return columns by name for a path template; ``id`` always means the identifier."""
        result = {}
        for name in names:
            if name in self.columns:
                result[name] = self.columns[name]
            elif name in ("id", self.id_column):
                result[name] = self.id
            elif name in ("ra", "dec"):
                result[name] = self.ra if name == "ra" else self.dec
            else:
                raise CatalogError(f"the template needs column {name!r}, which was not read; pass it on opening")
        return result

    def select(self, mask: NDArray[np.bool_]) -> Chunk:
        """Return the rows where `mask` is True; `start` is kept (see `numpy.flatnonzero` for the rows)."""
        return Chunk(
            self.start,
            int(np.count_nonzero(mask)),
            self.id[mask],
            self.ra[mask],
            self.dec[mask],
            self.px[mask],
            self.py[mask],
            {band: values[mask] for band, values in self.mags.items()},
            {band: values[mask] for band, values in self.sentinel.items()},
            {name: values[mask] for name, values in self.columns.items()},
            self.id_column,
        )


class Catalog:
    """A survey catalog; made by `open_catalog`."""

    def __init__(self, paths: list[str], survey: Survey, extra_columns: Sequence[str], everything: bool) -> None:
        self.paths = paths
        self._survey = survey
        columns = survey.catalog
        with open_table(paths[0]) as table:
            names = table.names if everything else ()
        self._extra = tuple(dict.fromkeys((*columns.keep, *extra_columns, *names)))
        self._kept = frozenset((*columns.keep, *names))
        self._wanted, self._optional = self._columns(everything)
        self._kind: str | None = None
        self._kinds: dict[str, str] = {}
        self._impossible = 0

    @property
    def n_rows(self) -> int | None:
        """Rows of all files, or None if that needs reading them (CSV)."""
        total = 0
        for path in self.paths:
            with open_table(path) as table:
                if table.n_rows is None:
                    return None
                total += table.n_rows
        return total

    @property
    def magnitudes(self) -> str:
        """Which magnitudes these are, for the provenance."""
        return self._survey.catalog.magnitudes

    def fingerprint(self) -> list[tuple[str, int, int]]:
        """Return (path, size, mtime_ns) of every file."""
        return [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in self.paths]

    def _columns(self, everything: bool) -> tuple[dict[str, str], tuple[str, ...]]:
        """Return needed columns -> the survey key that names them, and the optional ones."""
        columns = self._survey.catalog
        wanted = {columns.id: "catalog.id"}
        for key, name in (("x", columns.x), ("y", columns.y)):
            if name:
                wanted[name] = f"catalog.{key}"
        for name in self._extra:
            if name not in ("id", "ra", "dec") or everything:
                wanted.setdefault(name, "catalog.keep" if name in columns.keep else "")
        optional = [columns.ra, columns.dec]
        for band in self._survey.bands.values():
            optional += [name for name in (band.mag, band.flux, band.extinction) if name]
        return wanted, tuple(name for name in dict.fromkeys(optional) if name not in wanted)

    def _check(self, table: Table) -> None:
        """Refuse a file without the needed columns, or with positions that are no degrees."""
        for name, key in self._wanted.items():
            table.check(name, key, self._survey.name)
        for key, column in (("catalog.ra", self._survey.catalog.ra), ("catalog.dec", self._survey.catalog.dec)):
            table.check_degrees(column, key)

    def require(self, bands: Sequence[str]) -> None:
        """Check that every file has the magnitudes of `bands`; called by a cut before it reads.

        Raises
        ------
        CatalogError
            Naming the column, the file, the nearest match and the key of the survey file.
        """
        for name in bands:
            band = self._survey.bands.get(name)
            if band is None or not (band.mag or band.flux):
                raise CatalogError(
                    f"survey {self._survey.name}: the cut needs band {name!r}, which has no mag or flux column; "
                    f"set bands.{name}.mag in the survey file"
                )
            key = f"bands.{name}.{'mag' if band.mag else 'flux'}"
            with open_table(self.paths[0]) as table:
                table.check(str(band.mag or band.flux), key, self._survey.name)
                if band.extinction:
                    table.check(band.extinction, f"bands.{name}.extinction", self._survey.name)

    def chunks(self, rows: int = CHUNK) -> Iterator[Chunk]:
        """Yield chunks of exactly `rows` rows (the last may be shorter), across file borders."""
        self._impossible = start = 0
        waiting: list[dict[str, NDArray[Any]]] = []
        held = 0
        for path in self.paths:
            with open_table(path) as table:
                self._check(table)
                names = [*self._wanted, *(name for name in self._optional if table.has(name))]
                for piece in table.pieces(names, rows, text=self._survey.catalog.id):
                    self._settle_id(piece, path)
                    waiting.append(piece)
                    held += _length(piece)
                    del piece  # nothing but the rest of a piece is held while the caller works on a chunk
                    while held >= rows:
                        first, waiting = _split(_join(waiting), rows)
                        held -= rows
                        chunk = self._chunk(first, start)
                        del first
                        yield chunk
                        del chunk
                        start += rows
        if held:
            yield self._chunk(_join(waiting), start)
        if self._impossible:
            count = "1 position is" if self._impossible == 1 else f"{self._impossible:,} positions are"
            log.warning(
                "%s: %s impossible (RA not in -180 to 360, or Dec not in -90 to 90 degrees) and taken as unknown",
                self.paths[0] if len(self.paths) == 1 else f"{len(self.paths)} catalog files",
                count,
            )

    def _settle_id(self, piece: dict[str, NDArray[Any]], path: str) -> None:
        """Bring ids to int64, uint64 or str, the same kind for the whole catalog."""
        name = self._survey.catalog.id
        values = piece[name]
        kind = values.dtype.kind
        if kind == "f":
            whole = np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) < 2**53)
            if not whole.all():
                raise CatalogError(f"{path}: id column {name!r} holds fractions or values above 2^53; store integers")
            values = values.astype(np.int64)
        elif kind == "u":
            values = values.astype(np.uint64 if values.dtype.itemsize == 8 else np.int64)
        elif kind == "i":
            values = values.astype(np.int64)
        elif kind == "U":
            if (values == "").any():
                raise CatalogError(f"{path}: id column {name!r} is empty in some rows; give every row an id")
        else:
            raise CatalogError(f"{path}: id column {name!r} has dtype {values.dtype}; ids are integers or text")
        if self._kind is None:
            self._kind = values.dtype.kind
        if self._kind == "u" and values.dtype.kind == "i" and (values >= 0).all():
            values = values.astype(np.uint64)
        if values.dtype.kind != self._kind:
            raise CatalogError(
                f"{path}: id column {name!r} is {_KINDS[values.dtype.kind]}, before it was {_KINDS[self._kind]}; "
                "give one kind of id in all files"
            )
        piece[name] = values

    def _chunk(self, table: Mapping[str, NDArray[Any]], start: int) -> Chunk:
        columns = self._survey.catalog
        n = _length(table)
        ra, dec = self._positions(table, n)
        chunk = Chunk(
            start=start,
            n=n,
            id=table[columns.id],
            ra=ra,
            dec=dec,
            px=self._floats(table, columns.x, n),
            py=self._floats(table, columns.y, n),
            columns={name: self._settled(name, table[name], start) for name in self._extra if name in table},
            id_column=columns.id,
        )
        for name, band in self._survey.bands.items():
            column = band.mag or band.flux
            if column and column in table:
                chunk.mags[name], chunk.sentinel[name] = self._magnitude(table, band, n)
        return chunk

    def _positions(self, table: Mapping[str, NDArray[Any]], n: int) -> tuple[Floats, Floats]:
        """Return ra and dec; a position that is none on the sky is unknown, and counted."""
        columns = self._survey.catalog
        ra, dec = self._floats(table, columns.ra, n), self._floats(table, columns.dec, n)
        with np.errstate(invalid="ignore"):
            impossible = (ra < -180) | (ra > 360) | (np.abs(dec) > 90)
        if not impossible.any():
            return ra, dec
        self._impossible += int(impossible.sum())
        return np.where(impossible, np.nan, ra), np.where(impossible, np.nan, dec)

    def _settled(self, name: str, values: NDArray[Any], start: int) -> NDArray[Any]:
        """Bring a column that is kept to the kind that it had in the first chunk: text files state none."""
        if name not in self._kept:  # a path has room for any kind
            return values
        kind = values.dtype.kind
        first = self._kinds.setdefault(name, kind)
        if first == kind or (first in "iu" and kind in "biu"):
            return values
        if first == "U" or (first in "fc" and kind in "biuf"):
            return _words(values) if first == "U" else values.astype(np.float64)
        raise CatalogError(
            f"{self.paths[0]}: column {name!r} is {_KINDS.get(first, 'other')} before row {start} and "
            f"{_KINDS.get(kind, 'other')} after it; write it in one way (1.0, not 1; 0012, not 12), or leave it out"
        )

    def _magnitude(self, table: Mapping[str, NDArray[Any]], band: Band, n: int) -> tuple[Floats, NDArray[np.bool_]]:
        values = self._floats(table, band.mag or band.flux, n)
        sentinel = np.isin(values, self._survey.catalog.sentinels)
        values = np.where(sentinel, np.nan, values)
        with np.errstate(all="ignore"):
            if not band.mag:
                values = np.where(values > 0, band.flux_zero_point - 2.5 * np.log10(values), np.nan)
            if band.extinction and band.extinction in table:
                values = values - self._floats(table, band.extinction, n)
        return values, sentinel

    def _floats(self, table: Mapping[str, NDArray[Any]], name: str | None, n: int) -> Floats:
        if not name or name not in table:
            return np.broadcast_to(np.nan, (n,))
        values = table[name]
        try:
            return np.asarray(np.where(values == "", "nan", values) if values.dtype.kind == "U" else values, np.float64)
        except ValueError as error:
            where = self.paths[0] if len(self.paths) == 1 else f"{self.paths[0]} or a file after it"
            word = str(error).partition("np.str_(")[2].rstrip(")") or str(error)
            raise CatalogError(
                f"{where}: column {name!r} holds text ({word}); correct it, or name another column in the survey file"
            ) from None


_KINDS = {"i": "signed integers", "u": "unsigned integers", "U": "text", "f": "fractions", "b": "true or false"}


def _length(table: Mapping[str, NDArray[Any]]) -> int:
    return len(next(iter(table.values())))


def _join(pieces: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    if len(pieces) == 1:
        return pieces[0]
    names = [name for name in pieces[0] if all(name in piece for piece in pieces)]
    return {name: _concatenate([piece[name] for piece in pieces]) for name in names}


def _concatenate(parts: list[NDArray[Any]]) -> NDArray[Any]:
    if any(part.dtype.kind == "U" for part in parts):
        parts = [_words(part) for part in parts]
    return np.concatenate(parts)


def _words(values: NDArray[Any]) -> NDArray[np.str_]:
    """Return a column as text, "" where a value is missing."""
    if values.dtype.kind == "U":
        return values
    return np.array(["" if value is None else str(value) for value in whole_values(values)], np.str_)


def _split(table: dict[str, NDArray[Any]], rows: int) -> tuple[dict[str, NDArray[Any]], list[dict[str, NDArray[Any]]]]:
    """Return the first rows, and the copied rest, if any."""
    if _length(table) == rows:
        return table, []
    rest = {name: values[rows:].copy() for name, values in table.items()}
    return {name: values[:rows] for name, values in table.items()}, [rest]


def open_catalog(
    path: str | Path, survey: Survey, extra_columns: Sequence[str] = (), *, everything: bool = False
) -> Catalog:
    """Open a catalog.

    Parameters
    ----------
    path : str
        A FITS, HDF5, Parquet, CSV (also gzipped) or ECSV file, or a glob; files are read in sorted order.
    survey : Survey
        Names the columns.
    extra_columns : sequence of str
        Further columns that must be read: those of a stamp template, those to keep.
    everything : bool
        Read all columns of the first file into ``Chunk.columns``.

    Raises
    ------
    CatalogError
        If nothing matches, a file is not a table, or a column is missing (column, file, nearest match and the
        key of the survey file are named).
    """
    paths = [str(path)] if os.path.exists(path) else sorted(glob.glob(str(path), recursive=True))
    if not paths:
        raise CatalogError(f"no catalog {path}; check the path (a glob must be quoted)")
    catalog = Catalog(paths, survey, extra_columns, everything)
    with open_table(paths[0]) as table:
        catalog._check(table)
    return catalog
