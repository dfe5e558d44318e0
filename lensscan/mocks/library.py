"""A folder of FITS images of real galaxies as lensed sources: brightness at any point of the source plane.

Any layout will do: one image a file, or many image extensions in one; tables are looked through for magnitudes
and redshifts.  Images are cleaned (`denoise`), brought to one square grid and kept in memory, 36 kB each.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensscan.errors import CatalogError, ConfigError, StampError
from lensscan.mocks.denoise import Unusable, clean_galaxy, on_grid
from lensscan.process import available_memory
from lensscan.survey.fits import decode, open_fitsio, read_all, read_compressed, scan
from lensscan.survey.planes import plane_kind
from lensscan.survey.tables import open_table

__all__ = ["PARTS", "SIDE", "SourceLibrary", "load_sources", "part_of"]

SIDE = 96
"""Pixels of the common grid; most images of space telescopes are smaller."""
PARTS = ("", "train", "test")
TEST_SHARE = 5  # one identifier in so many is of the part "test"
ENDINGS = (".fits", ".fit", ".fits.gz", ".fit.gz", ".fits.fz", ".fz")
MOST_BYTES = 1 << 33
MEMORY = 0.5  # of what is available
SENTINEL = 90.0  # magnitudes beyond mean "not measured"
MAGNITUDES = ("MAG", "MAG_AUTO", "MAGNITUDE", "MAG_F814W")
REDSHIFTS = ("ZPHOT", "Z", "REDSHIFT", "Z_BEST", "ZSPEC")


def part_of(identifier: str) -> str:
    """Return ``test`` for one identifier in five and ``train`` for the others, the same ones on any machine."""
    number = int.from_bytes(hashlib.blake2b(identifier.encode(), digest_size=8).digest(), "little")
    return "test" if number % TEST_SHARE == 0 else "train"


@dataclass(frozen=True, slots=True)
class SourceLibrary:
    """Images of real galaxies; made by `load_sources`.

    Attributes
    ----------
    images : ndarray, shape (N, K, K), float32
        Of unit sum, centred on the centroid, without sky, noise, neighbours and edges; zero in the outermost pixels.
    radius : ndarray, shape (N,)
        Half-light radius, pixels of `images`.
    step : ndarray, shape (N,)
        Pixel of `images` in pixels of the original image.
    names : tuple of str
        ``file.fits[extension]`` of every image.
    magnitude, redshift : ndarray, shape (N,)
        From tables beside the images; NaN where unknown.
    left_out : mapping
        Number of images that could not be used, by reason.
    fingerprint : str
        Hash of names and images.
    """

    images: NDArray[np.float32]
    radius: NDArray[np.float64]
    step: NDArray[np.float64]
    names: tuple[str, ...]
    magnitude: NDArray[np.float64]
    redshift: NDArray[np.float64]
    left_out: Mapping[str, int]
    fingerprint: str
    _tensors: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    def pick(self, u: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return image numbers of uniform draws in [0, 1)."""
        return np.minimum((np.asarray(u) * len(self)).astype(np.int64), len(self) - 1)

    def brightness(self, number: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return the surface brightness, per squared half-light radius and for a total flux of 1.

        Bilinear between pixels, zero beyond the image, differentiable in `u` and `v`.

        Parameters
        ----------
        number : Tensor, shape (m,), int64
            Which image.
        u, v : Tensor, shape (m, ...)
            Offset from the galaxy's centre along columns and rows, half-light radii; they broadcast.

        Returns
        -------
        Tensor, shape (m, ...)
            On the device of `u`.
        """
        flat, radii = self._on(u.device)
        u, v = torch.broadcast_tensors(u, v)
        side = self.images.shape[-1]
        index = number.to(u.device).view(-1, *(1,) * (u.ndim - 1))
        radius = radii[index].to(u.dtype)
        x = (u * radius + (side - 1) / 2).clamp(0, side - 1)
        y = (v * radius + (side - 1) / 2).clamp(0, side - 1)
        column = x.detach().floor().clamp(max=side - 2)
        row = y.detach().floor().clamp(max=side - 2)
        right, up = x - column, y - row
        first = (index * side + row.to(torch.int64)) * side + column.to(torch.int64)
        low = torch.lerp(flat[first].to(u.dtype), flat[first + 1].to(u.dtype), right)
        high = torch.lerp(flat[first + side].to(u.dtype), flat[first + side + 1].to(u.dtype), right)
        return torch.lerp(low, high, up) * radius**2

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._tensors:
            flat, radius = torch.from_numpy(self.images).flatten(), torch.from_numpy(self.radius.astype(np.float32))
            self._tensors[device] = flat.to(device), radius.to(device)
        return self._tensors[device]


def load_sources(folder: str | Path, part: str = "") -> SourceLibrary:
    """Read, clean and keep the galaxy images of a folder; the same call again costs nothing.

    Parameters
    ----------
    folder : str or Path
        Files in it (not in folders below) that end in .fits, .fit or .fz, gzipped or not.
    part : str
        ``train`` or ``test``: only that part of the images (four in five, one in five, by a hash of file name
        and extension), so that no test stamp shows a galaxy of the training; empty = all.

    Raises
    ------
    ConfigError
        If the folder is none, holds no usable image, or the images need more than half of the memory available:
        36,864 bytes for each.
    """
    if part not in PARTS:
        raise ConfigError(f"part of the galaxy images must be train, test or empty, not {part!r}")
    if not Path(folder).is_dir():
        raise ConfigError(f"source.images: no folder {folder}; give a folder of FITS images of galaxies")
    state = tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in _files(Path(folder)))
    return _load(str(folder), part, state)


def _files(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.name.lower().endswith(ENDINGS) and p.is_file()]


@lru_cache(maxsize=4)
def _load(folder: str, part: str, state: tuple[tuple[str, int, int], ...]) -> SourceLibrary:
    paths = [Path(path) for path, _, _ in state]
    left_out: Counter[str] = Counter()
    names: list[str] = []
    grids: list[NDArray[np.float32]] = []
    facts: list[tuple[float, float]] = []
    most = MEMORY * available_memory() or np.inf
    for path in paths:
        for name, image in _images(path, part, left_out):
            try:
                galaxy = clean_galaxy(image)
            except Unusable as reason:
                left_out[str(reason)] += 1
                continue
            if (len(grids) + 1) * SIDE * SIDE * 4 > most:
                raise ConfigError(
                    f"source.images: {folder} holds more than {len(grids)} galaxies, which need more than half of the "
                    f"memory available ({SIDE * SIDE * 4} bytes each); give a folder with fewer"
                )
            grid, step = on_grid(galaxy, SIDE)
            names.append(name)
            grids.append(grid)
            facts.append((galaxy.radius / step, step))
    if not names:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(left_out.items())) or "no image in it"
        raise ConfigError(f"source.images: {folder} has no usable galaxy image ({reasons}); give another folder")
    images = np.stack(grids)
    known = _catalog(paths)
    table = np.array([known.get(name, (np.nan, np.nan)) for name in names])
    digest = hashlib.sha256("\n".join(names).encode() + images.tobytes()).hexdigest()
    radius, step = np.array(facts).T
    return SourceLibrary(images, radius, step, tuple(names), table[:, 0], table[:, 1], dict(left_out), digest)


def _images(path: Path, part: str, left_out: Counter[str]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield name and pixels of the images of a file that belong to the part."""
    try:
        data = read_all(str(path), MOST_BYTES)
        hdus = scan(data)
        handle = open_fitsio(str(path)) if any(hdu.kind == "compressed" for hdu in hdus) else None
    except StampError:
        left_out["unreadable file"] += 1
        return
    for hdu in hdus:
        name = f"{path.name}[{hdu.index}]"
        plane = plane_kind(hdu.header.name) if hdu.header.name else None
        if hdu.kind not in ("image", "compressed") or len(hdu.shape) != 2 or plane is not None:
            continue
        if part and part_of(name) != part:
            continue
        try:
            yield name, read_compressed(handle, hdu) if hdu.kind == "compressed" else decode(data, hdu)
        except StampError:
            left_out["unreadable image"] += 1
    if handle is not None:
        handle.close()


def _catalog(paths: list[Path]) -> dict[str, tuple[float, float]]:
    """Return magnitude and redshift by image name, from tables as those of the COSMOS real-galaxy catalogs.

    A table with GAL_FILENAME and GAL_HDU says which image is whose; others are joined to it by IDENT.
    """
    tables = [table for table in map(_table, paths) if table]
    result: dict[str, tuple[float, float]] = {}
    for table in tables:
        if not {"GAL_FILENAME", "GAL_HDU"} <= set(table):
            continue
        magnitude, redshift = _column(table, MAGNITUDES), _column(table, REDSHIFTS)
        for other in tables:
            if "IDENT" not in table or "IDENT" not in other or other is table:
                continue
            place = {key: row for row, key in enumerate(other["IDENT"].tolist())}
            rows = np.array([place.get(key, -1) for key in table["IDENT"].tolist()])
            found = np.where(rows >= 0, _column(other, REDSHIFTS)[rows], np.nan)
            redshift = np.where(np.isnan(redshift), found, redshift)
        for file, hdu, m, z in zip(table["GAL_FILENAME"], table["GAL_HDU"], magnitude, redshift, strict=True):
            result[f"{os.path.basename(str(file))}[{int(hdu)}]"] = (float(m), float(z))
    return result


def _table(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with open_table(str(path)) as table:
            wanted = ("IDENT", "GAL_FILENAME", "GAL_HDU", *MAGNITUDES, *REDSHIFTS)
            names = [name for name in table.names if name.upper() in wanted]
            pieces = list(table.pieces(names, 1 << 20)) if names else []
    except CatalogError:
        return {}
    return {name.upper(): np.concatenate([piece[name] for piece in pieces]) for name in names} if pieces else {}


def _column(table: Mapping[str, NDArray[Any]], names: tuple[str, ...]) -> NDArray[np.float64]:
    """Return the first of the columns that the table has, NaN where it has no sane value."""
    for name in names:
        if name in table and table[name].dtype.kind in "iuf":
            values = table[name].astype(np.float64)
            return np.where((values > 0) & (values < SENTINEL), values, np.nan)
    return np.full(len(next(iter(table.values()))), np.nan)
