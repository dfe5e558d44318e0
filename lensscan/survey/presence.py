"""Whether a template of stamps or tiles finds any file, asked before a long run."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lensscan.errors import ConfigError
from lensscan.survey.stamps import StampSource

__all__ = ["LOOKS", "SomeFiles"]

LOOKS = 100
"""Files looked for before a run."""


class SomeFiles:
    """Looks for the files of some rows: a template that matches none would let every row of a long run fail.

    Parameters
    ----------
    source : StampSource
    spec : str
        As the user wrote it.
    looks : int
        Files looked for at most, so that a parallel file system does not notice.
    """

    def __init__(self, source: StampSource, spec: str, looks: int = LOOKS) -> None:
        self._source, self._spec, self._looks = source, spec, looks
        self._missing: dict[str, None] = {}
        self._found = False

    def look(self, paths: Sequence[str]) -> None:
        """Look for the files of rows, spread over all of them (neighbours may be missing together), until one is there.

        Raises
        ------
        ConfigError
            If as many as allowed were looked for in vain.
        """
        if self._found or not self._looks:
            return
        step = max(1, len(paths) // (self._looks - len(self._missing)))
        for name in (name for path in paths[::step] for name in self._source.files_of(path)):
            if name in self._missing:
                continue
            if _stands(name):
                self._found = True
                return
            self._missing[name] = None
            if len(self._missing) == self._looks:
                self.require()

    def require(self) -> None:
        """Raise a `ConfigError` if files were looked for and none is there."""
        if self._missing and not self._found:
            first = next(iter(self._missing)) or "that of a row without a value for the template"
            raise ConfigError(
                f"--stamps {self._spec}: none of the files of the rows tried is there ({len(self._missing)} looked "
                f"for, the first is {first}); correct the template, or give the whole path"
            )


def _stands(path: str) -> bool:
    """Return whether a file is there; what cannot be told is left to its reader."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return True
    return True
