"""How unlike its training a stamp is to a network: a Mahalanobis distance among the features before the heads.

Gaussians of one shared covariance, one centre for lenses and one for all else, are fitted to the features of mocks
(Lee et al. 2018, arXiv:1807.03888, section 2.1); the distance is that to the nearest centre.  Features enter by the
fourth root of their size: bright galaxies make them large, and on the bare ones only brightness would count.

The catalog's ``ood`` is a tail probability in disguise: -log10(p) / 3, p the share of held-out mocks that lie as far
out.  It is 0.1 in the median, 1 where one mock in a thousand lies (the flag's limit), and grows in proportion to the
distance beyond.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lensscan.nets.blocks import StableLinear
from lensscan.nets.bottleneck import BottleneckHead
from lensscan.nets.heads import LogitHead

__all__ = [
    "PREFIX",
    "TAILS",
    "Detector",
    "FeatureTap",
    "Novelty",
    "compress",
    "feature_layer",
    "feature_width",
    "fit_novelty",
    "last_layer",
    "make_detector",
    "scale_distances",
]

PREFIX = "novelty."
"""Of the tensors in a model file that are no weights."""
TAILS = (0.5, 0.1, 0.01, 0.001)
"""Tail probabilities whose distances a card holds."""
SHRINK = 1e-3
FLOOR = 1e-4
"""Size of a feature below which it counts in proportion."""
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Novelty:
    """What turns features into distances; float32, as stored in the model file.

    Attributes
    ----------
    whiten : Tensor, shape (f, f)
        Inverse Cholesky factor of the shared covariance of the compressed features.
    offset : Tensor, shape (f,)
        Minus the whitened mean of all features, so that what is subtracted later is small.
    centres : Tensor, shape (c, f)
        Whitened centres of the classes, about that mean.
    """

    whiten: Tensor
    offset: Tensor
    centres: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors as named in a model file."""
        parts = {"whiten": self.whiten, "offset": self.offset, "centres": self.centres}
        return {PREFIX + name: value.detach().cpu().contiguous() for name, value in parts.items()}

    @classmethod
    def split(cls, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Novelty | None]:
        """Return the weights of a model file, and what it holds of this kind; a part of it counts as a weight."""
        weights = {name: value for name, value in tensors.items() if not name.startswith(PREFIX)}
        own = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
        if set(own) != {"whiten", "offset", "centres"}:
            return dict(tensors), None
        return weights, cls(own["whiten"], own["offset"], own["centres"])

    def fits(self, module: nn.Module) -> bool:
        """Whether the shapes agree with one another and with a network's features."""
        f = feature_width(module)
        return self.whiten.shape == (f, f) and self.offset.shape == (f,) and self.centres.shape[1:] == (f,)

    def distances(self, features: NDArray[np.floating]) -> Array:
        """Return the distances (n,) of features (n, f), in float64."""
        whitened = (
            compress(torch.from_numpy(features)).double().numpy() @ self.whiten.double().numpy().T
            + self.offset.double().numpy()
        )
        squares = [((whitened - centre) ** 2).sum(axis=1) for centre in self.centres.double().numpy()]
        return np.asarray(np.sqrt(np.min(squares, axis=0)))


def compress(features: Tensor) -> Tensor:
    """Return the fourth roots of features, with their sign; only roots, which round alike everywhere."""
    return ((features.abs() + FLOOR).sqrt().sqrt() - FLOOR**0.25).copysign(features)


def fit_novelty(features: NDArray[np.floating], labels: NDArray[np.integer[Any]]) -> Novelty:
    """Fit centres and the shared covariance.

    Parameters
    ----------
    features : ndarray, shape (n, f)
    labels : ndarray of int, shape (n,)
        Class of each row; a class of fewer than 2 rows does not count.

    Notes
    -----
    Features are brought to unit variance, and their covariance is shrunk by `SHRINK` towards the unit matrix, so that
    directions in which the mocks hardly differ have a finite weight.
    """
    values = compress(torch.from_numpy(np.asarray(features, np.float32))).double().numpy()
    mean, spread = values.mean(axis=0), values.std(axis=0)
    spread = spread + 1e-3 * max(float(values.std()), 1e-6)
    values = (values - mean) / spread
    kinds = [kind for kind in np.unique(labels) if (labels == kind).sum() > 1]
    centres = np.stack([values[labels == kind].mean(axis=0) for kind in kinds])
    rest = np.concatenate([values[labels == kind] - centre for kind, centre in zip(kinds, centres, strict=True)])
    cov = (1 - SHRINK) * (rest.T @ rest) / len(rest) + SHRINK * np.eye(rest.shape[1])
    root = np.linalg.inv(np.linalg.cholesky(cov))
    whiten = root / spread
    parts = (whiten, -whiten @ mean, centres @ root.T)
    return Novelty(*(torch.from_numpy(np.ascontiguousarray(part)).float() for part in parts))


