"""A page of predicted images: the stamps in arcsec, critical curve, caustic and cut, images and their samples."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lensscan.candidates.images import ImageReport
from lensscan.candidates.positions import Prediction
from lensscan.candidates.stamps import CandidateStamps
from lensscan.errors import ConfigError, LensscanError
from lensscan.files import check_file
from lensscan.lens.caustics import caustic, critical_curve, cut
from lensscan.lens.sie import SIE
from lensscan.render.figure import new_figure
from lensscan.render.png import write_picture
from lensscan.render.rgb import asinh_rgb
from lensscan.schema import PARAMETERS, Status

if TYPE_CHECKING:
    from astropy.table import QTable

__all__ = ["check_page", "draw_page", "draw_pages"]

COLUMNS = 4
BACKGROUND, FOREGROUND = "#101014", "#e4e4e4"
CRITICAL, CAUSTIC = "#5adcff", "#ffffff"
DIM = 0.62
"""Brightness of the stamp below the drawing."""
ARRIVAL = ("#7CFC6A", "#ff6ad5", "#ffe14d", "#8c9bff", "#ff7a5c")
MARKS = {1: "o", -1: "s", 0: "x"}
POINTS = 721


class _Stamp:
    """The colour picture of one candidate and its extent in arcsec; without a picture where it is gone."""

    def __init__(self, picture: NDArray[np.uint8] | None, centre: tuple[float, float], half: float) -> None:
        self.picture, self.centre, self.half = picture, centre, half

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top of the outermost pixels' edges."""
        (x, y), half = self.centre, self.half
        return x - half, x + half, y - half, y + half


