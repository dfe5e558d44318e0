"""Stop requests: signals and the time limit only set a flag, which the main loop reads."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from lensscan.errors import ExitCode

__all__ = ["StopRequest"]


@dataclass(slots=True)
class StopRequest:
    """Remembers the first reason to stop in order.

    SIGUSR1 and SIGTERM mean exit code 75, SIGINT 130; a second SIGINT ends the process at once.
    """

    max_seconds: float | None = None
    code: ExitCode | None = None
    reason: str = ""
    _begun: float = field(default_factory=time.monotonic)

    def install(self) -> None:
        """Take over the signals; only the main thread may call this."""
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Take over the signals, and give them back."""
        before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)}
        self.install()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self.code is None:
            self.code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.INCOMPLETE
            self.reason = signal.Signals(number).name

    def check(self) -> ExitCode | None:
        """Return the exit code of the stop that was asked for, None if none was."""
        if self.code is None and self.max_seconds is not None and time.monotonic() - self._begun > self.max_seconds:
            self.code, self.reason = ExitCode.INCOMPLETE, f"max_seconds = {self.max_seconds:g}"
        return self.code
