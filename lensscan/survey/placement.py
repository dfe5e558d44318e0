"""How an image of any size lies in the network's frame: crop, pad or resample, with the exact sub-pixel rest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.survey.resample import coverage, noise_gain, resampling_matrix

__all__ = ["MIN_FILL", "Placement", "Resampling", "place_about", "place_at", "place_centred"]

Floats = NDArray[np.float64]
MIN_FILL = 0.5
"""A stamp whose side covers less of the frame's side than this is no stamp (status ``wrong_shape``)."""
DRAWS = 0.05
"""A resampled pixel draws on an image pixel if its weight along an axis is larger than this."""
FULL = 0.99
"""A resampled pixel with less of its area on the image than this is missing."""


@dataclass(frozen=True, slots=True, eq=False)
class Resampling:
    """Matrices that bring one image shape to the frame's pixel scale.

    Attributes
    ----------
    rows, columns : (S, H) and (S, W) arrays
    beyond : (S, S) bool array
        Frame pixels that the image does not cover.
    noise : float
        Factor on the noise per pixel.
    """

    rows: Floats
    columns: Floats
    beyond: NDArray[np.bool_]
    noise: float

    @classmethod
    def of(cls, shape: tuple[int, int], size: int, step: float, first: tuple[float, float]) -> Resampling:
        """Resample an image of `shape`; the first frame pixel's centre lies at `first` (x, y) of the image."""
        rows = resampling_matrix(shape[0], size, step, first[1])
        columns = resampling_matrix(shape[1], size, step, first[0])
        cover = np.outer(coverage(shape[0], size, step, first[1]), coverage(shape[1], size, step, first[0]))
        return cls(rows, columns, cover < FULL, noise_gain(rows, columns))

    def spread(self, bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which frame pixels draw on a bad image pixel."""
        rows, columns = np.abs(self.rows) > DRAWS, np.abs(self.columns) > DRAWS
        return np.asarray((rows @ bad.astype(np.float32) @ columns.T) > 0.5)


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """One image shape laid into the frame.

    Attributes
    ----------
    source, target : (slice, slice)
        Rows and columns: ``frame[target] = image[source]`` where nothing is resampled.
    offset : (float, float)
        Frame centre minus the image's origin, in frame pixels, x then y.
    padding : int
        Frame pixels beyond the image.
    resampling : Resampling or None
    """

    source: tuple[slice, slice]
    target: tuple[slice, slice]
    offset: tuple[float, float]
    padding: int
    resampling: Resampling | None = None

    @property
    def whole(self) -> bool:
        """True if the image covers the frame and its pixels are taken as they are."""
        return self.resampling is None and not self.padding

    def put(self, image: NDArray[Any], factor: float, out: NDArray[np.float32]) -> None:
        """Write the image times `factor` into `out` (S, S); padding gets 0."""
        if self.resampling is not None:
            good = np.isfinite(image)
            values = np.where(good, image, 0.0).astype(np.float64)
            out[...] = self.resampling.rows @ values @ self.resampling.columns.T * factor
            return
        if self.padding:
            out[...] = 0.0
        source, target = image[self.source], out[self.target]
        if factor == 1.0:
            np.copyto(target, source, casting="unsafe")
        else:
            np.multiply(source, source.dtype.type(factor), out=target, casting="unsafe")

    def put_mask(self, bad: NDArray[np.bool_] | None, out: NDArray[np.bool_]) -> None:
        """Write to `out` (S, S) which frame pixels are missing, given the image's bad pixels."""
        if self.resampling is not None:
            out[...] = self.resampling.beyond
            if bad is not None:
                out |= self.resampling.spread(bad)
            return
        if self.padding:
            out[...] = True
        out[self.target] = False if bad is None else bad[self.source]


def _overlap(start: int, length: int, size: int) -> tuple[slice, slice]:
    """Return image and frame slices of a frame that begins at image pixel `start`."""
    low, high = max(start, 0), min(start + size, length)
    high = max(high, low)
    return slice(low, high), slice(low - start, high - start)


def _crop(shape: tuple[int, int], size: int, start: tuple[int, int], origin: tuple[float, float]) -> Placement:
    rows, columns = _overlap(start[1], shape[0], size), _overlap(start[0], shape[1], size)
    covered = (rows[0].stop - rows[0].start) * (columns[0].stop - columns[0].start)
    centre = (size - 1) / 2
    offset = start[0] + centre - origin[0], start[1] + centre - origin[1]
    return Placement((rows[0], columns[0]), (rows[1], columns[1]), offset, size * size - covered)


@lru_cache(maxsize=256)
def place_centred(shape: tuple[int, int], size: int, step: float | None = None) -> Placement:
    """Lay a stamp into the frame about its centre.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the stamp.
    size : int
        Side of the frame.
    step : float, optional
        Frame pixel in stamp pixels, to resample; None = pixels are taken as they are, so that the frame's
        centre may lie half a pixel off the stamp's, see `Placement.offset`.
    """
    height, width = shape
    origin = (width - 1) / 2, (height - 1) / 2
    if step is None:
        return _crop(shape, size, ((width - size) // 2, (height - size) // 2), origin)
    first = tuple(value - step * (size - 1) / 2 for value in origin)
    resampling = Resampling.of(shape, size, step, (first[0], first[1]))
    return Placement(
        (slice(0, height), slice(0, width)),
        (slice(0, size), slice(0, size)),
        (0.0, 0.0),
        int(resampling.beyond.sum()),
        resampling,
    )


@lru_cache(maxsize=64)
def place_about(shape: tuple[int, int], size: int, after: tuple[bool, bool]) -> Placement:
    """Lay a stamp into the frame as `place_centred` does, or one pixel on in x or y where there is a choice.

    Where the stamp is odd and the frame even, or the other way round, two places are equally near the stamp's
    centre; the one after is nearer to an object that lies beyond the centre.
    """
    height, width = shape
    start = [(side - size) // 2 + (side - size) % 2 * step for side, step in zip((width, height), after, strict=True)]
    return _crop(shape, size, (start[0], start[1]), ((width - 1) / 2, (height - 1) / 2))


def place_at(shape: tuple[int, int], size: int, x: float, y: float) -> Placement:
    """Lay the frame about position (x, y) of an image, centred on the nearest pixel position.

    Of two equally near positions the lower one is taken, as `place_centred` does.
    """
    start = tuple(int(np.ceil(value - (size - 1) / 2 - 0.5)) for value in (x, y))
    return _crop(shape, size, (start[0], start[1]), (x, y))
