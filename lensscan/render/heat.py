"""Tables drawn as panels of coloured cells; PNG bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.render.figure import GREY, INK, ORANGE, new_panels, png_bytes

__all__ = ["HeatPanel", "heat_diagram"]

Floats = NDArray[np.floating]
BRIGHT = 0.55
"""Luminance of a cell above which its number is written dark."""


@dataclass(frozen=True, slots=True)
class HeatPanel:
    """One table.

    Attributes
    ----------
    title : str
    cells : (r, c) array
        NaN: nothing was measured.
    low, high : float
        Ends of the colours.
    middle : float, optional
        The best value, of a panel that can err on both sides; without it the dark end is `low`.
    digits : int
        Of the numbers in the cells.
    """

    title: str
    cells: Floats
    low: float
    high: float
    middle: float | None = None
    digits: int = 2


def heat_diagram(
    panels: Sequence[HeatPanel], rows: Sequence[str], columns: Sequence[str], marked: NDArray[np.bool_]
) -> bytes:
    """Draw tables of the same rows and columns beside each other, at most three in a row.

    Parameters
    ----------
    panels : sequence of HeatPanel
    rows, columns : sequence of str
        Their labels.
    marked : (r, c) bool array
        Cells with a frame.
    """
    across = min(3, len(panels))
    width, height = 1.9 + 0.62 * len(columns), 1.35 + 0.42 * len(rows)
    figure, axes = new_panels(-(-len(panels) // across), across, width, height)
    for number, place in enumerate(axes):
        if number < len(panels):
            _draw(place, panels[number], marked)
            place.set(xticks=range(len(columns)), yticks=range(len(rows)))
            place.set_xticklabels(columns, rotation=30, ha="right", fontsize=8.5)
            place.set_yticklabels(rows if number % across == 0 else [""] * len(rows), fontsize=8.5)
        else:
            place.set_visible(False)
    return png_bytes(figure)


def _draw(place: Any, panel: HeatPanel, marked: NDArray[np.bool_]) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    colours = colormaps["viridis" if panel.middle is None else "RdBu_r"]
    low, high = panel.low, panel.high
    if panel.middle is not None:
        reach = max(panel.middle - low, high - panel.middle)
        low, high = panel.middle - reach, panel.middle + reach
    scale = Normalize(low, high, clip=True)
    place.imshow(np.ma.masked_invalid(panel.cells), cmap=colours, norm=scale, aspect="auto")
    for (i, j), value in np.ndenumerate(panel.cells):
        if np.isfinite(value):
            red, green, blue, _ = colours(scale(value))
            ink = INK if 0.299 * red + 0.587 * green + 0.114 * blue > BRIGHT else "white"
            place.text(j, i, f"{value:.{panel.digits}f}", ha="center", va="center", color=ink, fontsize=9)
        else:
            place.text(j, i, "–", ha="center", va="center", color=GREY, fontsize=9)
        if marked[i, j]:
            place.add_patch(Rectangle((j - 0.47, i - 0.45), 0.94, 0.9, fill=False, ec=ORANGE, lw=2))
    place.set_title(panel.title, fontsize=9.5)
    place.grid(visible=False)
