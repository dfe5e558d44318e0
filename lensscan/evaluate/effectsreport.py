"""What conditions do to the errors: the printed lines, the JSON file, the page and its pictures."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.evaluate.effects import Effects, Outcome
from lensscan.evaluate.markup import figure, note, number, picture, simple_page, table, warning
from lensscan.evaluate.posteriors import LEVELS, PARAMETERS, REGIONS
from lensscan.evaluate.written import file_stem, plain, write_all
from lensscan.metrics.bootstrap import Estimate
from lensscan.mocks.conditions import GRIDS, grid_unit
from lensscan.render.conditions import CurvePanel, SwitchPanel, curve_diagram, switch_diagram

__all__ = ["change", "lines", "report", "write_effects"]

ROWS = {"half-width 68 % (arcsec)": ("theta_E", "x", "y", "sx", "sy"), "half-width 68 %": ("e1", "e2")}
"""Rows of the picture of curves: the axis' label, and the parameters in it."""
TOLD = ("theta_E", "e1", "x")
"""What the printed lines show."""


def change(outcome: Outcome, reference: Outcome, name: str) -> Estimate:
    """Return by how many per cent a half-width differs from the reference's, paired."""
    ours, theirs = outcome.widths[name], reference.widths[name]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = ours.replicates / theirs.replicates
    return Estimate.of(100 * (ours.value / theirs.value - 1) if theirs.value else np.nan, 100 * (ratio - 1))


def lines(found: Effects) -> list[str]:
    """Return the printed table: one line a condition."""
    settings = found.settings
    text = [
        f"{settings.model.card.name} on {found.n_lens} lenses of {settings.recipe.name}, the seed for tuning; "
        "half-widths of 68 % of the errors, and what the joint regions of 68 and 95 % hold"
    ]
    for outcome in found.outcomes:
        stated = [f"{name} {_words(outcome.widths[name])}" for name in TOLD]
        joint = ", ".join(f"{100 * outcome.coverage[f'{level:g}.joint_7'].value:.1f}" for level in LEVELS)
        text.append(f"  {outcome.condition.words:30s} {'; '.join(stated)}; joint {joint} %")
    return [*text, *(f"  {words}" for words in settings.remarks())]


def _words(estimate: Estimate) -> str:
    return f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"


def report(found: Effects) -> dict[str, Any]:
    """Return everything as plain values."""
    recipe = found.settings.recipe
    return {
        **found.settings.header("effects"),
        "n_lens": found.n_lens,
        "units": {kind: grid_unit(kind, recipe) for kind in GRIDS},
        "conditions": [
            {
                "kind": each.condition.kind,
                "name": each.condition.name,
                "value": each.condition.value,
                "hidden": each.hidden,
                "half_width_68": {name: plain(value) for name, value in each.widths.items()},
                "minus_everything": {name: plain(value) for name, value in each.differences.items()},
                "bias": {name: plain(value) for name, value in each.bias.items()},
                "coverage": {name: plain(value) for name, value in each.coverage.items()},
            }
            for each in found.outcomes
        ],
    }


def _of(found: Effects, kind: str) -> list[Outcome]:
    return [each for each in found.outcomes if each.condition.kind == kind]


def _triple(estimates: list[Estimate]) -> NDArray[np.float64]:
    return np.array([[each.value, each.low, each.high] for each in estimates], np.float64).reshape(-1, 3)


def draw(found: Effects) -> dict[str, bytes]:
    """Return the pictures: curves over the grids, and effects one at a time where there are several."""
    recipe = found.settings.recipe
    rows = []
    for label, names in ROWS.items():
        row = []
        for kind, words in GRIDS.items():
            outcomes = _of(found, kind)
            x = np.array([each.hidden if kind == "masks" else each.condition.value for each in outcomes])
            text = "share of the light that masks hide" if kind == "masks" else f"{words}, {grid_unit(kind, recipe)}"
            curves = {name: _triple([each.widths[name] for each in outcomes]) for name in names}
            row.append(CurvePanel(text, label, x, curves))
        rows.append(row)
    pictures = {"curves": curve_diagram(rows)}
    without, only = _of(found, "without"), _of(found, "only")
    if without:
        everything, nothing = found.outcomes[0], _of(found, "nothing")[0]
        panels = [
            SwitchPanel(
                name,
                _triple([change(each, everything, name) for each in without]),
                _triple([change(each, nothing, name) for each in only]),
            )
            for name in PARAMETERS
        ]
        pictures["switches"] = switch_diagram(panels, [each.condition.name for each in without])
    return pictures


def make_page(found: Effects, pictures: dict[str, bytes]) -> str:
    """Return the page."""
    settings = found.settings
    text = (
        "The same lenses, rendered anew under every condition from the same random numbers: what a condition does not "
        "touch is the same in every pixel. Half-widths of the central 68 % of posterior median minus truth; below "
        "each, by how much it exceeds that under everything (the recipe as it stands), paired. Intervals: 95 %, "
        "bootstrap by lens. In the grids everything else stays as in the recipe. Masks: circles in every stamp, "
        "dropped where they would hide more than the limit; hidden is the mean share of the noise-free light, what is "
        "left of the lens's included."
    )
    rows, covered = [], []
    for each in found.outcomes:
        shares = [[figure(plain(each.coverage[f"{level:g}.{name}"])) for level in LEVELS] for name in REGIONS]
        covered.append([escape(each.condition.words), *("<br>".join(pair) for pair in shares)])
        cells = [f"{figure(plain(each.widths[p]))}<br>{figure(plain(each.differences[p]))}" for p in PARAMETERS]
        hidden = "" if np.isnan(each.hidden) else number(each.hidden, 2)
        rows.append([escape(each.condition.words), hidden, *cells])
    units = "; ".join(f"{GRIDS[kind]}: {grid_unit(kind, settings.recipe)}" for kind in GRIDS)
    body = note(text) + "".join(map(warning, settings.remarks()))
    body += picture(pictures, "curves", "half-widths over masks, noise and PSF")
    body += note(
        "Bands: each point by itself; points of a curve share their lenses, so steps are surer than they look."
    )
    if "switches" in pictures:
        body += note(
            "Change of the half-width when one effect is turned off while all others stay on (against everything), and "
            "when it alone is turned on (against nothing)."
        ) + picture(pictures, "switches", "effects on and off one at a time")
    body += note(f"Units of the grids: {escape(units)}.") + table(("condition", "hidden", *PARAMETERS), rows)
    body += note(
        "Share of the truths inside the stated intervals of 68 % and, below, of 95 %; joint_7: the region of all seven."
    ) + table(("condition", *REGIONS), covered)
    title = f"{settings.model.card.name} on {settings.recipe.name} under other conditions"
    caption = f"{found.n_lens:,} lenses of the seed for tuning: no result, for looking only; simulated"
    return simple_page(title, caption, body)


def write_effects(found: Effects, folder: Path, plots: bool = True) -> list[Path]:
    """Write ``effects--MODEL--RECIPE.html``, ``.json`` and, with `plots`, the pictures; return their paths."""
    stem = folder / f"effects--{file_stem(found.settings.model.card.name, found.settings.recipe.name)}"
    pictures = draw(found) if plots else {}
    return write_all(stem, report(found), make_page(found, pictures), pictures)
