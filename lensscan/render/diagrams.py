"""Diagrams of an evaluation: true against predicted, ROC, reliability, confusion, coverage, completeness; PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.render.figure import BLUE, GREY, INK, ORANGE, new_panels, png_bytes

__all__ = [
    "Scatter",
    "completeness_diagram",
    "confusion_diagram",
    "coverage_diagram",
    "range_diagram",
    "reliability_diagram",
    "roc_diagram",
    "truth_diagram",
    "width_diagram",
]

Floats = NDArray[np.floating]
BINS = 14
Curve = tuple[str, Floats, Floats]


@dataclass(frozen=True, slots=True)
class Scatter:
    """One panel of true against predicted values: (n,) each, axis label with unit."""

    label: str
    truth: Floats
    predicted: Floats


def truth_diagram(panels: Sequence[Scatter], columns: int = 4) -> bytes:
    """Draw predicted against true values with the running median and the 68 and 95 % bands of the predictions."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = new_panels(rows, columns, 3.6, 3.5)
    for place, panel in zip(axes, panels, strict=False):
        low, high = np.quantile(panel.truth, [0.002, 0.998])
        pad = 0.05 * (high - low) or 1.0
        limits = (low - pad, high + pad)
        place.hexbin(
            panel.truth, panel.predicted, gridsize=48, extent=(*limits, *limits), mincnt=1, cmap="Greys",
            bins="log", linewidths=0.1, alpha=0.75,
        )  # fmt: skip
        centres, bands = _running(panel.truth, panel.predicted)
        if len(centres):
            place.fill_between(centres, bands[:, 0], bands[:, 4], color=BLUE, alpha=0.16, lw=0, label="95 %")
            place.fill_between(centres, bands[:, 1], bands[:, 3], color=BLUE, alpha=0.32, lw=0, label="68 %")
            place.plot(centres, bands[:, 2], color=BLUE, lw=1.6, label="median")
        place.plot(limits, limits, color=ORANGE, lw=1.0, ls="--")
        place.set(xlim=limits, ylim=limits, xlabel=f"true {panel.label}", ylabel=f"predicted {panel.label}")
        place.set_aspect("equal")
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    for spare in axes[len(panels) :]:
        spare.set_visible(False)
    return png_bytes(figure)


def _running(truth: Floats, predicted: Floats) -> tuple[Floats, Floats]:
    """Return bin centres (k,) and the 2.5, 16, 50, 84, 97.5 % quantiles (k, 5) of the predictions, equal-mass bins."""
    count = min(BINS, len(truth) // 25)
    parts = np.array_split(np.argsort(truth, kind="stable"), count) if count else []
    centres = np.array([np.median(truth[part]) for part in parts])
    levels = [0.025, 0.16, 0.5, 0.84, 0.975]
    return centres, np.array([np.quantile(predicted[part], levels) for part in parts]).reshape(-1, 5)


def roc_diagram(curves: Sequence[Curve], floor: float) -> bytes:
    """Draw ROC curves (label, fpr, tpr), the false positive rate both linear and logarithmic down to `floor`."""
    figure, (linear, log) = new_panels(1, 2, 4.6, 4.0)
    colours = (BLUE, ORANGE, "#3c8d5a", "#7d4fa3", GREY)
    for number, (label, fpr, tpr) in enumerate(curves):
        style: dict[str, Any] = {"color": colours[number % len(colours)], "lw": 1.8 if number == 0 else 1.2}
        linear.step(np.append(0, fpr), np.append(0, tpr), where="post", label=label, **style)
        log.step(np.maximum(np.append(0, fpr), 1e-9), np.append(0, tpr), where="post", label=label, **style)
    linear.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls="--")
    linear.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.01))
    log.set(
        xlabel="false positive rate", ylabel="true positive rate", xscale="log", xlim=(floor / 2, 1), ylim=(0, 1.01)
    )
    log.axvspan(floor / 2, floor, color=GREY, alpha=0.18, lw=0)
    log.set_title("grey: fewer than ten false positives", fontsize=9, color=GREY)
    linear.legend(frameon=False, fontsize=8.5, loc="lower right")
    return png_bytes(figure)


