"""One line that tells how far a command is: rewritten on a terminal, repeated every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time

__all__ = ["ProgressLine"]


class ProgressLine:
    """Shows rows, rate and time to go on stderr."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._terminal = sys.stderr.isatty()
        self._begun = self._shown = time.monotonic()
        self._open = False

    def show(self, done: int, total: int | None, new: int | None = None, note: str = "") -> None:
        """Show the state if it is time to; a finished one is always shown.

        Parameters
        ----------
        done, total : int
            Of which `total` may be unknown.
        new : int, optional
            What this very run has done, if some of `done` stood already.
        note : str
            Put at the end.
        """
        now = time.monotonic()
        last = done == total
        if not last and now - self._shown < (0.2 if self._terminal else 10.0):
            return
        self._shown = now
        rate = (done if new is None else new) / max(now - self._begun, 1e-9)
        text = f"{done:,}" + (f"/{total:,}" if total is not None else "") + f" {self._what}"
        text += f", {rate:,.0f}/s" if rate else ""
        if total is not None and rate and not last:
            text += f", {(total - done) / rate:,.0f} s to go"
        text += note
        line = f"\r{text}\x1b[K" if self._terminal else text
        self._open = self._terminal and not last
        print(line, file=sys.stderr, end="" if self._open else "\n", flush=True)

    def close(self) -> None:
        """Leave the line, if the cursor still stands in it."""
        if self._open:
            print(file=sys.stderr)
            self._open = False
