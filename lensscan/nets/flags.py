"""Flags set at the merge, from posterior and networks' agreement; they never alter the ranking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.schema import Flag

__all__ = [
    "DISAGREEMENT",
    "OFF_CENTRE",
    "OOD_LIMIT",
    "PRIOR_EDGE",
    "UNCLEAN",
    "UNRESOLVED",
    "WIDE",
    "merge_flags",
]

UNRESOLVED = 0.5
"""theta_E_unresolved: theta_E below this fraction of the best seeing of all bands (not set if unknown)."""
WIDE = 0.3
"""posterior_wide: theta_E_err above this fraction of theta_E."""
PRIOR_EDGE = 0.02
"""posterior_at_prior: the 68 % interval of theta_E comes so close (relative) to a bound of its prior."""
OFF_CENTRE = 1.0
"""off_centre: lens centre farther than this from the stamp's origin, arcsec."""
DISAGREEMENT = 2.0
"""members_disagree: standard deviation of the networks' raw logits above this."""
OOD_LIMIT = 1.0
"""ood: out-of-distribution score above this; networks scale theirs to 1 at the edge of training."""
UNCLEAN = ~(Flag.RESAMPLED | Flag.STALE_WCS)
"""``show --clean`` drops rows with any of these."""


def merge_flags(
    columns: Mapping[str, NDArray[Any]],
    fwhm: NDArray[np.float32],
    prior: tuple[float, float] | None = None,
) -> NDArray[np.uint32]:
    """Return the flags of n rows.

    Parameters
    ----------
    columns : mapping
        ``theta_E theta_E_err theta_E_q16 theta_E_q84 x y logit_std ood``, each (n,); comparisons with NaN are
        false, so what is not known sets no flag.
    fwhm : ndarray, shape (n, C)
        Seeing per band, arcsec; NaN where unknown.
    prior : tuple of float, optional
        Bounds of theta_E in training, arcsec.
    """
    theta = columns["theta_E"]
    best = np.fmin.reduce(fwhm, axis=1) if fwhm.shape[1] else np.full(len(theta), np.nan, np.float32)
    conditions = {
        Flag.THETA_E_UNRESOLVED: theta < UNRESOLVED * best,
        Flag.POSTERIOR_WIDE: columns["theta_E_err"] > WIDE * theta,
        Flag.OFF_CENTRE: np.hypot(columns["x"], columns["y"]) > OFF_CENTRE,
        Flag.MEMBERS_DISAGREE: columns["logit_std"] > DISAGREEMENT,
        Flag.OOD: columns["ood"] > OOD_LIMIT,
    }
    if prior is not None:
        low, high = prior[0] * (1 + PRIOR_EDGE), prior[1] * (1 - PRIOR_EDGE)
        conditions[Flag.POSTERIOR_AT_PRIOR] = (columns["theta_E_q16"] < low) | (columns["theta_E_q84"] > high)
    flags = np.zeros(len(theta), dtype=np.uint32)
    for flag, true in conditions.items():
        flags[true] |= np.uint32(flag)
    return flags
