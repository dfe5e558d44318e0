"""A sweep of seconds: a published network, which needs no units, on 32 mocks of 45 pixels."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

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


def table(folder: Path) -> list[dict[str, str]]:
    """Return the rows of trials.csv without what no two runs share."""
    with open(folder / "trials.csv", newline="", encoding="utf-8") as stream:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)]


def journal(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of the journal."""
    return [json.loads(line) for line in (folder / "journal.log").read_text(encoding="utf-8").splitlines()]
