"""Mocks laid into the batches that readers of files fill, so that they are scored as survey stamps are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.mocks.recipes import Recipe
from lensscan.mocks.simulate import Mocks
from lensscan.survey.placement import place_centred
from lensscan.survey.stamps import Batch, Frame

__all__ = ["fill_batch", "lay"]


def fill_batch(batch: Batch, frame: Frame, recipe: Recipe, parts: Sequence[Mocks], rows: slice) -> None:
    """Lay rows of mocks into a batch as readers of files do: the network's bands, cropped or padded.

    Parameters
    ----------
    batch : Batch
        Of the frame's shape; closed on return.
    frame : Frame
        Its bands must be among the recipe's.
    recipe : Recipe
    parts : sequence of Mocks
        Of that recipe: all state missing pixels, or none does.
    rows : slice
        Taken of each part.
    """
    chosen = [recipe.bands.index(band) for band in frame.bands]

    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(part, name)[rows].cpu().numpy() for part in parts])[:, chosen]

    missing = None if parts[0].missing is None else joined("missing")
    lay(batch, frame, joined("images"), joined("present"), joined("fwhm"), missing)


def lay(
    batch: Batch,
    frame: Frame,
    images: NDArray[np.float32],
    present: NDArray[np.bool_],
    fwhm: NDArray[np.float32],
    missing: NDArray[np.bool_] | None,
) -> None:
    """Lay stamps of the frame's bands into a batch, cropped or padded.

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
    """
    place = place_centred(images.shape[2:], frame.size)
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
    batch.close(n)
