"""The losses of published regressors, row by row, in their papers' parameters (theta_E, e_x, e_y, x, y).

Hezaveh+2017's, read in the project's public code, is the mean square error with the better of the two signs of the
ellipticity.  It looks at the truth's sign because e_x, e_y are defined up to it; a figure of merit must not, unless it
says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["other_sign", "sign_free_error", "sign_free_loss", "weighted_error"]


def other_sign(parameters: Tensor) -> Tensor:
    """Return parameters (..., 5) with the other sign of (e_x, e_y), which in Hezaveh+2017 are the same lenses."""
    return parameters * parameters.new_tensor([1.0, -1.0, -1.0, 1.0, 1.0])


def sign_free_error(parameters: Tensor, truth: Tensor) -> Tensor:
    """Return the mean square error (n,) of each row of (n, 5) against (n, 5), the sign of (e_x, e_y) the better one."""
    direct = (parameters - truth).square().mean(dim=1)
    turned = (other_sign(parameters) - truth).square().mean(dim=1)
    return torch.minimum(direct, turned)


def sign_free_loss(parameters: Tensor, truth: Tensor) -> Tensor:
    """Return the mean of `sign_free_error`."""
    return sign_free_error(parameters, truth).mean()


def weighted_error(parameters: Tensor, truth: Tensor, weights: Sequence[float]) -> Tensor:
    """Return the mean square error (n,) of each row with a weight for each parameter, relative to their mean."""
    weight = parameters.new_tensor(weights)
    return ((parameters - truth).square() * (weight / weight.mean())).mean(dim=1)
