"""The file under a journal: optuna's, but a line stands in it whole or not at all, whatever cuts an append short."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lensscan.errors import OutputError, disk_error
from lensscan.files import replacing

__all__ = ["LockFile", "LogFile"]

log = logging.getLogger(__name__)

RECORD = b'{"op_code":'
"""How every record begins."""


class LockFile:
    """optuna's lock file, made with O_EXCL; also where another process broke it, because its owner stood still."""

    def __init__(self, path: Path) -> None:
        from optuna.storages.journal import JournalFileOpenLock

        self._lock = JournalFileOpenLock(str(path))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock during the work within."""
        self._lock.acquire()
        try:
            yield
        finally:
            with suppress(RuntimeError):  # broken by another after 30 s: it is gone, and what was done stands
                self._lock.release()


class LogFile:
    """A backend of optuna's `JournalStorage`.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        from optuna.storages.journal import JournalFileBackend

        self.path, self._lock = path, LockFile(path)
        self._backend = JournalFileBackend(str(path))

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Return the records from a number on."""
        return self._backend.read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records, after whatever another process left unfinished is cut off.

        Raises
        ------
        DiskError, OutputError
            If they cannot be written; no part of a line is left then.
        """
        lines = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in logs)
        with self._lock.held():
            try:
                self._cut()
                with open(self.path, "ab") as stream:
                    stream.write(lines.encode())
                    stream.flush()
                    os.fsync(stream.fileno())
            except OSError as error:
                with suppress(OSError):
                    self._cut()  # whole lines stay: another process may have read them
                reason = f"cannot write {self.path}: {error.strerror or error}; run the same command again"
                raise disk_error(error, self.path) or OutputError(reason) from None

    def mend(self) -> None:
        """Cut off an unfinished last line, and drop lines within that cannot be read.

        Nobody can have read beyond such a line, so that the places known to other processes stay right.  Of one that
        holds half a record and a whole one behind, the whole one stays.  A file that begins with such a line is left.
        """
        with self._lock.held():
            self._cut()
            lines = self.path.read_bytes().splitlines(keepends=True)
            if not lines or not _readable(lines[0]):
                return
            torn = sum(not _readable(line) for line in lines)
            if torn:
                whole = [line if _readable(line) else line[max(0, line.rfind(RECORD)) :] for line in lines]
                with replacing(self.path) as temporary:
                    temporary.write_bytes(b"".join(line for line in whole if _readable(line)))
                log.warning("%s: %d torn lines dropped; their trials are done again", self.path, torn)

    def _cut(self) -> None:
        """Cut off a last line without an end: it would spoil the next one."""
        with open(self.path, "r+b") as stream:
            if stream.seek(0, os.SEEK_END) == 0:
                return
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.seek(0)
                stream.truncate(stream.read().rfind(b"\n") + 1)


def _readable(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
