"""The user's stamps and catalog rows for painting, read with the scan's own readers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.config import Survey, load_cut, load_survey
from lensscan.errors import CatalogError, ConfigError
from lensscan.mocks.library import part_of
from lensscan.mocks.recipes import Recipe
from lensscan.mocks.tables import CanvasPrior
from lensscan.process import available_memory
from lensscan.schema import Status, status_name
from lensscan.survey.catalog import Catalog, Chunk, open_catalog
from lensscan.survey.cells import sky_cells
from lensscan.survey.select import Selector
from lensscan.survey.stamps import SCALE_TOLERANCE, Batch, Frame, Rows, StampSource, allocate, open_source

__all__ = ["Canvas", "read_canvas"]

Array = NDArray[np.float64]
READ = 256  # rows at a time
MEMORY = 0.5  # of what is available
PIXEL_BYTES = 5  # float32 and the mask of missing pixels
SIGMA_V = (30.0, 800.0)  # km/s: catalogs write 0, 850 or -9999 where they have none
REDSHIFT = (0.005, 6.0)


@dataclass(slots=True)
class Canvas:
    """Stamps in catalog order, failed ones left out; N stamps, C bands of the recipe.

    Attributes
    ----------
    images : (N, C, S, S) float32
        nJy per pixel; 0 where missing.
    missing : (N, C, S, S) bool or None
    present : (N, C) bool
    sigma, fwhm : (N, C) float64
        Noise per pixel (nJy) that planes state, and seeing (arcsec); NaN where unknown.
    x, y : (N,) float64
        Where the catalog says the galaxy is, arcsec from the frame's centre.
    mags : dict of (N,) float64
        Catalog magnitudes by survey band.
    z, sigma_v : (N,) float64
        From the catalog; NaN where unknown.
    ids : (N,) str
    failed : Counter
        Rows left out, by reason.
    """

    images: NDArray[np.float32]
    missing: NDArray[np.bool_] | None
    present: NDArray[np.bool_]
    sigma: Array
    fwhm: Array
    x: Array
    y: Array
    mags: dict[str, Array]
    z: Array
    sigma_v: Array
    ids: NDArray[np.str_]
    failed: Counter[str]

    def take(self, keep: NDArray[np.bool_]) -> Canvas:
        """Return the stamps to `keep` (N,); nothing is copied if these are all."""
        if keep.all():
            return self
        arrays = {name: getattr(self, name) for name in ARRAYS}
        taken: dict[str, Any] = {name: None if value is None else value[keep] for name, value in arrays.items()}
        return Canvas(**taken, mags={band: values[keep] for band, values in self.mags.items()}, failed=self.failed)


ARRAYS = ("images", "missing", "present", "sigma", "fwhm", "x", "y", "z", "sigma_v", "ids")


def read_canvas(recipe: Recipe) -> Canvas:
    """Read the stamps that a recipe's ``canvas`` names.

    Raises
    ------
    ConfigError
        If the survey's pixels are not the recipe's, a band is unknown to the survey, no stamp can be read, or
        the stamps need more than half of the memory available: N C S^2 5 bytes.
    CatalogError
        If the catalog cannot be read or lacks a column.
    """
    prior = recipe.canvas
    survey = load_survey(prior.survey)
    frame = _frame(recipe, survey)
    source = open_source(prior.stamps, survey, frame)
    extra = [name for name in (prior.z, prior.sigma_v) if name]
    catalog = open_catalog(prior.catalog, survey, [*source.required_columns(), *extra])
    chunks = _select(catalog, survey, recipe)
    total = sum(chunk.n for chunk in chunks)
    _check_memory(total, frame, prior.catalog)
    canvas, status = _read(chunks, total, source, frame)
    bad = status != Status.PENDING
    canvas.failed.update(status_name(Status(code)).removeprefix("failed:") for code in status[bad].tolist())
    if bad.all():
        listed = [f"{reason} {count}" for reason, count in canvas.failed.items()]
        reasons = ", ".join(listed) or "no row is left by cut and part"
        raise ConfigError(f"canvas.stamps: no usable stamp in {prior.stamps} ({reasons}); check canvas.stamps")
    columns = {name: np.concatenate([_sane(c, name, prior.catalog) for c in chunks]) for name in extra}
    nothing = np.full(total, np.nan)
    canvas.z = _within(columns.get(prior.z, nothing), REDSHIFT)
    canvas.sigma_v = _within(columns.get(prior.sigma_v, nothing), SIGMA_V)
    canvas.mags = {
        band: np.concatenate([chunk.mags[band] for chunk in chunks])
        for band in survey.bands
        if all(band in chunk.mags for chunk in chunks)
    }
    canvas.ids = np.concatenate([chunk.id.astype(str) for chunk in chunks])
    return canvas.take(~bad)


def _frame(recipe: Recipe, survey: Survey) -> Frame:
    """Return the recipe's frame: stamps are cut to it, never resampled."""
    if abs(survey.pixel_scale / recipe.pixel_scale - 1) > SCALE_TOLERANCE:
        raise ConfigError(
            f"canvas.survey: survey {survey.name} has pixels of {survey.pixel_scale:g} arcsec, the recipe "
            f"{recipe.pixel_scale:g}; real stamps are never resampled: set the recipe's pixel_scale to the survey's"
        )
    unknown = [band for band in recipe.bands if band not in survey.bands]
    if unknown:
        raise ConfigError(
            f"canvas.survey: survey {survey.name} has no band {unknown[0]!r} (it has {', '.join(survey.bands)}); "
            "leave the band out of the recipe, or add it to the survey file"
        )
    return Frame(recipe.bands, recipe.size, recipe.pixel_scale, 1)


