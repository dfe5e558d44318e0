"""Stamps that kill the process: found by bisection in subprocesses, so that one costs its row only.

A worker leaves a mark before it touches a block and removes it when the shard stands.  A block that two
dead attempts have marked is first tried row range by row range in a subprocess of its own; rows that
crash it get the status ``crashed``.
"""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lensscan.errors import OutputError, disk_error
from lensscan.scan.plan import Plan
from lensscan.scan.settings import ScanSettings, canonical
from lensscan.survey.stamps import Rows

__all__ = ["Attempts", "find_crashers"]

log = logging.getLogger(__name__)
DEAD_ATTEMPTS = 2
_serial = itertools.count()


@dataclass(slots=True)
class Attempts:
    """Marks of the blocks under way, one file per attempt in ``attempts/``."""

    settings: ScanSettings
    plan: Plan

    @property
    def folder(self) -> Path:
        """Folder of the marks."""
        return self.settings.run_dir / "attempts"

    def suspects(self, block: int, rows: Rows) -> list[int]:
        """Mark the attempt; return the rows of the block that crash a process, after two dead attempts."""
        earlier = self._marks(block)
        mark = self.folder / f"B{block:06d}.{os.uname().nodename}-{os.getpid()}-{next(_serial)}"
        try:
            mark.touch()
        except OSError as error:
            raise disk_error(error, mark) or OutputError(f"cannot create {mark}: {error.strerror}") from None
        if len(earlier) < DEAD_ATTEMPTS:
            return []
        start = int(self.plan.blocks[block]["start"])
        log.warning("block %d killed %d attempts; looking for the stamp in subprocesses", block, len(earlier))
        return [row - start for row in find_crashers(self.settings, start, start + len(rows))]

    def finished(self, block: int) -> None:
        """Remove the block's marks."""
        for mark in self._marks(block):
            mark.unlink(missing_ok=True)

    def _marks(self, block: int) -> list[Path]:
        name = f"B{block:06d}."
        return [self.folder / entry for entry in os.listdir(self.folder) if entry.startswith(name)]


def find_crashers(settings: ScanSettings, start: int, stop: int) -> list[int]:
    """Return the plan rows in [start, stop) whose reading or scoring kills a process."""
    if survives(settings, start, stop):
        return []
    if stop - start == 1:
        return [start]
    middle = (start + stop) // 2
    return find_crashers(settings, start, middle) + find_crashers(settings, middle, stop)


def survives(settings: ScanSettings, start: int, stop: int) -> bool:
    """Read and score plan rows [start, stop) in a subprocess; True unless a signal killed it."""
    command = [
        sys.executable,
        "-m",
        "lensscan.scan.probe",
        canonical(settings.resolved()),
        str(start),
        str(stop),
    ]
    hidden = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "SLURM_STEP", "LENSSCAN_FAULT")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return done.returncode >= 0
