"""Mocks laid into the batches that readers of files fill, so that they are scored as survey stamps are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.mocks.recipes import Recipe
from lensscan.mocks.simulate import Mocks
from lensscan.schema import Flag
from lensscan.survey.placement import place_centred
from lensscan.survey.stamps import Batch, Frame, check_scale

__all__ = ["fill_batch", "lay"]


def fill_batch(
    batch: Batch, frame: Frame, recipe: Recipe, parts: Sequence[Mocks], rows: slice, resample: bool = False
) -> None:
    """Choose the network's bands of mocks, absent where the recipe lacks them, and `lay` them into a batch.

    Parameters
    ----------
    batch, frame
        As of `lay`.
    recipe : Recipe
    parts : sequence of Mocks
        Of that recipe: all state missing pixels, or none does.
    rows : slice
        Taken of each part.
    resample : bool
        Resample to the frame's pixels, flux-conserving, where they differ by more than 1 %, as a scan does.

    Raises
    ------
    ConfigError
        If pixels differ and `resample` is False.
    """
    known = [k for k, band in enumerate(frame.bands) if band in recipe.bands]
    chosen = [recipe.bands.index(frame.bands[k]) for k in known]
    resampled = check_scale(recipe.pixel_scale, frame, resample, f"recipe {recipe.name}")

    def joined(name: str, blank: float) -> NDArray[Any]:
        values = np.concatenate([getattr(part, name)[rows].cpu().numpy() for part in parts])[:, chosen]
        whole = np.full((len(values), len(frame.bands), *values.shape[2:]), blank, values.dtype)
        whole[:, known] = values
        return whole

    missing = None if parts[0].missing is None else joined("missing", False)
    step = frame.pixel_scale / recipe.pixel_scale if resampled else None
    lay(batch, frame, joined("images", 0.0), joined("present", False), joined("fwhm", np.nan), missing, step)


def lay(
    batch: Batch,
    frame: Frame,
    images: NDArray[np.float32],
    present: NDArray[np.bool_],
    fwhm: NDArray[np.float32],
    missing: NDArray[np.bool_] | None,
    step: float | None = None,
) -> None:
    """Lay stamps of the frame's bands into a batch as readers of files do: cropped, padded or resampled.

    Parameters
    ----------
    batch : Batch
        Of the frame's shape; closed on return.
    frame : Frame
    images : (n, C, S, S) array
        nJy per pixel.
    present, fwhm : (n, C) arrays
    missing : (n, C, S, S) array, or None
        Pixels without a value.
    step : float, optional
        Frame pixel in stamp pixels, to resample.
    """
    place = place_centred(images.shape[2:], frame.size, step)
    nothing = np.zeros(images.shape[2:], bool)
    batch.clear()
    n = len(images)
    for row in range(n):
        for band in range(len(frame.bands)):
            gone = nothing if missing is None else missing[row, band]
            if present[row, band]:
                place.put(np.where(gone, np.float32(0), images[row, band]), 1.0, batch.images[row, band])
            else:
                batch.images[row, band] = 0.0
            if place.padding or gone.any():
                place.put_mask(gone, batch.mask_of(row)[band])
    batch.present[:n], batch.fwhm[:n] = present, fwhm
    batch.origin[:n] = np.array(place.offset) * frame.pixel_scale
    if step is not None:
        batch.flags[:n] |= np.uint32(Flag.RESAMPLED)
    batch.close(n)
