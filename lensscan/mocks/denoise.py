"""One image of a real galaxy made fit to be a lensed source: no sky, no neighbours, no noise, no edge.

A lens magnifies what it is given: noise of one pixel becomes a clump, an image's edge an arc.  So the sky is
taken off, noise is removed scale by scale in a starlet transform (Starck & Murtagh 2006, "Astronomical Image and
Data Analysis", ch. 2; shrinkage by the non-negative garrote of Breiman 1995, Technometrics 37, 373), all that is
not connected with the galaxy above an isophote is cut away with a soft edge, and what is left fades before it
reaches the border.  Deconvolution is not attempted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["CleanGalaxy", "Unusable", "clean_galaxy", "half_light_radius", "on_grid"]

Array = NDArray[np.float64]
SMALLEST = 12  # pixels of a side
MISSING = 0.02  # largest share of pixels without a value
SCALES = 4
SPLINE = np.array([1, 4, 6, 4, 1]) / 16
WHITE = (0.8908, 0.2007, 0.0856, 0.0413)  # noise of the starlet scales for unit white noise
SMOOTHED = 0.1235  # noise of the image smoothed by two scales, for unit white noise
THRESHOLD = (4.0, 3.5, 3.0, 3.0)  # sigma; the finest scale has the most pixels
PASSES = 2  # of the denoising
DETECTED = 3.0  # sigma of the smoothed image: the isophote
CENTRAL = 6.0  # the same at the galaxy's peak
AREA = 20  # pixels within the isophote
FAINTEST = 20.0  # total flux over its noise
CUT_OFF = 0.1  # largest share of the light that fading at the border may take
RESOLVED = 2.0  # pixels of half-light radius
SOFT = 1.5  # pixels, standard deviation of the isophote's edge
FADE = 0.2  # of the way from border to centre, over which the image fades
FAINT_LIGHT = 1e-3  # of the peak: below it nothing is kept


class Unusable(Exception):
    """An image that cannot serve as a source; the message is the reason, in a few words."""


@dataclass(frozen=True, slots=True)
class CleanGalaxy:
    """A cleaned image.

    Attributes
    ----------
    image : ndarray, shape (H, W)
        Not negative, zero at the border; in the units of the input.
    x, y : float
        Centroid, pixels (0-based column and row).
    radius : float
        Half-light radius, pixels.
    reach : float
        Half the side of the smallest square about the centroid that holds all light, pixels.
    """

    image: Array
    x: float
    y: float
    radius: float
    reach: float


def clean_galaxy(image: NDArray[np.floating]) -> CleanGalaxy:
    """Clean one image, shape (H, W).

    Raises
    ------
    Unusable
        With the reason: too small, missing pixels, no galaxy at the centre, too faint, cut off, unresolved.
    """
    if image.ndim != 2 or min(image.shape) < SMALLEST:
        raise Unusable("too small")
    values = np.asarray(image, np.float64)
    good = np.isfinite(values)
    if (~good).mean() > MISSING:
        raise Unusable("missing pixels")
    level, sigma = _sky(values, good)
    values = np.where(good, values - level, 0.0)
    smooth, plain = _denoise(values, sigma)
    weight = _isophote(plain, sigma)
    light = np.maximum(smooth, 0.0) * weight
    noise = sigma * math.sqrt(float((weight**2).sum()))
    if not light.sum() > FAINTEST * noise:
        raise Unusable("too faint")
    faded = light * np.outer(_fade(len(light)), _fade(light.shape[1]))
    if faded.sum() < (1 - CUT_OFF) * light.sum():
        raise Unusable("cut off by its image's border")
    faded[faded < FAINT_LIGHT * faded.max()] = 0.0
    rows, columns = _places(faded.shape)
    total = faded.sum()
    x, y = float((faded * columns).sum() / total), float((faded * rows).sum() / total)
    radius = half_light_radius(faded, x, y)
    if radius < RESOLVED:
        raise Unusable("unresolved")
    lit = faded > 0
    reach = float(max(np.abs(columns[lit] - x).max(), np.abs(rows[lit] - y).max()))
    return CleanGalaxy(faded, x, y, radius, reach)


def half_light_radius(image: Array, x: float, y: float) -> float:
    """Return the radius (pixels) of the circle about (x, y) that holds half of the light of `image` (H, W).

    Pixels count as a whole, by the distance of their centres; the curve of growth is interpolated in area.
    """
    rows, columns = _places(image.shape)
    square = ((columns - x) ** 2 + (rows - y) ** 2).ravel()
    order = np.argsort(square, kind="stable")
    growth = np.cumsum(image.ravel()[order])
    first = int(np.searchsorted(growth, 0.5 * growth[-1]))
    low = growth[first - 1] if first else 0.0
    part = (0.5 * growth[-1] - low) / max(growth[first] - low, 1e-300)
    return math.sqrt((first + part) / math.pi)


def _places(shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return row and column of every pixel."""
    grid = np.indices(shape, dtype=np.float64)
    return grid[0], grid[1]


