"""The stamps of the small survey, as arrays for Python."""

from __future__ import annotations

import fitsio
import numpy as np
from tiny_survey import Survey

from lensscan.survey.zeropoint import counts_to_njy


def stamps_of(survey: Survey, ids: np.ndarray) -> np.ndarray:
    """Return the stamps (n, 2, side, side) of objects, nJy."""
    files = [str(survey.folder / "stamps" / f"{number}.fits") for number in ids]
    counts = np.array([[fitsio.read(file, ext=band) for band in "GI"] for file in files])
    return counts * np.float32(counts_to_njy(30.0))
