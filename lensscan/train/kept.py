"""Chunks of a finish that stand on disk, so that one that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lensscan import __version__
from lensscan.errors import ExitCode
from lensscan.files import replacing
from lensscan.mocks.recipes import Recipe
from lensscan.nets.model import Model

__all__ = ["Kept", "Stopped", "fingerprint"]

Columns = Mapping[str, NDArray[Any]]
WORDS = ("name", "version", "notes", "training", "evaluation", "theta_E_prior")
"""Of a card, what does not touch a score."""


class Stopped(Exception):
    """A stop was asked for between two chunks.

    Attributes
    ----------
    code : ExitCode
        Of the stop.
    """

    def __init__(self, code: ExitCode) -> None:
        super().__init__(f"stopped with exit code {int(code)}")
        self.code = code


class Kept:
    """Makes chunks, or takes those that an earlier run made, and lets a stop through between them.

    Parameters
    ----------
    folder : Path, optional
        Where they stand; default: nowhere.
    stop : callable
        Returns the exit code of a stop that was asked for.
    """

    def __init__(self, folder: Path | None = None, stop: Callable[[], ExitCode | None] = lambda: None) -> None:
        self.folder = folder
        self.stop = stop

    def __call__(self, key: Sequence[object], make: Callable[[], Columns]) -> Columns:
        """Return the chunk of a key: all that its numbers follow from.

        Raises
        ------
        Stopped
            If a stop was asked for; the chunk stands then.
        DiskError, OutputError
            If it cannot be written.
        """
        name = hashlib.sha256(repr(tuple(key)).encode()).hexdigest()[:32]
        path = None if self.folder is None else self.folder / f"{name}.npz"
        found = None if path is None else _read(path)
        if found is not None:
            return found
        columns = make()
        if path is not None:
            with replacing(path) as temporary, open(temporary, "wb") as stream:
                arrays: dict[str, Any] = dict(columns)
                np.savez(stream, **arrays)
        code = self.stop()
        if code is not None:
            raise Stopped(code)
        return columns

    def fingerprint(self, models: Sequence[Model], recipe: Recipe, device: torch.device | str) -> str:
        """Return `fingerprint`, or nothing where nothing is kept."""
        return "" if self.folder is None else fingerprint(models, recipe, device)


def fingerprint(models: Sequence[Model], recipe: Recipe, device: torch.device | str) -> str:
    """Return a hash of weights, cards (but for their words), recipe, kind of device and versions."""
    parts = [recipe.digest, torch.device(device).type, __version__, torch.__version__, np.__version__]
    total = hashlib.sha256(repr(parts).encode())
    for model in models:
        card = {key: value for key, value in model.card.to_mapping().items() if key not in WORDS}
        total.update(json.dumps(card, sort_keys=True).encode())
        for name, value in model.module.state_dict().items():
            total.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            total.update(value.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def _read(path: Path) -> Columns | None:
    """Return what stands in a file; None if there is none or it is damaged."""
    try:
        with open(path, "rb") as stream, np.load(stream) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
