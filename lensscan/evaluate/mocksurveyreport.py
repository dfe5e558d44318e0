"""What a mock survey says: the printed lines, the JSON file, the page with its pictures and galleries."""

from __future__ import annotations

import io
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.evaluate.anchors import anchor_rows, load_anchors
from lensscan.evaluate.detection import FPRS
from lensscan.evaluate.galleries import STAMP, class_name
from lensscan.evaluate.markup import figure, note, number, picture, simple_page, table, warning
from lensscan.evaluate.mocksurvey import SEED, Objects, SurveySettings, survey_set
from lensscan.evaluate.toplists import Found, lengths
from lensscan.evaluate.written import header, plain, write_all
from lensscan.metrics.bootstrap import Estimate
from lensscan.mocks.recipes import CLASSES
from lensscan.render.rgb import asinh_rgb
from lensscan.render.sheet import Cell, contact_sheet
from lensscan.render.toplists import list_diagram

__all__ = ["lines", "report", "write_survey"]

BEST, COLUMNS = 60, 10
GREEN, RED = (70, 200, 110), (200, 70, 60)
REAL = "not comparable: real sky"
WORDS = {
    "purity": "purity",
    "completeness": "completeness",
    "inspected_per_lens": "inspected per true lens",
    "p_lens_over_true": "sum of p_lens / lenses",
    "p_survey_over_true": "sum of p_survey / lenses",
}


def lines(settings: SurveySettings, objects: Objects, found: list[Found]) -> list[str]:
    """Return the printed table: one line for each ranking and length of list."""
    text = [f"{_caption(settings, objects)}; expected [95 %], and what this survey holds"]
    for each in found:
        text.append(f"  {each.entrant.name}")
        for n in lengths(settings.n):
            stated = [
                f"{name} {_words(each.figures[f'expected_{name}_top_{n}'])}" for name in ("purity", "completeness")
            ]
            counted = f"; {_lenses(each.lenses[n])} in this survey's" if n in each.lenses else ""
            text.append(f"    top {n:,}: {', '.join(stated)}{counted}")
        rates = [f"{fpr:g}: {_words(each.figures[f'tpr_at_fpr_{fpr:g}'])}" for fpr in _supported(each)]
        if rates:
            text.append(f"    true positive rate at a false positive rate of {'; '.join(rates)}")
    for row in published(settings, found[0]) if found else []:
        text.append(f"  {row['paper']}: {_list_words(row['figure'])} {row['published']:g} ({REAL})")
    return [*text, *(f"  {words}" for words in _notes(settings))]


def _notes(settings: SurveySettings) -> list[str]:
    return list(settings.notes([model.card for model in settings.lineup.singles]).values())


def _lenses(n: int) -> str:
    return f"{n:,} lens{'' if n == 1 else 'es'}"


def _list_words(figure: str) -> str:
    """Return ``survey:purity_two_lists`` in words."""
    return f"purity of the {figure.removeprefix('survey:purity_').replace('_', ' ')}"


def _words(estimate: Estimate) -> str:
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"


def _supported(found: Found) -> list[float]:
    return [fpr for fpr in FPRS if f"tpr_at_fpr_{fpr:g}" in found.figures]


def _caption(settings: SurveySettings, objects: Objects) -> str:
    survey, lens = ~objects.extra, np.asarray(objects.truth["is_lens"], bool)
    return (
        f"mock survey of {settings.n:,} objects of {settings.recipe.name} at prevalence {settings.prevalence:g}: "
        f"{_lenses(int((survey & lens).sum()))}, {int((objects.extra & lens).sum()):,} more scored besides"
    )


def published(settings: SurveySettings, found: Found) -> list[dict[str, Any]]:
    """Return the published figures of lists of the same share, ours beside; see `lensscan.evaluate.anchors`."""
    ours = {
        f"purity_{name}": plain(found.figures[f"expected_purity_top_{n}"])
        for n, name in lengths(settings.n).items()
        if name
    }
    rows = anchor_rows({"testset": {"recipe": settings.recipe.name}, "survey": ours}, None, load_anchors())
    return [row | {"verdict": REAL} for row in rows]


