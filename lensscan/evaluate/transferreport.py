"""What the transfer table says: the printed lines, the JSON file, the page and its picture."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from lensscan.evaluate.markup import figure, note, picture, simple_page, table, warning
from lensscan.evaluate.testsets import SEEDS
from lensscan.evaluate.transfer import FPR, LEVEL, Cell, Transfer
from lensscan.evaluate.written import header, plain, write_all
from lensscan.render.heat import HeatPanel, heat_diagram

__all__ = ["FIGURES", "lines", "report", "write_transfer"]

FIGURES = {
    "auroc": "AUROC",
    "tpr": f"TPR at FPR {FPR:g}",
    "ece": "calibration error",
    "theta_E_bias": 'theta_E bias (")',
    "theta_E_68": 'theta_E 68 % half-width (")',
    "coverage_68": f"{100 * LEVEL:.0f} % interval of theta_E covers",
}
SHADES: dict[str, tuple[float, float, float | None]] = {
    "auroc": (0.5, 1.0, None),
    "tpr": (0.0, 1.0, None),
    "ece": (0.0, 0.3, None),
    "theta_E_bias": (-0.3, 0.3, 0.0),
    "theta_E_68": (0.0, 0.5, None),
    "coverage_68": (0.38, 0.98, LEVEL),
}
"""Ends of each figure's colours, and the value it should have where it can err on both sides."""


def lines(found: Transfer) -> list[str]:
    """Return the printed table: one line for each model on each recipe."""
    text = [f"{found.settings.n} mocks of each recipe, the seed for tuning; * the model's own recipe"]
    for cell in found.cells:
        lead = f"  {cell.model:20s} on {cell.recipe + '*' * cell.own:16s}"
        if cell.refused:
            text.append(f"{lead} refused: {cell.refused}")
            continue
        stated = [f"{FIGURES[name].split(' (')[0]} {_words(cell, name)}" for name in FIGURES if name in cell.figures]
        text.append(f"{lead} {'; '.join(stated)}")
    return [*text, *(f"  {words}" for words in _notes(found))]


def _notes(found: Transfer) -> list[str]:
    return list(found.settings.notes([model.card for model in found.settings.models]).values())


def _words(cell: Cell, name: str) -> str:
    estimate = cell.figures[name]
    interval = "" if np.isnan(estimate.low) else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    return f"{estimate.value:.3f}{interval}"


def report(found: Transfer) -> dict[str, Any]:
    """Return the whole table as plain values."""
    settings = found.settings
    return {
        **header("transfer", settings.n, SEEDS["tune"], settings.replicates),
        "models": {
            model.card.name: {"hash": model.card.hash, "version": model.card.version, "bands": list(model.card.bands)}
            for model in settings.models
        },
        "recipes": {
            each.name: {"digest": each.digest, "bands": list(each.bands), "size": each.size, "pixels": each.pixel_scale}
            for each in found.recipes
        },
        "notes": _notes(found),
        "cells": [_cell(cell) for cell in found.cells],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    stated: dict[str, Any] = {"model": cell.model, "recipe": cell.recipe, "own": cell.own}
    if cell.refused:
        return stated | {"refused": cell.refused}
    stated |= {name: getattr(cell, name) for name in ("resampled", "n_lens", "n_other", "failed", "out_of_range")}
    figures = {name: plain(estimate) for name, estimate in cell.figures.items()}
    return stated | {"bands": list(cell.bands), "figures": figures}


def draw(found: Transfer) -> bytes:
    """Draw every figure that some cell has as a table of colours: models down, recipes across; own ones framed."""
    rows = [model.card.name for model in found.settings.models]
    columns = [recipe.name for recipe in found.recipes]
    by_place = {(cell.model, cell.recipe): cell for cell in found.cells}
    grid = [[by_place[row, column] for column in columns] for row in rows]
    panels = []
    for name, title in FIGURES.items():
        values = [[each.figures[name].value if name in each.figures else np.nan for each in row] for row in grid]
        cells = np.array(values, np.float64)
        if np.isfinite(cells).any():
            panels.append(HeatPanel(title, cells, *SHADES[name]))
    return heat_diagram(panels, rows, columns, np.array([[each.own for each in row] for row in grid]))


def make_page(found: dict[str, Any], pictures: dict[str, bytes]) -> str:
    """Return the page of a report."""
    text = (
        "Every model on mocks of every survey that has enough of its bands, scored as a scan with --resample would: "
        "stamps as large as the network's frame, resampled to its pixels where they differ by more than 1 %, missing "
        "bands absent. In a row nothing but the mocks changes, in a column all models see the same galaxies. "
        f"TPR needs at least {10 / FPR:,.0f} non-lenses. Calibration error: expected, of p_lens at prevalence 1/2, "
        "on the own recipe among lenses of nature's theta_E; "
        "like the bias and the coverage it is that of the card, whose calibration and prior are the training recipe's. "
        "Intervals: 95 %, bootstrap by galaxy; none where fewer than 20 galaxies of a kind stand behind a figure."
    )
    rows = []
    for cell in found["cells"]:
        lead = [escape(cell["model"]), escape(cell["recipe"]) + (" (own)" if cell["own"] else "")]
        if "refused" in cell:
            rows.append([*lead, f"<small>refused: {escape(cell['refused'])}</small>", *[""] * (len(FIGURES) + 2)])
            continue
        taken = ", ".join(cell["bands"]) + (", resampled" if cell["resampled"] else "")
        figures = [figure(cell["figures"].get(name)) for name in FIGURES]
        number = f"{cell['n_lens']:,} + {cell['n_other']:,}"
        rows.append([*lead, escape(taken), number, *figures, f"{100 * cell['out_of_range']:.0f} %"])
    head = ("model", "mocks of", "bands", "lenses + others", *map(escape, FIGURES.values()), "out of range")
    body = picture(pictures, "", "figures of every model on every recipe")
    body += "".join(map(warning, found["notes"]))
    body += table(head, rows, frozenset({0, 1, 2}))
    caption = f"{found['n']:,} mocks of each recipe, the seed for tuning: no result, for looking only; simulated"
    return simple_page("Models on other surveys", caption, note(text) + body)


def write_transfer(found: Transfer, folder: Path, plots: bool = True) -> list[Path]:
    """Write ``transfer.json``, ``transfer.html`` and, with `plots`, ``transfer.png``; return their paths."""
    values = report(found)
    pictures = {"": draw(found)} if plots else {}
    return write_all(folder / "transfer", values, make_page(values, pictures), pictures)
