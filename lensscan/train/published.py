"""Published classifiers trained as published: one fixed set of stamps, many epochs, nothing of our own added.

A calibrator tells how hard a set of stamps is only if it is run as its paper ran it; so here there is no
fresh mock, no normalisation by the noise, no moving average and no calibration.  Departures from the papers
are written in the docstrings of the recipes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lensscan.nets.classic.classifier import Classifier, ClassifierConfig, scaled
from lensscan.train.augment import step_generator, step_seed
from lensscan.train.split import held_back

__all__ = [
    "ARGONNE2017",
    "Epoch",
    "Fitted",
    "PublishedRecipe",
    "fit_published",
    "make_optimiser",
    "scores",
    "train_epoch",
]

SCORE_BATCH = 256
ORDER, DROPOUT = 0, 1


@dataclass(frozen=True, slots=True)
class PublishedRecipe:
    """How a paper trained its network.

    Attributes
    ----------
    kind : str
        A key of `lensscan.nets.classic.registry.PUBLISHED`.
    lr, decay : float
        Learning rate ``lr / (1 + decay step)``.
    batch, epochs : int
        The last batch of an epoch may be smaller.
    scaling : str
        ``linear``, ``picture`` or ``peak``, see `ClassifierConfig`.
    optimiser : str
        ``adam`` or ``sgd`` (without momentum).
    validation : float
        Share of the stamps held back, drawn by the seed; 0 = none.
    """

    kind: str
    lr: float
    decay: float
    batch: int
    epochs: int
    scaling: Literal["linear", "picture", "peak"] = "linear"
    optimiser: str = "adam"
    validation: float = 0.0


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
    config : ClassifierConfig
    history : list of Epoch
    held_back : (k,) array
        Rows of the given stamps that served as validation, never trained on.
    """

    network: Classifier
    config: ClassifierConfig
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

    Raises
    ------
    ValueError
        If a pixel is not finite, or labels do not fit.
    """
    pixels = torch.as_tensor(np.asarray(images), dtype=torch.float32)
    truth = torch.as_tensor(np.asarray(labels), dtype=torch.float32)
    if pixels.ndim != 4 or truth.shape != pixels.shape[:1]:
        raise ValueError(f"images {tuple(pixels.shape)} and labels {tuple(truth.shape)} are not (n, C, S, S) and (n,)")
    if not torch.isfinite(pixels).all():
        raise ValueError("a pixel is not finite; fill missing pixels first")
    apart = held_back(np.arange(len(pixels)) if groups is None else groups, recipe.validation, seed)
    used, kept = (torch.from_numpy(np.flatnonzero(rows)) for rows in (~apart, apart))
    config = _config(recipe, pixels[used])
    torch.manual_seed(seed)
    network = Classifier(pixels.shape[1], pixels.shape[-1], config).to(device)
    fitted = Fitted(network, config, [], kept.numpy())
    parts = [(pixels[rows].to(device), truth[rows].to(device)) for rows in (used, kept)]
    optimiser = make_optimiser(recipe, network)

    def classify(part: Tensor) -> Tensor:
        return network.train()(part, part.new_empty(0))[0]

    for epoch in range(recipe.epochs):
        loss, logit = train_epoch(
            classify, optimiser, *parts[0], F.binary_cross_entropy_with_logits, recipe, seed, epoch
        )
        line = Epoch(
            epoch + 1, loss, _accuracy(logit, parts[0][1]), _accuracy(scores(network, parts[1][0]), parts[1][1])
        )
        fitted.history.append(line)
        if report(line):
            break
    network.to("cpu").eval()
    return fitted


def _config(recipe: PublishedRecipe, pixels: Tensor) -> ClassifierConfig:
    """Return the configuration with the mean and spread of each band over these stamps."""
    pixels = scaled(pixels, recipe.scaling)
    mean = tuple(pixels[:, band].double().mean().item() for band in range(pixels.shape[1]))
    std = tuple(pixels[:, band].double().std().item() for band in range(pixels.shape[1]))
    return ClassifierConfig(recipe.kind, recipe.scaling, mean, std)


def make_optimiser(recipe: PublishedRecipe, network: nn.Module) -> torch.optim.Optimizer:
    """Return the recipe's optimiser of a network."""
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(network.parameters(), lr=recipe.lr)
    return torch.optim.Adam(network.parameters(), lr=recipe.lr)


def train_epoch(
    forward: Callable[[Tensor], Tensor],
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    targets: Tensor,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    recipe: PublishedRecipe,
    seed: int,
    epoch: int,
) -> tuple[float, Tensor]:
    """Go once through the stamps in the epoch's own order.

    Returns
    -------
    loss : float
        Mean over the epoch.
    outputs : Tensor, (n, ...)
        What `forward` gave for each stamp, in the stamps' order.
    """
    order = torch.randperm(len(images), generator=step_generator(seed, epoch, ORDER)).to(images.device)
    torch.manual_seed(step_seed(seed, epoch, DROPOUT))
    total, outputs = 0.0, []
    batches = order.split(recipe.batch)
    for number, rows in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr / (1 + recipe.decay * (epoch * len(batches) + number))
        output = forward(images[rows])
        loss = loss_of(output, targets[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        total += float(loss.detach()) * len(rows)
        outputs.append(output.detach())
    return total / len(images), torch.cat(outputs)[torch.argsort(order)]


@torch.no_grad()
def scores(network: Classifier, images: Tensor) -> Tensor:
    """Return the logit (n,) of every stamp once, in evaluation mode; the last batch may be smaller."""
    network.eval()
    parts = [network(part, part.new_empty(0))[0] for part in images.split(SCORE_BATCH)]
    return torch.cat(parts) if parts else images.new_empty(0)


def _accuracy(logit: Tensor, labels: Tensor) -> float:
    """Return the share of stamps on the right side of logit 0; NaN without stamps."""
    return float(((logit > 0) == (labels > 0.5)).double().mean())
