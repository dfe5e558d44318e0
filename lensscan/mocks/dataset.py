"""Mocks as files: a survey catalog, its truth, and stamps as loose FITS files or packs; resumable.

    DIR/catalog.fits    id ra dec file mag_<band> magerr_<band>: what a survey would publish
    DIR/truth.fits      id and every truth column
    DIR/stamps/NNNN/    one FITS file per object (loose), or DIR/packs/NNNN.fits
    DIR/recipe.json     what made the folder; another recipe, seed or format is refused

Stamps come first and the catalog last, so a folder with a catalog is complete.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lensscan.errors import OutputError, StampError, disk_error
from lensscan.mocks.loose import stamp_bytes, write_stamp
from lensscan.mocks.population import AB_NJY, flux
from lensscan.mocks.priors import Draws
from lensscan.mocks.recipes import CLASSES, Recipe
from lensscan.mocks.simulate import Mocks, draw_truth, simulate

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["Dataset"]

BLOCK = 500
UNITS = {
    "theta_E": "arcsec",
    "x": "arcsec",
    "y": "arcsec",
    "sx": "arcsec",
    "sy": "arcsec",
    "x_light": "arcsec",
    "y_light": "arcsec",
    "sigma_v": "km/s",
    "ra": "deg",
    "dec": "deg",
    "ra_lens": "deg",
    "dec_lens": "deg",
}
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A folder of mocks.

    Parameters
    ----------
    recipe : Recipe
    seed : int
    n : int
        Rows 0 to n - 1 of the recipe; their index is their id.
    folder : Path
    loose : bool
        One FITS file per object; else packs.
    device : str
    """

    recipe: Recipe
    seed: int
    n: int
    folder: Path
    loose: bool
    device: str = "cpu"

    def write(self, progress: Progress | None = None) -> None:
        """Write what is not there yet, the catalog last.

        Raises
        ------
        OutputError
            If the folder belongs to other mocks, or something cannot be written.
        DiskError
            If the disk is full.
        """
        self._claim()
        done = 0
        for start in range(0, self.n, BLOCK):
            stop = min(start + BLOCK, self.n)
            self._write_stamps(start, stop) if self.loose else self._write_pack(start, stop)
            done = stop
            if progress is not None:
                progress(done, self.n)
        catalog, truth = self.tables()
        _write_table(truth, self.folder / "truth.fits")
        _write_table(catalog, self.folder / "catalog.fits")

    def file_of(self, row: int) -> str:
        """Return the path of a row's stamp file or pack, relative to the folder."""
        part = f"{row // BLOCK:04d}"
        return f"stamps/{part}/{row:08d}.fits" if self.loose else f"packs/{part}.fits"

    def _claim(self) -> None:
        """Make the folder, or check that it is ours."""
        record = {
            "recipe": self.recipe.name,
            "digest": self.recipe.digest,
            "seed": self.seed,
            "format": "fits" if self.loose else "packs",
            "zero_point": self.recipe.zero_point,
        }
        path = self.folder / "recipe.json"
        if path.is_file():
            try:
                old = json.loads(path.read_text())
            except ValueError:
                old = {}
            differs = [key for key in record if old.get(key) != record[key]]
            if differs:
                raise OutputError(
                    f"{self.folder}: holds mocks with another {differs[0]}; choose another folder or remove it"
                )
            return
        with _disk(path):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_stamp(path, (json.dumps(record, indent=1) + "\n").encode())

    def _write_stamps(self, start: int, stop: int) -> None:
        paths = [self.folder / self.file_of(row) for row in range(start, stop)]
        missing = [k for k, path in enumerate(paths) if not path.is_file()]
        if not missing:
            return
        with _disk(paths[0]):
            paths[0].parent.mkdir(parents=True, exist_ok=True)
        first, last = start + missing[0], start + missing[-1] + 1
        mocks = simulate(self.recipe, seed=self.seed, start=first, n=last - first, device=self.device)
        ra, dec = self._centres(np.arange(first, last))
        images, present, fwhm = mocks.images.cpu().numpy(), mocks.present.cpu().numpy(), mocks.fwhm.cpu().numpy()
        recipe = self.recipe
        for k in missing:
            row = start + k - first
            place = (float(ra[row]), float(dec[row]))
            data = stamp_bytes(
                images[row], recipe.bands, present[row], fwhm[row], recipe.pixel_scale, recipe.zero_point, place
            )
            write_stamp(paths[k], data)

    def _write_pack(self, start: int, stop: int) -> None:
        from lensscan.survey.packwriter import PackWriter
        from lensscan.survey.stamps import Frame, allocate

        path = self.folder / self.file_of(start)
        if path.is_file() and _rows_of(path) == stop - start:
            return
        with _disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        recipe = self.recipe
        frame = Frame(recipe.bands, recipe.size, recipe.pixel_scale, 1)
        mocks = simulate(recipe, seed=self.seed, start=start, n=stop - start, device=self.device)
        ids = np.arange(start, stop)
        ra, dec = self._centres(ids)
        batch = allocate(stop - start, frame)
        batch.open(0, stop - start)
        _fill(batch, mocks, ra, dec)
        batch.close(stop - start)
        with PackWriter(path, frame, ids.dtype) as writer:
            writer.add(batch, ids, ra, dec)

    def _centres(self, index: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return RA and Dec of the stamps' centres: random in RA 0 to 60, Dec -60 to 0 degrees."""
        draws = Draws(self.recipe.digest, self.seed, index)
        sine = draws.uniform("sky.dec", math.sin(math.radians(-60)), 0.0)
        return draws.uniform("sky.ra", 0.0, 60.0), np.degrees(np.arcsin(sine))

    def tables(self) -> tuple[Table, Table]:
        """Return the survey catalog and the truth table."""
        from astropy.table import Table

        truth = draw_truth(self.recipe, seed=self.seed, n=self.n)
        extra = {key: truth.pop(key) for key in ("present", "fwhm", "sigma")}
        index = truth.pop("index")
        ra0, dec0 = self._centres(index)
        ra, dec = _offset(ra0, dec0, truth["x_light"], truth["y_light"])
        files = np.array([self.file_of(int(row)) for row in index])
        catalog = Table({"id": index, "ra": ra, "dec": dec, "file": files})
        for k, band in enumerate(self.recipe.bands):
            mag, error = self._measured(index, k, truth[f"mag_{band}"], extra)
            catalog[f"mag_{band}"], catalog[f"magerr_{band}"] = mag, error
        names = np.array(CLASSES)[truth["klass"]]
        result = Table({"id": index, "is_lens": truth.pop("is_lens"), "class": names})
        ra, dec = _offset(ra0, dec0, truth["x"], truth["y"])
        for key, value in (truth | {"ra_lens": ra, "dec_lens": dec}).items():
            result[key] = value
        for table in (catalog, result):
            for key in table.colnames:
                unit = UNITS.get(key, "mag" if key.startswith("mag") and key != "magnification" else None)
                table[key].unit = unit
            table.meta.update({"RECIPE": self.recipe.name, "SEED": self.seed, "DIGEST": self.recipe.digest[:32]})
        return catalog, result

    def _measured(
        self, index: NDArray[np.int64], k: int, mag: NDArray[np.float64], extra: dict[str, NDArray[Any]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return noisy magnitudes and errors (aperture radius 1.5 FWHM, 2 % floor); 99 where nothing is seen."""
        band = self.recipe.bands[k]
        light = flux(mag)
        pixels = math.pi * (1.5 * extra["fwhm"][:, k] / self.recipe.pixel_scale) ** 2
        noise = np.sqrt(
            pixels * extra["sigma"][:, k] ** 2 + self.recipe.band[band].poisson * light + (0.02 * light) ** 2
        )
        measured = light + noise * Draws(self.recipe.digest, self.seed, index).normal(f"catalog.{band}")
        seen = (measured > noise) & extra["present"][:, k]
        safe = np.where(seen, measured, 1.0)
        return (
            np.where(seen, AB_NJY - 2.5 * np.log10(safe), 99.0),
            np.where(seen, 2.5 / math.log(10) * noise / safe, 99.0),
        )


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


def _fill(batch: Any, mocks: Mocks, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> None:
    batch.images[...] = mocks.images.cpu().numpy()
    batch.present[...] = mocks.present.cpu().numpy()
    batch.fwhm[...] = mocks.fwhm.cpu().numpy()
    batch.wcs[:, 0], batch.wcs[:, 1] = ra, dec
    batch.wcs[:, 2:] = (-1.0, 0.0, 0.0, 1.0)


def _offset(
    ra: NDArray[np.float64], dec: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sky position of (x, y) arcsec on the tangent plane at (ra, dec); North up, East left."""
    xi, eta = np.radians(-x / 3600), np.radians(y / 3600)
    a, d = np.radians(ra), np.radians(dec)
    down = np.cos(d) - eta * np.sin(d)
    new = a + np.arctan2(xi, down)
    return np.degrees(new) % 360.0, np.degrees(np.arctan2(np.sin(d) + eta * np.cos(d), np.hypot(xi, down)))


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = OutputError(f"cannot write {path}: {error.strerror or error}; check the folder")
        raise (disk_error(error, path) or problem) from None


def _write_table(table: Table, path: Path) -> None:
    """Write a FITS table under a temporary name, sync it and rename it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with _disk(path):
            table.write(part, format="fits", overwrite=True)
            with open(part, "rb") as stream:
                os.fsync(stream.fileno())
            os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
