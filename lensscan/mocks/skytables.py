"""The two tables beside a set of mocks: the catalog a survey would publish, and the truth, with units."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lensscan.files import ascii_text
from lensscan.mocks.population import flux
from lensscan.mocks.priors import Draws
from lensscan.mocks.recipes import CLASSES, Recipe
from lensscan.mocks.simulate import draw_truth
from lensscan.survey.zeropoint import NJY_ZERO_POINT

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["measured_magnitudes", "sky_tables", "stamp_centres", "unit_of"]

Array = NDArray[np.float64]
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


def unit_of(column: str) -> str | None:
    """Return the unit of a catalog or truth column; None for pure numbers."""
    return UNITS.get(column, "mag" if column.startswith(("mag_", "magerr_")) else None)


def stamp_centres(recipe: Recipe, seed: int, index: NDArray[np.int64]) -> tuple[Array, Array]:
    """Return RA and Dec (degrees) of the stamps' centres: random in RA 0 to 60, Dec -60 to 0 degrees."""
    draws = Draws(recipe.digest, seed, index)
    sine = draws.uniform("sky.dec", math.sin(math.radians(-60)), 0.0)
    return draws.uniform("sky.ra", 0.0, 60.0), np.degrees(np.arcsin(sine))


def sky_tables(recipe: Recipe, seed: int, n: int, files: NDArray[np.str_]) -> tuple[Table, Table]:
    """Return the survey catalog and the truth table of the rows 0 to n - 1.

    Parameters
    ----------
    files : ndarray of str, shape (n,)
        Where each row's stamp is, for the catalog's column ``file``.
    """
    from astropy.table import Table

    truth = draw_truth(recipe, seed=seed, n=n)
    extra = {key: truth.pop(key) for key in ("present", "fwhm", "sigma")}
    index = truth.pop("index")
    ra0, dec0 = stamp_centres(recipe, seed, index)
    ra, dec = _offset(ra0, dec0, truth["x_light"], truth["y_light"])
    catalog = Table({"id": index, "ra": ra, "dec": dec, "file": files})
    for k, band in enumerate(recipe.bands):
        catalog[f"mag_{band}"], catalog[f"magerr_{band}"] = measured_magnitudes(
            recipe, seed, index, k, truth[f"mag_{band}"], extra
        )
    names = np.array(CLASSES)[truth["klass"]]
    result = Table({"id": index, "is_lens": truth.pop("is_lens"), "class": names})
    ra, dec = _offset(ra0, dec0, truth["x"], truth["y"])
    for key, value in (truth | {"ra_lens": ra, "dec_lens": dec}).items():
        result[key] = value
    for table in (catalog, result):
        for key in table.colnames:
            table[key].unit = unit_of(key)
        table.meta.update({"RECIPE": ascii_text(recipe.name), "SEED": seed, "DIGEST": recipe.digest[:32]})
    return catalog, result


def measured_magnitudes(
    recipe: Recipe, seed: int, index: NDArray[np.int64], k: int, mag: Array, extra: dict[str, NDArray[Any]]
) -> tuple[Array, Array]:
    """Return noisy magnitudes and errors of band `k` (aperture radius 1.5 FWHM, 2 % floor); 99 where unseen.

    Parameters
    ----------
    mag : ndarray, shape (n,)
        True total magnitudes.
    extra : dict
        ``fwhm``, ``sigma`` and ``present`` of all bands, (n, C), as in `draw_truth`.
    """
    band = recipe.bands[k]
    light = flux(mag)
    pixels = math.pi * (1.5 * extra["fwhm"][:, k] / recipe.pixel_scale) ** 2
    noise = np.sqrt(pixels * extra["sigma"][:, k] ** 2 + recipe.band[band].poisson * light + (0.02 * light) ** 2)
    measured = light + noise * Draws(recipe.digest, seed, index).normal(f"catalog.{band}")
    seen = (measured > noise) & extra["present"][:, k]
    safe = np.where(seen, measured, 1.0)
    return (
        np.where(seen, NJY_ZERO_POINT - 2.5 * np.log10(safe), 99.0),
        np.where(seen, 2.5 / math.log(10) * noise / safe, 99.0),
    )


def _offset(ra: Array, dec: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Return the sky position of (x, y) arcsec on the tangent plane at (ra, dec); North up, East left."""
    xi, eta = np.radians(-x / 3600), np.radians(y / 3600)
    a, d = np.radians(ra), np.radians(dec)
    down = np.cos(d) - eta * np.sin(d)
    new = a + np.arctan2(xi, down)
    return np.degrees(new) % 360.0, np.degrees(np.arctan2(np.sin(d) + eta * np.cos(d), np.hypot(xi, down)))
