"""Published classifiers trained as published: one fixed set of stamps, many epochs, nothing of our own added.

A calibrator tells how hard a set of stamps is only if it is run as its paper ran it; so here there is no
fresh mock, no normalisation by the noise, no moving average and no calibration.  Departures from the papers
are written in the docstrings of the recipes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import convert_conv2d_weight_memory_format

from lensscan.nets.classic.classifier import Classifier, PublishedConfig, scaled
from lensscan.train.fixed import FixedSet, Keeper, PublishedRecipe, band_units, recipe_optimiser, train_epochs

__all__ = [
    "ARGONNE2017",
    "Epoch",
    "Fitted",
    "fit_published",
    "scores",
]

SCORE_BATCH = 256

ARGONNE2017 = PublishedRecipe(
    kind="argonne", lr=1e-3, decay=0.01, batch=32, epochs=200, scaling="picture", validation=0.2
)
"""Argonne 2017 (slides and public code): 16,000 stamps of 45 pixels, one band.

Read: network, drop-out, learning rate and its decay, batch, epochs, the share held back, and that the inputs are
pictures of 8 bits.  Assumed: how those were stretched (inverse hyperbolic sine, the usual one of sky pictures; in a
linear one the arcs of luminous galaxies vanish), and Adam with its usual constants (plain gradient descent, the
code's other choice, spends a summed learning rate of 0.69 in all these steps and does not learn).  Departure: mean
and spread are those of the training stamps alone, where the code's saw the test set.
"""


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of a training's history.

    Loss and training accuracy are means over the epoch with drop-out at work, as the papers' libraries count
    them; the validation accuracy is that of the epoch's end.
    """

    epoch: int
    loss: float
    train_accuracy: float
    validation_accuracy: float


@dataclass(slots=True)
class Fitted:
    """A network trained as published.

    Attributes
    ----------
    network : Classifier
        In evaluation mode, on the CPU; it takes nJy, its configuration holds mean and spread.
    config : PublishedConfig
    history : list of Epoch
    held_back : (k,) array
        Rows of the given stamps that served as validation, never trained on.
    """

    network: Classifier
    config: PublishedConfig
    history: list[Epoch]
    held_back: NDArray[np.int64]

    def score(self, images: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the logit (n,) of stamps (n, C, S, S) in nJy."""
        return scores(self.network, torch.as_tensor(images, dtype=torch.float32)).numpy()


def fit_published(
    images: NDArray[np.floating],
    labels: NDArray[np.bool_],
    recipe: PublishedRecipe = ARGONNE2017,
    seed: int = 1,
    groups: NDArray[np.int64] | None = None,
    device: torch.device | str = "cpu",
    report: Callable[[Epoch], bool | None] = lambda epoch: None,
    checkpoint: Path | None = None,
    restored: Callable[[int], None] = lambda epochs: None,
) -> Fitted:
    """Train a published classifier on one fixed set of stamps.

    Parameters
    ----------
    images : (n, C, S, S) array
        Linear flux, nJy per pixel; missing pixels already filled.
    labels : (n,) bool array
        True = lens.
    recipe : PublishedRecipe
    seed : int
        Of weights, split, order and drop-out.
    groups : (n,) int array, optional
        Rows of one group are held back together (`lensscan.train.split`); default: each row on its own.
    device : torch.device or str
        The whole set lies there.
    report : callable
        Takes the history's lines as they come; if it returns True, that epoch was the last.
    checkpoint : Path, optional
        Written after every epoch; a training that was broken off goes on from there, to the same weights.
    restored : callable
        Told, before any of them is reported, how many epochs the checkpoint held.

    Raises
    ------
    ValueError
        If a pixel is not finite, labels do not fit, or a band is constant.
    PlanMismatch, OutputError
        If the checkpoint belongs to another training, or cannot be read or written.
    """
    if np.ndim(labels) != 1:
        raise ValueError(f"labels {np.shape(labels)} are not (n,)")
    whole = FixedSet.split(images, labels, recipe.validation, seed, groups)
    units = band_units(scaled(whole.images[whole.used], recipe.scaling))
    config = PublishedConfig(recipe.kind, recipe.scaling, *units)
    torch.manual_seed(seed)
    network = Classifier(whole.images.shape[1], whole.images.shape[-1], config)
    network.to(device)
    convert_conv2d_weight_memory_format(network, torch.channels_last)  # a quarter faster on a CPU
    train, apart = (
        (whole.images[rows].to(device), whole.targets[rows].to(device)) for rows in (whole.used, whole.kept)
    )

    def classify(part: Tensor) -> Tensor:
        return network.train()(part, part.new_empty(0))[0]

    def line(epoch: int, loss: float, logit: Tensor) -> Epoch:
        return Epoch(epoch, loss, _accuracy(logit, train[1]), _accuracy(scores(network, apart[0]), apart[1]))

    optimiser = recipe_optimiser(recipe, network)
    loss_of = F.binary_cross_entropy_with_logits
    keeper = None if checkpoint is None else Keeper(checkpoint, whole, recipe, seed, Epoch)
    history = train_epochs(network, classify, optimiser, train, loss_of, recipe, seed, line, report, keeper, restored)
    convert_conv2d_weight_memory_format(network, torch.contiguous_format)
    network.to("cpu").eval()
    return Fitted(network, config, history, whole.kept.numpy())


@torch.no_grad()
def scores(network: Classifier, images: Tensor) -> Tensor:
    """Return the logit (n,) of every stamp once, in evaluation mode; the last batch may be smaller."""
    network.eval()
    parts = [network(part, part.new_empty(0))[0] for part in images.split(SCORE_BATCH)]
    return torch.cat(parts) if parts else images.new_empty(0)


def _accuracy(logit: Tensor, labels: Tensor) -> float:
    """Return the share of stamps on the right side of logit 0; NaN without stamps."""
    return float(((logit > 0) == (labels > 0.5)).double().mean())
