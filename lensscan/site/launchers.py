"""Check that the ``mpiexec`` on this machine and mpi4py's MPI library belong together.

An ``mpiexec`` of another MPI starts N jobs of one rank each.  Every MPI that is tried runs in a process of its
own: on the login nodes of some sites MPI ends the process that loads it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from lensscan import mpi
from lensscan.site.outcome import Check, Outcome

__all__ = ["check_launchers"]

SECONDS = 60
PROBE = (
    "from lensscan import mpi; w = mpi.start(); print('rank', w.rank, 'of', w.size, 'under', w.vendor); w.finalize()"
)


def check_launchers() -> Iterator[Check]:
    """Start two ranks with each ``mpiexec`` that a user may call: the one on PATH and the environment's own."""
    if mpi.launched_size() is not None:
        yield Check("launcher", Outcome.OK, f"this process was started by one, with {mpi.launched_size()} ranks")
        return
    own = Path(sys.executable).with_name("mpiexec")
    found = shutil.which("mpiexec")
    first = Path(found) if found else None
    if first is None and not own.exists():
        text = "no mpiexec on PATH: a scan runs as one process; pip install 'lensscan[mpi]', or load the site's MPI"
        yield Check("launcher", Outcome.WARN, text)
        return
    works = probe(own) if own.exists() else None
    if works is not None:
        yield works
    if first is not None and first.resolve() != own.resolve():
        check = probe(first)
        if check.outcome is not Outcome.OK and works is not None and works.outcome is Outcome.OK:
            check = Check("launcher", Outcome.WARN, f"{check.text}; here the right one is {own}")
        yield check


def probe(launcher: Path) -> Check:
    """Start two ranks with `launcher` and compare what they see."""
    command = [str(launcher), "-n", "2", sys.executable, "-c", PROBE]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, env=environment(), stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return Check("launcher", Outcome.FAIL, f"{launcher} -n 2 hung for {SECONDS} s; use another mpiexec")
    except OSError as error:
        return Check("launcher", Outcome.FAIL, f"{launcher} does not start: {error.strerror}; use another mpiexec")
    ranks = sorted(line for line in result.stdout.splitlines() if line.startswith("rank "))
    if result.returncode == 0 and [line.split(" under ")[0] for line in ranks] == ["rank 0 of 2", "rank 1 of 2"]:
        return Check("launcher", Outcome.OK, f"{launcher} starts 2 ranks of {ranks[0].split(' under ')[1]}")
    if ranks:
        reason = "its ranks do not see each other: it belongs to another MPI than mpi4py's; use the mpiexec of that MPI"
    else:
        reason = last_line(result.stderr) or f"exit code {result.returncode}"
    return Check("launcher", Outcome.FAIL, f"{launcher} -n 2: {reason}")


def environment() -> dict[str, str]:
    """Return the environment for a trial: root and more ranks than cores are allowed."""
    return os.environ | {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMP_NUM_THREADS": "1",
    }


def last_line(text: str) -> str:
    """Return the last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" -\t")]
    named = [line for line in lines if line.startswith("lensscan.errors.")]
    return (named or lines or [""])[-1].removeprefix("lensscan.errors.LauncherError: ")
