"""Made-up stamps for tests of the scorer: galaxies of random brightness, in batches as readers fill them."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest
import torch

from lensscan.nets.model import make_trivial
from lensscan.nets.scorer import Scorer
from lensscan.survey.stamps import allocate

BATCH = 64
BANDS = ("g", "r", "i", "z")


def before_avx2() -> bool:
    """Whether this is an x86 processor without AVX2."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    listed = Path("/proc/cpuinfo")
    flags = listed.read_text(encoding="utf-8").split() if listed.exists() else []
    return "avx2" not in flags and not torch.backends.cpu.get_cpu_capability().startswith("AVX")


ODD = pytest.param(
    7, marks=pytest.mark.skipif(before_avx2(), reason="before AVX2 oneDNN's bits of odd batches depend on the threads")
)
"""A batch of seven; docs/scan.md promises its bits for AVX2 or later."""


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
