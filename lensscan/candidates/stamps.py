"""The stamps of ranked candidates, read again from where the scan read them.

Relative paths hold from the folder in which the scan ran.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lensscan.candidates.file import read_files, read_header, read_provenance
from lensscan.config import Survey, build
from lensscan.survey.stamps import Batch, Frame, Rows, allocate, open_source

if TYPE_CHECKING:
    from astropy.table import QTable

__all__ = ["CandidateStamps", "project"]

ARCSEC = np.pi / 180 / 3600
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
        size = int(plan.get("stamp_size") or 0) or None
        source = open_source(plan["stamps"], survey, self.frame, resample=bool(plan["resample"]), stamp_size=size)
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


def project(
    wcs: NDArray[np.float64], ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x, y (arcsec, stamp axes) of sky positions; the inverse of `lensscan.candidates.sky.deproject`.

    Parameters
    ----------
    wcs : ndarray, shape (n, 6)
        As `Batch.wcs`; NaN gives NaN.
    ra, dec : ndarray, shape (n,)
        Degrees, less than 90 from the tangent point.

    References
    ----------
    Calabretta & Greisen 2002, A&A 395, 1077, section 5.1.3 (gnomonic projection).
    """
    ra0, dec0, xi_x, xi_y, eta_x, eta_y = np.asarray(wcs, dtype=np.float64).T
    turn, d0, d = np.radians(ra - ra0), np.radians(dec0), np.radians(dec)
    depth = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(turn)
    xi = np.cos(d) * np.sin(turn) / depth / ARCSEC
    eta = (np.cos(d0) * np.sin(d) - np.sin(d0) * np.cos(d) * np.cos(turn)) / depth / ARCSEC
    det = xi_x * eta_y - xi_y * eta_x
    return (eta_y * xi - xi_y * eta) / det, (xi_x * eta - eta_x * xi) / det
