from __future__ import annotations

import numpy as np
import pytest

from lensscan.schema import Flag, Status
from lensscan.survey.filling import Filling
from lensscan.survey.placement import place_centred
from lensscan.survey.quality import check_piece
from lensscan.survey.stamps import Frame, Located, Rows, allocate, number_files

FRAME = Frame(("g", "r", "i"), 16, 0.2, 2)


def rows(n: int) -> Rows:
    nan = np.full(n, np.nan)
    return Rows(np.arange(n), nan, nan, nan, nan, [""] * n, np.zeros(n, np.int64), np.zeros(n, np.uint8))


def settled(images: np.ndarray, bad: np.ndarray | None = None, frame: Frame = FRAME):
    """Fill one row with images (3, H, W) and settle it; None is an absent band."""
    batch = allocate(2, frame)
    filling = Filling(batch, 0, 1, frame, None)
    for band, image in enumerate(images):
        if image is None:
            filling.absent(0, band)
        else:
            filling.band(0, band, image, place_centred(image.shape, frame.size), 1.0, 0.8, bad)
    with np.errstate(all="ignore"):
        filling.finish(rows(1), 0)
    return batch


def noise(size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, size, size)).astype(np.float32)


def test_check_sees_every_single_bad_pixel():
    images = np.random.default_rng(1).normal(size=(5, 3, 16, 16)).astype(np.float32)
    assert check_piece(images).all()
    images[0, 0, 0, 0] = np.nan
    images[1, 1, 15, 15] = np.inf
    images[2, 2, 7, 3] = -np.inf
    images[3, 0] = 7.0
    images[4, 1, 3, 3] = 3e38
    images[4, 1, 3, 4] = -3e38
    expected = np.ones((5, 3), bool)
    expected[0, 0] = expected[1, 1] = expected[2, 2] = expected[3, 0] = False
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(check_piece(images), expected)


def test_a_clean_row_needs_no_mask():
    images = noise()
    batch = settled(images)
    assert (batch.status[0], batch.flags[0], batch.masked, batch.n) == (0, 0, False, 1)
    assert batch.present[0].all()
    np.testing.assert_array_equal(batch.images[0], images)


def test_a_band_that_begins_flat_is_no_blank():
    images = noise()
    images[1, 0] = 5.0
    batch = settled(images)
    assert batch.present[0].all()
    assert batch.flags[0] == 0


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda x: np.full_like(x, np.nan), Status.NOT_FINITE),
        (lambda x: np.full_like(x, -np.inf), Status.NOT_FINITE),
        (lambda x: np.zeros_like(x), Status.BLANK),
        (lambda x: np.where(np.arange(16) < 8, np.nan, 1.0).astype("f4") * np.ones_like(x), Status.BLANK),
        (lambda x: np.where(np.arange(16) < 9, np.nan, x), Status.MASKED),
        (lambda x: np.where(np.arange(3)[:, None, None] < 2, np.nan, x), Status.WRONG_BANDS),
    ],
)
def test_rows_with_too_little_left_fail_and_are_zeroed(change, status):
    batch = settled(change(noise()))
    assert batch.status[0] == status
    assert not batch.images[0].any()
    assert not batch.present[0].any()
    assert np.isnan(batch.fwhm[0]).all()


def test_half_masked_passes():
    images = np.where(np.arange(16) < 8, np.nan, noise()).astype(np.float32)
    batch = settled(images)
    assert batch.status[0] == Status.PENDING
    assert batch.flags[0] == Flag.MASKED
    assert batch.mask[0].sum() == 3 * 16 * 8


def test_absent_bands_are_not_masked():
    images = noise()
    batch = settled([images[0], None, images[2]])
    assert batch.status[0] == Status.PENDING
    assert batch.present[0].tolist() == [True, False, True]
    assert batch.flags[0] == Flag.MISSING_BAND
    assert not batch.masked
    assert settled([images[0], None, None]).status[0] == Status.WRONG_BANDS


def test_padding_is_masked_but_is_no_loss():
    batch = settled(noise(10))
    assert batch.status[0] == Status.PENDING
    assert batch.flags[0] == Flag.MASKED
    assert batch.mask[0].sum() == 3 * (256 - 100)
    assert batch.padding[0] == 156
    holes = noise(10)
    holes[:, :6] = np.nan
    assert settled(holes).status[0] == Status.MASKED


def test_bands_of_unequal_size_must_share_their_centre():
    big = np.random.default_rng(0).normal(size=(18, 18)).astype(np.float32)
    images = noise()
    assert settled([images[0], big, images[2]]).status[0] == Status.PENDING
    from lensscan.errors import StampError

    with pytest.raises(StampError):
        settled([images[0], big[:17, :17], images[2]])


def test_closing_zeroes_what_an_earlier_use_left():
    batch = allocate(4, FRAME)
    batch.images[...] = 1.0
    batch.present[...] = True
    batch.close(4)
    batch.clear()
    batch.open(0, 2)
    batch.images[:2] = 2.0
    batch.close(2)
    assert batch.n == 2
    assert not batch.images[2:].any()
    assert (batch.images[:2] == 2.0).all()
    assert not batch.present[2:].any()


def test_storage_order():
    located = Located(["b", "a", "b", "", "a"], np.array([2, 9, 1, 0, 3]), np.zeros(5, np.uint8))
    assert located.order().tolist() == [3, 4, 1, 2, 0]
    names, which = number_files(located.file)
    assert [names[i] for i in which] == located.file
