"""Training on one fixed set of stamps, as the papers did: checked, split, scaled by its own units, in whole epochs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lensscan.errors import PlanMismatch
from lensscan.files import make_folder
from lensscan.train.augment import step_generator, step_seed
from lensscan.train.checkpoint import load_checkpoint, save_checkpoint
from lensscan.train.choices import MOMENTUM
from lensscan.train.split import held_back

__all__ = ["FixedSet", "Keeper", "PublishedRecipe", "band_units", "recipe_optimiser", "train_epochs"]

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ORDER, DROPOUT = 0, 1
Line = TypeVar("Line", bound="DataclassInstance")


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
        ``linear``, ``picture`` or ``peak``, see `PublishedConfig`.
    optimiser : str
        ``adam``, or ``sgd`` with the momentum of `lensscan.train.choices`.
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


@dataclass(frozen=True, slots=True)
class FixedSet:
    """Stamps and what is to be learnt of them, with a part held back.

    Attributes
    ----------
    images : Tensor, (n, C, S, S)
        nJy per pixel.
    targets : Tensor, (n, ...)
    used, kept : Tensors of int
        Rows to train on, and rows held back.
    """

    images: Tensor
    targets: Tensor
    used: Tensor
    kept: Tensor

    @classmethod
    def split(
        cls,
        images: NDArray[np.floating],
        targets: NDArray[np.generic],
        share: float,
        seed: int,
        groups: NDArray[np.int64] | None = None,
    ) -> FixedSet:
        """Check, and hold a share back: rows of one group together (`lensscan.train.split`), by default each alone.

        Raises
        ------
        ValueError
            If the rows do not fit, or a pixel or target is not finite.
        """
        pixels, wanted = (torch.as_tensor(np.asarray(part), dtype=torch.float32) for part in (images, targets))
        if pixels.ndim != 4 or wanted.shape[:1] != pixels.shape[:1]:
            raise ValueError(f"images {tuple(pixels.shape)} and targets {tuple(wanted.shape)} do not fit")
        if not (torch.isfinite(pixels).all() and torch.isfinite(wanted).all()):
            raise ValueError("a pixel or a target is not finite; fill missing pixels, and give a regressor lenses only")
        apart = held_back(np.arange(len(pixels)) if groups is None else groups, share, seed)
        used, kept = (torch.from_numpy(np.flatnonzero(rows)) for rows in (~apart, apart))
        return cls(pixels, wanted, used, kept)


def band_units(shown: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and spread of each band over stamps (n, C, S, S).

    Raises
    ------
    ValueError
        If a band is constant: nothing can be scaled by it.
    """
    bands = [shown[:, band].double() for band in range(shown.shape[1])]
    spread = tuple(band.std().item() for band in bands)
    if not all(value > 0 for value in spread):
        dead = [number for number, value in enumerate(spread) if not value > 0]
        raise ValueError(f"band {dead[0]} has the same value in every pixel of the training stamps; leave it out")
    return tuple(band.mean().item() for band in bands), spread


class Keeper(Generic[Line]):
    """Keeps a training on disk after every epoch; one that was broken off goes on as if it never had been.

    Parameters
    ----------
    path : Path
    whole : FixedSet
    recipe : PublishedRecipe
    seed : int
    line : type
        Dataclass of the history's lines.
    """

    def __init__(self, path: Path, whole: FixedSet, recipe: PublishedRecipe, seed: int, line: type[Line]) -> None:
        make_folder(path.parent)
        content = dataclasses.asdict(recipe) | {"seed": seed}
        del content["epochs"]  # a longer training begins as a shorter one does
        found = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
        for part in (whole.images, whole.targets, whole.used):
            found.update(part.contiguous().numpy().data)
        self.path, self.digest, self.line, self.epochs = path, found.hexdigest(), line, recipe.epochs

    def restore(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> list[Line]:
        """Put network and optimiser where they were left, and return the history; empty if there is none.

        Raises
        ------
        PlanMismatch
            If the file belongs to another training, or has gone further than this one wants to.
        OutputError
            If it cannot be read.
        """
        state = load_checkpoint(self.path, self.digest)
        if state is None:
            return []
        if len(state["history"]) > self.epochs:
            raise PlanMismatch(f"checkpoint {self.path} has {len(state['history'])} epochs, more than {self.epochs}")
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        return [self.line(**line) for line in state["history"]]

    def save(self, network: nn.Module, optimiser: torch.optim.Optimizer, history: list[Line]) -> None:
        """Write the state at the end of an epoch, whole or not at all."""
        lines = [dataclasses.asdict(line) for line in history]
        parts = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "history": lines}
        save_checkpoint(self.path, self.digest, parts)


def recipe_optimiser(recipe: PublishedRecipe, network: nn.Module) -> torch.optim.Optimizer:
    """Return the recipe's optimiser of a network; Adam with its usual constants, and no weight decay, as in papers."""
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(network.parameters(), lr=recipe.lr, momentum=MOMENTUM, nesterov=True)
    return torch.optim.Adam(network.parameters(), lr=recipe.lr)


def train_epochs(
    network: nn.Module,
    forward: Callable[[Tensor], Tensor],
    optimiser: torch.optim.Optimizer,
    examples: tuple[Tensor, Tensor],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    recipe: PublishedRecipe,
    seed: int,
    line_of: Callable[[int, float, Tensor], Line],
    report: Callable[[Line], bool | None],
    keeper: Keeper[Line] | None = None,
    restored: Callable[[int], None] = lambda epochs: None,
) -> list[Line]:
    """Train for the recipe's epochs and return its history.

    Parameters
    ----------
    network : Module
        What is trained.
    forward : callable
        Maps stamps to outputs, in training mode.
    examples : (Tensor, Tensor)
        Stamps and targets.
    loss_of : callable
        Of outputs and targets.
    line_of : callable
        Makes a line of the history of the epoch's number, its mean loss, and what `forward` gave for each stamp.
    report : callable
        Takes the lines as they come, those of a training that goes on first; if it returns True, that epoch was
        the last.
    keeper : Keeper, optional
        Goes on from what it holds, and holds every epoch.
    restored : callable
        Told first how many epochs it held.
    """
    history = [] if keeper is None else keeper.restore(network, optimiser)
    restored(len(history))
    ended = False
    for line in history:
        ended = bool(report(line))
    if ended:
        return history
    for epoch in range(len(history), recipe.epochs):
        loss, outputs = _train_epoch(forward, optimiser, *examples, loss_of, recipe, seed, epoch)
        history.append(line_of(epoch + 1, loss, outputs))
        if keeper is not None:
            keeper.save(network, optimiser, history)
        if report(history[-1]):
            break
    return history


def _train_epoch(
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
