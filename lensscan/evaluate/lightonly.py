"""What the light alone says: simple measurements of the stamps as they pass, and linear predictions from them.

They stand beside every table of a report.  A set that its total flux or its radial profile gives away leaks, and a
network that is no better than the light alone has learnt nothing about lensing.  The galaxies are dealt into two
halves, and each half is predicted by a fit to the other.

Baselines that are fitted once and kept, histograms of gradients among them, are in `lensscan.nets.baseline`; the
realism gate's probes stand on those.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lensscan.nets.logistic import deal_folds, solve_logistic
from lensscan.survey.stamps import Batch, Frame

__all__ = ["GROUPS", "Features", "columns_of", "halves", "linear_scores", "linear_values"]

Floats = NDArray[np.float64]
RINGS = 8
APERTURE = 1.5
"""Arcsec: Gaussian weight of centroid and moments, and radius of the colours' aperture."""
GROUPS = ("flux", "colour", "light", "radial")
RIDGE = 1e-3


class Features:
    """Measures batches of stamps as they pass.

    Total flux and aperture colours of every band, weighted centroid and second moments of the light over all
    bands, and the mean brightness in rings, all with asinh in units of the noise.

    Parameters
    ----------
    frame : Frame
    """

    def __init__(self, frame: Frame) -> None:
        axis = (np.arange(frame.size) - (frame.size - 1) / 2) * frame.pixel_scale
        self._x, self._y = np.meshgrid(axis, axis)
        radius = np.hypot(self._x, self._y)
        self._weight = np.exp(-0.5 * (radius / APERTURE) ** 2)
        ring = np.minimum((radius / (0.5 * frame.size * frame.pixel_scale) * RINGS).astype(int), RINGS)
        self._rings = np.stack([(ring == k) / max((ring == k).sum(), 1) for k in range(RINGS)])
        self._n_bands = len(frame.bands)
        self._parts: list[Floats] = []

    def add(self, batch: Batch, sigma: NDArray[np.float32]) -> None:
        """Measure the used rows of a batch; `sigma` (n, C) is the noise per pixel, nJy."""
        n = batch.n
        noise = np.where(np.isfinite(sigma) & (sigma > 0), sigma, 1.0)[:, :, None, None]
        images = batch.images[:n] / noise
        if batch.masked:
            images = np.where(batch.mask[:n], 0.0, images)
        total = images.sum(axis=(2, 3)) / images.shape[-1]
        inner = np.maximum((images * self._weight).sum(axis=(2, 3)), 1.0)
        colours = np.diff(np.log(inner), axis=1) if self._n_bands > 1 else np.log(inner)
        light = images.sum(axis=1)
        radial = np.einsum("nyx,kyx->nk", light, self._rings)
        self._parts.append(
            np.concatenate([np.arcsinh(total), colours, self._moments(light), np.arcsinh(radial)], axis=1)
        )

    def _moments(self, light: NDArray[np.floating]) -> Floats:
        """Return x, y (arcsec), log size and two components of the ellipticity of the light, (n, 5)."""
        weighted = np.maximum(light, 0.0) * self._weight
        total = np.maximum(weighted.sum(axis=(1, 2)), 1e-9)
        x, y = ((weighted * axis).sum(axis=(1, 2)) / total for axis in (self._x, self._y))
        xx, yy, xy = (
            (weighted * product).sum(axis=(1, 2)) / total - mean
            for product, mean in (
                (self._x**2, x * x),
                (self._y**2, y * y),
                (self._x * self._y, x * y),
            )
        )
        size = np.maximum(xx + yy, 1e-6)
        return np.stack([x, y, np.log(size), (xx - yy) / size, 2 * xy / size], axis=1)

    def table(self) -> Floats:
        """Return the measurements of all rows, (n, k)."""
        return np.concatenate(self._parts).astype(np.float64)


def columns_of(group: str, n_bands: int) -> list[int]:
    """Return the columns of `Features.table` that make up one of `GROUPS`."""
    colours = max(n_bands - 1, 1)
    edges = np.cumsum([0, n_bands, colours, 5, RINGS])
    place = GROUPS.index(group)
    return list(range(edges[place], edges[place + 1]))


def halves(galaxy: NDArray[np.int64], labels: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Return which rows (n,) belong to the first half: every other galaxy.

    With `labels`, where a half would hold one class only, the galaxies of each class are dealt by themselves.
    """
    number = np.unique(galaxy, return_inverse=True)[1]
    first = number % 2 == 0
    if labels is None or all(len(np.unique(labels[half])) == 2 for half in (first, ~first)):
        return first
    return deal_folds(labels, number, 2, seed=0) == 0


def linear_scores(features: Floats, is_lens: NDArray[np.bool_], galaxy: NDArray[np.int64] | None = None) -> Floats:
    """Return the logits (n,) of a logistic regression with squares, each half predicted by the other.

    Parameters
    ----------
    features : (n, k) array
    is_lens : (n,) bool array
    galaxy : (n,) int array, optional
        Rows of one galaxy stay in one half; default: each row on its own.  A half that is predicted by a single
        class gets the logit 0: nothing can be learnt from that.
    """
    rows = _standardised(features, squares=True)
    score = np.zeros(len(rows))
    first = halves(np.arange(len(rows)) if galaxy is None else galaxy, is_lens)
    for fitted in (first, ~first):
        if len(np.unique(is_lens[fitted])) == 2:
            solution = solve_logistic(rows[fitted], is_lens[fitted], np.ones(fitted.sum()), RIDGE)
            score[~fitted] = rows[~fitted] @ solution[:-1] + solution[-1]
    return score


def linear_values(features: Floats, truth: Floats, galaxy: NDArray[np.int64] | None = None) -> Floats:
    """Return least-squares predictions of truths (n, p), each half predicted by the other; as in `linear_scores`."""
    rows = _standardised(features, squares=False)
    design = np.concatenate([np.ones((len(rows), 1)), rows], axis=1)
    values = np.zeros(truth.shape)
    first = halves(np.arange(len(rows)) if galaxy is None else galaxy)
    for fitted in (first, ~first):
        coefficients = np.linalg.lstsq(design[fitted], truth[fitted], rcond=None)[0]
        values[~fitted] = design[~fitted] @ coefficients
    return values


def _standardised(features: Floats, squares: bool) -> Floats:
    """Return standardised columns, with `squares` followed by their squares; clipped, so that no outlier leads."""
    middle, spread = np.median(features, axis=0), features.std(axis=0)
    scaled = np.clip((features - middle) / np.maximum(spread, 1e-9), -5, 5)
    return np.concatenate([scaled, scaled**2], axis=1) if squares else scaled