def report(settings: SurveySettings, objects: Objects, found: list[Found]) -> dict[str, Any]:
    """Return everything as plain values."""
    survey, lens = ~objects.extra, np.asarray(objects.truth["is_lens"], bool)
    klass = np.asarray(objects.truth["klass"])[survey]
    return {
        **header("mock-survey", settings.n, SEED, settings.replicates, settings.recipe),
        "prevalence": settings.prevalence,
        "n_lens": int((survey & lens).sum()),
        "n_lens_besides": int((objects.extra & lens).sum()),
        "n_other": int((survey & ~lens).sum()),
        "n_failed": objects.failed,
        "n_undetectable": objects.vague,
        "real_stamps": len(np.unique(objects.truth["stamp"][objects.truth["stamp"] >= 0])),
        "classes": {name: int((klass == k).sum()) for k, name in _classes(klass).items()},
        "models": [[model.card.name, model.card.hash] for model in settings.lineup.models],
        "notes": _notes(settings),
        "rankings": {each.entrant.name: _ranking(settings, each) for each in found},
    }


def _classes(klass: NDArray[np.int8]) -> dict[int, str]:
    """Return number and name of the classes that occur."""
    return {int(k): CLASSES[k] for k in np.unique(klass)}


def _ranking(settings: SurveySettings, found: Found) -> dict[str, Any]:
    return {
        "figures": {name: plain(value) for name, value in found.figures.items()},
        "lenses": {str(n): count for n, count in found.lenses.items()},
        "false_positives": {str(n): counts for n, counts in found.classes.items()},
        "curve": {
            "n": found.curve_n.tolist(),
            "purity": [plain(value) for value in found.purity],
            "completeness": [plain(value) for value in found.completeness],
        },
        "published": published(settings, found),
    }


def draw(settings: SurveySettings, objects: Objects, found: list[Found]) -> dict[str, bytes]:
    """Return the pictures: the lists against their length, and the best of each ranking with its truth."""
    panels: dict[str, dict[str, NDArray[np.float64]]] = {}
    points: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name in ("purity", "completeness"):
        panels[name] = {
            each.entrant.name: np.array([[e.value, e.low, e.high] for e in getattr(each, name)]) for each in found
        }
        points[name] = {
            each.entrant.name: np.array(
                [[n, each.figures[f"count_{name}_top_{n}"].value] for n in each.lenses if _counted(each)]
            ).reshape(-1, 2)
            for each in found
        }
    pictures = {"lists": list_diagram(found[0].curve_n, panels, list(lengths(settings.n)), points)}
    for place, each in enumerate(found):
        pictures[f"best-{place + 1}"] = gallery(settings, objects, each)
    return pictures


def _counted(found: Found) -> bool:
    return any(name.startswith("count_") for name in found.figures)


def gallery(settings: SurveySettings, objects: Objects, found: Found) -> bytes:
    """Draw the best objects of a ranking, made again from their index; lenses framed green, others red."""
    rows = found.order[:BEST]
    frame = settings.lineup.singles[0].frame()
    batch = survey_set(settings).stamps(objects.index[rows], frame)
    truth, cells = objects.truth, []
    for place, row in enumerate(rows):
        lens = bool(truth["is_lens"][row])
        seen = f'{truth["theta_E"][row]:.2f}"  S/N {truth["snr_arc"][row]:.0f}'
        words = [f"{place + 1}: {found.entrant.score[row]:+.1f}", seen if lens else class_name(truth, int(row))]
        cells.append(Cell(asinh_rgb(batch.images[place], frame.bands), tuple(words), GREEN if lens else RED))
    stream = io.BytesIO()
    contact_sheet(cells, COLUMNS, stamp=STAMP).save(stream, format="PNG")
    return stream.getvalue()


