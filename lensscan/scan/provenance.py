"""What made an output: versions, inputs, hashes, machines and attempts; stays outside the content hash."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lensscan
from lensscan.mpi import World
from lensscan.process import available_cores, tune_allocator
from lensscan.scan.settings import ScanSettings, canonical

if TYPE_CHECKING:
    from lensscan.nets.card import Card
    from lensscan.scan.plan import Plan
    from lensscan.scan.planning import Planner

__all__ = ["attempts", "collect", "git_revision"]

PACKAGES = ("numpy", "torch", "astropy", "fitsio", "h5py", "mpi4py", "safetensors", "scipy")


def git_revision() -> str:
    """Return the git revision of the checkout lensscan runs from, with ``+dirty``; empty outside one."""
    folder = Path(lensscan.__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return ""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def attempts(log_path: Path) -> list[dict[str, Any]]:
    """Return the attempts recorded in ``log.jsonl``, oldest first."""
    events = []
    try:
        lines = log_path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event.get("event") == "attempt":
            events.append(event)
    return events


def collect(
    planner: Planner, plan: Plan, settings: ScanSettings, world: World, argv: Sequence[str], log_path: Path
) -> dict[str, Any]:
    """Return the provenance of a run as plain values.

    Parameters
    ----------
    planner, plan, settings, world
        The run.
    argv : sequence of str
        Command line; its first word, the path of a script, is replaced by the command's name.
    log_path : Path
        The run's JSON-lines log, which names every attempt.
    """
    return {
        "lensscan": lensscan.__version__,
        "git": git_revision(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": shlex.join(["lensscan", *argv[1:]] if argv else []),
        "config": settings.resolved(),
        "survey": json.loads(canonical(planner.survey)),
        "cut": _cut(planner),
        "magnitudes": planner.survey.catalog.magnitudes or "not stated in the survey file",
        "models": [_card(card) for card in planner.cards],
        "regressor": _card(planner.regressor) | {"above": settings.threshold} if planner.regressor else None,
        "plan_hash": plan.plan_hash,
        "mpi": {"vendor": world.vendor, "ranks": world.size, "fault_tolerant": world.fault_tolerant},
        "allocator": tune_allocator(),
        "cores": available_cores(world.local_size),
        "python": sys.version.split()[0],
        "machine": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "attempts": attempts(log_path),
        "log_sha256": hashlib.sha256(log_path.read_bytes()).hexdigest() if log_path.exists() else "",
    }


def _card(card: Card) -> dict[str, Any]:
    return {"name": card.name, "version": card.version, "sha256": card.hash, "label": card.label}


def _cut(planner: Planner) -> Any:
    """Return the cut made here, or what ``lensscan select`` left of its own."""
    if planner.cut:
        return json.loads(canonical(planner.cut))
    flow = planner.stored_flow
    return {"name": flow.name, "prevalence": flow.prevalence, "magnitudes": flow.magnitudes} if flow else None


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