def scale_distances(distance: Tensor, edges: Tensor) -> Tensor:
    """Return ``ood`` of distances: -log10(p) / 3, straight between the distances `edges` (4,) of `TAILS`, and beyond.

    Elementwise, in a fixed order.
    """
    marks = [0.0, *(-math.log10(tail) / 3 for tail in TAILS)]
    low = torch.zeros_like(edges[0])
    result = torch.zeros_like(distance)
    for k in range(len(TAILS)):
        part = ((distance - low) / (edges[k] - low).clamp(min=1e-6)).clamp(min=0.0)
        if k < len(TAILS) - 1:
            part = part.clamp(max=1.0)
        result = result + part * (marks[k + 1] - marks[k])
        low = edges[k]
    return result


def last_layer(module: nn.Module) -> nn.Module | None:
    """Return what turns a network's features into its logit: the logit's head, else the last linear layer."""
    heads = [child for child in module.modules() if isinstance(child, LogitHead | BottleneckHead)]
    linear = [child for child in module.modules() if isinstance(child, nn.Linear)]
    return (heads or linear or [None])[-1]


def feature_layer(module: nn.Module) -> str | None:
    """Return the name of the layer whose input are a network's features; None if it has none."""
    layer = last_layer(module)
    return next((name for name, child in module.named_modules() if child is layer), None) if layer else None


def feature_width(module: nn.Module) -> int:
    """Return the number of a network's features; 0 if it has none."""
    layer = last_layer(module)
    if layer is None:
        return 0
    linear = layer if isinstance(layer, nn.Linear) else next(c for c in layer.modules() if isinstance(c, nn.Linear))
    return int(linear.in_features)


class FeatureTap:
    """Keeps the features of a network's passes, until `remove` is called.

    Parameters
    ----------
    module : nn.Module
        May be folded (`lensscan.nets.blocks.fold`).
    layer : str
        From `feature_layer` of the network before folding.
    """

    def __init__(self, module: nn.Module, layer: str) -> None:
        self.seen: list[Tensor] = []
        self.remove = module.get_submodule(layer).register_forward_pre_hook(self._keep).remove

    def _keep(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.seen.append(inputs[0].detach().float().flatten(1))

    def take(self) -> list[Tensor]:
        """Return the features (n, f) of every pass since the last call."""
        seen, self.seen = self.seen, []
        return seen


class Detector:
    """A network's `Novelty` at work in a scan.

    Parameters
    ----------
    novelty : Novelty
    module : nn.Module
        The network that runs, folded.
    layer : str
        From `feature_layer`.
    edges : sequence of 4 float
        Distances at `TAILS`, for the number of views.
    device : torch.device
    """

    def __init__(
        self, novelty: Novelty, module: nn.Module, layer: str, edges: tuple[float, ...], device: torch.device
    ) -> None:
        self.tap = FeatureTap(module, layer)
        linear = nn.Linear(len(novelty.offset), len(novelty.offset))
        linear.weight.data, linear.bias.data = novelty.whiten, novelty.offset
        self.whiten = StableLinear(linear).to(device).requires_grad_(False)
        self.centres = novelty.centres.to(device)
        self.edges = torch.tensor(edges, dtype=torch.float32, device=device)

    def score(self) -> Tensor:
        """Return ``ood`` (B,) from the passes kept by `tap`: of the mean square distance of all views.

        The same bits for a row in any batch.
        """
        squares = []
        for features in self.tap.take():
            whitened = self.whiten(compress(features))
            each = [(whitened - centre).square().sum(dim=1) for centre in self.centres]
            squares.append(torch.stack(each).amin(dim=0))
        mean = sum(squares[1:], squares[0]) / len(squares)
        return scale_distances(mean.sqrt(), self.edges)


def make_detector(
    novelty: Novelty | None, module: nn.Module, folded: nn.Module, edges: tuple[float, ...], device: torch.device
) -> Detector | None:
    """Return the detector of a network that is to run as `folded`; None if its model has none, or no scale."""
    layer = feature_layer(module)
    if novelty is None or layer is None or not edges:
        return None
    return Detector(novelty, folded, layer, edges, device)