def reliability_diagram(
    panels: Sequence[tuple[str, Floats, Floats]], isotonic: Sequence[tuple[Floats, Floats]] = ()
) -> bytes:
    """Draw the lens fraction against the mean probability of bins, one panel (title, predicted, observed) each.

    Panels after the first are logarithmic; there a bin without a lens is a grey mark at the lower
    edge, one without anything else at the upper.  `isotonic`, (probability, fraction) for each panel, is a thin line.
    """
    figure, axes = new_panels(1, len(panels), 4.0, 3.9)
    for number, (place, (title, predicted, observed)) in enumerate(zip(axes, panels, strict=True)):
        low, scale = 0.0, "linear"
        if number:
            decade = np.floor(np.log10(max(float(predicted.min(initial=1e-2)), 1e-9)))
            low, scale = float(min(10.0**decade, 1e-2)), "log"
        place.plot([low, 1], [low, 1], color=ORANGE, lw=1, ls="--")
        if isotonic:
            place.plot(*(np.maximum(values, low) for values in isotonic[number]), color=GREY, lw=0.9)
        seen = (observed > 0) & ((observed < 1) | (number == 0))
        place.plot(predicted[seen], observed[seen], "o-", color=BLUE, ms=4.5, lw=1.3)
        for missed, level, mark in ((observed <= 0, low * 1.2, "v"), (~seen & (observed > 0), 1.0, "^")):
            if missed.any():  # an empty line that is not clipped spoils the layout
                x = np.maximum(predicted[missed], low)
                place.plot(x, np.full(missed.sum(), level), mark, color=GREY, ms=5, clip_on=False)
        place.set(xscale=scale, yscale=scale, xlabel="predicted probability", ylabel="observed fraction of lenses")
        place.set(xlim=(low, 1), ylim=(low, 1.02))
        place.set_title(title, fontsize=10)
    return png_bytes(figure)


def confusion_diagram(
    matrix: NDArray[np.integer], title: str, rates: Mapping[str, tuple[float, float, float]]
) -> bytes:
    """Draw a confusion matrix and, beside it, the share of every class above the threshold.

    Parameters
    ----------
    matrix : (2, 2) array
        Rows: lens, other; columns: called lens, called other.
    title : str
        The threshold.
    rates : mapping of str to (value, low, high)
    """
    figure, (left, right) = new_panels(1, 2, 4.8, 3.7)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    left.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(matrix):
        colour = "white" if share[i, j] > 0.55 else INK
        left.text(j, i, f"{count:,}\n{share[i, j]:.1%}", ha="center", va="center", color=colour, fontsize=12)
    left.set(xticks=(0, 1), yticks=(0, 1), xticklabels=("lens", "other"), yticklabels=("lens", "other"))
    left.set(xlabel="called", ylabel="truth")
    left.set_title(title, fontsize=10)
    left.grid(visible=False)
    names = list(rates)[::-1]
    value, low, high = np.array([rates[name] for name in names]).reshape(-1, 3).T
    right.barh(
        [name.replace("_", " ") for name in names],
        value,
        color=[ORANGE if name != "lens" else BLUE for name in names],
        alpha=0.8,
    )
    reach = np.maximum((value - low, high - value), 0)
    right.errorbar(value, np.arange(len(names)), xerr=reach, fmt="none", ecolor=INK, lw=1)
    right.set(xscale="log", xlim=(value[value > 0].min(initial=1e-2) / 4, 1))
    right.set_xlabel("share above the threshold")
    return png_bytes(figure)


def range_diagram(groups: Mapping[str, Floats], thresholds: Mapping[str, float]) -> bytes:
    """Draw median, central 68 and 95 % and the highest value of the logit of several groups; thresholds as lines."""
    figure, (place,) = new_panels(1, 1, 7.5, 0.9 + 0.3 * len(groups))
    names = [name for name, values in groups.items() if len(values)][::-1]
    for row, name in enumerate(names):
        low95, low68, middle, high68, high95, top = np.quantile(groups[name], [0.025, 0.16, 0.5, 0.84, 0.975, 1])
        colour = BLUE if name == "lens" else ORANGE
        place.plot([low95, high95], [row, row], color=colour, lw=2, alpha=0.35, solid_capstyle="butt")
        place.plot([low68, high68], [row, row], color=colour, lw=7, alpha=0.55, solid_capstyle="butt")
        place.plot(middle, row, "|", color=INK, ms=11, mew=1.6)
        place.plot(top, row, ".", color=colour, ms=5)
    for name, value in thresholds.items():
        place.axvline(value, color=GREY, lw=1, ls=":")
        place.text(value, len(names) - 0.45, f" {name}", fontsize=8, color=GREY, va="bottom", rotation=25)
    place.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    place.set_xlabel("calibrated logit: median, 68 %, 95 %, highest")
    return png_bytes(figure)


