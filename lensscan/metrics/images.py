"""Metrics of images: how far an image is from the true one, in decibel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["psnr"]

Floats = NDArray[np.floating]


def psnr(estimate: Floats, truth: Floats, peak: Floats) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio, 10 log10(peak^2 / mean square error), in dB, (n,).

    Parameters
    ----------
    estimate, truth : (n, C, S, S) arrays
        In one unit; every pixel of every band counts alike.
    peak : (n,) array
        Range of the values, in that unit.  Give modules that are compared the same.

    Returns
    -------
    ndarray
        Infinite where both agree in every pixel; NaN where the peak is not positive.
    """
    error = np.square(estimate.astype(np.float64) - truth).reshape(len(truth), -1).mean(axis=1)
    square = np.where(peak > 0, np.square(peak, dtype=np.float64), np.nan)
    with np.errstate(divide="ignore"):
        return np.asarray(10 * np.log10(square / error))
