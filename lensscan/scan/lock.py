"""The lock of a run folder: names its owner, is kept fresh, and is taken over when the owner is dead.

The lock of a scan prevents waste, not corruption: two jobs on one folder would still only rename identical shards.
Of two trainings with other settings the later one would replace checkpoint and model of the other.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensscan.errors import LockedError, OutputError, disk_error
from lensscan.files import temporary_name
from lensscan.process import boot_id, start_time

__all__ = ["REFRESH_SECONDS", "STALE_SECONDS", "RunLock", "job_id"]

REFRESH_SECONDS = 20.0
STALE_SECONDS = 120.0
JOB_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "COBALT_JOBID", "FLUX_JOB_ID")


def job_id() -> str:
    """Return the scheduler's job id, empty outside a job."""
    return next((os.environ[name] for name in JOB_VARIABLES if os.environ.get(name)), "")


def read_owner(path: Path) -> dict[str, Any]:
    """Return who a lock file names, empty if it cannot be read."""
    try:
        return dict(json.loads(path.read_text(encoding="ascii")))
    except (OSError, ValueError):
        return {}


@dataclass(slots=True)
class RunLock:
    """Owner's mark in the run folder.

    Parameters
    ----------
    path : Path
        The lock file.
    work : str
        What owners do, for messages.
    """

    path: Path
    work: str = "scan"
    _refreshed: float = field(default=0.0)
    held: bool = False

    def owner(self) -> dict[str, Any]:
        """Return who we are: host, boot id, pid, start time, scheduler job id."""
        pid = os.getpid()
        return {
            "host": os.uname().nodename,
            "boot": boot_id(),
            "pid": pid,
            "start": start_time(pid),
            "job": job_id(),
        }

    def acquire(self) -> str:
        """Take the lock; return a line about a takeover, or an empty string.

        Raises
        ------
        LockedError
            If a living owner holds it; the message names it.
        """
        for _ in range(3):
            if self._create():
                return ""
            holder = read_owner(self.path)
            reason = self._takeover_reason(holder)
            if reason is None:
                who = f"host {holder.get('host', '?')}, pid {holder.get('pid', '?')}, job {holder.get('job') or 'none'}"
                raise LockedError(
                    f"{self.path.parent} is in use by another {self.work} ({who}); "
                    "wait for it, or stop it and run this command again"
                )
            stale = temporary_name(self.path)
            try:
                os.replace(self.path, stale)
            except FileNotFoundError:
                continue
            if read_owner(stale) != holder:  # somebody else was faster, and it is his
                os.replace(stale, self.path)
                continue
            stale.unlink(missing_ok=True)
            if self._create():
                return f"took over the lock of {self.path.parent}: {reason}"
        raise LockedError(f"{self.path.parent}: another {self.work} started at the same moment; run this command again")

    def _create(self) -> bool:
        try:
            descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        except OSError as error:
            raise disk_error(error, self.path) or OutputError(f"cannot create {self.path}: {error.strerror}") from None
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                json.dump(self.owner(), stream)
        except OSError as error:
            self.path.unlink(missing_ok=True)  # nobody could tell whose it is, and all would wait for it
            raise disk_error(error, self.path) or OutputError(f"cannot write {self.path}: {error.strerror}") from None
        self.held, self._refreshed = True, time.monotonic()
        return True

    def _takeover_reason(self, holder: dict[str, Any]) -> str | None:
        """Return why the lock may be taken over, None if its owner must be taken for alive."""
        me = self.owner()
        same_boot = holder.get("host") == me["host"] and holder.get("boot") == me["boot"]
        if same_boot:  # whoever lives here keeps it, also if he was suspended and could not refresh it
            alive = start_time(int(holder.get("pid", 0))) == holder.get("start")
            return None if alive else f"its owner, pid {holder.get('pid')} on this host, is dead"
        if holder.get("job") and holder.get("job") == me["job"]:
            return f"it belongs to an earlier attempt of our job {me['job']}"
        try:
            age = time.time() - self.path.stat().st_mtime
        except FileNotFoundError:
            return "it is gone"
        return f"not refreshed for {age:.0f} s" if age > STALE_SECONDS else None

    def refresh(self) -> bool:
        """Touch the lock every 20 s; return False if it was taken from us."""
        now = time.monotonic()
        if not self.held or now - self._refreshed < REFRESH_SECONDS:
            return True
        self._refreshed = now
        if read_owner(self.path) != self.owner():
            self.held = False
            return False
        os.utime(self.path)
        return True

    def release(self) -> None:
        """Remove the lock if it is ours."""
        if self.held and read_owner(self.path) == self.owner():
            self.path.unlink(missing_ok=True)
        self.held = False

    @contextlib.contextmanager
    def kept(self) -> Iterator[str]:
        """Hold the lock, kept fresh by a thread, during the work within; gives what `acquire` returns.

        Raises
        ------
        LockedError
            As `acquire` does.
        """
        note, done = self.acquire(), threading.Event()

        def refresh() -> None:
            while not done.wait(REFRESH_SECONDS / 2):
                with contextlib.suppress(OSError):
                    self.refresh()

        thread = threading.Thread(target=refresh, name="lock", daemon=True)
        thread.start()
        try:
            yield note
        finally:
            done.set()
            thread.join()
            self.release()
