"""Pictures of a set's realism and difficulty: histograms of logits, probes, learning curves; PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensscan.render.figure import BLUE, GREY, INK, ORANGE, new_panels, png_bytes

__all__ = ["Curves", "ProbePoint", "learning_diagram", "logit_diagram", "probe_diagram"]

Floats = NDArray[np.floating]
GREEN = "#2f8f5b"
BINS = 48
FEW = 200


@dataclass(frozen=True, slots=True)
class ProbePoint:
    """One probe: name, area under the ROC curve with its interval, and the limit, None without one."""

    name: str
    value: float
    low: float
    high: float
    limit: float | None


@dataclass(frozen=True, slots=True)
class Curves:
    """Accuracy over the epochs of one training, its best and parting epochs, and the accuracy on new images."""

    label: str
    train: Floats
    validation: Floats
    parting: int | None
    new: float


def logit_diagram(samples: Mapping[str, Floats], threshold: float, title: str) -> bytes:
    """Draw normalised histograms of logits by name, non-lenses above and lenses below, with one threshold.

    Names with ``real`` or ``painted`` are drawn as lines, the others filled.
    """
    values = np.concatenate([each[np.isfinite(each)] for each in samples.values()])
    low, high = np.quantile(values, [0.001, 0.999])
    edges = np.linspace(float(low), float(high), BINS + 1)
    figure, axes = new_panels(2, 1, 7.2, 2.7)
    for name, logits in samples.items():
        lens = "lens" in name and "non-lens" not in name
        place, colour = axes[int(lens)], ORANGE if lens else BLUE
        inside = np.clip(logits, edges[0], edges[-1])
        weights = np.full(len(inside), 1 / max(len(inside), 1))
        label = f"{name} ({len(logits):,})"
        if "real" in name or "painted" in name:
            place.hist(inside, edges, weights=weights, histtype="step", color=INK, lw=1.6, label=label)
            if len(inside) <= FEW:
                place.plot(inside, np.full(len(inside), -0.004), "|", color=INK, ms=7, alpha=0.5)
        else:
            place.hist(inside, edges, weights=weights, color=colour, alpha=0.45, label=label)
    for place in axes:
        place.axvline(threshold, color=GREY, ls="--", lw=1.1, label="mock FPR 0.01")
        place.set_ylabel("share per bin", fontsize=9)
        place.legend(fontsize=8, frameon=False)
    axes[0].set_title(title, fontsize=10.5, loc="left")
    axes[1].set_xlabel("calibrated logit", fontsize=9)
    return png_bytes(figure)


def probe_diagram(panels: Mapping[str, Sequence[ProbePoint]]) -> bytes:
    """Draw probes with intervals, one panel by title, each with its limit as a bar; leaks are orange."""
    tallest = max(len(points) for points in panels.values())
    figure, axes = new_panels(1, len(panels), 5.4, 0.9 + 0.42 * tallest)
    for place, (title, points) in zip(axes, panels.items(), strict=True):
        for row, point in enumerate(points):
            leaks = point.limit is not None and point.value >= point.limit
            colour = ORANGE if leaks else BLUE
            place.plot([point.low, point.high], [row, row], color=colour, lw=2.2, solid_capstyle="round")
            place.plot(point.value, row, "o", color=colour, ms=6)
            if point.limit is not None:
                place.plot([point.limit] * 2, [row - 0.36, row + 0.36], color=INK, lw=1.6)
        place.axvline(0.5, color=GREY, lw=0.9, ls=":")
        place.set_yticks(range(len(points)), [point.name for point in points], fontsize=9)
        place.set_ylim(len(points) - 0.4, -0.6)
        place.set_xlim(min(0.4, *(point.low - 0.02 for point in points)), 1.01)
        place.set_xlabel("AUROC with 95 % interval; bar: limit", fontsize=9)
        place.set_title(title, fontsize=10, loc="left")
    return png_bytes(figure)


def learning_diagram(curves: Sequence[Curves], published: tuple[float, float] | None) -> bytes:
    """Draw accuracies over epochs, where validation leaves training, and the published band if there is one."""
    from matplotlib.ticker import MaxNLocator

    figure, (place,) = new_panels(1, 1, 7.2, 4.2)
    if published is not None:
        place.axhspan(*published, color=GREY, alpha=0.18, lw=0, label="published, new images")
    for number, each in enumerate(curves):
        epoch = np.arange(1, len(each.train) + 1)
        first = number == 0
        place.plot(
            epoch, each.train, color=BLUE, lw=1.3, alpha=0.9 if first else 0.45, label="training" if first else None
        )
        place.plot(
            epoch, each.validation, color=ORANGE, lw=1.3, alpha=0.9 if first else 0.45,
            label="validation" if first else None,
        )  # fmt: skip
        place.plot(len(epoch), each.new, "D", color=GREEN, ms=6, label="new images" if first else None)
        if each.parting is not None:
            place.axvline(
                each.parting, color=INK, lw=0.9, ls="--", label="validation leaves training" if first else None
            )
    place.xaxis.set_major_locator(MaxNLocator(integer=True))
    place.set_xlabel("epoch", fontsize=9)
    place.set_ylabel("accuracy", fontsize=9)
    place.legend(fontsize=8, frameon=False, loc="best")
    return png_bytes(figure)
