"""Line plots of curves (training histories, calibration, benchmarks) as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from lensscan.render.figure import new_figure
from lensscan.render.png import write_picture

__all__ = ["Curve", "Panel", "plot_panels"]


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: `x` and `y` of equal length, NaN leaves a gap; `style` is matplotlib's."""

    label: str
    x: ArrayLike
    y: ArrayLike
    style: str = "-"


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes: its curves, axis labels (with units) and scales."""

    curves: tuple[Curve, ...]
    xlabel: str = ""
    ylabel: str = ""
    title: str = ""
    logx: bool = False
    logy: bool = False
    ylim: tuple[float, float] | None = None


def plot_panels(panels: Sequence[Panel], path: str | Path, *, title: str = "", columns: int = 2) -> Path:
    """Draw the panels in a grid and write them as PNG; returns the path.

    Uses the Agg canvas directly: needs no display and leaves matplotlib's global state alone.

    Raises
    ------
    ValueError
        Without any panel.
    DiskError, OutputError
        If the file cannot be written.
    """
    if not panels:
        raise ValueError("no panels to plot")
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(5.2 * columns, 3.7 * rows)
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        for curve in panel.curves:
            x, y = np.asarray(curve.x, dtype=float), np.asarray(curve.y, dtype=float)
            axes.plot(x, y, curve.style, label=curve.label, lw=1.6, ms=4)
        axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel, title=panel.title)
        axes.set_xscale("log" if panel.logx else "linear")
        axes.set_yscale("log" if panel.logy else "linear")
        if panel.ylim is not None:
            axes.set_ylim(*panel.ylim)
        axes.grid(alpha=0.25)
        if any(curve.label for curve in panel.curves):
            axes.legend(frameon=False, fontsize=9)
    if title:
        figure.suptitle(title)
    return write_picture(path, lambda name: figure.savefig(name, format="png"))
