"""What every diagram is drawn on: figures without a display or global state, our colours, PNG bytes."""

from __future__ import annotations

import io
import warnings
from typing import Any

__all__ = ["BLUE", "DPI", "GREY", "INK", "ORANGE", "new_figure", "new_panels", "png_bytes"]

INK = "#1b2a41"
BLUE = "#1f6fb4"
ORANGE = "#d1651a"
GREY = "#8a94a6"
DPI = 110


def new_figure(width: float, height: float, **settings: Any) -> Any:
    """Return an empty figure, inches, on the Agg canvas; `settings` are matplotlib's.

    A letter that the font lacks, of an id in Chinese for example, is drawn as a box, without a warning.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Quiet(Figure):
        def savefig(self, *args: Any, **options: Any) -> None:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
                super().savefig(*args, **options)

    figure = Quiet(figsize=(width, height), layout="constrained", **{"dpi": DPI} | settings)
    FigureCanvasAgg(figure)
    return figure


def new_panels(rows: int, columns: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """Return a figure of panels with a light grid, each of `width` x `height` inches, and its axes in reading order."""
    figure = new_figure(width * columns, height * rows, dpi=120)
    axes = [figure.add_subplot(rows, columns, number + 1) for number in range(rows * columns)]
    for each in axes:
        each.grid(alpha=0.22, lw=0.6)
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(labelsize=8.5)
    return figure, axes


def png_bytes(figure: Any) -> bytes:
    """Return the figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
