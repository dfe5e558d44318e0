"""Made-up stamps for tests of the scorer: galaxies of random brightness, in batches as readers fill them."""

from __future__ import annotations

import numpy as np

from lensscan.nets.model import make_trivial
from lensscan.nets.scorer import Scorer
from lensscan.survey.stamps import allocate

BATCH = 64
BANDS = ("g", "r", "i", "z")


def made_up_stamps():
    """Return images (BATCH, 4, 64, 64), nJy."""
    rng = np.random.default_rng(2)
    images = rng.normal(0, 10, (BATCH, 4, 64, 64)).astype(np.float32)
    images[:, :, 24:40, 24:40] += rng.gamma(1, 80, (BATCH, 4, 16, 16)).astype(np.float32)
    return images


def fill(images, n=None, present=True, rows=BATCH):
    """Return a batch of `rows` with the first n images."""
    slot = allocate(rows, make_trivial(BANDS, 64, 0.263).frame())
    n = len(images) if n is None else n
    slot.images[:n] = images[:n]
    slot.present[:n] = present
    slot.fwhm[:n] = (1.1, 1.0, 0.9, np.nan)
    slot.close(n)
    return slot


def score(model, slot, **options):
    """Return what the scorer makes of a batch."""
    return Scorer([model], "cpu", BATCH, **options).submit(slot).result()
