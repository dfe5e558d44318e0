"""The trained combination of several regressors of Hezaveh+2017 (arXiv:1708.08842), and the papers' losses.

Read in the project's public code: one weight per network and parameter and no mixing of parameters, initial
weights 1/n, ellipticities brought to the sign of the first network's, the mean square error with the better of
the two signs.  The loss looks at the truth's sign because e_x, e_y are defined up to it; a figure of merit
must not, unless it says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Combination", "align_signs", "sign_free_error", "sign_free_loss", "weighted_error"]

ELLIPTICITY = slice(1, 3)


def _flipped(parameters: Tensor) -> Tensor:
    signs = parameters.new_tensor([1.0, -1.0, -1.0, 1.0, 1.0])
    return parameters * signs


def align_signs(predictions: Tensor) -> Tensor:
    """Return predictions (m, n, 5) of m networks with the sign of (e_x, e_y) nearest to the first network's."""
    first = predictions[:1, :, ELLIPTICITY]
    opposed = (predictions[:, :, ELLIPTICITY] * first).sum(dim=-1, keepdim=True) < 0
    return torch.where(opposed, _flipped(predictions), predictions)


class Combination(nn.Module):
    """Weighted sum of m networks' parameters, with weights of its own for each of the five."""

    def __init__(self, n_networks: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((n_networks, 1, 5), 1.0 / n_networks))

    def forward(self, predictions: Tensor) -> Tensor:
        """Map predictions (m, n, 5) to (n, 5)."""
        return (self.weight * align_signs(predictions)).sum(dim=0)


def sign_free_error(parameters: Tensor, truth: Tensor) -> Tensor:
    """Return the mean square error (n,) of each row of (n, 5) against (n, 5), the sign of (e_x, e_y) the better one."""
    direct = (parameters - truth).square().mean(dim=1)
    turned = (_flipped(parameters) - truth).square().mean(dim=1)
    return torch.minimum(direct, turned)


def sign_free_loss(parameters: Tensor, truth: Tensor) -> Tensor:
    """Return the mean of `sign_free_error`."""
    return sign_free_error(parameters, truth).mean()


def weighted_error(parameters: Tensor, truth: Tensor, weights: Sequence[float]) -> Tensor:
    """Return the mean square error (n,) of each row with a weight for each parameter, relative to their mean."""
    weight = parameters.new_tensor(weights)
    return ((parameters - truth).square() * (weight / weight.mean())).mean(dim=1)
