"""The units of a network, measured on the first training mocks: of latent parameters, or of pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import torch

from lensscan.errors import ConfigError
from lensscan.mocks.recipes import Recipe
from lensscan.nets.classic.classifier import PublishedConfig, scaled
from lensscan.nets.classic.combination import CombinationConfig
from lensscan.train.augment import Sample
from lensscan.train.folder import open_folder
from lensscan.train.settings import TrainSettings
from lensscan.train.stream import simulate_sample

__all__ = ["with_units"]

UNITS_SAMPLE = 2048
NARROWEST = 1e-3
"""Least unit of a latent parameter: one that a recipe holds fixed has no spread."""


def with_units(settings: TrainSettings, recipe: Recipe) -> TrainSettings:
    """Give the network its units, from the first training mocks alone.

    For a posterior head, mean and spread of the latent parameters; for a published network, mean and spread of the
    pixels of each band, unless its settings give them.  The members of a combination have theirs.  They are rounded,
    so that sums in another order, of more threads or another processor, give the same.

    Raises
    ------
    ConfigError
        If there is a posterior head, but no lens among those mocks.
    """
    network = settings.network
    if isinstance(network, CombinationConfig):
        return settings
    if isinstance(network, PublishedConfig):
        if network.scaling == "noise" or network.mean:
            return settings
        images = scaled(_first_mocks(settings, recipe).images, network.scaling).double()
        mean, std = images.mean(dim=(0, 2, 3)), images.std(dim=(0, 2, 3))
        changed = dataclasses.replace(network, mean=_rounded(mean.tolist(), 6), std=_rounded(std.tolist(), 6))
        return dataclasses.replace(settings, network=changed)
    first = _first_mocks(settings, recipe)
    latent = first.latent[first.is_lens].double().numpy()
    if not len(latent):
        what = f"recipe {recipe.name}: no lens among the first {UNITS_SAMPLE} mocks, nothing to learn a posterior from"
        raise ConfigError(f"{what}; raise its share of lenses or ease its label")
    centre, scale = latent.mean(axis=0), latent.std(axis=0)
    for low, high in ((1, 2), (3, 4), (5, 6)):
        scale[[low, high]] = np.sqrt((scale[low] ** 2 + scale[high] ** 2) / 2)
    scale = np.maximum(scale, NARROWEST)
    centre[1:] = 0.0
    network = dataclasses.replace(network, latent_centre=_rounded(centre, 3), latent_scale=_rounded(scale, 3))
    return dataclasses.replace(settings, network=network)


def _first_mocks(settings: TrainSettings, recipe: Recipe) -> Sample:
    """Return the first training mocks, simulated or from the folder."""
    if not settings.stream.folder:
        return simulate_sample(recipe, settings.mock_seed("training"), 0, UNITS_SAMPLE)
    mocks = open_folder(settings, recipe)
    sample = mocks.take(torch.arange(min(UNITS_SAMPLE, mocks.n)))
    mocks.close()
    return sample


def _rounded(values: Iterable[float], digits: int) -> tuple[float, ...]:
    return tuple(float(f"{value:.{digits}g}") for value in values)