def on_grid(galaxy: CleanGalaxy, side: int) -> tuple[NDArray[np.float32], float]:
    """Return the galaxy on a square grid centred on it, of unit sum, and the grid's pixel in image pixels.

    The light fills the grid but for its outermost pixels, which are zero.  Small images are interpolated (cubic
    splines), larger ones are smoothed to the new pixel first.
    """
    step = galaxy.reach / (side / 2 - 2)
    values = ndimage.gaussian_filter(galaxy.image, 0.4 * step) if step > 1 else galaxy.image
    offset = (np.arange(side) - (side - 1) / 2) * step
    places = np.meshgrid(galaxy.y + offset, galaxy.x + offset, indexing="ij")
    grid = np.maximum(ndimage.map_coordinates(values, places, order=3, mode="constant"), 0.0)
    grid[[0, -1]] = 0.0
    grid[:, [0, -1]] = 0.0
    return (grid / grid.sum()).astype(np.float32), step


def _sky(values: Array, good: NDArray[np.bool_]) -> tuple[float, float]:
    """Return level and noise per pixel of the four corners, clipped."""
    high, wide = (max(3, side // 6) for side in values.shape)
    corner = np.zeros(values.shape, np.bool_)
    for rows in (slice(None, high), slice(-high, None)):
        corner[rows, :wide] = corner[rows, -wide:] = True
    sample = values[corner & good]
    level, sigma = 0.0, 0.0
    for _ in range(5):
        if not len(sample):
            break
        level = float(np.median(sample))
        sigma = 1.4826 * float(np.median(np.abs(sample - level)))
        sample = sample[np.abs(sample - level) <= 3 * sigma]
    span = float(values[good].max() - values[good].min()) if good.any() else 0.0
    if not span > 0:
        raise Unusable("no galaxy at the centre")
    return level, max(sigma, 1e-4 * span)


def _denoise(values: Array, sigma: float) -> tuple[Array, Array]:
    """Return the image without noise, and the image smoothed by two scales.

    What one pass takes from the galaxy (every scale gives up what is below its threshold, and the profile gets
    blunter) is found significant in the residuals, added up over neighbouring
    pixels; a second pass brings most of it back.
    """
    details, coarse, second = _starlet(values)
    quiet = np.zeros(len(details))
    for scale, detail in enumerate(details[:2]):
        quiet[scale] = 1.4826 * float(np.median(np.abs(detail[_rim(values.shape)]))) / (WHITE[scale] * sigma)
    # Drizzled pixels share their noise: coarser scales hold more of it than white noise would have.
    gain = np.full(len(details), max([1.0, *quiet[1:2]]))
    gain[0] = 1.0
    limits = [THRESHOLD[k] * gain[k] * WHITE[k] * sigma for k in range(len(details))]
    result = np.zeros_like(values)
    for number in range(PASSES):
        if number:
            details, coarse, _ = _starlet(values - result)
        result += coarse
        for detail, limit in zip(details, limits, strict=True):
            result += detail * np.maximum(1 - (limit / np.maximum(np.abs(detail), 1e-300)) ** 2, 0.0)
    return result, second


def _starlet(values: Array) -> tuple[list[Array], Array, Array]:
    """Return the details of every scale, what is left, and the image smoothed by two scales."""
    details: list[Array] = []
    coarse, second = values, values
    for scale in range(max(1, min(SCALES, int(math.log2(min(values.shape) / 6))))):
        kernel = np.zeros(4 * 2**scale + 1)
        kernel[:: 2**scale] = SPLINE
        smooth = ndimage.convolve1d(ndimage.convolve1d(coarse, kernel, 0, mode="mirror"), kernel, 1, mode="mirror")
        details.append(coarse - smooth)
        coarse = smooth
        second = smooth if scale <= 1 else second
    return details, coarse, second


def _rim(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the outer sixth of an image, where there is mostly sky."""
    rim = np.ones(shape, np.bool_)
    high, wide = (max(2, side // 8) for side in shape)
    rim[high:-high, wide:-wide] = False
    return rim


def _isophote(plain: Array, sigma: float) -> Array:
    """Return the weight (0 to 1) of every pixel: soft-edged, 1 within the galaxy's isophote.

    The noise of the smoothed image is measured on its rim, but is at least that of white noise.
    """
    rim = plain[_rim(plain.shape)]
    white = SMOOTHED * sigma
    quiet = 1.4826 * float(np.median(np.abs(rim - np.median(rim))))
    noise = max(white, min(quiet, 3 * white))
    height, width = plain.shape
    middle = (slice(height // 4, height - height // 4), slice(width // 4, width - width // 4))
    row, column = np.unravel_index(int(plain[middle].argmax()), plain[middle].shape)
    row, column = int(row) + height // 4, int(column) + width // 4
    if plain[row, column] < CENTRAL * noise:
        raise Unusable("no galaxy at the centre")
    labels, _ = ndimage.label(plain > DETECTED * noise)
    mine = labels == labels[row, column]
    if mine.sum() < AREA:
        raise Unusable("too faint")
    others = (labels > 0) & ~mine
    grown = ndimage.binary_dilation(mine, iterations=2) & ~others
    return np.asarray(ndimage.gaussian_filter(grown.astype(np.float64), SOFT) * ~others)


def _fade(side: int) -> Array:
    """Return the fading along one axis: 1 inside, 0 at the border, with smooth ends."""
    distance = (np.arange(side) + 0.5) / (FADE * side)
    rise = np.minimum(np.minimum(distance, distance[::-1]), 1.0)
    return np.asarray(rise * rise * (3 - 2 * rise) * (np.minimum(np.arange(side), np.arange(side)[::-1]) > 0))