def check_page(page: str | Path) -> None:
    """Raise what `draw_pages` would for a page that cannot be drawn or written: for a look before long work."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("the page needs matplotlib; install lensscan[view], or give --top 0 for no page")
    check_file(page)


def draw_pages(path: str | Path, report: ImageReport, page: str | Path, top: int = 12) -> list[Path]:
    """Draw one page per mode; that of mode ``posterior`` has the name `page`, others the mode added to it.

    Parameters
    ----------
    path : str or Path
        The output of ``lensscan scan`` that the report was made from.
    report : ImageReport
    page : str or Path
        PNG file.
    top : int
        Candidates on a page, best first; those that a mode predicts come before those without the known position.

    Raises
    ------
    ConfigError
        Without matplotlib.
    OutputError, DiskError
        If a page cannot be written.
    """
    page = Path(page)
    check_page(page)
    shown = {prediction.mode: _choose(prediction, top) for prediction in report.predictions}
    rows = np.unique(np.concatenate([*shown.values(), np.empty(0, dtype=np.intp)]))
    stamps = dict(zip(rows.tolist(), _read_stamps(path, report.candidates[rows]), strict=True))
    pages = []
    for prediction in report.predictions:
        mode, chosen = prediction.mode, shown[prediction.mode]
        name = page if mode == "posterior" else page.with_name(f"{page.stem}-{mode}{page.suffix}")
        pages.append(draw_page(report.candidates, chosen, prediction, [stamps[k] for k in chosen.tolist()], name))
    return pages


def _choose(prediction: Prediction, top: int) -> NDArray[np.intp]:
    """Return the candidates on a page, best first; behind them those that lack the known position."""
    behind = (prediction.n_images == 0) & (prediction.mode != "posterior")
    return np.argsort(behind, kind="stable")[:top]


def draw_page(
    candidates: QTable, chosen: NDArray[np.intp], prediction: Prediction, stamps: list[_Stamp], page: str | Path
) -> Path:
    """Draw the predictions of one mode for the chosen candidates; needs no display; returns the path."""
    columns = min(COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = new_figure(3.5 * columns, 3.85 * rows + 0.6, facecolor=BACKGROUND)
    for place, k in enumerate(chosen.tolist()):
        axes = figure.add_subplot(rows, columns, place + 1, facecolor="black")
        _draw_candidate(axes, candidates[k], prediction, k, stamps[place])
    figure.suptitle(
        f"predicted images, mode {prediction.mode}: numbered by arrival, circle = minimum, square = saddle point, "
        "dots = posterior samples\n"
        "cyan: critical curve; white: caustic (solid) and cut (dashed) of the median model; axes in arcsec",
        color=FOREGROUND,
        fontsize=9 if columns > 2 else 6,
    )
    return write_picture(page, lambda name: figure.savefig(name, format="png", facecolor=BACKGROUND))


def _draw_candidate(axes: Any, row: Any, prediction: Prediction, k: int, stamp: _Stamp) -> None:
    if stamp.picture is not None:
        axes.imshow(
            (DIM * stamp.picture).astype(np.uint8), origin="lower", extent=stamp.extent, interpolation="nearest"
        )
    values = [_value(row[name]) for name in PARAMETERS]
    n = int(prediction.n_images[k])
    title = f"{row['rank']}: {_name(row['id'])}"
    if n:
        title += f"   {n} image{'s' * (n > 1)}, p = {prediction.p_number[k, n]:.2f}"
    if np.isfinite(values).all():
        lens = SIE(*values[:5])
        axes.plot(*critical_curve(lens, POINTS), color=CRITICAL, lw=1.0)
        axes.plot(*caustic(lens, POINTS), color=CAUSTIC, lw=0.9)
        axes.plot(*cut(lens, POINTS), color=CAUSTIC, lw=0.7, ls="--", alpha=0.8)
        if prediction.mode == "posterior":
            axes.plot(values[5], values[6], "+", color="white", ms=7, mew=1.2)
        _draw_images(axes, prediction, k, n)
        title += "" if n else "   no known position"
    else:
        title += "   no posterior"
    view = _view(values, stamp)
    axes.set(xlim=view[:2], ylim=view[2:])
    axes.set_aspect("equal")
    axes.tick_params(colors=FOREGROUND, labelsize=7, length=2)
    for spine in axes.spines.values():
        spine.set_color("#55555c")
    axes.set_title(title, color=FOREGROUND, fontsize=8.5, parse_math=False)
    axes.set_xlabel(_delays(prediction, k, n), color=FOREGROUND, fontsize=7.5)


def _draw_images(axes: Any, prediction: Prediction, k: int, n: int) -> None:
    """Draw the samples that make n images, and the medians over them."""
    from matplotlib.patheffects import withStroke

    same = np.isfinite(prediction.samples["x"][k]).sum(axis=1) == n
    for i in range(n):
        x, y = (prediction.samples[name][k][same, i] for name in "xy")
        axes.plot(x, y, ".", color=ARRIVAL[i], ms=3.0, alpha=0.55, mew=0)
    for i in range(n):
        x, y = (prediction.values[name][k, 0, i] for name in "xy")
        parity = int(np.sign(prediction.values["magnification"][k, 0, i]))
        axes.plot(x, y, MARKS[parity], mfc="none", mec="black", mew=2.6, ms=9)
        axes.plot(x, y, MARKS[parity], mfc="none", mec=ARRIVAL[i], mew=1.5, ms=9)
        label = axes.annotate(str(i + 1), (x, y), (6, 6), textcoords="offset points", color=ARRIVAL[i], weight="bold")
        label.set_path_effects([withStroke(linewidth=2.5, foreground="black")])


def _delays(prediction: Prediction, k: int, n: int) -> str:
    if n < 2:
        return ""
    middle, low, high = prediction.values["delay"][k]
    if not np.isfinite(middle[1]):
        return "no delays: redshifts"
    spans = (f"{middle[i]:.3g} +{high[i] - middle[i]:.2g} -{middle[i] - low[i]:.2g}" for i in range(1, n))
    return "delays (d): " + ", ".join(spans)


def _view(values: list[float], stamp: _Stamp) -> tuple[float, float, float, float]:
    """Return the part of the stamp to show: 2.5 Einstein radii round the lens, the whole where there is none."""
    if not np.isfinite(values).all():
        return stamp.extent
    half = max(2.5 * values[0], 2.0)
    return values[3] - half, values[3] + half, values[4] - half, values[4] + half


def _read_stamps(path: str | Path, table: QTable) -> list[_Stamp]:
    """Return the pictures; empty ones where the stamps cannot be read again."""
    try:
        with CandidateStamps(path) as source:
            batch, frame = source.read(table), source.frame
    except LensscanError:
        return [_Stamp(None, (0.0, 0.0), 6.0) for _ in range(len(table))]
    half, stamps = 0.5 * frame.size * frame.pixel_scale, []
    for k in range(len(table)):
        centre = (float(batch.origin[k, 0]), float(batch.origin[k, 1]))
        picture = None
        if batch.status[k] == Status.PENDING:
            images = np.where(batch.present[k][:, None, None], batch.images[k], np.nan)
            images = np.where(batch.mask[k], np.nan, images) if batch.masked else images
            names = [f"sigma_{band}" for band in frame.bands]
            sigma = [_value(table[name][k]) if name in table.colnames else np.nan for name in names]
            picture = asinh_rgb(images, frame.bands, sigma=sigma)
        stamps.append(_Stamp(picture, centre, half))
    return stamps


def _value(cell: Any) -> float:
    return float(getattr(cell, "value", cell))


def _name(value: Any) -> str:
    return value.decode().strip() if isinstance(value, bytes) else str(value).strip()
