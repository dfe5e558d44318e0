"""Splitting stamps: whole groups go to one side, and a model is finished on real galaxies that it was not trained on.

Neighbours on the sky share seeing, depth and sometimes pixels, and a galaxy painted and unpainted is one galaxy; a
split by rows would show the network its own test.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lensscan.mocks.library import load_sources
from lensscan.mocks.realsky import real_sky, takes_real
from lensscan.mocks.recipes import Recipe, held_out
from lensscan.train.augment import step_generator

__all__ = ["galaxies_apart", "held_back"]

PURPOSE = 5


def held_back(groups: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Return which rows (n,) are held back: whole groups drawn by the seed, until their rows reach a share."""
    names, sizes = np.unique(np.asarray(groups), return_counts=True)
    order = torch.randperm(len(names), generator=step_generator(seed, 0, PURPOSE)).numpy()
    before = np.cumsum(sizes[order]) - sizes[order]
    return np.asarray(np.isin(groups, names[order[before < round(share * len(groups))]]))


def galaxies_apart(recipe: Recipe) -> str:
    """Return a warning if a training on the recipe is finished on the very real stamps that it shows; else nothing.

    Those held out for the finish are read, so that a training does not end where they cannot be.

    Raises
    ------
    ConfigError, CatalogError
        If they cannot be used, or there are none.
    """
    if recipe.source.profile == "images" and recipe.source.part == "train":
        load_sources(recipe.source.images, "test")
    if not takes_real(recipe):
        return ""
    if recipe.canvas.part == "train":
        real_sky(held_out(recipe))
        return ""
    return (
        f"warning: recipe {recipe.name} holds no real stamps back: calibration and evaluation show those of the "
        'training; give canvas.part = "train"'
    )
