"""Fitting what a model calls unlike its training, on mocks of a seed of its own; also for a finished model file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

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
        Mocks to fit on, and as many again to scale on; a quarter of those also in eight views.
    augmentation : Augmentation, optional
        As in training, so that its noise, gains, gaps and unstated seeing count as known; default: the usual one.
    report : callable
        Takes progress lines.

    Returns
    -------
    Model
        As it was if the network has no features, more than `WIDEST`, or `n` is too small to know the tails.
    """
    if not 0 < feature_width(model.module) <= WIDEST or n * TAILS[-1] < FEWEST:
        report("no out-of-distribution score: no features, too many, or too few mocks")
        return model
    bare = Model(model.card, model.module)
    usual = augmentation or Augmentation()
    parts = list(_mock_features(bare, recipe, seed, (0, n), usual, 1, report))
    features, labels = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    novelty = fit_novelty(features[:, 0], labels.astype(np.int64))
    edges = []
    for views, count in ((1, n), (N_VIEWS, max(n // 4, 1))):
        far = [
            _mean_distance(novelty, part)
            for part, _ in _mock_features(bare, recipe, seed, (n, n + count), usual, views, report)
        ]
        quantiles = np.quantile(np.concatenate(far), [1 - tail for tail in TAILS])
        edges.append(tuple(float(f"{value:.5g}") for value in quantiles))
    card = dataclasses.replace(model.card, ood_distances=edges[0], ood_distances_views=edges[1])
    return Model(card, model.module, novelty)


def _mean_distance(novelty: Novelty, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the distances (n,) of features (n, V, f): root of the mean square over the views."""
    squares = [novelty.distances(features[:, view]) ** 2 for view in range(features.shape[1])]
    return np.asarray(np.sqrt(np.mean(squares, axis=0)))


def _mock_features(
    model: Model,
    recipe: Recipe,
    seed: int,
    rows: tuple[int, int],
    augmentation: Augmentation,
    views: int,
    report: Callable[[str], None],
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Yield features (k, views, f) and labels (k,) of chunks of augmented mocks."""
    for start in range(*rows, CHUNK):
        count = min(CHUNK, rows[1] - start)
        sample = augment(simulate_sample(recipe, seed, start, count), augmentation, seed, start, 0, count)
        yield sample_features(model, sample, views), sample.is_lens.numpy()
        report(f"seed {seed}: features of mocks {start} to {start + count} in {views} views")


def sample_features(model: Model, sample: Sample, views: int = 1) -> NDArray[np.float32]:
    """Return the features (n, views, f) that the scan's own scorer sees of stamps.

    Parameters
    ----------
    model : Model
    sample : Sample
        Of the model's frame.
    views : int
        1 or 8 dihedral views.
    """
    scorer = Scorer([Model(model.card, model.module)], "cpu", BATCH, views=views)
    tap = FeatureTap(scorer.networks[0].module, feature_layer(model.module) or "")
    frame = model.frame()
    slot = allocate(BATCH, frame)
    result = []
    for start in range(0, len(sample.images), BATCH):
        rows = slice(start, min(start + BATCH, len(sample.images)))
        mask = None if sample.mask is None else sample.mask[rows].numpy()
        lay(slot, frame, sample.images[rows].numpy(), sample.present[rows].numpy(), sample.fwhm[rows].numpy(), mask)
        scorer.submit(slot).result()
        result.append(torch.stack([part[: slot.n] for part in tap.take()], dim=1).numpy())
    return np.concatenate(result)
