"""Pictures of a modular network: its images side by side, its latent space, and what its uncertainty is good for."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensscan.render.figure import BLUE, INK, ORANGE, new_panels, png_bytes
from lensscan.render.rgb import asinh_rgb
from lensscan.render.sheet import Cell, contact_sheet

__all__ = ["Chain", "chain_sheet", "latent_diagram", "principal_plane"]

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
WHITE = 60.0  # sigma: arcs are faint
STAMP = 150


@dataclass(frozen=True, slots=True)
class Chain:
    """The images of one stamp by name, each (C, S, S) in nJy, its noise (C,) and a line about it."""

    images: Mapping[str, Floats]
    sigma: Floats
    line: str


def chain_sheet(chains: Sequence[Chain], bands: Sequence[str], title: str) -> bytes:
    """Draw one row per stamp, one column per image, all on the scale of the stamp's own noise."""
    cells = []
    for chain in chains:
        for number, (name, image) in enumerate(chain.images.items()):
            picture = asinh_rgb(image, bands, sigma=chain.sigma, white=WHITE)
            cells.append(Cell(picture, (name, chain.line if number == 0 else "")))
    columns = max((len(chain.images) for chain in chains), default=1)
    stream = io.BytesIO()
    contact_sheet(cells, columns, stamp=STAMP, title=title).save(stream, format="PNG")
    return stream.getvalue()


def principal_plane(points: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return points (n, d) in the plane in which they scatter most, (n, 2), and the share of each axis, (2,)."""
    centred = np.asarray(points, np.float64) - points.mean(axis=0)
    _, size, axes = np.linalg.svd(centred, full_matrices=False)
    axes, size = axes[:2], np.pad(size, (0, max(0, 2 - len(size))))
    axes = np.pad(axes, ((0, 2 - len(axes)), (0, 0)))
    axes = axes * np.where(axes.sum(axis=1) < 0, -1.0, 1.0)[:, None]
    return centred @ axes.T, size[:2] ** 2 / max(float((size**2).sum()), 1e-300)


def latent_diagram(
    plane: Floats,
    share: Floats,
    is_lens: Bools,
    wrong: Bools,
    uncertainty: Floats,
    accuracy: Mapping[str, tuple[Floats, Floats]],
) -> bytes:
    """Draw the latent space by class and by uncertainty, and the accuracy of what is left after rejecting.

    Parameters
    ----------
    plane, share : (n, 2) and (2,) arrays
        From `principal_plane`.
    is_lens, wrong : (n,) bool arrays
    uncertainty : (n,) array
        Colour of the second panel.
    accuracy : mapping of str to ((k,), (k,))
        By measure: rejected shares and accuracy.
    """
    figure, (classes, colours, curves) = new_panels(1, 3, 4.6, 4.2)
    size = float(np.clip(4000 / max(len(plane), 1), 2, 14))
    for label, rows, colour in (("lens", is_lens, BLUE), ("other", ~is_lens, ORANGE)):
        classes.scatter(*plane[rows].T, s=size, color=colour, alpha=0.45, lw=0, label=label)
    classes.scatter(
        *plane[wrong].T,
        s=3 * size,
        facecolors="none",
        edgecolors=INK,
        lw=0.4,
        alpha=0.6,
        label=f"wrong ({wrong.mean():.1%})",
    )
    classes.set_title("by class", fontsize=10)
    classes.legend(frameon=False, fontsize=8)
    order = np.argsort(uncertainty, kind="stable")
    drawn = colours.scatter(*plane[order].T, s=size, c=uncertainty[order], cmap="viridis", lw=0)
    figure.colorbar(drawn, ax=colours, label="spread of p over the bottleneck")
    colours.set_title("by uncertainty", fontsize=10)
    for place in (classes, colours):
        place.set(xlabel=f"first axis ({share[0]:.0%})", ylabel=f"second axis ({share[1]:.0%})")
    for name, (rejected, value) in accuracy.items():
        style = {"color": INK, "ls": "--"} if name == "1 - |2p - 1|" else {}
        curves.plot(rejected, value, lw=1.5, label=name, **style)
    curves.set(xlabel="rejected share, the most uncertain first", ylabel="accuracy of what is left")
    curves.set_title("rejection", fontsize=10)
    curves.legend(frameon=False, fontsize=8)
    return png_bytes(figure)
