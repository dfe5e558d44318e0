"""How benchmarks start ranks: which mpiexec, and with what environment."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

__all__ = ["ENVIRONMENT", "find_mpiexec"]

ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
"""Of every rank, one thread each."""


def find_mpiexec() -> str | None:
    """Return the mpiexec beside this Python, else the one on PATH, else None."""
    return shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
