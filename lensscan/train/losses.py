"""Losses: cross entropy of the logit, and the negative log likelihood of the latent Gaussian on lenses."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lensscan.nets.latent import N_LATENT

__all__ = ["classification_loss", "gaussian_nll", "regression_loss"]


def classification_loss(logit: Tensor, is_lens: Tensor) -> Tensor:
    """Return the mean binary cross entropy (nats) of logits (n,) and labels (n,) bool."""
    return F.binary_cross_entropy_with_logits(logit, is_lens.to(logit.dtype))


def gaussian_nll(target: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """Return the negative log likelihood (n,) of points under Gaussians given by their Cholesky factors.

    Parameters
    ----------
    target, mean : Tensor, (n, 7)
    factor : Tensor, (n, 7, 7)
        Lower triangular, positive diagonal.
    """
    white = torch.linalg.solve_triangular(factor, (target - mean)[..., None], upper=False)[..., 0]
    log_det = torch.log(torch.diagonal(factor, dim1=-2, dim2=-1)).sum(dim=-1)
    return 0.5 * white.square().sum(dim=-1) + log_det + 0.5 * N_LATENT * math.log(2 * math.pi)


def regression_loss(target: Tensor, mean: Tensor, factor: Tensor, is_lens: Tensor) -> Tensor:
    """Return the posterior's loss: `gaussian_nll` summed over the lenses, divided by all rows.

    Dividing by all rows, not by the lenses, makes the gradient of a global batch the mean over its ranks.
    Rows that are no lenses may hold NaN in `target`.
    """
    safe = torch.where(is_lens[:, None], target, mean.detach())
    return torch.where(is_lens, gaussian_nll(safe, mean, factor), torch.zeros_like(mean[:, 0])).mean()
