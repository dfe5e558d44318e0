"""Errors that a user can act on, and the exit codes of every command.

Each message is one line that says what is wrong, where, and what to do.  The command line prints it and
leaves with the error's ``exit_code``; the traceback is shown only under ``--debug``.
"""

from __future__ import annotations

import enum
import errno

__all__ = [
    "CatalogError",
    "ConfigError",
    "DiskError",
    "ExitCode",
    "LauncherError",
    "LensscanError",
    "LockedError",
    "ModelError",
    "OutputError",
    "PlanMismatch",
    "ShardInvalid",
    "StampError",
    "VerificationError",
    "disk_error",
]

DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
CFITSIO_WRITE_ERROR = "fitsio status = 106:"  # WRITE_ERROR of cfitsio's fitsio.h


class ExitCode(enum.IntEnum):
    """Exit codes of the command line, docs/scan.md."""

    OK = 0
    ERROR = 1
    USAGE = 2
    TOO_MANY_FAILED = 3
    DISK = 74
    INCOMPLETE = 75
    INTERRUPTED = 130


class LensscanError(Exception):
    """Base of all errors that are the user's to solve; carries the exit code of the command."""

    exit_code: ExitCode = ExitCode.ERROR


class ConfigError(LensscanError):
    """A setting, TOML file, SPEC or name that cannot be used."""

    exit_code = ExitCode.USAGE


class CatalogError(LensscanError):
    """A survey catalog that cannot be read or lacks a column."""


class ModelError(LensscanError):
    """A model file that cannot be read, or does not fit the survey."""


class LauncherError(LensscanError):
    """The MPI launcher and the MPI library disagree, or a rank cannot be placed."""


class LockedError(LensscanError):
    """Another job holds the run folder."""


class PlanMismatch(LensscanError):
    """The run folder or output belongs to another plan."""


class OutputError(LensscanError):
    """An output file that exists, cannot be written, or has another format."""


class VerificationError(LensscanError):
    """A finished file that breaks the accounting law or its own checksum."""


class ShardInvalid(LensscanError):
    """A shard that does not belong to this plan or is damaged; its block is scored again by the next run."""

    exit_code = ExitCode.INCOMPLETE


class DiskError(LensscanError):
    """The disk is full, over quota or failing."""

    exit_code = ExitCode.DISK


class StampError(Exception):
    """One stamp that cannot be used; costs its row, never the run.

    Parameters
    ----------
    status : int
        The `lensscan.schema.Status` recorded for the row.
    reason : str
        One line for the log.
    """

    def __init__(self, status: int, reason: str = "") -> None:
        super().__init__(reason)
        self.status = int(status)
        self.reason = reason


def disk_error(error: BaseException, path: object) -> DiskError | None:
    """Return a `DiskError` if `error` means that the disk is full or failing, else None.

    h5py reports a full disk as OSError at the write and as RuntimeError at the close, the second without
    an errno, cfitsio by its status of a failed write alone, so the text is looked at too.  torch, which closes its
    file all the same, hides the error of the write behind another one.
    """
    told = (*(f"errno = {number}" for number in sorted(DISK_ERRNOS)), "no space left", CFITSIO_WRITE_ERROR)
    found: BaseException | None = error
    while found is not None:
        number = getattr(found, "errno", None)
        if number in DISK_ERRNOS or any(words in str(found).lower() for words in told):
            what = getattr(found, "strerror", None) or found
            remedy = "free disk space (or raise the quota) and run the same command again"
            if number == errno.EROFS:
                remedy = "choose a folder that can be written to"
            return DiskError(f"cannot write {path}: {what}; {remedy}")
        found = found.__context__
    return None


def read_reason(error: BaseException) -> str:
    """Return in plain words why a file could not be read: without a number, or the path once more."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return "no such file"
    if isinstance(error, KeyError):
        return f"no column {error.args[0]}"
    return getattr(error, "strerror", None) or str(error)


def file_error(error: Exception) -> LensscanError | None:
    """Return what a failed access to a file means to the user, None if it is no such failure."""
    if not isinstance(error, OSError):
        return None
    problem = disk_error(error, error.filename or "the output")
    if problem is None and error.filename is not None:
        return OutputError(f"cannot use {error.filename}: {error.strerror}; check the path and its permissions")
    return problem
