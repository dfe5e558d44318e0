"""Checkpoints: everything a training needs to go on, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from lensscan import faults
from lensscan.errors import OutputError, PlanMismatch, disk_error
from lensscan.files import sync_folder, temporary_name

__all__ = ["FORMAT", "load_checkpoint", "save_checkpoint"]

FORMAT = 1


def save_checkpoint(path: Path, digest: str, state: dict[str, Any]) -> None:
    """Write a checkpoint under a temporary name, sync it, rename it, sync the folder.

    Parameters
    ----------
    path : Path
    digest : str
        Hash of the settings that the state belongs to.
    state : dict
        Tensors, numbers and strings, nested.

    Raises
    ------
    DiskError, OutputError
        If it cannot be written.
    """
    temporary = temporary_name(path)
    try:
        with open(temporary, "wb") as stream:
            torch.save({"format": FORMAT, "digest": digest, **state}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        faults.reach("checkpoint:written")
        os.replace(temporary, path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise disk_error(error, path) or OutputError(f"cannot write {path}: {error}") from None
    faults.reach("checkpoint:renamed")


def load_checkpoint(path: Path, digest: str) -> dict[str, Any] | None:
    """Read a checkpoint; None if there is none.

    Raises
    ------
    PlanMismatch
        If it belongs to other settings.
    OutputError
        If it cannot be read.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = (state["format"], state["digest"])
    except Exception as error:
        raise OutputError(f"cannot read checkpoint {path} ({error}); remove it to start anew") from None
    if found[0] != FORMAT:
        raise OutputError(f"checkpoint {path} has format {found[0]}, not {FORMAT}; remove it to start anew")
    if found[1] != digest:
        raise PlanMismatch(f"checkpoint {path} belongs to other settings; remove its folder or give another output")
    return dict(state)
