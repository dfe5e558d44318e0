"""Diagrams are pictures of the right kind for full, sparse and degenerate figures, without a warning."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib")

from lensscan.render.diagrams import (
    Scatter,
    completeness_diagram,
    confusion_diagram,
    coverage_diagram,
    range_diagram,
    reliability_diagram,
    roc_diagram,
    truth_diagram,
    width_diagram,
)

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def picture(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"))


def inked(data: bytes) -> float:
    """Return the share of pixels that are not white."""
    return float((picture(data) < 250).any(axis=2).mean())


@pytest.mark.parametrize("n", [10, 60, 3000])
def test_truth(rng, n):
    truth = rng.normal(size=n)
    one = truth_diagram([Scatter("x (arcsec)", truth, truth + 0.1 * rng.normal(size=n))])
    five = truth_diagram([Scatter("x", truth, truth)] * 5)
    assert inked(one) > 0.01
    assert picture(five).shape[0] > 1.8 * picture(one).shape[0], "a second row"


def test_the_band_is_where_the_predictions_are(rng):
    truth = rng.uniform(0, 1, 20_000)
    narrow = truth_diagram([Scatter("x", truth, truth + 0.01 * rng.normal(size=len(truth)))])
    wide = truth_diagram([Scatter("x", truth, truth + 0.2 * rng.normal(size=len(truth)))])

    def blue(data):
        pixels = picture(data).astype(int)
        return ((pixels[..., 2] - pixels[..., 0]) > 25).mean()

    assert blue(wide) > 2 * blue(narrow)


def test_roc():
    fpr = np.linspace(1e-4, 1, 200)
    assert inked(roc_diagram([("ours", fpr, np.sqrt(fpr)), ("theirs", fpr, fpr)], 1e-3)) > 0.02
    assert inked(roc_diagram([("perfect", np.array([0.0, 1.0]), np.array([1.0, 1.0]))], 0.1)) > 0.01


@pytest.mark.parametrize("spread", [1e-6, 1.0, 30.0])
def test_reliability_also_of_bins_without_lenses_or_others(rng, spread):
    logit = np.sort(rng.normal(0, spread, 15))
    panels = []
    for prior in (0.5, 1e-3, 1e-4):
        p = 1 / (1 + np.exp(-logit - np.log(prior / (1 - prior))))
        panels.append((f"{prior}", p, np.where(np.arange(15) < 2, 0.0, np.where(np.arange(15) > 12, 1.0, p))))
    assert inked(reliability_diagram(panels)) > 0.01
    assert inked(reliability_diagram([("all", p, p), ("all", p, p)])) > 0.01
    curve = np.linspace(0.1, 0.9, 30)
    assert reliability_diagram(panels, [(curve, curve**2)] * 3) != reliability_diagram(panels)


def test_confusion_and_ranges(rng):
    rates = {"lens": (0.8, 0.75, 0.85), "ring": (0.1, 0.05, 0.2), "star": (0.0, 0.0, 0.01)}
    assert inked(confusion_diagram(np.array([[80, 20], [1, 99]]), "even odds", rates)) > 0.05
    assert inked(confusion_diagram(np.array([[0, 0], [0, 9]]), "even odds", {"star": (0.0, 0.0, 0.3)})) > 0.02
    groups = {"lens": rng.normal(3, 1, 50), "ring": rng.normal(size=1), "none": np.empty(0)}
    assert inked(range_diagram(groups, {"FPR 0.01": 2.0})) > 0.01


def test_coverage_widths_completeness(rng):
    level = np.linspace(0, 1, 11)
    ranks = {"x": rng.random(500), "y": rng.beta(2, 2, 500)}
    assert inked(coverage_diagram(ranks, level, {"5 parameters": level**1.1})) > 0.02
    assert inked(width_diagram(np.array([1.0, 0.9, 0.5]), {"x": np.array([1.0, 0.9, 0.6])})) > 0.01
    cells = np.array([[0.1, np.nan], [0.5, 0.9]])
    curves = [("FPR 0.01", np.array([0.5, 1.0, 2.5]), np.array([np.nan, 0.4, 0.8]))]
    assert inked(completeness_diagram(cells, ["0.5-1", "1-2"], ["10-20", "> 20"], curves)) > 0.05
