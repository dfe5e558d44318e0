"""Which rows of a truth table are lenses, and which are neither lenses nor anything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.mocks.recipes import CLASSES

__all__ = ["UNDETECTABLE", "ambiguous"]

UNDETECTABLE = CLASSES.index("undetectable")


def ambiguous(truth: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Return the lensed systems (n,) below the label rule: neither lenses nor false positives.

    Parameters
    ----------
    truth : mapping of (n,) arrays
        With ``is_lens``; without ``klass`` (a user's own table) no row is ambiguous.
    """
    klass = truth.get("klass")
    return np.zeros(len(truth["is_lens"]), bool) if klass is None else np.asarray(klass) == UNDETECTABLE