def make_page(settings: SurveySettings, objects: Objects, found: list[Found], pictures: dict[str, bytes]) -> str:
    """Return the page."""
    body = note(
        "Non-lenses in the recipe's shares. Expected: from all lenses scored, weighted to the prevalence; counted: "
        "what the lists of this very survey hold. Intervals: 95 %, bootstrap by galaxy. Lensed systems below the label "
        f"rule ({objects.vague:,}) and objects that a model could not score ({objects.failed:,}) are left out."
    )
    body += "".join(map(warning, _notes(settings)))
    body += _lists_table(settings, found) + _published_table(settings, found) + _rates_table(found)
    body += picture(pictures, "lists", "purity and completeness against the number of objects inspected")
    body += note("Lines and bands: expected. Circles: counted. Dotted: the lists of the table.")
    body += _class_table(objects, found)
    for place, each in enumerate(found):
        if f"best-{place + 1}" in pictures:
            body += f"<h3>The best {BEST} of {escape(each.entrant.name)}</h3>"
            body += note("Lenses are framed green, others red.")
            body += picture(pictures, f"best-{place + 1}", f"best objects of {each.entrant.name}")
    return simple_page(f"{settings.recipe.name} as a survey", f"{_caption(settings, objects)}; simulated", body)


def _lists_table(settings: SurveySettings, found: list[Found]) -> str:
    rows = []
    for each in found:
        for n in lengths(settings.n):
            cells = [figure(_plain(each, f"expected_{name}_top_{n}")) for name in WORDS]
            counted = [figure(_plain(each, f"count_{name}_top_{n}")) for name in ("purity", "completeness")]
            rows.append([escape(each.entrant.name), f"{n:,}", *cells, number(each.lenses.get(n)), *counted])
    head = ("ranking", "best", *WORDS.values(), "lenses counted", "purity counted", "completeness counted")
    return table(head, rows)


def _plain(found: Found, name: str) -> dict[str, float | None] | None:
    return plain(found.figures[name]) if name in found.figures else None


def _published_table(settings: SurveySettings, found: list[Found]) -> str:
    rows = [
        [escape(row["paper"]), escape(row["source"]), escape(each.entrant.name), number(row["published"]),
         figure(row["ours"]), row["verdict"]]
        for each in found
        for row in published(settings, each)
    ]  # fmt: skip
    head = ("published", "what", "ranking", "purity there", "expected here", "")
    return "<h3>Published</h3>" + table(head, rows, frozenset({1, 5})) if rows else ""


def _rates_table(found: list[Found]) -> str:
    fprs = _supported(found[0])
    if not fprs:
        return note("True positive rates are left out: fewer than ten false positives would stand behind them.")
    rows = [[escape(each.entrant.name), *(figure(_plain(each, f"tpr_at_fpr_{f:g}")) for f in fprs)] for each in found]
    head = ("true positive rate at a false positive rate of", *(f"{fpr:g}" for fpr in fprs))
    words = "Left out where fewer than ten false positives would stand behind a rate."
    return "<h3>Rates</h3>" + table(head, rows) + note(words)


def _class_table(objects: Objects, found: list[Found]) -> str:
    survey, lens = ~objects.extra, np.asarray(objects.truth["is_lens"], bool)
    others = np.asarray(objects.truth["klass"])[survey & ~lens]
    classes = _classes(others)
    rows = []
    for each in found:
        for n, counts in each.classes.items():
            cells = [f"{counts.get(name, 0):,}" for name in classes.values()]
            rows.append([escape(each.entrant.name), f"{n:,}", f"{each.lenses[n]:,}", *cells])
    total = [f"{(others == k).sum():,}" for k in classes]
    rows.append(["the survey", f"{int(survey.sum()):,}", f"{int((survey & lens).sum()):,}", *total])
    head = ("ranking", "best", "lenses", *(name.replace("_", " ") for name in classes.values()))
    return "<h3>False positives by class</h3>" + table(head, rows)


def write_survey(
    settings: SurveySettings, objects: Objects, found: list[Found], folder: Path, plots: bool = True
) -> list[Path]:
    """Write ``mock-survey--RECIPE.html``, ``.json`` and, with `plots`, the pictures; return their paths."""
    stem = folder / f"mock-survey--{settings.recipe.name}"
    pictures = draw(settings, objects, found) if plots else {}
    page = make_page(settings, objects, found, pictures)
    return write_all(stem, report(settings, objects, found), page, pictures)
