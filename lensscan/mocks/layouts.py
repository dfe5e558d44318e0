"""How a block of mocks lies on disk: a pack, loose FITS files, or an HDF5 file; each written whole or not at all."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.errors import StampError
from lensscan.files import make_folder, replacing
from lensscan.hdf5 import new_hdf5
from lensscan.mocks.loose import stamp_bytes
from lensscan.mocks.recipes import Recipe
from lensscan.mocks.simulate import Mocks, simulate
from lensscan.mocks.skytables import stamp_centres, unit_of

__all__ = ["LAYOUTS", "Layout"]


class Layout(ABC):
    """Files of one format below a folder.

    Parameters
    ----------
    recipe : Recipe
    seed : int
    folder : Path
    block : int
        Rows of a block.
    device : str
        Where images are made.
    """

    def __init__(self, recipe: Recipe, seed: int, folder: Path, block: int, device: str) -> None:
        self.recipe, self.seed, self.folder, self.block, self.device = recipe, seed, folder, block, device

    @abstractmethod
    def file_of(self, row: int) -> str:
        """Return the path of the file that holds a row, relative to the folder."""

    @abstractmethod
    def missing(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return those of the rows [start, stop), one block, that are not on disk yet."""

    @abstractmethod
    def write(self, start: int, rows: NDArray[np.int64]) -> None:
        """Write the missing `rows` of the block that begins at `start`."""

    @property
    @abstractmethod
    def spec(self) -> str:
        """Where the stamps are, as other commands take it."""

    @abstractmethod
    def finish(self, n: int) -> None:
        """Join the blocks of a complete set of `n` rows, where the format has something to join."""

    def simulate(self, start: int, stop: int) -> Mocks:
        """Return the mocks of the rows [start, stop)."""
        return simulate(self.recipe, seed=self.seed, start=start, n=stop - start, device=self.device)


