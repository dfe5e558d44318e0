"""What a running scan tells: a progress line for people, JSON lines for machines."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

__all__ = ["Progress", "RunLog", "duration"]


def duration(seconds: float) -> str:
    """Return seconds as ``1:02:03`` or ``2:03``."""
    minutes, s = divmod(int(max(0.0, seconds) + 0.5), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


@dataclass(slots=True)
class RunLog:
    """Appends one JSON object a line to ``log.jsonl``; a full disk silences it, since it must not stop the run."""

    path: Path
    _stream: IO[str] | None = None

    def write(self, event: str, **values: Any) -> None:
        """Append one event with the time (UTC, seconds since the epoch)."""
        try:
            if self._stream is None:
                self._stream = self.path.open("a", buffering=1, encoding="utf-8")
            self._stream.write(json.dumps({"time": round(time.time(), 3), "event": event, **values}) + "\n")
        except OSError:
            self._stream = None

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


@dataclass(slots=True)
class Progress:
    """One line with rows, rate, ETA and failures; rewritten on a terminal, repeated every 10 s elsewhere.

    Parameters
    ----------
    total : int
        Rows of the plan.
    done : int
        Rows that stood in the ledger at the start.
    """

    total: int
    done: int = 0
    stream: IO[str] = field(default_factory=lambda: sys.stderr)
    failures: Counter[str] = field(default_factory=Counter)
    _first: int = field(init=False)
    _begun: float = field(default_factory=time.monotonic)
    _shown: float = 0.0
    _width: int = 0

    def __post_init__(self) -> None:
        self._first = self.done

    def line(self, partial: int = 0) -> str:
        """Return the line; `partial` counts rows of unfinished blocks."""
        rows = min(self.total, self.done + partial)
        elapsed = time.monotonic() - self._begun
        rate = (rows - self._first) / elapsed if elapsed > 0 else 0.0
        eta = duration((self.total - rows) / rate) if rate > 0 else "--"
        percent = 100.0 * rows / self.total if self.total else 100.0
        failed = sum(self.failures.values())
        reasons = ", ".join(f"{name} {n}" for name, n in self.failures.most_common(4))
        return f"{rows}/{self.total} rows ({percent:.1f} %), {rate:.0f}/s, ETA {eta}, {failed} failed" + (
            f" ({reasons})" if reasons else ""
        )

    def show(self, partial: int = 0, last: bool = False) -> None:
        """Print the line if it is time to."""
        terminal = self.stream.isatty()
        now = time.monotonic()
        if not last and now - self._shown < (1.0 if terminal else 10.0):
            return
        if not last and not self._shown and not terminal and now - self._begun < 10.0:
            return
        self._shown = now
        text = "scan: " + self.line(partial)
        if terminal:
            columns = os.get_terminal_size(self.stream.fileno()).columns
            text = text[: columns - 1]
            self.stream.write("\r" + text.ljust(self._width) + ("\n" if last else ""))
            self._width = len(text)
        else:
            self.stream.write(text + "\n")
        self.stream.flush()
