"""Losses: cross entropy of the logit, and the negative log likelihood of the latent posterior on lenses."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lensscan.nets.blocks import Network, Outcome
from lensscan.nets.latent import N_LATENT

__all__ = ["classification_loss", "counting", "gaussian_nll", "mixture_nll", "posterior_loss", "regression_loss"]


def classification_loss(logit: Tensor, is_lens: Tensor, vague: Tensor | None = None) -> Tensor:
    """Return the binary cross entropy (nats) of logits (n,) and labels (n,) bool, summed and divided by all rows.

    Rows that are `vague`, lensed but below the label rule, count nothing.  Dividing by all rows makes the gradient of a
    global batch the mean over its ranks.
    """
    label = is_lens.to(logit.dtype)
    return F.binary_cross_entropy_with_logits(logit, label, weight=counting(logit, vague))


def counting(logit: Tensor, vague: Tensor | None) -> Tensor | None:
    """Return what each row counts, (n,), 0 where it is vague; None where all count 1."""
    return None if vague is None else (~vague).to(logit.dtype)


def gaussian_nll(target: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """Return the negative log likelihood (...) of points under Gaussians given by their Cholesky factors.

    Parameters
    ----------
    target, mean : Tensor, (..., 7)
    factor : Tensor, (..., 7, 7)
        Lower triangular, positive diagonal.
    """
    white = torch.linalg.solve_triangular(factor, (target - mean)[..., None], upper=False)[..., 0]
    log_det = torch.log(torch.diagonal(factor, dim1=-2, dim2=-1)).sum(dim=-1)
    return 0.5 * white.square().sum(dim=-1) + log_det + 0.5 * N_LATENT * math.log(2 * math.pi)


def mixture_nll(target: Tensor, mean: Tensor, factor: Tensor, log_weight: Tensor) -> Tensor:
    """Return the negative log likelihood (n,) of points (n, 7) under mixtures of Gaussians.

    Parameters
    ----------
    target : Tensor, (n, 7)
    mean, factor, log_weight : Tensor, (n, K, 7), (n, K, 7, 7), (n, K)
        See `lensscan.nets.blocks.Outcome`.
    """
    return -torch.logsumexp(log_weight - gaussian_nll(target[:, None], mean, factor), dim=1)


def regression_loss(target: Tensor, mean: Tensor, factor: Tensor, log_weight: Tensor, is_lens: Tensor) -> Tensor:
    """Return the posterior's loss: `mixture_nll` summed over the lenses, divided by all rows.

    Dividing by all rows, not by the lenses, makes the gradient of a global batch the mean over its ranks.
    Rows that are no lenses may hold NaN in `target`.
    """
    safe = torch.where(is_lens[:, None], target, mean[:, 0].detach())
    return torch.where(is_lens, mixture_nll(safe, mean, factor, log_weight), torch.zeros_like(mean[:, 0, 0])).mean()


def posterior_loss(network: Network, outcome: Outcome, target: Tensor, is_lens: Tensor) -> Tensor:
    """Return the posterior's loss as `regression_loss` has it, of Gaussians or of a normalising flow."""
    if network.flow is None:
        return regression_loss(target, outcome.mean, outcome.factor, outcome.log_weight, is_lens)
    safe = torch.where(is_lens[:, None], target, outcome.mean[:, 0].detach())
    density = network.flow.log_density(safe[:, None], outcome)[:, 0]
    return torch.where(is_lens, -density, torch.zeros_like(density)).mean()
