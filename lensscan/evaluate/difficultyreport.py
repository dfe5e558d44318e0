"""What the difficulty calibrator says: the printed table, the JSON file and the learning curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lensscan.evaluate.difficulty import BATCH, NEW_SEED, SEED, Difficulty, Run
from lensscan.evaluate.written import header, write_all
from lensscan.render.gates import Curves, learning_diagram

__all__ = ["lines", "report", "write_difficulty"]

PUBLISHED_N, PUBLISHED_EPOCHS = 16_000, 200
"""Stamps and epochs of the slides; less says nothing of a recipe."""


def lines(found: Difficulty) -> list[str]:
    """Return the printed table."""
    settings = found.settings
    band = "no published figure" if found.band is None else f"published {found.band[0]:.2f} to {found.band[1]:.2f}"
    text = [f"difficulty of {settings.recipe.name}: {settings.n} stamps, {settings.new} new ones"]
    for run in found.runs:
        left = "never" if run.parting is None else f"from epoch {run.parting}"
        text += [
            f"17-layer network, seed {run.seed}: {len(run.train)} epochs, {len(run.train) - run.restored} of them now "
            f"in {run.seconds:.0f} s",
            f"  training, last epoch (drop-out at work)  {run.train[-1]:.3f}",
            f"  validation, last epoch; best             {run.validation[-1]:.3f}; {run.validation.max():.3f} in epoch "
            f"{int(run.validation.argmax()) + 1}",
            f"  validation below training                {left}",
            f"  new images                               {run.new:.3f} [{run.interval[0]:.3f}, {run.interval[1]:.3f}]"
            f"  {band}{_judged(run, found)}",
        ]
    if len(found.runs) > 1:
        values = np.array([run.new for run in found.runs])
        text.append(f"  new images, {len(values)} trainings: {values.mean():.3f} +- {values.std(ddof=1):.3f}")
    text.append(f"  {found.ms_single:.3f} ms an image on one core, {found.ms_batch:.3f} ms in batches of {BATCH}")
    area = "no published figure" if found.published_hog is None else f"published {found.published_hog:.3f}, other mocks"
    text += [
        f"HOG and logistic regression on {settings.hog} stamps, {found.hog_seconds:.0f} s, C = {found.hog_penalty:g}",
        f"  AUROC, new images                        {found.hog.value:.3f} [{found.hog.low:.3f}, {found.hog.high:.3f}]"
        f"  {area}",
        f"  AUROC, cross-validated                   {found.hog_cross_validated:.3f}, on its own stamps, no interval",
    ]
    return text


def _judged(run: Run, found: Difficulty) -> str:
    """Return where a training ended beside the published band; nothing is said of one that was cut short."""
    settings, band = found.settings, found.band
    if band is None:
        return ""
    if settings.n < PUBLISHED_N or len(run.train) < PUBLISHED_EPOCHS:
        return f"; no verdict: theirs had {PUBLISHED_N:,} stamps and {PUBLISHED_EPOCHS} epochs"
    low, high = run.interval
    where = "above: too easy" if run.new > band[1] else "below: too hard" if run.new < band[0] else "inside"
    certain = low > band[1] or high < band[0] or (band[0] < low and high < band[1])
    return f", {where}" + ("" if certain else ", uncertain")


def report(found: Difficulty) -> dict[str, Any]:
    """Return the whole result as plain values."""
    settings = found.settings
    return {
        **header("difficulty", settings.n, SEED, settings.replicates, settings.recipe),
        "n_new": settings.new,
        "seed_new": NEW_SEED,
        "patience": settings.patience,
        "network": [
            {
                "seed": run.seed,
                "train": run.train.tolist(),
                "validation": run.validation.tolist(),
                "n_validation": run.n_validation,
                "parting": run.parting,
                "new": {"value": run.new, "low": run.interval[0], "high": run.interval[1]},
                "seconds": run.seconds,
                "restored": run.restored,
            }
            for run in found.runs
        ],
        "published_accuracy": found.band,
        "ms_per_image": {"single": found.ms_single, f"batch_{BATCH}": found.ms_batch},
        "hog": {
            "n": settings.hog,
            "auroc": {"value": found.hog.value, "low": found.hog.low, "high": found.hog.high},
            "cross_validated": found.hog_cross_validated,
            "penalty": found.hog_penalty,
            "seconds": found.hog_seconds,
            "published": found.published_hog,
        },
        "sources": found.names,
    }


def write_difficulty(found: Difficulty, folder: Path, plots: bool = True) -> list[Path]:
    """Write the JSON file and, with `plots`, the learning curves; return their paths."""
    stem = folder / f"difficulty--{found.settings.recipe.name}"
    curves = [Curves(f"seed {run.seed}", run.train, run.validation, run.parting, run.new) for run in found.runs]
    pictures = {"curves": learning_diagram(curves, found.band)} if plots else {}
    return write_all(stem, report(found), pictures=pictures)
