"""Contact sheets: a grid of captioned colour stamps on one page, with Einstein rings drawn on request."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as BitmapFont

__all__ = ["Cell", "Ring", "contact_sheet"]

BACKGROUND = (16, 16, 20)
TEXT = (228, 228, 228)
TITLE = (255, 255, 255)
RING = (90, 220, 255)


@dataclass(frozen=True, slots=True)
class Ring:
    """An ellipse to draw over a stamp.

    Attributes
    ----------
    x, y : float
        Centre, pixels from the centre ((W-1)/2, (H-1)/2) of the stamp, +x with column, +y with row.
    a, b : float
        Semi-axes, pixels.
    phi : float
        Angle of the major axis, radians counter-clockwise from +x.
    """

    x: float
    y: float
    a: float
    b: float
    phi: float = 0.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One stamp of a sheet.

    Attributes
    ----------
    image : ndarray of uint8, shape (H, W, 3)
        Row 0 is drawn at the bottom, as FITS viewers do.
    lines : tuple of str
        Caption, drawn below the stamp.
    border : tuple of int or None
        Colour of a frame around the stamp.
    ring : Ring or None
        Einstein ring to overlay.
    badge : str
        A few characters drawn in the stamp's upper left corner.
    """

    image: NDArray[np.uint8]
    lines: tuple[str, ...] = ()
    border: tuple[int, int, int] | None = None
    ring: Ring | None = None
    badge: str = ""


def contact_sheet(
    cells: Sequence[Cell], columns: int = 8, *, stamp: int = 160, title: str = "", rows: int | None = None
) -> Image:
    """Return one page with the cells in reading order.

    Parameters
    ----------
    cells : sequence of Cell
        At least zero; the page grows downwards.
    columns : int
        Cells per row.
    stamp : int
        Side of a drawn stamp, pixels; smaller stamps are enlarged without interpolation first.
    title : str
        Line above the grid.
    rows : int, optional
        Rows of the page even if fewer are filled.
    """
    from PIL import Image, ImageDraw

    font, bold = _font(max(11, stamp // 13)), _font(max(13, stamp // 10))
    line = _height(font) + 3
    captions = max((len(cell.lines) for cell in cells), default=0)
    gap, head = max(6, stamp // 20), (_height(bold) + 16 if title else 8)
    step_x, step_y = stamp + gap, stamp + captions * line + gap + 4
    count = rows if rows is not None else max(1, math.ceil(len(cells) / columns))
    page = Image.new("RGB", (columns * step_x + gap, head + count * step_y + gap // 2), BACKGROUND)
    draw = ImageDraw.Draw(page)
    if title:
        draw.text((gap, 8), title, font=bold, fill=TITLE)
    for index, cell in enumerate(cells):
        left, top = gap + (index % columns) * step_x, head + (index // columns) * step_y
        page.paste(_stamp(cell, stamp), (left, top))
        if cell.border is not None:
            frame = (left - 3, top - 3, left + stamp + 2, top + stamp + 2)
            draw.rectangle(frame, outline=cell.border, width=3)
        if cell.badge:
            _shadowed(draw, (left + 5, top + 3), cell.badge, bold)
        for number, text in enumerate(cell.lines):
            draw.text((left, top + stamp + 5 + number * line), _fit(text, font, stamp), font=font, fill=TEXT)
    return page


def _stamp(cell: Cell, side: int) -> Image:
    from PIL import Image, ImageDraw

    height, width = cell.image.shape[:2]
    factor = max(1, math.ceil(side / max(height, width)))
    picture = Image.fromarray(np.ascontiguousarray(cell.image[::-1]))
    picture = picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    if cell.ring is not None:
        points = _ellipse(cell.ring, width, height, scale)
        ImageDraw.Draw(picture).line(points, fill=RING, width=max(1, side // 110))
    if size == (side, side):
        return picture
    framed = Image.new("RGB", (side, side), BACKGROUND)
    framed.paste(picture, ((side - size[0]) // 2, (side - size[1]) // 2))
    return framed


def _ellipse(ring: Ring, width: int, height: int, scale: float) -> list[tuple[float, float]]:
    t = np.linspace(0, 2 * np.pi, 97)
    u, v = ring.a * np.cos(t), ring.b * np.sin(t)
    x = ring.x + u * np.cos(ring.phi) - v * np.sin(ring.phi)
    y = ring.y + u * np.sin(ring.phi) + v * np.cos(ring.phi)
    column, row = (x + width / 2) * scale, (height / 2 - y) * scale
    return list(zip(column.tolist(), row.tolist(), strict=True))


@functools.cache
def _font(size: int) -> FreeTypeFont | BitmapFont:
    """Return DejaVu Sans, which has Greek letters, from matplotlib's data folder; else Pillow's own font."""
    from PIL import ImageFont

    spec = importlib.util.find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


def _height(font: FreeTypeFont | BitmapFont) -> int:
    return math.ceil(font.getbbox("Ag|")[3])


def _fit(text: str, font: FreeTypeFont | BitmapFont, width: int) -> str:
    """Shorten `text` in its middle until it is at most `width` pixels wide."""
    if font.getlength(text) <= width:
        return text
    keep = len(text) - 1
    while keep > 2 and font.getlength(_elide(text, keep)) > width:
        keep -= 1
    return _elide(text, keep)


def _elide(text: str, keep: int) -> str:
    head = (keep + 1) // 2
    return f"{text[:head]}\u2026{text[len(text) - (keep - head) :]}"


def _shadowed(draw: ImageDraw, place: tuple[int, int], text: str, font: FreeTypeFont | BitmapFont) -> None:
    draw.text(place, text, font=font, fill=TITLE, stroke_width=2, stroke_fill=(0, 0, 0))
