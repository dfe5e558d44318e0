"""Classical baselines: histograms of oriented gradients, and features so plain that they tell a leaking set.

Every baseline is a few features and a logistic regression whose penalty is chosen by cross-validation.  The
first, after Avestruz+2019 (arXiv:1704.02322), is what a network must beat; the others (total flux, central
colour, pixels of the core, radial profile) must do badly, or the set tells lenses by something else than arcs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensscan.nets.logistic import PENALTIES, Logistic, fit_logistic

__all__ = [
    "BASELINES",
    "Baseline",
    "FittedBaseline",
    "central_colour",
    "core_pixels",
    "fill_missing",
    "hog_features",
    "log_contrast",
    "radial_profile",
    "total_flux",
]

Images = NDArray[np.floating]
Features = NDArray[np.floating]

FLUX_UNIT = 10.0
"""nJy at which the plain features turn from linear to logarithmic."""
FAINTEST = 0.01
"""Faintest flux told from none in `log_contrast`, as a fraction of the stamp's range."""
CORE = 16
COLOUR_RADIUS = 3.0
AT_ONCE = 256
SMALL = 1e-5


@dataclass(frozen=True, slots=True)
class Baseline:
    """A feature and how its logistic regression is fitted.

    Attributes
    ----------
    features : callable
        Maps stamps (n, C, S, S) in nJy without missing pixels to features (n, f).
    penalties : sequence of float
        Inverse strengths of the penalty to choose from, by the area under the ROC curve.
    folds : int
        Of the cross-validation, stratified, dealt by `seed`; see `lensscan.nets.logistic.fit_logistic`.
    seed : int
    """

    features: Callable[[Images], Features]
    penalties: Sequence[float] = PENALTIES
    folds: int = 4
    seed: int = 1

    def fit(self, images: Images, labels: NDArray[np.bool_], groups: NDArray[np.int64] | None = None) -> FittedBaseline:
        """Fit on stamps (n, C, S, S) in nJy, NaN = missing, and labels (n,), True = lens.

        Stamps of one group (n,), such as those of one galaxy, share a fold; default: each has its own.

        Raises
        ------
        ValueError
            If labels do not fit the stamps or hold one class only.
        """
        return self.fit_features(self.features(fill_missing(images)), labels, groups)

    def fit_features(
        self, features: Features, labels: NDArray[np.bool_], groups: NDArray[np.int64] | None = None
    ) -> FittedBaseline:
        """Fit on what `features` makes of stamps, (n, f); all else as of `fit`."""
        fitted = fit_logistic(
            features, labels, penalties=self.penalties, folds=self.folds, seed=self.seed, groups=groups
        )
        return FittedBaseline(self, fitted)


@dataclass(frozen=True, slots=True)
class FittedBaseline:
    """A fitted baseline.

    Attributes
    ----------
    baseline : Baseline
    estimator : Logistic
    """

    baseline: Baseline
    estimator: Logistic

    def score(self, images: Images) -> NDArray[np.float64]:
        """Return the log odds (n,) of stamps (n, C, S, S) in nJy, NaN = missing."""
        if not len(images):
            return np.empty(0)
        return self.estimator.score(self.baseline.features(fill_missing(images)))


def fill_missing(images: Images) -> NDArray[np.float64]:
    """Replace missing pixels (NaN) by the mean of their neighbours, ring by ring; wholly missing bands by 0.

    Parameters
    ----------
    images : (..., S, S) array

    Returns
    -------
    (..., S, S) float64 array, a copy
    """
    filled = np.array(images, dtype=np.float64)
    flat = filled.reshape(-1, *filled.shape[-2:])
    for row in np.flatnonzero(~np.isfinite(flat).all(axis=(1, 2))):
        flat[row] = _filled_band(flat[row])
    return filled


