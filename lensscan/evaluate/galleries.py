"""Pages of true and false positives and negatives."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from lensscan.evaluate.predict import Predictions, Scored
from lensscan.evaluate.testsets import TestSet, Truth
from lensscan.lens.conventions import to_axis_ratio
from lensscan.mocks.labels import ambiguous
from lensscan.mocks.recipes import CLASSES
from lensscan.nets.latent import from_latent
from lensscan.nets.model import Model
from lensscan.render.rgb import asinh_rgb
from lensscan.render.sheet import Cell, Ring, contact_sheet

__all__ = ["KINDS", "choose", "class_name", "gallery"]

KINDS = {
    "true_positives": "Lenses above the threshold, best first",
    "false_positives": "Not lenses, but above the threshold, best first",
    "false_negatives": "Lenses that rank lowest",
    "true_negatives": "Not lenses, below the threshold, evenly through the ranks",
}
COLUMNS = 8
STAMP = 120


def choose(kind: str, scored: Scored, predictions: Predictions, threshold: float, count: int) -> NDArray[np.intp]:
    """Return which scored rows a gallery shows."""
    lens, logit = np.asarray(scored.truth["is_lens"], bool), predictions.logit
    plain = ~ambiguous(scored.truth)
    above = logit >= threshold
    rows = {
        "true_positives": lens & above,
        "false_positives": ~lens & above & plain,
        "false_negatives": lens & ~above,
        "true_negatives": ~lens & ~above & plain,
    }[kind]
    ranked = np.flatnonzero(rows)[np.argsort(-logit[rows], kind="stable")]
    if kind == "false_negatives":
        return ranked[::-1][:count]
    if kind == "true_negatives" and len(ranked) > count:
        return ranked[np.linspace(0, len(ranked) - 1, count).astype(int)]
    return ranked[:count]


def class_name(truth: Truth, row: int) -> str:
    """Return the class of a row in words; nothing where the set states none, or one that is not among `CLASSES`."""
    number = int(truth["klass"][row]) if "klass" in truth else -1
    return CLASSES[number].replace("_", " ") if 0 <= number < len(CLASSES) else ""


def gallery(
    kind: str,
    scored: Scored,
    predictions: Predictions,
    model: Model,
    testset: TestSet,
    threshold: float,
    count: int = 24,
) -> bytes | None:
    """Draw one of `KINDS` as PNG, None if there is nothing to show.

    Lenses carry true and predicted theta_E; the ring is that of the posterior's mean in latent space.
    """
    rows = choose(kind, scored, predictions, threshold, count)
    if not len(rows):
        return None
    frame = model.frame()
    batch = testset.stamps(scored.rows[rows], frame)
    middle = from_latent(predictions.posterior[rows].centre)
    cells = []
    for number, row in enumerate(rows):
        lines = [f"{predictions.logit[row]:+.1f}  {class_name(scored.truth, row)}"]
        ring = None
        if scored.truth["is_lens"][row] and np.isfinite(middle[number]).all():
            snr = scored.truth["snr_arc"][row] if "snr_arc" in scored.truth else np.nan
            lines = [f"{predictions.logit[row]:+.1f}  S/N {snr:.0f}"]
            lines.append(f'{scored.truth["theta_E"][row]:.2f}", we {middle[number, 0]:.2f}"')
            ring = _ring(middle[number], frame.pixel_scale, batch.origin[number])
        picture = asinh_rgb(batch.images[number], frame.bands)
        cells.append(Cell(picture, tuple(lines), ring=ring))
    stream = io.BytesIO()
    contact_sheet(cells, COLUMNS, stamp=STAMP).save(stream, format="PNG")
    return stream.getvalue()


def _ring(parameters: NDArray[np.float64], pixel_scale: float, origin: NDArray[np.float32]) -> Ring:
    theta_E, e1, e2, x, y = parameters[:5]
    ratio, phi = to_axis_ratio(e1, e2)
    axis = theta_E / pixel_scale
    x, y = (x - origin[0]) / pixel_scale, (y - origin[1]) / pixel_scale
    return Ring(float(x), float(y), float(axis / np.sqrt(ratio)), float(axis * np.sqrt(ratio)), float(phi))
