"""The noise per pixel of a stamp, estimated from its border.

The one estimator that scans, training and mocks share, so that the same stamp has the same noise everywhere.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["estimate_sigma"]

MAD_TO_SIGMA = 1.482602218505602
CLIP = 3.0


def _border(images: Tensor, width: int) -> Tensor:
    """Return the pixels of the outermost `width` rows and columns, (..., p)."""
    inner = images[..., width:-width, :]
    parts = [images[..., :width, :], images[..., -width:, :], inner[..., :width], inner[..., -width:]]
    return torch.cat([part.flatten(-2) for part in parts], dim=-1)


def estimate_sigma(images: Tensor, mask: Tensor | None = None) -> Tensor:
    """Estimate the noise per pixel of each stamp and band from the border.

    The median absolute deviation of the unmasked border pixels (a frame of 1/12 of the side), taken again
    without the pixels beyond 3 sigma.  Where the whole border is masked, as of a small stamp that was padded, it is
    the border of what is not.

    Parameters
    ----------
    images : Tensor, (n, C, S, S), float32
        nJy per pixel.
    mask : bool Tensor of the same shape, optional
        True = missing.

    Returns
    -------
    Tensor, (n, C), float32
        nJy per pixel; NaN where all is masked.
    """
    width = _width(images)
    if mask is None:
        return _clipped(_border(images, width))
    sigma = _clipped(_border(images, width).masked_fill(_border(mask, width), math.nan))
    lost = (sigma.isnan() & ~mask.all(dim=(-2, -1))).nonzero()
    if len(lost):
        there = ~mask[lost[:, 0], lost[:, 1]]
        boxes, which = torch.unique(_boxes(there), dim=0, return_inverse=True)
        for number, (top, bottom, left, right) in enumerate(boxes.tolist()):
            chosen = which == number
            row, band = lost[chosen].unbind(dim=1)
            pixels = images[row, band].masked_fill(~there[chosen], math.nan)[:, top:bottom, left:right]
            sigma[row, band] = _clipped(_border(pixels, _width(pixels)))
    return sigma


def _boxes(there: Tensor) -> Tensor:
    """Return the rows (first, one past the last) and columns that hold all that is there (n, S, S), (n, 4)."""
    bounds = []
    for axis in (2, 1):
        along = there.any(dim=axis).int()
        bounds += [along.argmax(dim=1), along.shape[1] - along.flip(1).argmax(dim=1)]
    return torch.stack(bounds, dim=1)


def _width(images: Tensor) -> int:
    return max(2, images.shape[-1] // 12)


def _clipped(values: Tensor) -> Tensor:
    """Return the clipped spread of values along the last axis, NaN left out."""
    ordered = _sorted(values)
    count = ordered.isfinite().sum(dim=-1, keepdim=True)
    deviation = _sorted((values - _middle(ordered, count)).abs_())
    limit = CLIP * MAD_TO_SIGMA * _middle(deviation, count)
    kept = (deviation <= limit).sum(dim=-1, keepdim=True)
    return MAD_TO_SIGMA * _middle(deviation, kept)[..., 0]


def _sorted(values: Tensor) -> Tensor:
    """Sort along the last axis, NaN last; on a CPU numpy does it seven times faster than torch."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(dim=-1).values


def _middle(ordered: Tensor, count: Tensor) -> Tensor:
    """Return the lower median of the first `count` (..., 1) of sorted values; NaN where there is none."""
    return ordered.gather(-1, (count - 1).clamp(min=0) // 2)
