"""The table of predicted images: one row per candidate, mode and image, and its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lensscan.candidates.fitstable import write_fits_table
from lensscan.candidates.positions import Prediction
from lensscan.candidates.sky import deproject
from lensscan.errors import ConfigError
from lensscan.files import replacing
from lensscan.hdf5 import new_hdf5
from lensscan.schema import Column

if TYPE_CHECKING:
    from astropy.table import QTable

__all__ = ["COLUMNS", "FORMATS", "image_table", "write_table"]

_AXES = "arcsec from the origin of the candidate's x, y"
_LOW, _HIGH = "16 % quantile of", "84 % quantile of"

COLUMNS = (
    Column("rank", "i8", "", "stat.rank", "Rank of the candidate"),
    Column("id", "", "", "meta.id;meta.main", "Identifier of the catalog"),
    Column("mode", "", "", "meta.code", "What is known: posterior (nothing), first_image or true_source"),
    Column("image", "i2", "", "meta.number", "Number of the image in order of arrival; 0: no prediction"),
    Column("n_images", "i2", "", "meta.number", "Most probable number of images"),
    Column("p_n_images", "f8", "", "stat.probability",
           "Fraction of the samples with that number; all other values of the row are made of these samples"),
    Column("p_number", "f8", "", "stat.probability", "Fractions of the samples with 0 to 8 images"),
    Column("p_first", "f8", "", "stat.probability",
           "Fraction of the samples in which the known first image arrives first; NaN in other modes"),
    Column("x", "f8", "arcsec", "pos.cartesian.x", f"Image position, median; {_AXES}, +x with column"),
    Column("y", "f8", "arcsec", "pos.cartesian.y", f"Image position, median; {_AXES}, +y with row"),
    Column("x_q16", "f8", "arcsec", "stat.value;pos.cartesian.x", f"{_LOW} x"),
    Column("x_q84", "f8", "arcsec", "stat.value;pos.cartesian.x", f"{_HIGH} x"),
    Column("y_q16", "f8", "arcsec", "stat.value;pos.cartesian.y", f"{_LOW} y"),
    Column("y_q84", "f8", "arcsec", "stat.value;pos.cartesian.y", f"{_HIGH} y"),
    Column("ra", "f8", "deg", "pos.eq.ra", "Right ascension of (x, y); NaN without WCS"),
    Column("dec", "f8", "deg", "pos.eq.dec", "Declination of (x, y); NaN without WCS"),
    Column("parity", "i2", "", "", "+1 minimum, -1 saddle point of the arrival time; 0: no prediction"),
    Column("magnification", "f8", "", "", "Signed magnification of a point source, median"),
    Column("magnification_q16", "f8", "", "stat.value", f"{_LOW} magnification"),
    Column("magnification_q84", "f8", "", "stat.value", f"{_HIGH} magnification"),
    Column("delay", "f8", "d", "time.interval", "Arrival after the first image, observer frame, median"),
    Column("delay_q16", "f8", "d", "stat.value;time.interval", f"{_LOW} delay"),
    Column("delay_q84", "f8", "d", "stat.value;time.interval", f"{_HIGH} delay"),
    Column("z_lens", "f8", "", "src.redshift", "Redshift of the lens that the delay was computed with"),
    Column("z_source", "f8", "", "src.redshift", "Redshift of the source that the delay was computed with"),
    Column("z_lens_from", "", "", "meta.note", "Where it comes from: a column, or assumed"),
    Column("z_source_from", "", "", "meta.note", "Where it comes from: a column, or assumed"),
)  # fmt: skip

KEYWORDS = {
    "candidates": "CANDFILE",
    "content_hash": "CONTHASH",
    "version": "LENSSCAN",
    "cosmology": "COSMO",
    "H0": "H0",
    "Om0": "OM0",
    "samples": "NSAMPLES",
    "seed": "SEED",
    "z_lens": "ZLENS",
    "z_source": "ZSOURCE",
}
"""Header keywords of the FITS file."""


def image_table(
    candidates: QTable,
    predictions: Sequence[Prediction],
    redshifts: Mapping[str, tuple[NDArray[np.float64], list[str]]],
    wcs: NDArray[np.float64],
    meta: Mapping[str, Any],
) -> QTable:
    """Return the table of predicted images.

    Parameters
    ----------
    candidates : QTable
        n rows of a ranked table.
    predictions : sequence of Prediction
        One per mode.
    redshifts : mapping
        ``z_lens`` and ``z_source`` -> values (n,) and where each comes from.
    wcs : ndarray, shape (n, 6)
        As `lensscan.survey.stamps.Batch.wcs`; NaN without.
    meta : mapping
        Goes into the header.
    """
    from astropy.table import QTable, vstack

    parts = [_mode_table(candidates, prediction, redshifts, wcs) for prediction in predictions]
    table = vstack(parts, metadata_conflicts="silent") if len(parts) > 1 else parts[0]
    result = QTable()
    for column in COLUMNS:
        values = table[column.name]
        result[column.name] = values.astype(column.dtype) if column.dtype else values
        if column.unit:
            result[column.name] = np.asarray(values, dtype=column.dtype)
            result[column.name].unit = column.unit
        result[column.name].info.description = column.description
        if column.ucd:
            result[column.name].info.meta = {"ucd": column.ucd}
    result.meta.update(meta)
    return QTable(result)


def _mode_table(
    candidates: QTable,
    prediction: Prediction,
    redshifts: Mapping[str, tuple[NDArray[np.float64], list[str]]],
    wcs: NDArray[np.float64],
) -> Any:
    from astropy.table import Table

    rows = np.maximum(prediction.n_images, 1)
    of = np.repeat(np.arange(len(rows)), rows)
    place = np.arange(len(of)) - np.repeat(np.cumsum(rows) - rows, rows)
    number = prediction.n_images[of]
    table = Table()
    table["rank"] = np.asarray(candidates["rank"])[of]
    table["id"] = np.asarray(candidates["id"])[of]
    table["mode"] = np.full(len(of), prediction.mode)
    table["image"] = np.where(number > 0, place + 1, 0)
    table["n_images"] = number
    table["p_n_images"] = prediction.p_number[of, number]
    table["p_number"] = prediction.p_number[of]
    table["p_first"] = prediction.p_first[of]
    for name, values in prediction.values.items():
        for suffix, level in (("", 0), ("_q16", 1), ("_q84", 2)):
            table[f"{name}{suffix}"] = values[of, level, place]
    table["parity"] = np.nan_to_num(np.sign(table["magnification"])).astype(np.int16)
    ra0, dec0, xi_x, xi_y, eta_x, eta_y = wcs[of].T
    x, y = np.asarray(table["x"]), np.asarray(table["y"])
    table["ra"], table["dec"] = deproject(ra0, dec0, xi_x * x + xi_y * y, eta_x * x + eta_y * y)
    for name, (values, origin) in redshifts.items():
        table[name], table[f"{name}_from"] = values[of], np.array(origin)[of]
    return table


def write_table(table: QTable, path: str | Path, to: str) -> None:
    """Write the table; replaced in one step.

    Parameters
    ----------
    table : QTable
        From `image_table`.
    path : str or Path
    to : str
        One of `FORMATS`.

    Raises
    ------
    ConfigError
        If the format is unknown.
    OutputError, DiskError
        If the file cannot be written.
    """
    if to not in FORMATS:
        raise ConfigError(f"--to {to}: known formats are {', '.join(FORMATS)}")
    with replacing(path) as temporary:
        FORMATS[to](table, temporary)


def _write_ecsv(table: QTable, path: Path) -> None:
    table.write(path, format="ascii.ecsv", overwrite=True)


def _write_hdf5(table: QTable, path: Path) -> None:
    with new_hdf5(path) as file:
        table.write(file, format="hdf5", path="images", serialize_meta=True)


def _write_fits(table: QTable, path: Path) -> None:
    from astropy.table import Table

    cards = {keyword: table.meta[name] for name, keyword in KEYWORDS.items() if name in table.meta}
    columns = {column.name: column for column in COLUMNS}
    write_fits_table(Table(table), path, "IMAGES", cards, columns.__getitem__)


FORMATS: dict[str, Callable[[QTable, Path], None]] = {"ecsv": _write_ecsv, "fits": _write_fits, "hdf5": _write_hdf5}
