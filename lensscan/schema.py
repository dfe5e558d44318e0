"""The vocabulary of the output: status of a row, flags of a score, and the columns with units and UCDs."""

from __future__ import annotations

import enum

__all__ = ["Flag", "Status", "flag_names", "status_name"]


class Status(enum.IntEnum):
    """What became of a catalog row; every row ends as CUT, SCORED or one of the failures."""

    PENDING = 0
    SCORED = 1
    CUT = 2
    MISSING_FILE = 10
    UNREADABLE = 11
    WRONG_SHAPE = 12
    NOT_FINITE = 13
    BLANK = 14
    MASKED = 15
    OUTPUT_NOT_FINITE = 16
    CRASHED = 17
    TIMEOUT = 18
    DUPLICATE_ID = 19
    WRONG_BANDS = 20
    NO_ZERO_POINT = 21
    WRONG_SCALE = 22
    OUTSIDE_IMAGE = 23
    NO_POSITION = 24
    WRONG_ID = 25

    @property
    def is_failure(self) -> bool:
        """True for the reasons that count as ``failed:<reason>``."""
        return self >= Status.MISSING_FILE


class Flag(enum.IntFlag):
    """Warnings about a scored row; they never alter the ranking (DESIGN section 6)."""

    THETA_E_UNRESOLVED = 1 << 0
    POSTERIOR_WIDE = 1 << 1
    POSTERIOR_AT_PRIOR = 1 << 2
    OFF_CENTRE = 1 << 3
    MEMBERS_DISAGREE = 1 << 4
    OOD = 1 << 5
    OUT_OF_RANGE = 1 << 6
    EDGE = 1 << 7
    MASKED = 1 << 8
    MISSING_BAND = 1 << 9
    RESAMPLED = 1 << 10
    STALE_WCS = 1 << 11


def status_name(code: int) -> str:
    """Return ``"scored"``, ``"cut"`` or ``"failed:<reason>"`` for a status code."""
    status = Status(int(code))
    return f"failed:{status.name.lower()}" if status.is_failure else status.name.lower()


def flag_names(bits: int) -> list[str]:
    """Return the lower-case names of the flags set in `bits`."""
    return [flag.name.lower() for flag in Flag if flag.name and int(bits) & flag.value]
