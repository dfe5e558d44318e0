"""Mocks in batches: what a reader of files would have put there."""

from __future__ import annotations

import numpy as np
import torch

from lensscan.mocks.batches import fill_batch
from lensscan.mocks.recipes import load_recipe
from lensscan.mocks.simulate import simulate
from lensscan.survey.stamps import Frame, allocate

RECIPE = load_recipe("des-griz")


def test_bands_missing_pixels_and_crops_of_the_frame():
    mocks = simulate(RECIPE, seed=3, n=6)
    mocks.missing = torch.zeros_like(mocks.images, dtype=torch.bool)
    mocks.missing[2, 1, 20:25, 30:33] = True
    mocks.present[4, 3] = False
    frame = Frame(("z", "r"), 63, RECIPE.pixel_scale, 1)
    batch = allocate(8, frame)
    batch.images[:] = 7.0
    fill_batch(batch, frame, RECIPE, [mocks], slice(1, 6))
    assert batch.n == 5
    images, missing = mocks.images.numpy(), mocks.missing.numpy()
    shift = np.round(batch.origin[0] / RECIPE.pixel_scale + 0.5).astype(int)  # half a pixel either way
    window = np.s_[shift[1] : shift[1] + 63, shift[0] : shift[0] + 63]
    for row in range(5):
        for band, source in enumerate((3, 1)):
            expected = np.where(missing[1 + row, source], 0.0, images[1 + row, source])[window]
            expected = expected if mocks.present[1 + row, source] else np.zeros_like(expected)
            np.testing.assert_array_equal(batch.images[row, band], expected)
    assert batch.masked
    assert batch.mask[1, 1].sum() == 15
    assert batch.mask[[0, 2, 3, 4]].sum() == 0
    assert batch.present[3].tolist() == [False, bool(mocks.present[4, 1])]
    np.testing.assert_array_equal(batch.fwhm[:5], mocks.fwhm.numpy()[1:6][:, [3, 1]])


def test_single_rows_of_several_parts():
    parts = [simulate(RECIPE, seed=3, start=row, n=1) for row in (5, 0)]
    frame = Frame(RECIPE.bands, RECIPE.size, RECIPE.pixel_scale, 1)
    batch = allocate(2, frame)
    fill_batch(batch, frame, RECIPE, parts, slice(0, 2))
    whole = simulate(RECIPE, seed=3, n=6).images.numpy()
    np.testing.assert_allclose(batch.images, whole[[5, 0]], atol=1e-5 * np.abs(whole).max())
    assert not batch.masked
