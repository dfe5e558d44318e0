"""Check the environment: packages, MPI and its launcher, GPUs, file system, shipped models.

Under mpiexec each rank reports its node, cores and device, and ranks that share a GPU are pointed out.
Exit code 1 if anything fails that a scan needs.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from lensscan import mpi
from lensscan.cli.arguments import named
from lensscan.errors import ExitCode
from lensscan.site.outcome import Check, Outcome

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "lensscan doctor --output /scratch/search      (on a compute node: srun -n 4 lensscan doctor)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--output", type=named, default=".", metavar="DIR", help="folder that a scan is to write to (default: here)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the checks; rank 0 also those of all ranks."""
    from lensscan.site.doctor import diagnose
    from lensscan.site.ranks import check_ranks

    world = mpi.start()
    counts: Counter[Outcome] = Counter()
    for check in check_ranks(world):
        counts[check.outcome] += 1
        show(check)
    if world.rank == 0:
        for check in diagnose(Path(args.output)):
            counts[check.outcome] += 1
            show(check)
        print(f"{counts[Outcome.OK]} ok, {counts[Outcome.WARN]} warnings, {counts[Outcome.FAIL]} failed")
    world.finalize()
    return int(ExitCode.ERROR if counts[Outcome.FAIL] else ExitCode.OK)


def show(check: Check) -> None:
    """Print one line."""
    print(f"{check.outcome.value:5s} {check.name:14s} {check.text}", flush=True)
