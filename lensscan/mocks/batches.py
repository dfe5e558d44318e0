"""Mocks laid into the batches that readers of files fill, so that they are scored as survey stamps are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lensscan.mocks.recipes import Recipe
from lensscan.mocks.simulate import Mocks
from lensscan.survey.placement import place_centred
from lensscan.survey.stamps import Batch, Frame

__all__ = ["fill_batch"]


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
    rows : slice
        Taken of each part.
    """
    images, present, fwhm = (
        np.concatenate([getattr(part, name)[rows].cpu().numpy() for part in parts])
        for name in ("images", "present", "fwhm")
    )
    missing = [None if part.missing is None else part.missing[rows].cpu().numpy() for part in parts]
    flagged = any(part is not None and part.any() for part in missing)
    bad = np.concatenate([np.zeros(images.shape, bool) if part is None else part for part in missing])
    chosen = [recipe.bands.index(band) for band in frame.bands]
    place = place_centred((recipe.size, recipe.size), frame.size)
    batch.clear()
    n = len(images)
    for row in range(n):
        for band, source in enumerate(chosen):
            gone = bad[row, source]
            if present[row, source]:
                place.put(np.where(gone, np.float32(0), images[row, source]), 1.0, batch.images[row, band])
            else:
                batch.images[row, band] = 0.0
            if place.padding or (flagged and gone.any()):
                place.put_mask(gone, batch.mask_of(row)[band])
    batch.present[:n], batch.fwhm[:n] = present[:, chosen], fwhm[:, chosen]
    batch.origin[:n] = np.array(place.offset) * frame.pixel_scale
    batch.close(n)