def _filled_band(band: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(band)
    if not known.any():
        return np.zeros_like(band)
    while not known.all():
        values, counts = (_around(part) for part in (np.where(known, band, 0.0), known.astype(np.float64)))
        reached = ~known & (counts > 0)
        band = np.where(reached, values / np.maximum(counts, 1.0), band)
        known = known | reached
    return band


def _around(band: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, for each pixel, the sum over the 3 x 3 pixels about it."""
    padded = np.pad(band, 1)
    height, width = band.shape
    parts = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.sum(parts, axis=0)


def log_contrast(images: Images) -> NDArray[np.float64]:
    """Return the normalised log contrast of stamps (..., S, S): 0 at the faintest pixel, 1 at the brightest.

    The flux above the faintest pixel, in units of `FAINTEST` of the range, goes through log(1 + .): assumed,
    for the paper says "normalised log contrast" only.
    """
    low, high = images.min(axis=(-2, -1), keepdims=True), images.max(axis=(-2, -1), keepdims=True)
    fraction = (images - low) / np.where(high > low, high - low, 1.0)
    return np.asarray(np.log1p(fraction / FAINTEST) / np.log1p(1 / FAINTEST))


def hog_features(images: Images, orientations: int = 9, cell: int = 5, block: int = 2) -> Features:
    """Return the histograms of oriented gradients of the log contrast, band after band.

    As in Dalal & Triggs 2005, without interpolation between bins: gradients by differences of the neighbours on both
    sides (zero on the border), histograms of their size in cells, normalised over overlapping blocks of cells, clipped
    at 0.2 and normalised again.

    Parameters
    ----------
    images : (n, C, S, S) array
        nJy, without missing pixels.
    orientations : int
        Bins in angle, over 180 degrees.
    cell, block : int
        Pixels on a side of a cell; cells on a side of a block, over which histograms are normalised.
    """
    parts = [
        _gradient_histograms(log_contrast(images[start : start + AT_ONCE]), orientations, cell, block)
        for start in range(0, len(images), AT_ONCE)
    ]
    return np.concatenate(parts)


def _gradient_histograms(images: Images, orientations: int, cell: int, block: int) -> NDArray[np.float32]:
    """Return the blocks of `hog_features` (n, f) of stamps (n, C, S, S), float32."""
    images = np.asarray(images, np.float32)
    down, right = np.zeros_like(images), np.zeros_like(images)
    down[..., 1:-1, :] = images[..., 2:, :] - images[..., :-2, :]
    right[..., :, 1:-1] = images[..., :, 2:] - images[..., :, :-2]
    size = np.hypot(down, right)
    angle = np.degrees(np.arctan2(down, right)) % 180
    number = np.minimum((angle * (orientations / 180)).astype(np.int8), orientations - 1)
    side = images.shape[-1] // cell
    inner = slice(0, side * cell)
    tiles = (*images.shape[:2], side, cell, side, cell)
    size, number = (each[..., inner, inner].reshape(tiles) for each in (size, number))
    cells = np.stack([np.where(number == k, size, 0).sum(axis=(3, 5)) for k in range(orientations)], axis=-1)
    cells /= cell * cell
    blocks = np.lib.stride_tricks.sliding_window_view(cells, (block, block), axis=(2, 3))
    blocks = np.moveaxis(blocks, 4, -1).reshape(*blocks.shape[:4], -1)
    blocks = np.minimum(blocks / np.sqrt((blocks**2).sum(axis=-1, keepdims=True) + SMALL**2), 0.2)
    blocks = blocks / np.sqrt((blocks**2).sum(axis=-1, keepdims=True) + SMALL**2)
    return np.asarray(blocks.reshape(len(images), -1), np.float32)


def total_flux(images: Images) -> Features:
    """Return the flux of each band (n, C), as asinh(f / 10 nJy)."""
    return np.asarray(np.arcsinh(images.sum(axis=(2, 3)) / FLUX_UNIT), np.float64)


def central_colour(images: Images) -> Features:
    """Return the flux ratios of neighbouring bands within 3 pixels of the centre, (n, C - 1); 0 for one band."""
    centre = np.where(_radius(images.shape[-1]) <= COLOUR_RADIUS, images, 0.0).sum(axis=(2, 3))
    if centre.shape[1] == 1:
        return np.zeros((len(images), 1))
    return np.asarray(np.diff(np.arcsinh(centre / FLUX_UNIT), axis=1), np.float64)


def core_pixels(images: Images) -> Features:
    """Return the pixels of the central 16 x 16, as asinh(f / 10 nJy), (n, C * 256)."""
    low = max(0, (images.shape[-1] - CORE) // 2)
    core = images[:, :, low : low + CORE, low : low + CORE]
    return np.asarray(np.arcsinh(core / FLUX_UNIT), np.float64).reshape(len(images), -1)


def radial_profile(images: Images) -> Features:
    """Return the mean flux in rings one pixel wide out to the edge, as asinh(f / 10 nJy), (n, C * rings)."""
    ring = _radius(images.shape[-1]).astype(int)
    rings = range(images.shape[-1] // 2)
    profile = np.stack([images[:, :, ring == number].mean(axis=-1) for number in rings], axis=-1)
    return np.asarray(np.arcsinh(profile / FLUX_UNIT), np.float64).reshape(len(images), -1)


def _radius(size: int) -> NDArray[np.float64]:
    """Return the distance of every pixel of a stamp from its centre, pixels."""
    axis = np.arange(size) - (size - 1) / 2
    return np.asarray(np.hypot(axis[:, None], axis[None, :]))


BASELINES: Mapping[str, Baseline] = {
    "hog": Baseline(hog_features),
    "total-flux": Baseline(total_flux),
    "central-colour": Baseline(central_colour),
    "core": Baseline(core_pixels),
    "radial": Baseline(radial_profile),
}
"""The baselines by name; gates for a set of stamps: core below 0.55, radial below 0.60 in AUROC, else it leaks."""
