"""A toy universe for training tests: bright rings are lenses, made in milliseconds."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import torch

from lensscan.errors import ExitCode
from lensscan.nets.heads import to_latent
from lensscan.train.augment import Sample
from lensscan.train.distributed import Engine, Serial
from lensscan.train.loop import Trainer
from lensscan.train.settings import TrainSettings

SIZE = 16
BANDS = 2
PIXEL_SCALE = 0.3
TRAINING = {
    "name": "toy",
    "recipe": "toy",
    "steps": 24,
    "batch": 32,
    "validate_every": 12,
    "validation": 64,
    "stream": {"chunk": 64, "window": 2, "reuse": 2.0},
}


def toy_trainer(folder: Path, training: dict | TrainSettings, engine: Engine | None = None) -> Trainer:
    """Return the training of a mapping, or of settings, on toy mocks."""
    settings = TrainSettings.from_mapping(training, "toy") if isinstance(training, dict) else training
    folder.mkdir(exist_ok=True)
    return Trainer(
        settings,
        BANDS,
        SIZE,
        PIXEL_SCALE,
        toy_source,
        lambda: toy_source(10_000, settings.validation),
        engine or Serial(),
        folder,
        torch.device("cpu"),
    )


def train(trainer: Trainer, until: int | None = None) -> ExitCode:
    """Go on with a training from its checkpoint, and stop it at a step."""
    trainer.resume()
    try:
        return trainer.fit(
            lambda: ExitCode.INCOMPLETE if until is not None and trainer.step >= until else None, lambda line: None
        )
    finally:
        trainer.stream.close()


def toy_source(start: int, n: int) -> Sample:
    """Return toy mocks: a pure function of the row's number."""
    rows = [toy_row(start + i) for i in range(n)]
    images = torch.stack([row[0] for row in rows])
    lens = torch.tensor([row[1] for row in rows])
    truth = {name: torch.tensor([row[2][i] for row in rows]) for i, name in enumerate(NAMES)}
    present = torch.ones(n, BANDS, dtype=torch.bool)
    return Sample(images, present, torch.full((n, BANDS), 1.0), lens, to_latent(truth))


NAMES = ("theta_E", "e1", "e2", "x", "y", "sx", "sy")


def toy_row(number: int) -> tuple[torch.Tensor, bool, list[float]]:
    generator = torch.Generator().manual_seed(number + 77)
    lens = number % 2 == 0
    draw = torch.rand(7, generator=generator).tolist()
    theta_E = 0.8 + draw[0]
    x, y = 0.6 * (draw[1] - 0.5), 0.6 * (draw[2] - 0.5)
    axis = (torch.arange(SIZE) - (SIZE - 1) / 2) * PIXEL_SCALE
    radius = torch.sqrt((axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2)
    shape = torch.exp(-(((radius - theta_E) / 0.3) ** 2)) if lens else torch.exp(-radius / 0.8)
    image = 60 * shape * torch.tensor([1.0, 0.6])[:, None, None]
    image = image + 5 * torch.randn(BANDS, SIZE, SIZE, generator=generator)
    values = [theta_E, 0.2 * (draw[3] - 0.5), 0.2 * (draw[4] - 0.5), x, y, x, y]
    return image, lens, values if lens else [math.nan] * 7


def layered_source(start: int, n: int) -> Sample:
    """Return toy mocks with their layers: a galaxy, around it a ring or beside it a blob; a pure function."""
    rows = [layered_row(start + i) for i in range(n)]
    blend, arcs, noise = (torch.stack([row[k] for row in rows]) for k in range(3))
    lens = torch.tensor([row[3] for row in rows])
    truth = {name: torch.tensor([row[4][i] for row in rows]) for i, name in enumerate(NAMES)}
    present, fwhm = torch.ones(n, BANDS, dtype=torch.bool), torch.full((n, BANDS), 1.0)
    return Sample(blend + noise, present, fwhm, lens, to_latent(truth), blend=blend, arcs=arcs)


@functools.cache
def layered_row(number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool, list[float]]:
    generator = torch.Generator().manual_seed(number + 277)
    lens = number % 2 == 0
    draw = torch.rand(6, generator=generator).tolist()
    theta_E = 1.0 + 0.6 * draw[0]
    axis = (torch.arange(SIZE) - (SIZE - 1) / 2) * PIXEL_SCALE
    x, y = (0.4 * (value - 0.5) for value in draw[1:3])
    dx, dy = axis[None, :] - x, axis[:, None] - y
    radius = torch.sqrt(dx**2 + dy**2)
    angle = 6.28 * draw[3]
    blob = torch.hypot(dx - theta_E * math.cos(angle), dy - theta_E * math.sin(angle))
    shape = torch.exp(-(((radius - theta_E) / 0.35) ** 2)) if lens else torch.exp(-((blob / 0.5) ** 2))
    arcs = 30 * shape * torch.tensor([1.0, 0.7])[:, None, None]
    galaxy = (100 + 100 * draw[4]) * torch.exp(-radius / 0.4) * torch.tensor([0.5, 1.0])[:, None, None]
    noise = 5 * torch.randn(BANDS, SIZE, SIZE, generator=generator)
    values = [theta_E, 0.0, 0.0, x, y, x, y]
    return galaxy + arcs, arcs, noise, lens, values if lens else [math.nan] * 7
