"""Published regressors of the SIE trained as published.

The parameters are those of the papers, (theta_E, e_x, e_y, x, y), each in its paper's convention; convert with
`lensscan.lens.conventions`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensscan.nets.classic.body import Body
from lensscan.nets.classic.classifier import scaled
from lensscan.nets.classic.losses import sign_free_loss, weighted_error
from lensscan.nets.classic.registry import REGRESSORS
from lensscan.train.fixed import FixedSet, PublishedRecipe, band_units, recipe_optimiser, train_epochs

__all__ = [
    "HEZAVEH2017",
    "HOLISMOKES4",
    "FittedRegressor",
    "RegressionEpoch",
    "fit_regressor",
    "square_error",
]

SCORE_BATCH = 64
Loss = Callable[[Tensor, Tensor], Tensor]

HEZAVEH2017 = PublishedRecipe(kind="alexnet", lr=1e-6, decay=0.0, batch=50, epochs=100, scaling="peak", validation=0.02)
"""Hezaveh+2017 with `sign_free_loss`: Adam, 1e-6, batches of 50 as in the public code.

Assumed: the number of epochs, for the paper stops when the test error falls no more.  Departure: a fixed set,
where the code draws noise anew at each use; the lowest 4 x 4 mean is not subtracted.
"""

HOLISMOKES4 = PublishedRecipe(
    kind="holismokes-cnn", lr=8e-4, decay=0.0, batch=32, epochs=100, optimiser="sgd", validation=0.2
)
"""HOLISMOKES IV with ``square_error((5, 1, 1, 1, 1))``; all of it remembered, not verified, but for the loss's kind.

Assumed: Nesterov's momentum of 0.9 and 100 epochs, as in the training file ``holismokes4-cnn``.
"""


@dataclass(frozen=True, slots=True)
class RegressionEpoch:
    """One line of a training's history: mean loss while training, and of what is held back at the end."""

    epoch: int
    loss: float
    validation_loss: float


@dataclass(slots=True)
class FittedRegressor:
    """A regressor trained as published; the units of its input are those of the training stamps alone.

    Attributes
    ----------
    body : Body
        In evaluation mode, on the CPU.
    scaling : str
    mean, std : Tensor, (C, 1, 1)
        Of the scaled training stamps.
    history : list of RegressionEpoch
    held_back : (k,) array
        Rows never trained on.
    """

    body: Body
    scaling: str
    mean: Tensor
    std: Tensor
    history: list[RegressionEpoch]
    held_back: NDArray[np.int64]

    def predict(self, images: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the parameters (n, n_outputs) of stamps (n, C, S, S) in nJy, in the paper's convention."""
        inputs = (scaled(torch.as_tensor(images, dtype=torch.float32), self.scaling) - self.mean) / self.std
        return _outputs(self.body, inputs).numpy()


def square_error(weights: Sequence[float]) -> Loss:
    """Return the mean square error with a weight for each parameter, relative to their mean."""

    def loss(parameters: Tensor, truth: Tensor) -> Tensor:
        return weighted_error(parameters, truth, weights).mean()

    return loss


def fit_regressor(
    images: NDArray[np.floating],
    truth: NDArray[np.floating],
    recipe: PublishedRecipe = HEZAVEH2017,
    loss_of: Loss = sign_free_loss,
    seed: int = 1,
    groups: NDArray[np.int64] | None = None,
    device: torch.device | str = "cpu",
    report: Callable[[RegressionEpoch], bool | None] = lambda epoch: None,
) -> FittedRegressor:
    """Train a published regressor on one fixed set of lenses.

    Parameters
    ----------
    images : (n, C, S, S) array
        nJy per pixel; missing pixels already filled.
    truth : (n, n_outputs) array
        Parameters in the paper's convention.
    recipe, loss_of
        ``recipe.kind`` is a key of `lensscan.nets.classic.registry.REGRESSORS`.
    seed, groups, device, report
        As in `lensscan.train.published.fit_published`.

    Raises
    ------
    ValueError
        If a pixel or a parameter is not finite, the rows do not fit, or a band is constant.
    """
    if np.ndim(truth) != 2:
        raise ValueError(f"truth {np.shape(truth)} is not (n, outputs)")
    whole = FixedSet.split(images, truth, recipe.validation, seed, groups)
    shown = scaled(whole.images, recipe.scaling)
    mean, std = (torch.tensor(values)[:, None, None] for values in _units(shown[whole.used], recipe.scaling))
    torch.manual_seed(seed)
    body = REGRESSORS[recipe.kind](shown.shape[1], shown.shape[-1]).to(device)
    inputs = (shown - mean) / std
    train, apart = ((inputs[rows].to(device), whole.targets[rows].to(device)) for rows in (whole.used, whole.kept))

    def line(epoch: int, loss: float, outputs: Tensor) -> RegressionEpoch:
        left = float(loss_of(_outputs(body, apart[0]), apart[1])) if len(whole.kept) else float("nan")
        return RegressionEpoch(epoch, loss, left)

    def regress(part: Tensor) -> Tensor:
        return body.train()(part)

    history = train_epochs(body, regress, recipe_optimiser(recipe, body), train, loss_of, recipe, seed, line, report)
    body.to("cpu").eval()
    return FittedRegressor(body, recipe.scaling, mean, std, history, whole.kept.numpy())


def _units(shown: Tensor, scaling: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and spread of each band; 0 and 1 for stamps in units of their own peak."""
    if scaling == "peak":
        return (0.0,) * shown.shape[1], (1.0,) * shown.shape[1]
    return band_units(shown)


@torch.no_grad()
def _outputs(body: Body, inputs: Tensor) -> Tensor:
    """Return the outputs for every stamp once, in evaluation mode; the last batch may be smaller."""
    body.eval()
    return torch.cat([body(part) for part in inputs.split(SCORE_BATCH)])
