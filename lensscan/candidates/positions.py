"""Image positions, magnifications and time delays of candidates, with intervals from posterior samples.

Three modes, never mixed, because they answer different questions:

- ``posterior``: mass model and source both from the posterior; needs nothing else;
- ``first_image``: the position of the first image is known (a supernova or quasar was seen); each sample maps
  it to its own source.  This is how we understand the test of HOLISMOKES IV (Schuldt+2021, A&A 646, A126): the
  first-arriving image is taken as known, the predicted mass model gives source and later images.  The section
  of their text that defines it could not be read (docs/decisions.md, Lensing): UNVERIFIED;
- ``true_source``: the source position is known (mocks); what remains is the error of the mass model alone.

Images are matched by their order of arrival.  Samples with another number of images than the most probable
one have no k-th image to compare: they do not enter the intervals, and their fraction stands beside each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lensscan.lens.sie import SIE
from lensscan.lens.solver import MOST_IMAGES

__all__ = ["MODES", "QUANTITIES", "Prediction", "TrueImages", "predict", "true_images"]

MODES = ("posterior", "first_image", "true_source")
QUANTITIES = ("x", "y", "magnification", "delay")
LEVELS = (0.5, 0.16, 0.84)
COINCIDENT = 1e-6
"""Arcsec; an image this close to the known first one is that image."""
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one mode says about n candidates.

    Attributes
    ----------
    mode : str
        One of `MODES`.
    n_images : ndarray of int, shape (n,)
        The most probable number of images; 0 without a posterior, or without the known position of the mode.
    p_number : ndarray, shape (n, 9)
        Fraction of the samples that make 0 to 8 images.
    values : dict of ndarray, shape (n, 3, 8)
        `QUANTITIES` -> median, 16 % and 84 % quantile of the images in order of arrival, over the samples with
        `n_images` images; x, y in arcsec, delay in days after the first image; NaN beyond `n_images`.
    p_first : ndarray, shape (n,)
        Fraction of the samples in which the known image arrives first; NaN in the other modes.
    samples : dict of ndarray, shape (n, S, 8)
        x and y of the images of every sample.
    """

    mode: str
    n_images: NDArray[np.int64]
    p_number: Array
    values: dict[str, Array]
    p_first: Array
    samples: dict[str, Array]


@dataclass(frozen=True, slots=True)
class TrueImages:
    """Images of known lenses and sources: x, y, magnification and delay of shape (n, 8), and their number (n,)."""

    x: Array
    y: Array
    magnification: Array
    delay: Array
    count: NDArray[np.int64]


def predict(
    samples: Array, scale: Array, mode: str = "posterior", known: Array | None = None, together: int = 1
) -> Prediction:
    """Predict the images of candidates.

    Parameters
    ----------
    samples : ndarray, shape (n, S, 7)
        Posterior samples of theta_E, e1, e2, x, y, sx, sy; NaN where there is no posterior.
    scale : ndarray, shape (n,)
        Days per arcsec^2 of Fermat potential, from `lensscan.lens.cosmology.time_delay_scale`.
    mode : str
        One of `MODES`.
    known : ndarray, shape (n, 2)
        Arcsec: the first image in mode ``first_image``, the source in mode ``true_source``.
    together : int
        Candidates in one call of the solver: many are several times faster.

    Returns
    -------
    Prediction
        One at a time, a candidate's values depend on its own samples alone to the last bit; many together, to rounding.

    Raises
    ------
    ValueError
        If the mode is unknown, or `known` is missing or not wanted.
    """
    if mode not in MODES or (known is None) != (mode == "posterior"):
        raise ValueError(f"mode {mode!r} with known {'positions' if known is not None else 'nothing'}")
    n, size = samples.shape[:2]
    result = Prediction(
        mode=mode,
        n_images=np.zeros(n, dtype=np.int64),
        p_number=np.full((n, MOST_IMAGES + 1), np.nan),
        values={name: np.full((n, len(LEVELS), MOST_IMAGES), np.nan) for name in QUANTITIES},
        p_first=np.full(n, np.nan),
        samples={name: np.full((n, size, MOST_IMAGES), np.nan) for name in "xy"},
    )
    fine = np.isfinite(samples).all(axis=(1, 2))
    if known is not None:
        fine &= np.isfinite(known).all(axis=1)
    rows = np.flatnonzero(fine)
    for start in range(0, len(rows), together):
        block = rows[start : start + together]
        found = _solve(mode, samples[block], scale[block], None if known is None else known[block])
        for place, k in enumerate(block):
            _fill(result, k, {name: value[place] for name, value in found.items()}, None if known is None else known[k])
    return result


