"""Output streams whose reader may go away: what nobody reads must not stop the work."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, TextIO, cast

__all__ = ["SteadyStream", "steady_streams"]


class SteadyStream:
    """A text stream that falls silent where another would raise.

    Parameters
    ----------
    stream : text stream
    errors : exception or tuple of exceptions
        After one of these everything goes to the null device.
    """

    def __init__(self, stream: IO[str], errors: type[OSError] = BrokenPipeError) -> None:
        self._stream, self._errors = stream, errors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or keep quiet."""
        try:
            return self._stream.write(text)
        except self._errors:
            self.silence()
            return len(text)

    def flush(self) -> None:
        """Flush, or keep quiet."""
        try:
            self._stream.flush()
        except self._errors:
            self.silence()

    def silence(self) -> None:
        """Send everything from now on, and what is still held, to the null device."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)


def _nowhere() -> IO[str]:
    """Stand in for a stream that was closed before the start; takes its descriptor, lest a data file gets it."""
    return open(os.devnull, "w", encoding="utf-8")


@contextmanager
def steady_streams() -> Iterator[None]:
    """Let stdout survive a closed pipe (``| head``), and stderr also a full disk, until the block is left.

    A full disk under stdout still raises inside the block: there the output is what was asked for.
    """
    out, err = sys.stdout, sys.stderr
    steady = SteadyStream(out or _nowhere()), SteadyStream(err or _nowhere(), OSError)
    sys.stdout, sys.stderr = cast(tuple[TextIO, TextIO], steady)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err
        for stream in steady:
            try:
                stream.flush()
            except OSError:  # reported by then; what cannot be written must not be tried again at exit
                stream.silence()
