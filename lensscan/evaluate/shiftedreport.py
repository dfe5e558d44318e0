"""What other skies do to a model: the printed lines, the JSON file, the page and its picture."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from lensscan.evaluate.markup import figure, note, picture, simple_page, table, warning
from lensscan.evaluate.posteriors import LEVELS, REGIONS
from lensscan.evaluate.shifted import ALLOWED, Shifted, Sky, widest
from lensscan.evaluate.transferreport import FIGURES
from lensscan.evaluate.written import file_stem, plain, write_all
from lensscan.render.heat import HeatPanel, heat_diagram

__all__ = ["lines", "report", "write_shifted"]

DETECTION = ("auroc", "tpr", "ece", "theta_E_bias", "theta_E_68")
REACH = 0.1
"""Of the picture's colours, on both sides of a level."""


def lines(found: Shifted) -> list[str]:
    """Return the printed table: one line a sky, in per cent, and what misses most."""
    settings = found.settings
    text = [
        f"{settings.model.card.name} on {settings.n} mocks of {settings.recipe.name} with one thing changed, the seed "
        "for tuning; what intervals and joint regions of 68 and 95 % hold"
    ]
    for sky in found.skies:
        stated = ", ".join(f"{name} {_share(sky, 0.68, name)} {_share(sky, 0.95, name)}" for name in REGIONS)
        text.append(f"  {sky.words:34s} {sky.cell.n_lens} lenses: {stated}")
        told = {key: sky.cell.figures[key] for key in DETECTION if key in sky.cell.figures}
        figures = [f"{FIGURES[key].split(' (')[0]} {each.value:.3f}" for key, each in told.items()]
        text.append(f"  {'':34s} {'; '.join(figures)}; widest miss: {', '.join(_miss(sky))}")
    return [*text, *(f"  {words}" for words in settings.remarks())]


def _share(sky: Sky, level: float, region: str) -> str:
    return f"{100 * sky.coverage[f'{level:g}.{region}'].value:.0f}"


def _miss(sky: Sky) -> tuple[str, str]:
    """Return what misses its level most, and whether that is allowed, in words."""
    region, level, share = widest(sky)
    bare = np.isnan(share.low)
    interval = "" if bare else f" [{100 * share.low:.1f}, {100 * share.high:.1f}]"
    ends = (share.value,) if bare else (share.low, share.value, share.high)
    allowed = {abs(end - level) <= ALLOWED for end in ends}
    verdict = "not decided about" if len(allowed) > 1 else "within" if allowed.pop() else "beyond"
    held = f"{100 * level:.0f} % of {region} hold {100 * share.value:.1f}{interval} %"
    return held, f"{verdict} the {100 * ALLOWED:.0f} points of the goal"


def report(found: Shifted) -> dict[str, Any]:
    """Return everything as plain values."""
    return {
        **found.settings.header("shifted"),
        "skies": [
            {
                "changed": sky.words,
                "n_lens": sky.cell.n_lens,
                "n_other": sky.cell.n_other,
                "failed": sky.cell.failed,
                "out_of_range": sky.cell.out_of_range,
                "figures": {name: plain(value) for name, value in sky.cell.figures.items()},
                "coverage": {name: plain(value) for name, value in sky.coverage.items()},
            }
            for sky in found.skies
        ],
    }


def draw(found: Shifted) -> bytes:
    """Draw what intervals and regions hold as two tables of colours: skies down, parameters across."""
    panels = []
    for level in LEVELS:
        shares = [[100 * sky.coverage[f"{level:g}.{name}"].value for name in REGIONS] for sky in found.skies]
        ends = 100 * (level - REACH), 100 * (level + REACH)
        panels.append(HeatPanel(f"{100 * level:.0f} % intervals hold (%)", np.array(shares), *ends, 100 * level, 1))
    rows = [sky.words for sky in found.skies]
    return heat_diagram(panels, rows, REGIONS, np.zeros((len(rows), len(REGIONS)), bool))


def make_page(found: Shifted, pictures: dict[str, bytes]) -> str:
    """Return the page."""
    settings = found.settings
    text = (
        "Mocks of the recipe, and of the recipe with one thing changed; each sky has systems of its own, and the label "
        "chooses its lenses anew. The model is told noise and seeing as they are, as a scan would tell it; out of "
        "range: rows that a scan would flag for them. Intervals: 95 %, bootstrap by galaxy; none where fewer than 20 "
        "galaxies of a kind stand behind a figure. n: the Sersic index. Calibration error: of p_lens at "
        "prevalence 1/2, among lenses of nature's theta_E."
    )
    words = [escape(sky.words) for sky in found.skies]
    covered = []
    for name in REGIONS:
        pairs = [[figure(plain(sky.coverage[f"{level:g}.{name}"])) for level in LEVELS] for sky in found.skies]
        covered.append([name, *("<br>".join(pair) for pair in pairs)])
    covered.append(["widest miss", *("<br>".join(_miss(sky)) for sky in found.skies)])
    detection = []
    for name, sky in zip(words, found.skies, strict=True):
        cell = sky.cell
        figures = [figure(plain(cell.figures[key]) if key in cell.figures else None) for key in DETECTION]
        detection.append([name, f"{cell.n_lens:,} + {cell.n_other:,}", *figures, f"{100 * cell.out_of_range:.0f} %"])
    body = note(text) + "".join(map(warning, settings.remarks()))
    body += picture(pictures, "", "what intervals hold, by sky and parameter")
    body += note(
        "Share of the truths inside the stated intervals of 68 % and, below, of 95 %; joint_7: the region of all seven."
    )
    body += table(("changed", *words), covered)
    head = ("changed", "lenses + others", *(escape(FIGURES[key]) for key in DETECTION), "out of range")
    body += table(head, detection)
    title = f"{settings.model.card.name} on {settings.recipe.name} under other skies"
    caption = f"{settings.n:,} mocks of each sky, the seed for tuning: no result, for looking only; simulated"
    return simple_page(title, caption, body)


def write_shifted(found: Shifted, folder: Path, plots: bool = True) -> list[Path]:
    """Write ``shifted--MODEL--RECIPE.html``, ``.json`` and, with `plots`, ``.png``; return their paths."""
    settings = found.settings
    pictures = {"": draw(found)} if plots else {}
    stem = folder / f"shifted--{file_stem(settings.model.card.name, settings.recipe.name)}"
    return write_all(stem, report(found), make_page(found, pictures), pictures)