class LooseFits(Layout):
    """``stamps/NNNN/NNNNNNNN.fits``, one file per object."""

    @property
    def spec(self) -> str:
        """The SPEC of stamps by the catalog's column ``file``."""
        return f"stamps:{self.folder}/{{file}}"

    def file_of(self, row: int) -> str:
        """Return the path of a row's file."""
        return f"stamps/{row // self.block:04d}/{row:08d}.fits"

    def missing(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the rows without a file, or with one that a crash of the machine left empty."""
        return np.array([row for row in range(start, stop) if not self._stands(row)], dtype=np.int64)

    def _stands(self, row: int) -> bool:
        try:
            return (self.folder / self.file_of(row)).stat().st_size > 0
        except FileNotFoundError:
            return False

    def write(self, start: int, rows: NDArray[np.int64]) -> None:
        """Write the files of `rows`."""
        first, recipe = int(rows[0]), self.recipe
        mocks = self.simulate(first, int(rows[-1]) + 1)
        ra, dec = stamp_centres(recipe, self.seed, rows)
        images, present, fwhm = _pixels(mocks), mocks.present.cpu().numpy(), mocks.fwhm.cpu().numpy()
        for number, row in enumerate(rows):
            k, place = int(row) - first, (float(ra[number]), float(dec[number]))
            data = stamp_bytes(
                images[k], recipe.bands, present[k], fwhm[k], recipe.pixel_scale, recipe.zero_point, place
            )
            with replacing(self.folder / self.file_of(int(row)), sync=False) as path:
                path.write_bytes(data)

    def finish(self, n: int) -> None:
        """Nothing: every stamp stands for itself."""


class Packs(Layout):
    """``packs/NNNN.fits``, one pack per block."""

    @property
    def spec(self) -> str:
        """The SPEC of the folder of packs."""
        return f"packs:{self.folder}/packs"

    def file_of(self, row: int) -> str:
        """Return the path of the pack that holds a row."""
        return f"packs/{row // self.block:04d}.fits"

    def missing(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return all rows unless their pack is complete."""
        path = self.folder / self.file_of(start)
        complete = path.is_file() and _rows_of(path) == stop - start
        return np.arange(start, start if complete else stop, dtype=np.int64)

    def write(self, start: int, rows: NDArray[np.int64]) -> None:
        """Write the pack."""
        from lensscan.survey.packwriter import PackWriter
        from lensscan.survey.stamps import Frame, allocate

        recipe, n = self.recipe, len(rows)
        frame = Frame(recipe.bands, recipe.size, recipe.pixel_scale, 1)
        mocks = self.simulate(start, start + n)
        ra, dec = stamp_centres(recipe, self.seed, rows)
        batch = allocate(n, frame)
        batch.open(0, n)
        batch.images[...] = _pixels(mocks)
        batch.present[...] = mocks.present.cpu().numpy()
        batch.fwhm[...] = mocks.fwhm.cpu().numpy()
        batch.wcs[:, 0], batch.wcs[:, 1] = ra, dec
        batch.wcs[:, 2:] = (-1.0, 0.0, 0.0, 1.0)
        batch.close(n)
        path = self.folder / self.file_of(start)
        make_folder(path.parent)
        with PackWriter(path, frame, rows.dtype) as writer:
            writer.add(batch, rows, ra, dec)

    def finish(self, n: int) -> None:
        """Nothing: a folder of packs is read as one."""


class Hdf5(Layout):
    """``blocks/NNNN.h5`` with images, masks, observing conditions and truth; ``mocks.h5`` shows them as one."""

    @property
    def spec(self) -> str:
        """The file that shows all blocks."""
        return f"{self.folder}/mocks.h5"

    def file_of(self, row: int) -> str:
        """Return the path of the block that holds a row."""
        return f"blocks/{row // self.block:04d}.h5"

    def missing(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return all rows unless their block is complete."""
        import h5py

        try:
            with h5py.File(self.folder / self.file_of(start), "r") as file:
                complete = len(file["index"]) == stop - start
        except (OSError, KeyError):
            complete = False
        return np.arange(start, start if complete else stop, dtype=np.int64)

    def write(self, start: int, rows: NDArray[np.int64]) -> None:
        """Write the block."""
        import h5py

        mocks = self.simulate(start, start + len(rows))
        columns: dict[str, NDArray[Any]] = {
            "images": mocks.images.cpu().numpy(),
            "present": mocks.present.cpu().numpy(),
            "fwhm": mocks.fwhm.cpu().numpy(),
            "sigma": mocks.sigma.cpu().numpy(),
        }
        if mocks.missing is not None:
            columns["missing"] = mocks.missing.cpu().numpy()
        columns |= {key: value.numpy() for key, value in mocks.truth.items()}
        memory = io.BytesIO()
        with h5py.File(memory, "w") as file:
            for key, value in columns.items():
                chunks = (1, *value.shape[1:]) if key in ("images", "missing") else None
                packed = "gzip" if key == "missing" else None
                data = file.create_dataset(key, data=value, chunks=chunks, compression=packed)
                data.attrs["unit"] = UNITS.get(key, unit_of(key) or "")
        with replacing(self.folder / self.file_of(start), sync=False) as path:
            path.write_bytes(memory.getbuffer())

    def finish(self, n: int) -> None:
        """Write ``mocks.h5``: every dataset of the blocks as one virtual dataset of `n` rows."""
        import h5py

        starts = range(0, n, self.block)
        with h5py.File(self.folder / self.file_of(0), "r") as first:
            kinds = {key: (data.shape[1:], data.dtype, data.attrs["unit"]) for key, data in first.items()}
        with replacing(self.folder / "mocks.h5") as path, new_hdf5(path) as file:
            file.attrs.update(
                recipe=self.recipe.name,
                digest=self.recipe.digest,
                seed=self.seed,
                bands=list(self.recipe.bands),
                pixel_scale=self.recipe.pixel_scale,
            )
            for key, (shape, dtype, unit) in kinds.items():
                layout = h5py.VirtualLayout((n, *shape), dtype)
                for start in starts:
                    rows = min(start + self.block, n) - start
                    layout[start : start + rows] = h5py.VirtualSource(self.file_of(start), key, (rows, *shape), dtype)
                # what a block that was lost or left behind held must not read as zeros
                lost = np.nan if dtype.kind == "f" else -1 if dtype.kind == "i" else None
                file.create_virtual_dataset(key, layout, fillvalue=lost).attrs["unit"] = unit


UNITS = {"images": "nJy", "sigma": "nJy", "fwhm": "arcsec"}
LAYOUTS: dict[str, type[Layout]] = {"packs": Packs, "fits": LooseFits, "hdf5": Hdf5}


def _pixels(mocks: Mocks) -> NDArray[np.float32]:
    """Return the images with missing pixels as NaN, which every reader takes for missing."""
    images = mocks.images.cpu().numpy()
    if mocks.missing is None:
        return images
    return np.where(mocks.missing.cpu().numpy(), np.float32(np.nan), images)


def _rows_of(path: Path) -> int:
    """Return the number of rows of a pack; -1 if it cannot be read, so that it is written again."""
    from lensscan.survey.packfile import PackFile

    try:
        pack = PackFile.open(str(path))
    except StampError:
        return -1
    rows = len(pack.rows)
    pack.close()
    return rows
