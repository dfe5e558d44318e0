"""The outcome of one check of the environment."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Check", "Outcome"]


class Outcome(enum.Enum):
    """How a check ended; a failure makes the doctor's exit code 1."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report.

    Attributes
    ----------
    name : str
        What was looked at.
    outcome : Outcome
        How it ended.
    text : str
        What was found and, unless all is well, what to do.
    """

    name: str
    outcome: Outcome
    text: str
