"""A folder of mocks read back: its record, its truth, and its stamps through the scan's own readers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lensscan.config import Band, CatalogColumns, Survey
from lensscan.errors import ConfigError, read_reason
from lensscan.mocks.recipes import CLASSES
from lensscan.survey.catalog import Chunk
from lensscan.survey.stamps import Frame, Rows, StampSource, open_source

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["MockFolder", "hash_truth"]

NEEDED = {"truth.fits": ("id", "is_lens"), "catalog.fits": ("id", "ra", "dec", "file")}
BITS = 17
"""Bits of a number's mantissa that enter the hash: five digits, so that processors whose last bits differ agree."""


class MockFolder:
    """A folder made by ``lensscan simulate``, as packs or as loose files.

    Parameters
    ----------
    folder : str
    what : str
        What the folder is to the user; messages begin with it.

    Attributes
    ----------
    n : int
        Number of mocks.
    record : dict
        ``recipe.json``: what made the folder.

    Raises
    ------
    ConfigError
        If it is not complete or not such a folder.
    """

    def __init__(self, folder: str, what: str) -> None:
        self.folder, self.name = Path(folder), f"{what} {folder}"
        self._truth, self._catalog = self._table("truth.fits"), self._table("catalog.fits")
        try:
            self.record = json.loads((self.folder / "recipe.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._incomplete("recipe.json", error) from None
        for file, table in (("truth.fits", self._truth), ("catalog.fits", self._catalog)):
            absent = [name for name in NEEDED[file] if name not in table.colnames]
            if absent:
                raise ConfigError(f"{self.name}: {file} lacks {absent[0]}; run lensscan simulate again")
        if not isinstance(self.record, dict):
            raise ConfigError(f"{self.name}: recipe.json is no record of a simulation; run lensscan simulate again")
        if not np.array_equal(self._truth["id"], self._catalog["id"]):
            raise ConfigError(
                f"{self.name}: truth.fits and catalog.fits do not list the same ids in the same order; "
                "run lensscan simulate again"
            )
        self.n = len(self._truth)
        layout = self.record.get("format")
        if layout not in ("fits", "packs"):
            raise ConfigError(f"{self.name}: stamps as {layout}; run lensscan simulate for packs or FITS files")
        self._loose = layout == "fits"

    def _table(self, file: str) -> Table:
        from astropy.io.registry import IORegistryError
        from astropy.table import Table

        try:
            return Table.read(self.folder / file)
        except (OSError, ValueError, IORegistryError) as error:
            raise self._incomplete(file, error) from None

    def _incomplete(self, file: str, error: Exception) -> ConfigError:
        """Return what is missing; the packs alone are a part of a folder, and are given by mistake."""
        if self.folder.is_dir() and (self.folder.parent / "recipe.json").is_file():
            return ConfigError(f"{self.name}: a part of a folder of mocks; give {self.folder.parent}")
        reason = f"no {file}" if isinstance(error, FileNotFoundError) else f"{file}: {read_reason(error)}"
        return ConfigError(f"{self.name}: no complete folder of mocks ({reason}); run lensscan simulate to its end")

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of the stamps, as the catalog has them."""
        return tuple(name.removeprefix("mag_") for name in self._catalog.colnames if name.startswith("mag_"))

    @property
    def packs(self) -> Path | None:
        """Folder of the packs; None if the stamps are loose files."""
        return None if self._loose else self.folder / "packs"

    @property
    def content(self) -> str:
        """SHA-256 of record and truth, but for the recipe's name: what is in the folder, wherever it stands."""
        said = {key: value for key, value in self.record.items() if key != "recipe"}
        said["truth"] = hash_truth(self.truth())
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def truth(self) -> dict[str, NDArray[Any]]:
        """Return the truth (n,) as the simulator gives it: classes as numbers."""
        truth = {name: np.asarray(self._truth[name]) for name in self._truth.colnames if name not in ("id", "class")}
        truth = {key: column.astype(column.dtype.newbyteorder("=")) for key, column in truth.items()}
        truth["is_lens"] = truth["is_lens"].astype(bool)
        if "class" in self._truth.colnames:
            names = np.asarray(self._truth["class"]).astype(str)
            truth["klass"] = np.array([CLASSES.index(name) if name in CLASSES else -1 for name in names])
        return truth

    def source(self, frame: Frame) -> StampSource:
        """Return the stamps as a source of the scan.

        Raises
        ------
        ConfigError
            If there are none, or their pixels do not fit.
        """
        bands = {band: Band() for band in frame.bands}
        survey = Survey(str(self.folder), frame.pixel_scale, bands, catalog=CatalogColumns(keep=("file",)))
        spec = f"stamps:{self.folder}/{{file}}" if self._loose else f"packs:{self.folder}/packs"
        return open_source(spec, survey, frame)

    def locate(self, source: StampSource) -> Rows:
        """Return where every row stands, in the order of the truth table."""
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
        return Rows.of(chunk, source.locate(chunk), np.arange(self.n))


def hash_truth(truth: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of a truth table: name, type and values of every column, in alphabetical order.

    Of numbers the sign, the exponent and `BITS` bits of the mantissa count; every NaN counts the same.
    """
    digest = hashlib.sha256()
    for name in sorted(truth):
        column = np.asarray(truth[name])
        digest.update(f"{name} {column.dtype.str} {column.shape}\n".encode())
        if column.dtype.kind == "f":
            blank = np.isnan(column)
            mantissa, exponent = np.frexp(np.where(blank, 0.0, column.astype(np.float64)))
            digest.update(np.rint(mantissa * 2.0**BITS).astype("<i4").tobytes())
            column = np.where(blank, 9999, exponent).astype("<i4")
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()
