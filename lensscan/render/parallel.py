"""Parallel coordinates: one upright axis for each parameter, one line for each trial, coloured by its result."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.render.figure import INK, new_figure
from lensscan.render.png import write_picture

__all__ = ["Axis", "plot_parallel"]

TICKS = 5
POINTS = 24
SPREAD = 0.03


@dataclass(frozen=True, slots=True)
class Axis:
    """One upright axis.

    Attributes
    ----------
    label : str
    values : (n,) floats
        One for each line; for `words` their places 0, 1, ...
    limits : tuple, optional
        Ends of the axis; default: those of the values.
    log : bool
    words : tuple of str
        Names of equally spaced places, instead of numbers.
    """

    label: str
    values: Sequence[float]
    limits: tuple[float, float] | None = None
    log: bool = False
    words: tuple[str, ...] = ()

    def place(self, values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the heights (n,) of values on the axis, 0 to 1."""
        low, high = self.ends
        points = np.asarray(values, dtype=float)
        if self.log:
            low, high, points = np.log(low), np.log(high), np.log(points)
        return (points - low) / (high - low) if high > low else np.full(len(points), 0.5)

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest value of the axis."""
        if self.words:
            return 0.0, float(len(self.words) - 1)
        if self.limits is not None:
            return self.limits
        return float(np.min(self.values)), float(np.max(self.values))

    def ticks(self) -> list[tuple[float, str]]:
        """Return heights and texts of the marks."""
        if self.words:
            places = self.place(np.arange(len(self.words), dtype=float))
            return list(zip(places.tolist(), self.words, strict=True))
        from matplotlib.ticker import MaxNLocator

        low, high = self.ends
        if self.log:
            decades = 10.0 ** np.arange(np.ceil(np.log10(low) - 1e-9), np.floor(np.log10(high) + 1e-9) + 1)
            values = decades if len(decades) > 1 else np.geomspace(low, high, TICKS)
        else:
            values = np.asarray(MaxNLocator(TICKS, steps=[1, 2, 5, 10]).tick_values(low, high))
        heights = self.place(values)
        inside = (heights > -1e-6) & (heights < 1 + 1e-6)
        return [(float(h), f"{v:.6g}") for h, v in zip(heights[inside], values[inside], strict=True)]


def plot_parallel(
    axes: Sequence[Axis],
    result: Axis,
    finished: Sequence[bool],
    path: str | Path,
    *,
    title: str = "",
    upward: bool = True,
) -> Path:
    """Draw the lines of n trials through the axes of their parameters to that of their result; returns the path.

    Parameters
    ----------
    axes : sequence of Axis
    result : Axis
        Stands at the right, and gives the colour; the better, the brighter and the further in front.
    finished : (n,) bools
        Others were stopped early and are drawn thin.
    path : str or Path
        PNG.
    title : str
    upward : bool
        Whether more of the result is better.

    Raises
    ------
    ValueError
        Without axes, or if they hold different numbers of lines.
    DiskError, OutputError
        If the file cannot be written.
    """
    from matplotlib import colormaps

    every = [*axes, result]
    if not axes or {len(axis.values) for axis in every} != {len(finished)}:
        raise ValueError("parallel coordinates need axes that hold one value for each line")
    figure = new_figure(1.6 + 1.25 * len(every), 5.0)
    panel = figure.add_subplot()
    heights = np.stack([axis.place(axis.values) + _apart(axis, len(finished)) for axis in every], axis=1)
    goodness = heights[:, -1] if upward else 1 - heights[:, -1]
    colours = colormaps["viridis"]
    for line in np.argsort(goodness, kind="stable"):
        x, y = _bends(heights[line])
        width, alpha = (2.0, 0.95) if finished[line] else (0.9, 0.55)
        panel.plot(x, y, color=colours(0.95 * float(goodness[line])), lw=width, alpha=alpha, solid_capstyle="round")
    for number, axis in enumerate(every):
        _draw_axis(panel, number, axis)
    panel.set_xlim(-0.3, len(every) - 0.5)
    panel.set_ylim(-0.06, 1.06)
    panel.set_axis_off()
    if title:
        figure.suptitle(f"{title}\nbright: better; thick: trained to the end, thin: stopped early", fontsize=10)
    return write_picture(path, lambda name: figure.savefig(name, format="png"))


def _apart(axis: Axis, n: int) -> NDArray[np.float64]:
    """Return small shifts (n,) that keep lines through one word apart."""
    return SPREAD * (np.arange(n) / max(1, n - 1) - 0.5) if axis.words else np.zeros(n)


def _bends(heights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a curve that meets every axis at a right angle, so that the eye can follow it."""
    share = np.linspace(0, 1, POINTS)
    ease = share * share * (3 - 2 * share)
    x = np.concatenate([number + share for number in range(len(heights) - 1)])
    y = np.concatenate([a + (b - a) * ease for a, b in itertools.pairwise(heights)])
    return x, y


def _draw_axis(panel: Any, number: int, axis: Axis) -> None:
    panel.plot([number, number], [0, 1], color=INK, lw=1.1, zorder=5)
    panel.text(number, 1.045, axis.label, ha="center", va="bottom", fontsize=9, color=INK, weight="bold")
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
    for height, words in axis.ticks():
        panel.plot([number - 0.03, number], [height, height], color=INK, lw=0.9, zorder=5)
        panel.text(number - 0.05, height, words, ha="right", va="center", fontsize=7.5, color=INK, bbox=box, zorder=6)
