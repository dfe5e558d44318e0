"""The stamps of ranked candidates, read again from where the scan read them.

Relative paths hold from the folder in which the scan ran.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from lensscan.candidates.file import read_files, read_header, read_provenance
from lensscan.config import Survey, build
from lensscan.survey.stamps import Batch, Frame, Rows, allocate, open_source

if TYPE_CHECKING:
    from astropy.table import QTable

__all__ = ["CandidateStamps"]

COLUMNS = ("id", "ra", "dec", "px", "py", "file", "offset")


class CandidateStamps:
    """Reader of the stamps of an output's candidates; a context manager.

    Parameters
    ----------
    path : str or Path
        An output of ``lensscan scan``.

    Attributes
    ----------
    frame : Frame
        Bands, size and pixel scale of the stamps as the networks saw them.

    Raises
    ------
    LensscanError
        If the output cannot be read, or the stamps' storage is gone.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        plan, stored = read_header(path).plan_settings, read_provenance(path)["frame"]
        self.frame = Frame(tuple(stored["bands"]), int(stored["size"]), float(stored["pixel_scale"]), 1)
        survey = build(Survey, plan["survey"], f"{path}: survey")
        source = open_source(plan["stamps"], survey, self.frame, resample=bool(plan["resample"]))
        self._reader = source.reader()

    def __enter__(self) -> CandidateStamps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()

    def read(self, table: QTable) -> Batch:
        """Return the stamps of the rows of a ranked table; ``status`` tells which could not be read."""
        nothing = np.full(len(table), np.nan)
        values = {
            name: np.asarray(getattr(table[name], "value", table[name])) for name in COLUMNS if name in table.colnames
        }
        rows = Rows(
            id=values["id"],
            ra=values["ra"],
            dec=values["dec"],
            px=values.get("px", nothing),
            py=values.get("py", nothing),
            file=read_files(self.path, values["file"]),
            offset=values["offset"],
            status=np.zeros(len(table), np.uint8),
        )
        batch = allocate(len(table), self.frame)
        batch.clear()
        self._reader.read(rows, 0, len(table), batch)
        return batch