def _select(catalog: Catalog, survey: Survey, recipe: Recipe) -> list[Chunk]:
    """Return the catalog's rows that pass the cut and belong to the part."""
    prior = recipe.canvas
    selector = Selector(survey, load_cut(prior.cut) if prior.cut else None)
    catalog.require(selector.bands)
    chunks = []
    for chunk in catalog.chunks():
        chosen = chunk.select(selector.apply(chunk))
        chunks.append(chosen.select(_of_part(chosen, prior)) if prior.part else chosen)
    return chunks


def _of_part(chunk: Chunk, prior: CanvasPrior) -> NDArray[np.bool_]:
    """Return which rows (n,) belong to the part, by their id or by their cell of the sky."""
    names = chunk.id
    if prior.cells:
        try:
            names = sky_cells(chunk.ra, chunk.dec, prior.cells)
        except ValueError as error:
            raise CatalogError(f"{prior.catalog}: {error}; leave canvas.cells out, or these rows") from None
    return np.fromiter((part_of(str(name)) == prior.part for name in names.tolist()), np.bool_, chunk.n)


def _check_memory(rows: int, frame: Frame, path: str) -> None:
    need = rows * len(frame.bands) * frame.size**2 * PIXEL_BYTES
    free = available_memory()
    if free and need > MEMORY * free:
        raise ConfigError(
            f"canvas.catalog: the {rows} stamps of {path} need {need / 1e9:.1f} GB "
            f"({rows} x {len(frame.bands)} bands x {frame.size}^2 pixels x {PIXEL_BYTES} bytes), more than half of the "
            f"{free / 1e9:.1f} GB available; give a smaller catalog or a canvas.cut"
        )


def _read(chunks: list[Chunk], total: int, source: StampSource, frame: Frame) -> tuple[Canvas, NDArray[np.uint8]]:
    """Read all rows in storage order; return them in catalog order, with their status."""
    width, size = len(frame.bands), frame.size
    empty = np.full((total, width), np.nan)
    canvas = Canvas(
        images=np.zeros((total, width, size, size), np.float32),
        missing=None,
        present=np.zeros((total, width), np.bool_),
        sigma=empty,
        fwhm=empty.copy(),
        x=np.zeros(total),
        y=np.zeros(total),
        mags={},
        z=np.zeros(0),
        sigma_v=np.zeros(0),
        ids=np.zeros(0, np.str_),
        failed=Counter(),
    )
    status = np.zeros(total, np.uint8)
    batch = allocate(min(READ, max(total, 1)), frame)
    reader = source.reader()
    first = 0
    try:
        for chunk in chunks:
            located = source.locate(chunk)
            order = located.order()
            rows = Rows.of(chunk, located, order)
            for start in range(0, chunk.n, READ):
                stop = min(start + READ, chunk.n)
                batch.clear()
                reader.read(rows, start, stop, batch)
                _store(canvas, status, batch, first + order[start:stop])
            first += chunk.n
    finally:
        reader.close()
    return canvas, status


def _store(canvas: Canvas, status: NDArray[np.uint8], batch: Batch, slots: NDArray[np.intp]) -> None:
    used = slice(0, len(slots))
    canvas.images[slots] = batch.images[used]
    if batch.masked and batch.mask[used].any():
        if canvas.missing is None:
            canvas.missing = np.zeros(canvas.images.shape, np.bool_)
        canvas.missing[slots] = batch.mask[used]
    canvas.present[slots] = batch.present[used]
    canvas.sigma[slots] = batch.sigma[used]
    canvas.fwhm[slots] = batch.fwhm[used]
    canvas.x[slots], canvas.y[slots] = -batch.origin[used, 0], -batch.origin[used, 1]
    status[slots] = batch.status[used]


def _sane(chunk: Chunk, name: str, path: str) -> Array:
    try:
        return np.asarray(chunk.columns[name], np.float64)
    except ValueError:
        raise CatalogError(f"{path}: column {name!r} holds text, not numbers; name another in the canvas") from None


def _within(values: Array, limits: tuple[float, float]) -> Array:
    with np.errstate(invalid="ignore"):
        return np.where((values > limits[0]) & (values < limits[1]), values, np.nan)
