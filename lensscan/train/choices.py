"""What a training may choose between: optimisers, and losses of the classification."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lensscan.train.losses import counting
from lensscan.train.settings import Optimiser

__all__ = ["FOCUS", "MOMENTUM", "make_optimiser", "training_loss"]

FOCUS = 2.0
"""Exponent of the focal loss, Lin+2017 (arXiv:1708.02002), section 5.1."""
MOMENTUM = 0.9


def make_optimiser(settings: Optimiser, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return the optimiser of groups of parameters: RMSprop with its usual constants, the Adams with 0.9 and 0.99.

    ``sgd`` has Nesterov's momentum of 0.9.  In all but ``adamw`` the weight decay acts through the gradient.
    """
    if settings.kind == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=MOMENTUM, nesterov=True)
    if settings.kind == "rmsprop":
        return torch.optim.RMSprop(groups, lr=settings.lr)
    kind = torch.optim.AdamW if settings.kind == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.lr, betas=(0.9, 0.99))


def training_loss(
    settings: Optimiser, bce: Tensor, logit: Tensor, is_lens: Tensor, vague: Tensor | None = None
) -> Tensor:
    """Return the loss of the classification that a step goes down.

    Parameters
    ----------
    settings : Optimiser
        Its `loss`: ``bce``, the cross entropy as given; ``focal``, (1 - p)^2 times each row's, p being the
        probability of the true class (Lin+2017, arXiv:1708.02002, eq. 4); ``mse``, the mean square of the
        probability's error.  The last two leave the logit uncalibrated.
    bce : Tensor, ()
        Mean cross entropy, nats.
    logit : Tensor, (n,)
    is_lens : bool Tensor, (n,)
    vague : bool Tensor, (n,), or None
        Rows that count nothing, as in `lensscan.train.losses.classification_loss`.

    Returns
    -------
    Tensor, ()
    """
    if settings.loss == "bce":
        return bce
    label, counts = is_lens.to(logit.dtype), counting(logit, vague)
    if settings.loss == "mse":
        rows = (torch.sigmoid(logit) - label).square()
    else:
        rows = F.binary_cross_entropy_with_logits(logit, label, reduction="none")
        rows = (1 - torch.exp(-rows)) ** FOCUS * rows
    return (rows if counts is None else rows * counts).mean()
