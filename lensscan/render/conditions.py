"""Errors under other conditions: curves over a quantity, and effects on and off one at a time; PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensscan.render.figure import BLUE, GREY, INK, ORANGE, new_panels, png_bytes

__all__ = ["CurvePanel", "SwitchPanel", "curve_diagram", "switch_diagram"]

Floats = NDArray[np.floating]
COLOURS = (BLUE, ORANGE, "#2f8f5b", "#7d4fa3", GREY, INK, "#b5892c")


@dataclass(frozen=True, slots=True)
class CurvePanel:
    """Half-widths over one quantity.

    Attributes
    ----------
    x_label, y_label : str
    x : (k,) array
    curves : dict of (k, 3) arrays
        Value and ends of the interval, by parameter.
    """

    x_label: str
    y_label: str
    x: Floats
    curves: Mapping[str, Floats]


@dataclass(frozen=True, slots=True)
class SwitchPanel:
    """Change of one parameter's half-width, (k, 3) each: value and ends of the interval, without and with only."""

    title: str
    without: Floats
    only: Floats


def curve_diagram(rows: Sequence[Sequence[CurvePanel]]) -> bytes:
    """Draw panels in rows that share their vertical axis; intervals as bands."""
    figure, axes = new_panels(len(rows), len(rows[0]), 4.0, 3.1)
    for place, panel in zip(axes, [panel for row in rows for panel in row], strict=True):
        order = np.argsort(panel.x)
        for colour, (name, values) in zip(COLOURS, panel.curves.items(), strict=False):
            x, (value, low, high) = panel.x[order], values[order].T
            place.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
            place.plot(x, value, "o-", color=colour, ms=3.5, lw=1.4, label=name)
        place.set(xlabel=panel.x_label, ylabel=panel.y_label)
    width = len(rows[0])
    for start in range(0, len(axes), width):
        top = max(place.get_ylim()[1] for place in axes[start : start + width])
        for place in axes[start : start + width]:
            place.set_ylim(0, top)
        last = axes[start + width - 1]
        last.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return png_bytes(figure)


def switch_diagram(panels: Sequence[SwitchPanel], names: Sequence[str]) -> bytes:
    """Draw relative changes of half-widths, one panel a parameter, one line an effect (from the top)."""
    columns = min(4, len(panels))
    figure, axes = new_panels(-(-len(panels) // columns), columns, 3.4, 1.3 + 0.34 * len(names))
    y = np.arange(len(names), dtype=float)
    for number, place in enumerate(axes):
        if number >= len(panels):
            place.set_visible(False)
            continue
        panel = panels[number]
        for values, colour, shift, label in (
            (panel.without, BLUE, -0.16, "off, all others on"),
            (panel.only, ORANGE, 0.16, "on, all others off"),
        ):
            value, low, high = values.T
            spread = [np.maximum(value - low, 0), np.maximum(high - value, 0)]
            place.errorbar(value, y + shift, xerr=spread, fmt="o", ms=4, lw=1.4, color=colour, label=label)
        place.axvline(0, color=INK, lw=0.8)
        place.set(yticks=y, ylim=(len(names) - 0.5, -0.5), xlabel="change of the half-width, %")
        place.set_yticklabels(names if number % columns == 0 else [""] * len(names), fontsize=8.5)
        place.set_title(panel.title, fontsize=9.5)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8.5, loc="outside lower right", ncols=2)
    return png_bytes(figure)
