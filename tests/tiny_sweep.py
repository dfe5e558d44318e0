"""A sweep of seconds: a published network, which needs no units, on 32 mocks of 45 pixels."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lensscan.train.stream import simulate_sample

SWEEP = """
name = "small"
trials = 9
metric = "bce"
search = "halving"
rungs = 3
reduction = 3
[training]
recipe = "argonne2017"
steps = 9
validate_every = 1000
validation = 32
network = {kind = "argonne", scaling = "noise"}
stream = {chunk = 32, window = 1, reuse = 4.0, chunks = 1}
[parameters]
optimiser.lr = {low = 1e-4, high = 1e-2, log = true}
optimiser.warmup = {low = 0, high = 4}
optimiser.kind = {choices = ["adamw", "sgd"]}
batch = {choices = [4, 8]}
"""


@contextmanager
def kept_mocks() -> Iterator[None]:
    """Simulate the same mocks of all trials once."""
    from lensscan.train.sweep import trial

    kept: dict[Any, Any] = {}

    def cached(recipe: Any, seed: int, start: int, n: int, device: Any) -> Any:
        key = (recipe.digest, seed, start, n)
        if key not in kept:
            kept[key] = simulate_sample(recipe, seed, start, n, device)
        return replace(kept[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "simulate_sample", cached)
        yield


def table(folder: Path) -> list[dict[str, str]]:
    """Return the rows of trials.csv without what no two runs share."""
    with open(folder / "trials.csv", newline="", encoding="utf-8") as stream:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)]


def journal(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of the journal."""
    return [json.loads(line) for line in (folder / "journal.log").read_text(encoding="utf-8").splitlines()]
