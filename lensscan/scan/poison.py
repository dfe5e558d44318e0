"""Stamps that kill or stop the process: found by bisection in subprocesses, so that one costs its row only.

A worker leaves a mark before it touches a block and removes it when the shard stands.  A block that two
dead attempts have marked is first tried row range by row range in a subprocess of its own; rows that
crash it get the status ``crashed``, rows that it never gets past ``timeout``.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lensscan.errors import ExitCode, LensscanError, OutputError, disk_error
from lensscan.scan.plan import Plan
from lensscan.scan.settings import ScanSettings, canonical
from lensscan.scan.shards import FAN_OUT
from lensscan.schema import Status
from lensscan.survey.stamps import Rows

__all__ = ["Attempts", "ProbeEnded", "fate_of", "find_crashers"]

log = logging.getLogger(__name__)
DEAD_ATTEMPTS = 2
TRIES = 3
"""Probes of the same rows that somebody else may end."""
PROBE_SECONDS = 1800.0
"""A probe of one block that takes longer hangs: the rows of a block are read and scored in seconds to minutes."""
REAP_SECONDS = 10.0
CRASHES = {-each for each in (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)}
_serial = itertools.count()


class ProbeEnded(LensscanError):
    """Whether some rows crash a process could not be found out; the same command tries again."""

    exit_code = ExitCode.INCOMPLETE


@dataclass(slots=True)
class Attempts:
    """Marks of the blocks under way, one file per attempt in ``attempts/``."""

    settings: ScanSettings
    plan: Plan

    @property
    def folder(self) -> Path:
        """Folder of the marks."""
        return self.settings.run_dir / "attempts"

    def suspects(self, block: int, rows: Rows) -> dict[int, Status]:
        """Mark the attempt; after two dead ones return the block's rows that crash or stop a process, and which."""
        earlier = self._marks(block)
        mark = self._folder(block) / f"B{block:06d}.{os.uname().nodename}-{os.getpid()}-{next(_serial)}"
        try:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        except OSError as error:
            raise disk_error(error, mark) or OutputError(f"cannot create {mark}: {error.strerror}") from None
        if len(earlier) < DEAD_ATTEMPTS:
            return {}
        first = int(self.plan.blocks[block]["start"])
        log.warning("block %d killed %d attempts; looking for the stamp in subprocesses", block, len(earlier))

        def probe(start: int, stop: int) -> Status:
            return fate_of(self.settings, first + start, first + stop)

        return find_crashers(probe, rows.file)

    def finished(self, block: int) -> None:
        """Remove the block's marks."""
        for mark in self._marks(block):
            mark.unlink(missing_ok=True)

    def _folder(self, block: int) -> Path:
        """Return the folder of a block's marks: one for all would be listed in full at every block."""
        return self.folder / f"{block % FAN_OUT:02x}"

    def _marks(self, block: int) -> list[Path]:
        return list(self._folder(block).glob(f"B{block:06d}.*"))


def find_crashers(probe: Callable[[int, int], Status], files: Sequence[str]) -> dict[int, Status]:
    """Return which of some rows crash or stop a process, by bisection.

    Parameters
    ----------
    probe : callable
        Returns the fate of a process that reads and scores rows [start, stop): PENDING if it gets past them,
        CRASHED or TIMEOUT.
    files : sequence of str
        Storage of each row.

    Raises
    ------
    ProbeEnded
        If both halves of some rows hang: then the storage does, and no stamp is to blame.
    """
    found: dict[int, Status] = {}
    waiting = [(0, len(files), probe(0, len(files)))]
    while waiting:
        start, stop, fate = waiting.pop()
        if fate == Status.PENDING:
            continue
        if stop - start == 1:
            found[start] = fate
            continue
        middle = (start + stop) // 2
        first, second = probe(start, middle), probe(middle, stop)
        if stop - start > 2 and first == second == Status.TIMEOUT:
            raise ProbeEnded(
                f"reading {stop - start} stamps from {files[start]} on hangs in both halves; look at their storage, "
                "then run the same command again"
            )
        waiting += [(start, middle, first), (middle, stop, second)]
    return found


def fate_of(settings: ScanSettings, start: int, stop: int) -> Status:
    """Read and score plan rows [start, stop) in a subprocess: PENDING if it ends by itself, CRASHED or TIMEOUT.

    Raises
    ------
    ProbeEnded
        If others end it by signals time and again.
    """
    code, killed = 0, 0
    for _ in range(TRIES):
        ended = _run(_command(settings, start, stop))
        if ended is None:
            return Status.TIMEOUT
        code = ended
        killed += code == -signal.SIGKILL
        if code in CRASHES or killed > 1:  # killed once by a person, twice by what the stamp does to memory
            return Status.CRASHED
        if code >= 0:
            return Status.PENDING
    raise ProbeEnded(
        f"the process that tries plan rows {start} to {stop - 1} was ended by signal {-code}, {TRIES} times in all; "
        "run the same command again"
    )


def _command(settings: ScanSettings, start: int, stop: int) -> list[str]:
    return [sys.executable, "-m", "lensscan.scan.probe", canonical(settings.resolved()), str(start), str(stop)]


def _run(command: list[str]) -> int | None:
    """Return the exit code of a probe, None if it hangs; it has a session of its own, and ends when we do."""
    hidden = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "SLURM_STEP", "LENSSCAN_FAULT")
    process = subprocess.Popen(
        command,
        env={k: v for k, v in os.environ.items() if not k.startswith(hidden)},
        stdin=subprocess.PIPE,  # its end tells the probe of ours
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that hangs in the kernel cannot be killed
            process.wait(REAP_SECONDS)
        return None
    finally:
        if process.stdin is not None:
            process.stdin.close()
