"""Purity and completeness of ranked lists against their length; PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lensscan.render.conditions import COLOURS
from lensscan.render.figure import INK, new_panels, png_bytes

__all__ = ["list_diagram"]

Floats = NDArray[np.floating]


def list_diagram(
    n: Floats,
    panels: Mapping[str, Mapping[str, Floats]],
    marks: Sequence[float],
    points: Mapping[str, Mapping[str, Floats]],
) -> bytes:
    """Draw one panel a quantity against the number of objects inspected, intervals as bands.

    Parameters
    ----------
    n : (k,) array
    panels : mapping of mapping of (k, 3) arrays
        Value and ends of its interval, by quantity and name.
    marks : sequence of float
        Lengths to mark.
    points : mapping of mapping of (j, 2) arrays
        Length and value of what was counted, by quantity and name.
    """
    figure, axes = new_panels(1, len(panels), 5.4, 4.2)
    for place, (label, curves) in zip(axes, panels.items(), strict=True):
        for mark in marks:
            place.axvline(mark, color=INK, lw=0.6, ls=":")
        for number, (name, values) in enumerate(curves.items()):
            colour = COLOURS[number % len(COLOURS)]
            value, low, high = values.T
            place.fill_between(n, low, high, color=colour, alpha=0.18, lw=0)
            place.plot(n, value, "-", color=colour, lw=1.5, label=name)
            counted = points.get(label, {}).get(name, np.empty((0, 2)))
            place.plot(*counted.T, "o", color=colour, ms=4, mfc="white")
        place.set(xscale="log", xlabel="objects inspected, best first", ylabel=label, ylim=(0, None))
    axes[-1].legend(frameon=False, fontsize=8.5, loc="upper left")
    return png_bytes(figure)
