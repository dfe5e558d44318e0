"""Colour images of multi-band stamps: a colour-preserving asinh stretch in units of the sky noise.

The scale comes from the noise of each band alone, so the same surface brightness looks the same in every
stamp of a survey and no bright neighbour darkens the rest: nothing depends on the image's maximum.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["MISSING_COLOUR", "asinh_rgb", "border_sigma", "channel_weights", "wavelength"]

MISSING_COLOUR = (38, 38, 52)
_NM = {"u": 355, "b": 445, "g": 475, "v": 551, "r": 622, "vis": 715, "i": 763, "z": 905, "y": 962}
_NM |= {"j": 1250, "h": 1650, "k": 2150, "ks": 2150}


def wavelength(band: str) -> float | None:
    """Return the rough effective wavelength of a band in nm, or None if the name tells nothing.

    Known are the usual single letters in either case and HST or JWST names such as ``F814W`` (infrared
    names below F200 count in units of 10 nm).
    """
    name = band.strip().lower()
    if name in _NM:
        return float(_NM[name])
    match = re.fullmatch(r"f(\d{3})(w|lp|m|n|x)?2?", name)
    if match:
        number = int(match.group(1))
        return number * 10.0 if number < 200 else float(number)
    return None


def channel_weights(bands: int, order: Sequence[int] | None = None) -> NDArray[np.float64]:
    """Return the (3, bands) weights that mix bands into red, green and blue; each row sums to 1.

    Parameters
    ----------
    bands : int
        Number of bands.
    order : sequence of int, optional
        Band indices from the bluest to the reddest; default: as given.
    """
    order = list(range(bands)) if order is None else list(order)
    weights = np.zeros((3, bands))
    if bands == 1:
        weights[:] = 1.0
        return weights
    for place, band in enumerate(order):
        t = place / (bands - 1)
        weights[:, band] = np.clip(1 - 2 * np.abs(t - np.array([1.0, 0.5, 0.0])), 0, None)
    if bands == 2:
        weights[1] = 0.5
    return weights / weights.sum(axis=1, keepdims=True)


def border_sigma(images: ArrayLike, width: int | None = None) -> NDArray[np.float64]:
    """Return the noise of each band, (C,), from the clipped MAD of the stamp's border.

    Parameters
    ----------
    images : array_like, shape (C, H, W)
        Flux per pixel; NaN where missing.
    width : int, optional
        Width of the border in pixels; default a tenth of the smaller side, at least 2.

    Returns
    -------
    ndarray, shape (C,)
        Noise in the unit of `images`; NaN where a band has no finite border pixel or no scatter at all.
    """
    images = np.asarray(images, dtype=np.float64)
    channels, height, columns = images.shape
    width = width or max(2, min(height, columns) // 10)
    border = np.ones((height, columns), dtype=bool)
    if height > 2 * width and columns > 2 * width:
        border[width:-width, width:-width] = False
    sigma = np.full(channels, np.nan)
    for band in range(channels):
        values = images[band][border]
        values = values[np.isfinite(values)]
        for _ in range(3):
            if values.size == 0:
                break
            centre = np.median(values)
            spread = 1.4826 * np.median(np.abs(values - centre))
            if not spread > 0:
                break
            sigma[band] = spread
            values = values[np.abs(values - centre) < 3 * spread]
    return sigma


def asinh_rgb(
    images: ArrayLike,
    bands: Sequence[str] = (),
    *,
    sigma: ArrayLike | None = None,
    softening: float = 3.0,
    white: float = 150.0,
    black: float = -1.0,
) -> NDArray[np.uint8]:
    """Return a colour image of one stamp.

    Each band is divided by the geometric mean of its own noise and the typical noise of all bands: by its
    own noise alone every galaxy would look green, since the middle bands of most surveys are the deepest; by
    one noise for all, the blue bands would vanish.  The intensity (mean of the three channels) goes through
    ``asinh(I / softening) / asinh(white / softening)``; all three channels of a pixel are scaled by the same
    factor, so colours survive in bright centres [1]_.

    Parameters
    ----------
    images : array_like, shape (C, H, W)
        Flux per pixel, 1 to any number of bands; NaN where missing.
    bands : sequence of str, optional
        Names of the bands, used to sort them by wavelength; bands of unknown names stay in the given order,
        bluest first.
    sigma : array_like, shape (C,), optional
        Noise per pixel; NaN or None: measured on the border.
    softening, white, black : float
        Intensities in units of the noise: where the stretch turns from linear to logarithmic, what becomes
        white, and what becomes black.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        Rows in the order of the input (row 0 first); `MISSING_COLOUR` where no band has a value.

    References
    ----------
    .. [1] Lupton et al. 2004, PASP 116, 133.
    """
    images = np.asarray(images, dtype=np.float64)
    if images.ndim != 3:
        raise ValueError(f"images must have shape (bands, height, width), not {images.shape}")
    scaled = images / _scale(images, sigma)[:, None, None]
    finite = np.isfinite(scaled)
    weights = channel_weights(len(images), _order(bands, len(images)))
    channels = _mix(np.where(finite, scaled, 0.0), finite, weights) - black
    intensity = np.maximum(channels.mean(axis=0), 1e-6)
    stretched = np.arcsinh(intensity / softening) / np.arcsinh((white - black) / softening)
    result = np.clip(channels, 0, None) * (stretched / intensity)
    result /= np.maximum(result.max(axis=0), 1.0)
    picture = np.moveaxis((result * 255 + 0.5).astype(np.uint8), 0, -1)
    picture[~finite.any(axis=0)] = MISSING_COLOUR
    return np.ascontiguousarray(picture)


def _order(bands: Sequence[str], count: int) -> list[int]:
    lengths = [wavelength(band) for band in bands]
    if len(lengths) != count or any(length is None for length in lengths):
        return list(range(count))
    return sorted(range(count), key=lambda index: lengths[index] or 0.0)


def _scale(images: NDArray[np.float64], sigma: ArrayLike | None) -> NDArray[np.float64]:
    measured = border_sigma(images)
    noise = measured if sigma is None else np.asarray(sigma, dtype=np.float64)
    noise = np.where(np.isfinite(noise) & (noise > 0), noise, measured)
    known = np.isfinite(noise)
    if known.any():
        typical = np.exp(np.log(noise[known]).mean())
        return np.sqrt(np.where(known, noise, typical) * typical)
    finite = np.abs(images[np.isfinite(images)])
    level = float(np.median(finite)) if finite.size else 0.0
    return np.full(len(images), level or 1.0)


def _mix(scaled: NDArray[np.float64], finite: NDArray[np.bool_], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mix bands into (3, H, W); a channel without any value takes the mean of the bands that have one."""
    total = np.einsum("kc,chw->khw", weights, scaled)
    weight = np.einsum("kc,chw->khw", weights, finite.astype(np.float64))
    mean = scaled.sum(axis=0) / np.maximum(finite.sum(axis=0), 1)
    return np.where(weight > 1e-9, total / np.maximum(weight, 1e-9), mean)
