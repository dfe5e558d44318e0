"""Folders of mocks as test sets, read through the scan's own readers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lensscan.config import Band, CatalogColumns, Survey
from lensscan.errors import ConfigError
from lensscan.evaluate.testsets import TestSet, Truth, hash_truth
from lensscan.mocks.recipes import CLASSES, Recipe, load_recipe
from lensscan.survey.catalog import Chunk
from lensscan.survey.stamps import Batch, Frame, Rows, allocate, open_source

if TYPE_CHECKING:
    from lensscan.survey.stamps import StampReader

__all__ = ["FolderSet"]

NEEDED = {"truth.fits": ("id", "is_lens"), "catalog.fits": ("id", "ra", "dec", "file")}


class FolderSet(TestSet):
    """A folder made by ``lensscan simulate``, as packs or as loose files.

    Raises
    ------
    ConfigError
        If it is not complete or not such a folder.
    """

    def __init__(self, folder: str) -> None:
        from astropy.io.registry import IORegistryError
        from astropy.table import Table

        self.folder, self.name, self.sealed = Path(folder), str(folder), False
        try:
            self._truth = Table.read(self.folder / "truth.fits")
            self._catalog = Table.read(self.folder / "catalog.fits")
            self._record = json.loads((self.folder / "recipe.json").read_text())
        except (OSError, ValueError, IORegistryError) as error:
            raise ConfigError(
                f"test set {folder}: no complete folder of mocks ({error}); run lensscan simulate to its end"
            ) from None
        for file, table in (("truth.fits", self._truth), ("catalog.fits", self._catalog)):
            absent = [name for name in NEEDED[file] if name not in table.colnames]
            if absent:
                raise ConfigError(f"test set {folder}: {file} lacks {absent[0]}; run lensscan simulate again")
        if not isinstance(self._record, dict):
            raise ConfigError(
                f"test set {folder}: recipe.json is no record of a simulation; run lensscan simulate again"
            )
        if not np.array_equal(self._truth["id"], self._catalog["id"]):
            raise ConfigError(
                f"test set {folder}: truth.fits and catalog.fits do not list the same ids in the same order; "
                "run lensscan simulate again"
            )
        self.n = len(self._truth)
        layout = self._record.get("format")
        if layout not in ("fits", "packs"):
            raise ConfigError(f"test set {folder}: stamps as {layout}; run lensscan simulate for packs or FITS files")
        self._loose = layout == "fits"

    def describe(self) -> dict[str, Any]:
        """Return folder, recipe, seed and the truth's hash."""
        return {
            "name": self.name,
            "sealed": False,
            "recipe": self._record.get("recipe", ""),
            "recipe_digest": self._record.get("digest", ""),
            "seed": self._record.get("seed"),
            "n": self.n,
            "sha256": hash_truth(self._columns()),
        }

    def origin(self) -> Recipe:
        """Return the recipe that the folder names, if it is still the one that made the folder."""
        name, stated = str(self._record.get("recipe", "")), self._record.get("digest")
        remedy = "take RECIPE:tune, or the report of a baseline run on this folder"
        try:
            recipe = load_recipe(name)
        except ConfigError:
            raise ConfigError(
                f"test set {self.name}: it names the recipe {name or '(none)'}, which is no shipped one; {remedy}"
            ) from None
        if recipe.digest != stated:
            raise ConfigError(f"test set {self.name}: recipe {name} has changed since, or was changed for it; {remedy}")
        return recipe

    def check(self, frame: Frame) -> None:
        """Raise a `ConfigError` if the stamps do not fit; what a single file lacks shows when it is read."""
        bands = [name.removeprefix("mag_") for name in self._catalog.colnames if name.startswith("mag_")]
        missing = [band for band in frame.bands if band not in bands]
        if missing:
            raise ConfigError(
                f"test set {self.name} has bands {', '.join(bands)}, the model wants {missing[0]}; "
                "take a set with the model's bands"
            )
        self._source(frame)

    def batches(self, frames: tuple[Frame, ...], rows: int) -> Iterator[tuple[list[Batch], Truth]]:
        """Read and yield."""
        slots = [allocate(rows, frame) for frame in frames]
        opened = [self._open(frame) for frame in frames]
        truth = self._columns()
        try:
            for start in range(0, self.n, rows):
                stop = min(start + rows, self.n)
                for slot, (where, reader) in zip(slots, opened, strict=True):
                    slot.clear()
                    reader.read(where, start, stop, slot)
                    slot.close(stop - start)
                yield slots, {key: column[start:stop] for key, column in truth.items()}
        finally:
            for _, reader in opened:
                reader.close()

    def stamps(self, rows: NDArray[np.int64], frame: Frame) -> Batch:
        """Read single rows again."""
        slot = allocate(max(len(rows), 1), frame)
        where, reader = self._open(frame)
        slot.clear()
        for number, row in enumerate(rows):
            reader.read(where, int(row), int(row) + 1, slot, number)
        slot.close(len(rows))
        reader.close()
        return slot

    def verify(self, truth: Truth) -> None:
        """Accept: a folder has no seal."""

    def _columns(self) -> Truth:
        """Return the truth as the simulator gives it: classes as numbers."""
        truth = {name: np.asarray(self._truth[name]) for name in self._truth.colnames if name not in ("id", "class")}
        truth = {key: column.astype(column.dtype.newbyteorder("=")) for key, column in truth.items()}
        truth["is_lens"] = truth["is_lens"].astype(bool)
        if "class" in self._truth.colnames:
            names = np.asarray(self._truth["class"]).astype(str)
            truth["klass"] = np.array([CLASSES.index(name) if name in CLASSES else -1 for name in names])
        return truth

    def _source(self, frame: Frame) -> Any:
        bands = {band: Band() for band in frame.bands}
        survey = Survey(self.name, frame.pixel_scale, bands, catalog=CatalogColumns(keep=("file",)))
        spec = f"stamps:{self.folder}/{{file}}" if self._loose else f"packs:{self.folder}/packs"
        return open_source(spec, survey, frame)

    def _open(self, frame: Frame) -> tuple[Rows, StampReader]:
        """Locate every row; in the order of the truth table."""
        source = self._source(frame)
        nothing = np.full(self.n, np.nan)
        chunk = Chunk(
            0,
            self.n,
            np.asarray(self._catalog["id"]).astype(np.int64),
            np.asarray(self._catalog["ra"], np.float64),
            np.asarray(self._catalog["dec"], np.float64),
            nothing,
            nothing,
            columns={"file": np.asarray(self._catalog["file"]).astype(str)},
        )
        return Rows.of(chunk, source.locate(chunk), np.arange(self.n)), source.reader()
