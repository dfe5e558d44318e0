"""Who works on a trial, and whether that process still lives: by pid on the same host, by a heartbeat on others."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType

from lensscan.files import make_folder
from lensscan.process import boot_id, start_time

__all__ = ["BEAT_SECONDS", "STALE_SECONDS", "Owner"]

BEAT_SECONDS = 20.0
STALE_SECONDS = 120.0


class Owner:
    """The mark of this process as an owner of trials, while the block is entered.

    Parameters
    ----------
    folder : Path
        Holds one file for each living process, touched every 20 s by a thread.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        pid = os.getpid()
        self.name = f"{os.uname().nodename}.{boot_id()}.{pid}.{start_time(pid)}"
        self._left = threading.Event()

    def __enter__(self) -> Owner:
        make_folder(self.folder)
        self._path.touch()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._left.set()
        self._path.unlink(missing_ok=True)

    @property
    def _path(self) -> Path:
        return self.folder / self.name

    def _beat(self) -> None:
        while not self._left.wait(BEAT_SECONDS):
            try:
                os.utime(self._path)
            except OSError:  # an ill file system: others may repeat our trial, which costs time alone
                continue

    def alive(self, name: str) -> bool:
        """Tell whether the process of this name must be taken for alive."""
        host, boot, pid, start = name.rsplit(".", 3)
        if start and (host, boot) == (os.uname().nodename, boot_id()):
            return start_time(int(pid)) == start
        try:
            return time.time() - (self.folder / name).stat().st_mtime < STALE_SECONDS
        except OSError:
            return False
