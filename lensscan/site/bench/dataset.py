"""Test data of the benchmarks: noise stamps as packs and as loose files, with catalog and survey file."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lensscan.survey.packwriter import PackWriter
from lensscan.survey.stamps import Frame, allocate

__all__ = ["Dataset", "make_loose", "make_packs"]

PIECE = 500
PER_PACK = 20_000


@dataclass(frozen=True, slots=True)
class Dataset:
    """Where a benchmark's stamps, catalog and survey file are.

    Attributes
    ----------
    folder : Path
    spec : str
        The stamps' SPEC.
    n : int
        Rows.
    frame : Frame
    """

    folder: Path
    spec: str
    n: int
    frame: Frame

    @property
    def catalog(self) -> Path:
        """The catalog."""
        return self.folder / "catalog.fits"

    @property
    def survey(self) -> Path:
        """The survey file."""
        return self.folder / "survey.toml"

    def arguments(self, model: str | Path, out: Path) -> list[str]:
        """Return the arguments of a scan of this data."""
        return [
            "scan", "--catalog", str(self.catalog), "--survey", str(self.survey), "--stamps", self.spec,
            "--model", str(model), "-o", str(out), "--set", "max_failed=1.0",
        ]  # fmt: skip


def _describe(folder: Path, frame: Frame, n: int, seed: int) -> np.ndarray:
    """Write survey file and catalog; return the ids."""
    from astropy.table import Table

    folder.mkdir(parents=True, exist_ok=True)
    bands = "".join(f"[bands.{band}]\nzero_point = 31.4\n" for band in frame.bands)
    (folder / "survey.toml").write_text(f'name = "bench"\npixel_scale = {frame.pixel_scale}\n{bands}', encoding="utf-8")
    rng = np.random.default_rng(seed)
    ids = np.arange(n, dtype=np.int64) + 1000
    table = Table({"id": ids, "ra": rng.uniform(0, 360, n), "dec": rng.uniform(-60, 60, n)})
    table.write(folder / "catalog.fits", overwrite=True)
    return ids


def make_packs(folder: Path, frame: Frame, n: int, seed: int = 1) -> Dataset:
    """Write packs of `n` noise stamps."""
    ids = _describe(folder, frame, n, seed)
    rng = np.random.default_rng(seed)
    batch = allocate(PIECE, frame)
    batch.images[:] = rng.normal(0, 1, batch.images.shape)
    batch.present[:] = True
    (folder / "packs").mkdir(exist_ok=True)
    for first in range(0, n, PER_PACK):
        last = min(first + PER_PACK, n)
        with PackWriter(folder / "packs" / f"pack-{first:09d}.fits", frame, ids.dtype) as pack:
            for a in range(first, last, PIECE):
                b = min(a + PIECE, last)
                nothing = np.zeros(b - a)
                pack.add(batch, ids[a:b], nothing, nothing)
    return Dataset(folder, f"packs:{folder / 'packs'}", n, frame)


def make_loose(folder: Path, frame: Frame, n: int, seed: int = 1) -> Dataset:
    """Write `n` loose FITS stamps, one cube (bands, height, width) each."""
    from astropy.io import fits

    ids = _describe(folder, frame, n, seed)
    rng = np.random.default_rng(seed)
    shape = (len(frame.bands), frame.size, frame.size)
    (folder / "stamps").mkdir(exist_ok=True)
    stream = io.BytesIO()
    header = fits.Header({"BUNIT": "nJy", "PIXSCALE": frame.pixel_scale})
    header.extend([(f"BAND{k + 1}", band) for k, band in enumerate(frame.bands)])
    fits.PrimaryHDU(rng.normal(0, 1, shape).astype(">f4"), header).writeto(stream)
    whole = bytearray(stream.getvalue())
    start = len(whole) - -(-4 * int(np.prod(shape)) // 2880) * 2880
    for number in ids:
        pixels = rng.normal(0, 1, shape).astype(">f4").tobytes()
        whole[start : start + len(pixels)] = pixels
        (folder / "stamps" / f"{number}.fits").write_bytes(whole)
    return Dataset(folder, f"stamps:{folder / 'stamps'}/{{id}}.fits", n, frame)
