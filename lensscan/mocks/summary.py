"""Pictures of a recipe: every prior against what was drawn of it, and a contact sheet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from lensscan.mocks.recipes import CLASSES, Recipe
from lensscan.mocks.simulate import draw_truth, simulate
from lensscan.mocks.systems import prior_draws
from lensscan.mocks.tables import LENSES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_priors", "draw_sheet"]

SHEET = 32
DRAWN = 4096
BINS = (8, 30)
LABELS = {
    "mass.theta_E": "theta_E [arcsec]",
    "mass.sigma_v": "sigma_v [km/s]",
    "mass.z_lens": "z_lens",
    "mass.z_source": "z_source",
    "mass.slope": "density slope",
    "mass.shear": "external shear",
    "mass.e": "|e| of the mass",
    "light.mag_i": "galaxy i [mag]",
    "light.radius": "galaxy radius [arcsec]",
    "light.n": "galaxy Sersic n",
    "light.e": "|e| of the light",
    "source.mag_i": "source i, unlensed [mag]",
    "source.radius": "source radius [arcsec]",
    "source.n": "source Sersic n",
    "source.offset": "source offset / theta_E",
    "truth.magnification": "magnification",
    "truth.snr_arc": "arc S/N, best band",
}


def draw_priors(recipe: Recipe, seed: int, n: int, path: Path) -> None:
    """Draw histograms of the priors before any selection, and of the lenses and other massive galaxies kept.

    Parameters
    ----------
    n : int
        Rows of the set; at most 4,096 are shown.

    Raises
    ------
    DiskError, OutputError
        If the picture cannot be written.
    """
    from lensscan.render.figure import new_figure
    from lensscan.render.png import write_picture

    before, kept, klass, sky = prior_draws(recipe, seed, min(n, DRAWN))
    names = [name for name in LABELS if name in before and np.ptp(before[name]) > 0]
    observed = [f"{kind} {band}" for kind in ("fwhm", "sigma") for band in recipe.bands]
    columns = 6
    rows = -(-(len(names) + len(observed)) // columns)
    figure = new_figure(3.1 * columns, 2.5 * rows, dpi=100)
    lens = np.isin(klass, [CLASSES.index(name) for name in LENSES])
    for number, name in enumerate([*names, *observed]):
        axes = figure.add_subplot(rows, columns, number + 1)
        kind, _, band = name.partition(" ")
        if band:
            k = recipe.bands.index(band)
            _histogram(axes, {"drawn": sky[kind][:, k]}, f"{kind} {band} [{'arcsec' if kind == 'fwhm' else 'nJy'}]")
        else:
            massive = np.isfinite(kept[name])
            parts = {"prior": before[name], "lenses": kept[name][lens], "others": kept[name][~lens & massive]}
            _histogram(axes, parts, LABELS[name])
        if number == 0:
            axes.legend(fontsize=7, frameon=False)
    figure.suptitle(f"{recipe.name}, seed {seed}: priors and what was drawn from them")
    write_picture(path, lambda name: figure.savefig(name, format="png"))


def _histogram(axes: Axes, parts: dict[str, NDArray[np.float64]], label: str) -> None:
    everything = np.concatenate([v[np.isfinite(v)] for v in parts.values()])
    low, high = np.quantile(everything, [0.002, 0.998])
    if high <= low:
        low, high = low - 0.5, high + 0.5
    bins = int(np.clip(2 * len(everything) ** (1 / 3), *BINS))  # few rows would be a comb in narrow ones
    edges = np.linspace(low, high, bins + 1)
    for name, values in parts.items():
        values = values[np.isfinite(values)]
        if len(values):
            filled: dict[str, Any] = {"histtype": "stepfilled", "color": "0.8"}
            style = filled if name == "prior" else {"histtype": "step", "lw": 1.4}
            axes.hist(np.clip(values, low, high), edges.tolist(), density=True, label=name, **style)
    axes.set_xlabel(label, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.set_yticks([])


def draw_sheet(recipe: Recipe, seed: int, n: int, path: Path) -> None:
    """Draw the first lenses and the first others on a page.

    Raises
    ------
    DiskError, OutputError
        If the picture cannot be written.
    """
    from lensscan.render.png import save_png
    from lensscan.render.rgb import asinh_rgb
    from lensscan.render.sheet import Cell, contact_sheet

    truth = draw_truth(recipe, seed=seed, n=min(n, DRAWN))
    lens = truth["is_lens"]
    rows = [*lens.nonzero()[0][:SHEET], *(~lens).nonzero()[0][:SHEET]]
    cells = []
    for row in rows:
        mocks = simulate(recipe, seed=seed, start=int(row), n=1)
        image = mocks.images[0]
        if mocks.missing is not None:
            image = torch.where(mocks.missing[0], torch.nan, image)
        picture = asinh_rgb(image.numpy(), recipe.bands, sigma=mocks.sigma[0].numpy())
        name = CLASSES[int(truth["klass"][row])]
        text = f'{name} {truth["theta_E"][row]:.2f}"' if lens[row] else name
        snr = truth["snr_arc"][row]
        cells.append(Cell(picture, (text, f"S/N {snr:.0f}") if np.isfinite(snr) else (text,)))
    title = f"{recipe.name}, seed {seed}: lenses with theta_E, then other objects"
    save_png(contact_sheet(cells, 8, title=title), path)
