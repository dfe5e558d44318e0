"""Units are measured on the first mocks, and are the same for sums in any order."""

from __future__ import annotations

import torch
from toy_mocks import TRAINING, toy_source

from lensscan.mocks.recipes import load_recipe
from lensscan.train import units
from lensscan.train.settings import TrainSettings


def test_pixels_summed_in_another_order_have_the_same_units(monkeypatch):
    """As by other threads, or another processor: else its checkpoint would be taken for that of other settings."""
    monkeypatch.setattr(units, "simulate_sample", lambda recipe, seed, start, n: toy_source(start, 64))
    network = {"kind": "argonne", "scaling": "linear"}
    settings = TrainSettings.from_mapping({**TRAINING, "network": network}, "test")
    recipe = load_recipe("des-griz")
    first = units.with_units(settings, recipe)
    exact = units.scaled
    monkeypatch.setattr(units, "scaled", lambda images, scaling: exact(images, scaling).double() * (1 + 1e-12))
    again = units.with_units(settings, recipe)
    images = toy_source(0, 64).images.double()
    assert first.digest == again.digest != settings.digest
    torch.testing.assert_close(torch.tensor(first.network.mean), images.mean(dim=(0, 2, 3)).float(), rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.tensor(first.network.std), images.std(dim=(0, 2, 3)).float(), rtol=1e-5, atol=0)
