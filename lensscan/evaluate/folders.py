"""Folders of mocks as test sets, read through the scan's own readers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lensscan.errors import ConfigError
from lensscan.evaluate.testsets import TestSet, Truth
from lensscan.mocks.folder import MockFolder, hash_truth
from lensscan.mocks.recipes import Recipe, load_recipe
from lensscan.survey.stamps import Batch, Frame, Rows, allocate

if TYPE_CHECKING:
    from lensscan.survey.stamps import StampReader

__all__ = ["FolderSet"]


class FolderSet(TestSet):
    """A folder made by ``lensscan simulate``, as packs or as loose files.

    Raises
    ------
    ConfigError
        If it is not complete or not such a folder.
    """

    def __init__(self, folder: str) -> None:
        self.name, self.sealed = folder, False
        self._mocks = MockFolder(folder, "test set")
        self.n = self._mocks.n

    def describe(self) -> dict[str, Any]:
        """Return folder, recipe, seed, the truth's hash, and the hash that a training from the folder goes by."""
        record = self._mocks.record
        return {
            "name": self.name,
            "sealed": False,
            "recipe": record.get("recipe", ""),
            "recipe_digest": record.get("digest", ""),
            "seed": record.get("seed"),
            "n": self.n,
            "sha256": hash_truth(self._mocks.truth()),
            "content": self._mocks.content,
        }

    def origin(self) -> Recipe:
        """Return the recipe that the folder names, if it is still the one that made the folder."""
        name, stated = str(self._mocks.record.get("recipe", "")), self._mocks.record.get("digest")
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
        bands = self._mocks.bands
        missing = [band for band in frame.bands if band not in bands]
        if missing:
            raise ConfigError(
                f"test set {self.name} has bands {', '.join(bands)}, the model wants {missing[0]}; "
                "take a set with the model's bands"
            )
        self._mocks.source(frame)

    def batches(self, frames: tuple[Frame, ...], rows: int) -> Iterator[tuple[list[Batch], Truth]]:
        """Read and yield."""
        slots = [allocate(rows, frame) for frame in frames]
        opened = [self._open(frame) for frame in frames]
        truth = self._mocks.truth()
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
        reader.read(where.take(rows), 0, len(rows), slot)
        slot.close(len(rows))
        reader.close()
        return slot

    def verify(self, truth: Truth) -> None:
        """Accept: a folder has no seal."""

    def _open(self, frame: Frame) -> tuple[Rows, StampReader]:
        """Locate every row; in the order of the truth table."""
        source = self._mocks.source(frame)
        return self._mocks.locate(source), source.reader()
