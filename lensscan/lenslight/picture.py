"""The picture of a stamp taken apart: image, lens and what is left, in colour, and each band by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lensscan.lenslight.stage import MODULE, REASONS, LensLight
from lensscan.render.rgb import asinh_rgb
from lensscan.render.sheet import Cell, contact_sheet

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["draw_removal"]


def draw_removal(
    images: ArrayLike,
    bands: Sequence[str],
    lights: Sequence[LensLight],
    row: int,
    *,
    sigma: ArrayLike | None = None,
    title: str = "",
    stamp: int = 240,
) -> Image:
    """Return a page about one stamp: a line for each method, with image, lens, rest and the pixels left out.

    Stretch and colours are those of the image throughout.

    Parameters
    ----------
    images : array_like, shape (C, H, W)
        The stamp, nJy per pixel; NaN where missing.
    bands : sequence of str
    lights : sequence of LensLight
        Results of one or several methods, with numpy arrays.
    row : int
        The stamp's row in them.
    sigma : array_like, shape (C,), optional
        Noise per pixel, nJy; default: measured on the border.
    """
    pixels = np.asarray(images, dtype=np.float64)
    cells = []
    for light in lights:
        cells += _line(pixels, bands, light, row, sigma)
    return contact_sheet(cells, 4, stamp=stamp, title=title)


def _line(
    pixels: NDArray[np.float64], bands: Sequence[str], light: LensLight, row: int, sigma: ArrayLike | None
) -> list[Cell]:
    image = Cell(asinh_rgb(pixels, bands, sigma=sigma), ("image", " ".join(bands)))
    if not light.ok[row]:
        blank = np.full((*pixels.shape[1:], 3), 40, dtype=np.uint8)
        return [image, *(Cell(blank, (text,)) for text in ("refused", REASONS[str(light.reason[row])], ""))]
    missing = light.missing[row]
    pictures = []
    for plane in (light.lens[row], light.arcs[row], *(() if light.denoised is None else (light.denoised[row],))):
        seen = np.where(missing, np.nan, plane.astype(np.float64))
        pictures.append(asinh_rgb(seen, bands, sigma=_noise(pixels, sigma)))
    method = str(light.method[row])
    known = light.fwhm[row][np.isfinite(light.fwhm[row])]
    psf = f'PSF {known.max():.2f}"' if len(known) else "PSF unknown"
    residual = np.where(light.mask_used[row], 60, 200).astype(np.uint8)
    last = Cell(np.repeat(residual[..., None], 3, axis=2), ("used for the fit (bright)",))
    if light.denoised is not None:
        last = Cell(pictures[2], ("denoised",))
    texts = ("lens: image - arcs", "arcs (module)") if method == MODULE else (f"lens ({method})", "arcs: image - lens")
    return [image, Cell(pictures[0], (texts[0], psf)), Cell(pictures[1], (texts[1],)), last]


def _noise(pixels: NDArray[np.float64], sigma: ArrayLike | None) -> ArrayLike:
    """Return the noise by which lens and arcs are stretched: the image's, since a model has none of its own."""
    from lensscan.render.rgb import border_sigma

    measured = border_sigma(pixels)
    if sigma is None:
        return measured
    stated = np.asarray(sigma, dtype=np.float64)
    return np.where(np.isfinite(stated) & (stated > 0), stated, measured)
