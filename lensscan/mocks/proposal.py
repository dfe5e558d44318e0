"""Colour cuts judged, and proposed: simulated lenses over the colours of a survey's own catalog.

For every candidate box the completeness (share of the simulated lenses that pass, noisy magnitudes included) and
the number of catalog rows that pass: the figure from which a search chooses its cut.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.config import Cut, CutStep, Survey, load_cut, shipped
from lensscan.errors import CatalogError, ConfigError
from lensscan.files import replacing
from lensscan.mocks.recipes import Recipe
from lensscan.mocks.simulate import draw_truth
from lensscan.mocks.skytables import measured_magnitudes
from lensscan.survey.catalog import Catalog, Chunk
from lensscan.survey.select import Selector

__all__ = ["Box", "Proposal", "draw_proposal", "propose", "write_cut"]

Array = NDArray[np.float64]
LEVELS = (0.99, 0.95, 0.90, 0.80)
SHOWN = 20_000


@dataclass(frozen=True, slots=True)
class Box:
    """A candidate cut: completeness for lenses (with its binomial error), and catalog rows it keeps."""

    cut: Cut
    completeness: float
    error: float
    rows: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """All candidate boxes, and the colours they were judged on.

    Attributes
    ----------
    boxes : list of Box
    n_lenses, n_rows : int
        Simulated lenses, and rows of the catalog.
    lenses, field : dict of ndarray
        Magnitudes by band: of the lenses, and of at most 20,000 catalog rows.
    """

    boxes: list[Box]
    n_lenses: int
    n_rows: int
    lenses: dict[str, Array]
    field: dict[str, Array]

    def table(self) -> str:
        """Return the boxes as text."""
        lines = [f"{self.n_lenses:,} simulated lenses over {self.n_rows:,} catalog rows"]
        lines.append(f"{'cut':<28} {'lenses kept':>16} {'rows kept':>12} {'of all':>8}")
        for box in self.boxes:
            share = 100 * box.rows / max(self.n_rows, 1)
            kept = f"{100 * box.completeness:.1f} +- {100 * box.error:.1f} %"
            lines.append(f"{box.cut.name:<28} {kept:>16} {box.rows:>12,} {share:>6.1f} %")
        return "\n".join(lines)


def propose(recipe: Recipe, seed: int, n: int, catalog: Catalog, survey: Survey) -> Proposal:
    """Judge the shipped cuts and boxes around the lenses' own colours.

    Parameters
    ----------
    recipe : Recipe
        Its lenses, as the survey would measure them.
    n : int
        Mocks to draw.
    catalog : Catalog
        The survey's catalog.

    Raises
    ------
    ConfigError
        If recipe and survey share fewer than two bands with magnitudes, or no lens was drawn that is seen in all.
    CatalogError
        If the catalog has no row with these magnitudes.
    """
    bands = [b for b in recipe.bands if b in survey.bands and (survey.bands[b].mag or survey.bands[b].flux)]
    if len(bands) < 2:
        raise ConfigError(f"a cut needs two bands: recipe {recipe.name} and survey {survey.name} share {bands}")
    lenses = _lens_magnitudes(recipe, seed, n, bands)
    if not np.isfinite(list(lenses.values())).all(axis=0).any():
        raise ConfigError(f"none of {n} mocks of {recipe.name} is a lens seen in {', '.join(bands)}; raise -n")
    cuts = _shipped_cuts(survey, bands) + [_box(level, lenses, bands, recipe.reference) for level in LEVELS]
    judges = [Selector(survey, cut) for cut in cuts]
    catalog.require(tuple(bands))
    sample: list[dict[str, Array]] = []
    n_rows, n_known = 0, 0
    for chunk in catalog.chunks():
        known = np.all([np.isfinite(chunk.mags[b]) for b in bands], axis=0)
        n_rows, n_known = n_rows + chunk.n, n_known + int(known.sum())
        room = SHOWN - sum(len(part[bands[0]]) for part in sample)
        sample.append({b: chunk.mags[b][known][:room] for b in bands})
        for judge in judges:
            judge.apply(chunk)
    if not n_known:
        raise CatalogError(f"no row of {catalog.paths[0]} has magnitudes in {', '.join(bands)}; check the survey")
    boxes, chunk = [], _chunk(lenses)
    for cut, judge in zip(cuts, judges, strict=True):
        share = float(Selector(survey, cut).apply(chunk).mean())
        boxes.append(Box(cut, share, float(np.sqrt(share * (1 - share) / chunk.n)), judge.flow.n_selected))
    field = {b: np.concatenate([part[b] for part in sample]) for b in bands}
    return Proposal(boxes, chunk.n, n_rows, lenses, field)


def _lens_magnitudes(recipe: Recipe, seed: int, n: int, bands: Sequence[str]) -> dict[str, Array]:
    truth = draw_truth(recipe, seed=seed, n=n)
    keep = truth["is_lens"].astype(bool)
    result = {}
    for band in bands:
        k = recipe.bands.index(band)
        mag, _ = measured_magnitudes(recipe, seed, truth["index"], k, truth[f"mag_{band}"], truth)
        result[band] = np.where(mag < 90, mag, np.nan)[keep]
    return result


def _chunk(mags: dict[str, Array]) -> Chunk:
    n = len(next(iter(mags.values())))
    blank = np.full(n, np.nan)
    return Chunk(0, n, np.arange(n), blank, blank, blank, blank, mags)


def _shipped_cuts(survey: Survey, bands: Sequence[str]) -> list[Cut]:
    cuts = []
    for name in shipped("cuts"):
        cut = load_cut(name)
        try:
            selector = Selector(survey, cut)
        except ConfigError:
            continue
        if set(selector.bands) <= set(bands):
            cuts.append(cut)
    return cuts


def _box(level: float, lenses: dict[str, Array], bands: Sequence[str], reference: str) -> Cut:
    """Return the box about the lenses' colours and magnitude that holds the share `level` of them.

    Every side cuts the same share off its own distribution; that share is found by bisection.
    """
    faintest = reference if reference in bands else bands[-1]
    values = {f"{a} - {b}": lenses[a] - lenses[b] for a, b in itertools.pairwise(bands)}
    table = np.stack([*values.values(), lenses[faintest]], axis=1)
    table = table[np.isfinite(table).all(axis=1)]
    low, high = 0.0, 0.5 * (1 - level) + 1e-9
    for _ in range(30):
        tail = 0.5 * (low + high)
        edges = np.quantile(table, [tail, 1 - tail], axis=0)
        inside = ((table[:, :-1] > edges[0, :-1]) & (table[:, :-1] < edges[1, :-1])).all(axis=1)
        inside &= table[:, -1] < edges[1, -1]
        low, high = (tail, high) if inside.mean() > level else (low, tail)
    steps = [CutStep(name, round(float(edges[0, k]), 2), round(float(edges[1, k]), 2)) for k, name in enumerate(values)]
    steps.append(CutStep(faintest, None, round(float(edges[1, -1]), 2)))
    return Cut(f"proposed-{100 * level:.0f}", tuple(steps), title=f"{100 * level:.0f} % of the simulated lenses")


def write_cut(box: Box, recipe: Recipe, path: Path) -> None:
    """Write a box as a cut file; the user adds its prevalence.

    Raises
    ------
    DiskError, OutputError
        If it cannot be written.
    """
    lines = [
        f"# Proposed from {recipe.name}: keeps {100 * box.completeness:.1f} % of its lenses, {box.rows} rows of the",
        "# catalog it was proposed for.  Add prevalence (lenses per selected row) and where it comes from.",
        f'name = "{box.cut.name}"',
        f'title = "{box.cut.title}"',
    ]
    for step in box.cut.step:
        lines += ["", "[[step]]", f'value = "{step.value}"']
        lines += [f"{side} = {limit}" for side, limit in (("min", step.min), ("max", step.max)) if limit is not None]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw_proposal(proposal: Proposal, path: Path) -> None:
    """Draw lenses over the field in every pair of neighbouring colours, with the boxes.

    Raises
    ------
    DiskError, OutputError
        If it cannot be written.
    """
    from matplotlib.patches import Rectangle

    from lensscan.render.figure import new_figure
    from lensscan.render.png import write_picture

    bands = list(proposal.lenses)
    axes_of = [f"{a} - {b}" for a, b in itertools.pairwise(bands)]
    pairs = list(itertools.pairwise(axes_of)) or [(axes_of[0], bands[-1])]
    figure = new_figure(5.6 * len(pairs), 5.0)

    def value(mags: dict[str, Array], name: str) -> Array:
        parts = name.split(" - ")
        return mags[parts[0]] - mags[parts[1]] if len(parts) == 2 else mags[name]

    for number, (x, y) in enumerate(pairs):
        axes = figure.add_subplot(1, len(pairs), number + 1)
        axes.plot(value(proposal.field, x), value(proposal.field, y), ".", c="0.75", ms=2, label="catalog")
        axes.plot(value(proposal.lenses, x), value(proposal.lenses, y), ".", c="tab:orange", ms=2, label="lenses")
        for k, box in enumerate(proposal.boxes):
            limits = {s.value: (s.min, s.max) for s in box.cut.step if s.min is not None and s.max is not None}
            if x in limits and y in limits:
                (left, right), (low, high) = limits[x], limits[y]
                style: dict[str, Any] = {"fill": False, "ec": f"C{k}", "lw": 1.5, "label": box.cut.name}
                axes.add_patch(Rectangle((left, low), right - left, high - low, **style))
        spread = [np.nanquantile(value(proposal.lenses, name), [0.002, 0.998]) for name in (x, y)]
        axes.set_xlim(spread[0][0] - 1, spread[0][1] + 1)
        axes.set_ylim(spread[1][0] - 1, spread[1][1] + 1)
        axes.set(xlabel=x, ylabel=y)
        axes.legend(fontsize=8)
    write_picture(path, lambda name: figure.savefig(name, format="png"))
