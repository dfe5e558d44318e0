"""Loss curves of trainings in processes of their own: one, or several under a real mpiexec."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from launch import environment, mpiexec

from lensscan.train.distributed import Engine, start_engine
from lensscan.train.loop import Trainer

needs_horovod = pytest.mark.skipif(
    find_spec("horovod") is None, reason="Horovod is not built; run jobs/build-horovod.sh"
)
TESTS = Path(__file__).resolve().parent
SCRIPT = """
import sys, torch
from importlib import import_module
torch.set_num_threads(1)
import_module(sys.argv[1]).curve_of_engine(*sys.argv[2:])
"""


def leave_curve(make: Callable[[Engine, Path], Trainer], backend: str, folder: str, precision: str) -> None:
    """Train as one rank of an engine to the last step; leaves the losses in the folder."""
    torch.set_default_dtype(getattr(torch, precision))
    engine = start_engine(backend, torch.device("cpu"))
    place = Path(folder) / str(engine.rank)
    place.mkdir()
    trainer = make(engine, place)
    losses = [float(trainer.train_step()[0]) for _ in range(trainer.settings.steps)]
    trainer.stream.close()
    torch.save(losses, Path(folder) / f"losses-{engine.rank}.pt")
    engine.close()


def curve(module: str, folder: Path, backend: str, ranks: int, precision: str, *words: str) -> list[float]:
    """Return the losses of ``curve_of_engine(backend, folder, precision, *words)`` of a test module."""
    folder.mkdir()
    launcher = [] if backend == "none" else [mpiexec(), "-n", str(ranks)]
    line = [*launcher, sys.executable, "-c", SCRIPT, module, backend, str(folder), precision, *words]
    path = {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
    done = subprocess.run(line, env=environment(**path), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    losses = [torch.load(folder / f"losses-{rank}.pt") for rank in range(ranks)]
    assert all(each == losses[0] for each in losses), "ranks must agree on the mean loss"
    return losses[0]
