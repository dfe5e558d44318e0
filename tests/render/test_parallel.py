"""Parallel coordinates: places on the axes, marks, and a picture."""

from __future__ import annotations

import numpy as np
import pytest

from lensscan.render.parallel import Axis, plot_parallel


def test_values_stand_where_they_belong():
    assert Axis("a", (2.0, 3.0), limits=(1.0, 5.0)).place([1.0, 3.0, 5.0]).tolist() == [0.0, 0.5, 1.0]
    assert Axis("b", (), limits=(1e-4, 1e-2), log=True).place([1e-3]) == pytest.approx([0.5])
    assert Axis("c", (0.0,), words=("x", "y", "z")).place([1.0]).tolist() == [0.5]
    assert Axis("d", (7.0, 7.0)).place([7.0]).tolist() == [0.5], "one value stands in the middle"


def test_marks_are_round_numbers_within_the_axis():
    assert [text for _, text in Axis("a", (), limits=(1e-4, 2e-2), log=True).ticks()] == ["0.0001", "0.001", "0.01"]
    marks = Axis("b", (), limits=(3.0, 11.0)).ticks()
    assert all(0 <= height <= 1 for height, _ in marks)
    assert [text for _, text in marks] == ["4", "6", "8", "10"]
    assert Axis("c", (), words=("x", "y")).ticks() == [(0.0, "x"), (1.0, "y")]


def test_a_line_for_each_trial(tmp_path):
    n = 6
    axes = [Axis("lr", np.geomspace(1e-4, 1e-2, n), log=True), Axis("kind", [0.0, 1.0] * 3, words=("a", "b"))]
    result = Axis("auroc", np.linspace(0.5, 0.9, n))
    plain = plot_parallel(axes, result, [False] * n, tmp_path / "plain.png", title="few")
    best = plot_parallel(axes, result, [False] * (n - 1) + [True], tmp_path / "best.png", title="few")
    with pytest.importorskip("PIL.Image").open(plain) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert image.size[0] > 400
    colourful = (pixels.max(axis=2) - pixels.min(axis=2)) > 60
    assert colourful.sum() > 500, "no coloured line was drawn"
    assert plain.read_bytes() != best.read_bytes(), "a finished trial looks like the others"


def test_axes_of_different_length_are_refused(tmp_path):
    with pytest.raises(ValueError, match="one value for each line"):
        plot_parallel([Axis("a", [1.0])], Axis("b", [1.0, 2.0]), [True, True], tmp_path / "x.png")
