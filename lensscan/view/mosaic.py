"""Pages of ranked candidates: colour stamps with rank, score and Einstein radius."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lensscan.candidates.file import read_candidates, read_header
from lensscan.candidates.stamps import CandidateStamps
from lensscan.candidates.summary import clean_leaders, probability
from lensscan.errors import OutputError
from lensscan.render.rgb import asinh_rgb
from lensscan.render.sheet import Cell, Ring, contact_sheet
from lensscan.schema import Status, status_name
from lensscan.survey.stamps import Batch, Frame

if TYPE_CHECKING:
    from astropy.table import QTable
    from PIL.Image import Image

__all__ = ["Layout", "mosaic", "read_truth"]

TRUE_LENS = (70, 210, 90)
NO_LENS = (110, 110, 118)
EMPTY = (52, 40, 40)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the pages look.

    Attributes
    ----------
    columns, rows : int
        Stamps per page.
    stamp : int
        Side of a stamp on the page, pixels.
    ring : bool
        Draw the Einstein ring of the posterior's median.
    """

    columns: int = 8
    rows: int = 6
    stamp: int = 150
    ring: bool = False


def read_truth(path: str | Path) -> dict[str, bool]:
    """Return id (as text) -> is it a lens, from a table with the columns ``id`` and ``is_lens``.

    Raises
    ------
    OutputError
        If the table cannot be read or lacks a column.
    """
    from astropy.table import Table

    try:
        table = Table.read(path, character_as_bytes=False) if str(path).endswith((".h5", ".hdf5")) else Table.read(path)
        columns = {name.lower(): name for name in table.colnames}
        ids, lens = table[columns["id"]], table[columns["is_lens"]]
    except (OSError, KeyError, ValueError, TypeError) as error:
        reason = (
            f"no column {error.args[0]}" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
        )
        raise OutputError(
            f"cannot use {path} as truth ({reason}); give a table with the columns id and is_lens"
        ) from None
    yes = {"true", "t", "yes", "1", "1.0"}
    return {_text(name): _text(flag).lower() in yes for name, flag in zip(ids.tolist(), lens.tolist(), strict=True)}


def mosaic(
    path: str | Path,
    n: int = 48,
    *,
    layout: Layout | None = None,
    clean: bool = False,
    truth: dict[str, bool] | None = None,
) -> Iterator[Image]:
    """Yield the pages of an output's ranked candidates, best first.

    The stamps are read again from where the scan read them; relative paths hold from the folder in which the
    scan ran.

    Parameters
    ----------
    path : str or Path
        An output of ``lensscan scan``.
    n : int
        Number of candidates; groups count once.
    layout : Layout, optional
    clean : bool
        Leave out candidates with a warning flag.
    truth : dict, optional
        From `read_truth`; true lenses get a green frame, known non-lenses a grey one.

    Raises
    ------
    OutputError
        If the file, the stamps' storage or all stamps of the first page cannot be read, or there is no candidate.
    """
    layout = layout or Layout()
    header, table = read_header(path), clean_leaders(read_candidates(path), clean)[:n]
    if not len(table):
        raise OutputError(f"{path} has no {'clean ' if clean else ''}candidate to show")
    per_page = layout.columns * layout.rows
    with CandidateStamps(path) as stamps:
        for start in range(0, len(table), per_page):
            page = table[start : start + per_page]
            batch = stamps.read(page)
            if not start:
                _require_some(path, batch.status[: len(page)])
            cells = _cells(page, batch, stamps.frame, layout, truth or {})
            title = f"{Path(path).name}: ranks {page['rank'][0]} to {page['rank'][-1]} of {header.n_scored:,} scored"
            full = layout.rows if len(table) > per_page else None
            yield contact_sheet(cells, layout.columns, stamp=layout.stamp, title=title, rows=full)


def _require_some(path: str | Path, status: NDArray[np.uint8]) -> None:
    """Refuse a page of nothing: the scan has read these stamps, so they lie elsewhere now, or we do."""
    if (status != Status.PENDING).all():
        raise OutputError(
            f"{path}: none of the {len(status)} best stamps can be read any more ({status_name(int(status[0]))}); "
            "relative paths of stamps hold from the folder in which the scan ran: run this there, or put them back"
        )


def _cells(page: QTable, batch: Batch, frame: Frame, layout: Layout, truth: dict[str, bool]) -> list[Cell]:
    cells = []
    for k in range(len(page)):
        status = int(batch.status[k])
        row = page[k]
        known = truth.get(_text(row["id"]))
        border = None if known is None else TRUE_LENS if known else NO_LENS
        lines, badge = _caption(row), f"{row['rank']}{'*' if int(row['flags']) else ''}"
        if status != Status.PENDING:
            blank = np.full((frame.size, frame.size, 3), EMPTY, dtype=np.uint8)
            cells.append(Cell(blank, (lines[0], status_name(status), lines[2]), border, None, badge))
            continue
        ring = _ring(row, batch.origin[k], frame.pixel_scale) if layout.ring else None
        cells.append(Cell(_picture(batch, k, frame.bands, page, row), lines, border, ring, badge))
    return cells


def _picture(batch: Batch, k: int, bands: Sequence[str], page: QTable, row: Any) -> NDArray[np.uint8]:
    images = np.where(batch.present[k][:, None, None], batch.images[k], np.nan)
    if batch.masked:
        images = np.where(batch.mask[k], np.nan, images)
    sigma = [_value(row[f"sigma_{band}"]) if f"sigma_{band}" in page.colnames else np.nan for band in bands]
    return asinh_rgb(images, bands, sigma=sigma)


def _caption(row: Any) -> tuple[str, ...]:
    p, theta, error = _value(row["p_lens"]), _value(row["theta_E"]), _value(row["theta_E_err"])
    score = f"logit {_value(row['logit']):+.2f}" + (f"  p {probability(p)}" if np.isfinite(p) else "")
    size = f'\u03b8_E {theta:.2f} \u00b1 {error:.2f}"' if np.isfinite(theta) else "\u03b8_E \u2013"
    return score, size, _text(row["id"])


def _ring(row: Any, origin: NDArray[np.float32], pixel_scale: float) -> Ring | None:
    theta, e1, e2, x, y = (_value(row[name]) for name in ("theta_E", "e1", "e2", "x", "y"))
    if not np.isfinite([theta, e1, e2, x, y]).all():
        return None
    e = float(np.hypot(e1, e2))
    root_q = np.sqrt((1 - e) / (1 + e))
    return Ring(
        (x - float(origin[0])) / pixel_scale,
        (y - float(origin[1])) / pixel_scale,
        theta / root_q / pixel_scale,
        theta * root_q / pixel_scale,
        0.5 * float(np.arctan2(e2, e1)),
    )


def _value(cell: Any) -> float:
    return float(getattr(cell, "value", cell))


def _text(value: Any) -> str:
    return value.decode().strip() if isinstance(value, bytes) else str(value).strip()
