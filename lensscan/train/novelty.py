"""Fitting what a model calls unlike its training, on mocks of a seed of its own; also for a finished model file."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lensscan.mocks.batches import lay
from lensscan.mocks.recipes import Recipe
from lensscan.nets.dihedral import N_VIEWS
from lensscan.nets.model import Model
from lensscan.nets.novelty import TAILS, FeatureTap, Novelty, feature_layer, feature_width, fit_novelty
from lensscan.nets.scorer import Scorer
from lensscan.survey.stamps import allocate
from lensscan.train.augment import Sample, augment
from lensscan.train.kept import Kept
from lensscan.train.settings import Augmentation
from lensscan.train.stream import simulate_sample

__all__ = ["MOCKS", "add_novelty", "sample_features"]

BATCH = 64
CHUNK = 1024
MOCKS = 10_000
"""To fit, and as many again, held out, to scale the distances."""
WIDEST = 1280
"""Most features; a covariance of more would outweigh the network."""
FEWEST = 4
"""Mocks beyond the last tail, at least, or the distances stay without a scale."""


def add_novelty(
    model: Model,
    recipe: Recipe,
    seed: int,
    n: int = MOCKS,
    augmentation: Augmentation | None = None,
    report: Callable[[str], None] = lambda line: None,
    device: torch.device | str = "cpu",
    kept: Kept | None = None,
) -> Model:
    """Return a model that can tell how unlike its training a stamp is.

    Parameters
    ----------
    model : Model
        Trained; what it had of this kind is replaced.
    recipe : Recipe
        Of its training.
    seed : int
        Of the mocks: not that of training, calibration or evaluation.
    n : int
        Mocks to fit on, and as many again to scale on; a quarter of those also in eight views, or as many as their last
        tail needs.
    augmentation : Augmentation, optional
        As in training, so that its noise, gains, gaps and unstated seeing count as known; default: the usual one.
    report : callable
        Takes progress lines.
    device : torch.device or str
        Where mocks are made and scored.
    kept : Kept, optional
        Holds what an earlier call made; default: nothing.

    Returns
    -------
    Model
        As it was if the network has no features, more than `WIDEST`, or `n` is too small to know the tails.
    """
    least = math.ceil(FEWEST / TAILS[-1])
    if obstacle := _obstacle(feature_width(model.module), n, least):
        report(f"no out-of-distribution score: {obstacle}")
        return model
    bare = Model(model.card, model.module)
    source = _Source(bare, recipe, seed, augmentation or Augmentation(), torch.device(device), kept or Kept(), report)
    parts = list(source.chunks((0, n), 1))
    features, labels = (np.concatenate([part[name] for part in parts]) for name in ("features", "labels"))
    novelty = fit_novelty(features[:, 0], labels.astype(np.int64))
    edges = []
    for views, count in ((1, n), (N_VIEWS, max(n // 4, least, 1))):
        far = [part["distances"] for part in source.chunks((n, n + count), views, novelty)]
        quantiles = np.quantile(np.concatenate(far), [1 - tail for tail in TAILS])
        edges.append(tuple(float(f"{value:.5g}") for value in quantiles))
    card = dataclasses.replace(model.card, ood_distances=edges[0], ood_distances_views=edges[1])
    return Model(card, model.module, novelty)


def _obstacle(width: int, n: int, least: int) -> str:
    """Return why a network of so many features cannot have a score with n mocks, and what to do; empty if it can."""
    if not width:
        return "this network has no features; train one of another kind"
    if width > WIDEST:
        return f"this network has {width:,} features, more than {WIDEST:,}; train a narrower one"
    if n < least:
        return f"{n:,} mocks to fit are too few, it takes {least:,}: finish.calibration must be at least {2 * least:,}"
    return ""


def _mean_distance(novelty: Novelty, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the distances (n,) of features (n, V, f): root of the mean square over the views."""
    squares = [novelty.distances(features[:, view]) ** 2 for view in range(features.shape[1])]
    return np.asarray(np.sqrt(np.mean(squares, axis=0)))


@dataclass(frozen=True, slots=True)
class _Source:
    """Augmented mocks, and what a network makes of them."""

    model: Model
    recipe: Recipe
    seed: int
    augmentation: Augmentation
    device: torch.device
    kept: Kept
    report: Callable[[str], None]

    def chunks(
        self, rows: tuple[int, int], views: int, novelty: Novelty | None = None
    ) -> Iterator[Mapping[str, NDArray[Any]]]:
        """Yield chunks of mocks: features (k, views, f) and labels (k,), or with a `novelty` distances (k,)."""
        known = self.kept.fingerprint([self.model], self.recipe, self.device)
        fitted = 0 if novelty is None else rows[0]
        for start in range(*rows, CHUNK):
            count = min(CHUNK, rows[1] - start)
            key = (known, "novelty", self.augmentation, views, self.seed, fitted, start, count)
            yield self.kept(key, functools.partial(self._chunk, start, count, views, novelty))
            done, total = start + count - rows[0], rows[1] - rows[0]
            task = "to fit" if novelty is None else f"to scale, {views} view{'s' * (views > 1)}"
            self.report(f"seed {self.seed}: features of {done} of {total} mocks {task}")

    def _chunk(self, start: int, count: int, views: int, novelty: Novelty | None) -> dict[str, NDArray[Any]]:
        sample = simulate_sample(self.recipe, self.seed, start, count, self.device)
        sample = augment(sample, self.augmentation, self.seed, start, 0, count)
        features = sample_features(self.model, sample, views, self.device)
        if novelty is not None:
            return {"distances": _mean_distance(novelty, features)}
        return {"features": features, "labels": sample.is_lens.cpu().numpy()}


def sample_features(
    model: Model, sample: Sample, views: int = 1, device: torch.device | str = "cpu"
) -> NDArray[np.float32]:
    """Return the features (n, views, f) that the scan's own scorer sees of stamps.

    Parameters
    ----------
    model : Model
    sample : Sample
        Of the model's frame.
    views : int
        1 or 8 dihedral views.
    device : torch.device or str
        Where the network runs.
    """
    scorer = Scorer([Model(model.card, model.module)], device, BATCH, views=views)
    tap = FeatureTap(scorer.networks[0].module, feature_layer(model.module) or "")
    frame = model.frame()
    slot = allocate(BATCH, frame, pinned=scorer.device.type == "cuda")
    images, present, fwhm = (part.cpu().numpy() for part in (sample.images, sample.present, sample.fwhm))
    gone = None if sample.mask is None else sample.mask.cpu().numpy()
    result = []
    for start in range(0, len(images), BATCH):
        rows = slice(start, min(start + BATCH, len(images)))
        lay(slot, frame, images[rows], present[rows], fwhm[rows], None if gone is None else gone[rows])
        scorer.submit(slot).result()
        result.append(torch.stack([part[: slot.n] for part in tap.take()], dim=1).cpu().numpy())
    return np.concatenate(result)