def _solve(mode: str, samples: Array, scale: Array, known: Array | None) -> dict[str, NDArray[Any]]:
    """Return `QUANTITIES` (k, S, 8) and ``count`` (k, S) of the images of all samples, in one call of the solver."""
    shape = samples.shape[:2]
    columns = [torch.from_numpy(np.ascontiguousarray(column)) for column in samples.reshape(-1, samples.shape[2]).T]
    lens = SIE(*columns[:5])
    sx, sy = columns[5], columns[6]
    if known is not None:
        px, py = (torch.from_numpy(np.repeat(column, shape[1])) for column in known.T)
        sx, sy = lens.source(px, py) if mode == "first_image" else (px, py)
    images = lens.images(sx, sy)
    fermat = images.fermat.numpy()
    delay = (fermat - fermat[:, :1]) * np.repeat(scale, shape[1])[:, None]
    found = {
        "x": images.x.numpy(),
        "y": images.y.numpy(),
        "magnification": images.magnification.numpy(),
        "delay": delay,
    }
    return {"count": images.count.numpy().reshape(shape)} | {
        name: value.reshape(*shape, value.shape[1]) for name, value in found.items()
    }


def _fill(result: Prediction, k: int, found: dict[str, NDArray[Any]], place: Array | None) -> None:
    """Fill row k from the images of its samples."""
    count = found.pop("count")
    number = np.bincount(count, minlength=MOST_IMAGES + 1)
    most = int(number.argmax())
    result.p_number[k], result.n_images[k] = number / len(count), most
    for name in "xy":
        result.samples[name][k] = found[name]
    if most:
        same = count == most
        for name, value in found.items():
            result.values[name][k, :, :most] = np.quantile(value[same, :most], LEVELS, axis=0)
    if result.mode == "first_image" and place is not None:
        away = np.hypot(found["x"][:, 0] - place[0], found["y"][:, 0] - place[1])
        result.p_first[k] = np.mean(away < COINCIDENT)


def true_images(truth: dict[str, Array], scale: Array) -> TrueImages:
    """Return the images of known systems.

    Parameters
    ----------
    truth : dict of ndarray, shape (n,)
        theta_E, e1, e2, x, y, sx, sy (arcsec where lengths) and, if there, gamma1, gamma2; NaN where there is
        no lens.
    scale : ndarray, shape (n,)
        Days per arcsec^2.
    """
    names = ("theta_E", "e1", "e2", "x", "y", "gamma1", "gamma2", "sx", "sy")
    n = len(scale)
    columns = [np.asarray(truth.get(name, np.zeros(n)), dtype=np.float64) for name in names]
    fine = np.isfinite(columns).all(axis=0)
    *lens, sx, sy = (torch.from_numpy(np.ascontiguousarray(column[fine])) for column in columns)
    images = SIE(*lens).images(sx, sy)
    fermat = images.fermat.numpy()
    parts = (images.x, images.y, images.magnification, (fermat - fermat[:, :1]) * np.asarray(scale)[fine][:, None])
    full = [np.full((n, MOST_IMAGES), np.nan) for _ in parts]
    for array, value in zip(full, parts, strict=True):
        array[fine] = value
    count = np.zeros(n, dtype=np.int64)
    count[fine] = images.count.numpy()
    x, y, magnification, delay = full
    return TrueImages(x, y, magnification, delay, count)