def coverage_diagram(ranks: Mapping[str, Floats], level: Floats, expected: Mapping[str, Floats]) -> bytes:
    """Draw the coverage of central intervals by level, histograms of the ranks (PIT), and TARP's expected coverage."""
    figure, (marginal, pit, tarp) = new_panels(1, 3, 4.1, 3.8)
    grid = np.linspace(0, 1, 101)
    _coverage_lines(marginal, {name: (grid, _central(values, grid)) for name, values in ranks.items()})
    marginal.set(xlabel="credibility", ylabel="coverage minus credibility", title="marginal intervals")
    n = max(len(next(iter(ranks.values()))), 1)
    bins = 20
    for name, values in ranks.items():
        density, edges = np.histogram(values, bins, (0, 1), density=True)
        pit.stairs(density, edges, baseline=None, label=name, lw=1.1)
    half = 1.96 * np.sqrt(bins / n)
    pit.axhspan(1 - half, 1 + half, color=GREY, alpha=0.2, lw=0)
    pit.set(xlabel="rank of the truth (PIT)", ylabel="density", ylim=(0, max(2.0, 1 + 2 * half)), title="ranks")
    pit.legend(frameon=False, fontsize=7.5, ncols=3)
    _coverage_lines(tarp, {name: (level, values) for name, values in expected.items()})
    tarp.set(xlabel="credibility", ylabel="expected coverage minus credibility", title="joint regions (TARP)")
    band = 1.358 / np.sqrt(n)
    for place in (marginal, tarp):
        place.axhspan(-band, band, color=GREY, alpha=0.2, lw=0)
        reach = max(0.06, 2 * band, *(abs(number) for number in place.dataLim.intervaly if np.isfinite(number)))
        place.set_ylim(-1.1 * reach, 1.1 * reach)
    return png_bytes(figure)


def _central(ranks: Floats, level: Floats) -> Floats:
    return np.asarray(np.searchsorted(np.sort(np.abs(ranks - 0.5)), level / 2, side="right") / len(ranks))


def _coverage_lines(place: Any, curves: Mapping[str, tuple[Floats, Floats]]) -> None:
    for name, (level, values) in curves.items():
        place.plot(level, values - level, lw=1.3, label=name)
    place.axhline(0, color=ORANGE, lw=1, ls="--")
    place.legend(frameon=False, fontsize=7.5, ncols=2)


def completeness_diagram(cells: Floats, rows: Sequence[str], columns: Sequence[str], seeing: Sequence[Curve]) -> bytes:
    """Draw completeness over theta_E (rows) and arc S/N (columns), NaN left white, and against theta_E over seeing."""
    figure, (left, right) = new_panels(1, 2, 4.8, 3.9)
    left.imshow(np.ma.masked_invalid(cells), cmap="viridis", vmin=0, vmax=1, aspect="auto", origin="lower")
    for (i, j), value in np.ndenumerate(cells):
        if np.isfinite(value):
            left.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value < 0.6 else INK, fontsize=9)
    left.set(xticks=range(len(columns)), yticks=range(len(rows)), xticklabels=columns, yticklabels=rows)
    left.set(xlabel="S/N of the arcs", ylabel="theta_E, arcsec")
    left.grid(visible=False)
    for label, x, y in seeing:
        right.plot(x, y, "o-", lw=1.4, ms=4, label=label)
    right.set(xlabel="theta_E over seeing (FWHM)", ylabel="completeness", ylim=(0, 1.02))
    right.legend(frameon=False, fontsize=8.5)
    return png_bytes(figure)


def width_diagram(kept: Floats, curves: Mapping[str, Floats]) -> bytes:
    """Draw how the 68 % half-width falls when the largest stated errors are rejected, relative to keeping all."""
    figure, (place,) = new_panels(1, 1, 5.6, 3.6)
    for name, values in curves.items():
        place.plot(1 - kept, values / values[0], "o-", ms=3.5, lw=1.3, label=name)
    place.set(xlabel="rejected fraction (largest stated error first)", ylabel="68 % half-width, relative")
    place.legend(frameon=False, fontsize=8, ncols=2)
    return png_bytes(figure)
