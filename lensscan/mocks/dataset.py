"""Mocks as files: a survey catalog, its truth and stamps; resumable, and shared among ranks.

    DIR/catalog.fits    id ra dec file mag_<band> magerr_<band>: what a survey would publish
    DIR/truth.fits      id and every truth column
    DIR/packs/NNNN.fits, or DIR/stamps/NNNN/ (one FITS file per object), or DIR/blocks/NNNN.h5 and DIR/mocks.h5
    DIR/recipe.json     what made the folder; another recipe, seed or format, or other files that the recipe reads
                        (stamps, galaxy images, PSFs), are refused

Stamps come first and the catalog last, so a folder with a catalog is complete.  A block is a pure function of
recipe and seed and appears by a rename: ranks need no agreement, and whoever dies is made up for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lensscan.errors import OutputError
from lensscan.files import replacing
from lensscan.mocks.layouts import LAYOUTS, Layout
from lensscan.mocks.library import load_sources
from lensscan.mocks.psf import read_psf
from lensscan.mocks.realsky import real_sky, takes_real
from lensscan.mocks.recipes import Recipe
from lensscan.mocks.skytables import sky_tables

if TYPE_CHECKING:
    from astropy.table import Table

    from lensscan.mpi import World

__all__ = ["Dataset", "claim_folder", "hash_files"]

BLOCK = 500
CHANGED = {
    "digest": "recipe (its numbers changed)",
    "canvas": "canvas (the real stamps changed)",
    "catalog": "canvas (what its catalog says of the stamps changed)",
    "source": "source (the galaxy images changed)",
    "psf": "psf (the measured PSF images changed)",
}
"""What to call a line of recipe.json that differs, where its name does not say enough."""
Progress = Callable[[int, int, int], None]


def hash_files(recipe: Recipe) -> dict[str, str]:
    """Return hashes of what the recipe reads from files: its digest knows their paths only."""
    found = {}
    if takes_real(recipe):
        sky = real_sky(recipe)
        found["canvas"] = sky.fingerprint
        found["catalog"] = hashlib.sha256(np.column_stack([sky.mags, sky.z, sky.sigma_v]).tobytes()).hexdigest()
    if recipe.source.profile == "images":
        found["source"] = load_sources(recipe.source.images, recipe.source.part).fingerprint
    if recipe.psf.kind == "image":
        psfs = [read_psf(recipe.band[band].psf, recipe.pixel_scale) for band in recipe.bands]
        content = b"".join(psf.image.tobytes() + np.float64(psf.pixel_scale).tobytes() for psf in psfs)
        found["psf"] = hashlib.sha256(content).hexdigest()
    return found


@dataclass(frozen=True)
class Dataset:
    """A folder of mocks.

    Parameters
    ----------
    recipe : Recipe
    seed : int
    n : int
        Rows 0 to n - 1 of the recipe; their index is their id.
    folder : Path
    layout : str
        ``packs``, ``fits`` (one file per object) or ``hdf5``.
    device : str
    """

    recipe: Recipe
    seed: int
    n: int
    folder: Path
    layout: str = "packs"
    device: str = "cpu"

    @cached_property
    def files(self) -> Layout:
        """The files of the stamps."""
        return LAYOUTS[self.layout](self.recipe, self.seed, self.folder, BLOCK, self.device)

    def write(self, progress: Progress | None = None, world: World | None = None) -> bool:
        """Write what is not there yet, the catalog last; returns True on the rank that finished the folder.

        Parameters
        ----------
        progress : callable, optional
            Called with rows done, rows in all, and rows made by this very run.
        world : World, optional
            The ranks that share the blocks; each writes its own, and root the catalog once all are there.

        Raises
        ------
        OutputError
            If the folder belongs to other mocks, or something cannot be written.
        DiskError
            If the disk is full.
        """
        rank, size = (world.rank, world.size) if world is not None else (0, 1)
        self._claim(rank == 0)
        starts = list(range(0, self.n, BLOCK))
        made = 0  # by all ranks, as far as they go together
        for number, start in enumerate(starts[rank::size]):
            made = min(made + size * self._write_block(start), self.n)
            if progress is not None and rank == 0:
                done = min((number + 1) * size * BLOCK, self.n) - (start + BLOCK < self.n and size > 1)
                progress(done, self.n, made)
        if world is not None:
            world.join()
        if rank != 0:
            return False
        if size > 1:
            for start in starts:
                self._write_block(start)
        self.files.finish(self.n)
        catalog, truth = self.tables()
        for table, name in ((truth, "truth.fits"), (catalog, "catalog.fits")):
            with replacing(self.folder / name) as path:
                table.write(path, format="fits", overwrite=True)
        if progress is not None and size > 1:
            progress(self.n, self.n, made)
        return True

    def file_of(self, row: int) -> str:
        """Return the path of a row's stamp file, pack or block, relative to the folder."""
        return self.files.file_of(row)

    def tables(self) -> tuple[Table, Table]:
        """Return the survey catalog and the truth table."""
        return sky_tables(self.recipe, self.seed, self.n, np.array([self.file_of(row) for row in range(self.n)]))

    def _write_block(self, start: int) -> int:
        """Write what is missing of a block; returns how many rows that was."""
        rows = self.files.missing(start, min(start + BLOCK, self.n))
        if len(rows):
            self.files.write(start, rows)
        return len(rows)

    def _claim(self, root: bool) -> None:
        """Check that the folder is ours; root makes it."""
        record = {
            "recipe": self.recipe.name,
            "digest": self.recipe.digest,
            "seed": self.seed,
            "format": self.layout,
            "zero_point": self.recipe.zero_point,
        }
        record |= hash_files(self.recipe)
        # Folders of earlier versions do not say which of these files they were made with.
        what = claim_folder(self.folder / "recipe.json", record, root, optional={"catalog", "source", "psf"})
        if what:
            raise OutputError(f"{self.folder}: holds mocks with another {what}; choose another folder or remove it")


def claim_folder(path: Path, record: dict[str, Any], root: bool, optional: Set[str] = frozenset()) -> str:
    """Return what differs between a folder's record and ours, in words; nothing if it is ours, or new.

    Parameters
    ----------
    path : Path
        The record, JSON; in a new folder root writes it.
    record : dict
    root : bool
    optional : set of str
        Lines that an older record may lack.
    """
    if not path.is_file():
        if root:
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return ""
    try:
        old = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        old = {}
    unsaid = optional - set(old) if old else set()
    differs = [key for key in {**record, **old} if key not in unsaid and old.get(key) != record.get(key)]
    return CHANGED.get(differs[0], differs[0]) if differs else ""
