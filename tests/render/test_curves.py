"""Plots of curves."""

import subprocess
import sys

import numpy as np
import pytest

from lensscan.render.curves import Curve, Panel, plot_panels


def test_panels_become_a_png(tmp_path):
    x = np.arange(5)
    panels = [
        Panel((Curve("a", x, x**2), Curve("b", x, [1, np.nan, 3, 4, 5], "o--")), "epoch", "loss", logy=True),
        Panel((Curve("", x, x),), ylim=(0, 10)),
        Panel(()),
    ]
    path = plot_panels(panels, tmp_path / "curves.png", title="run")
    with pytest.importorskip("PIL.Image").open(path) as image:
        assert image.format == "PNG"
        assert image.size[0] > 800


def test_no_panels(tmp_path):
    with pytest.raises(ValueError, match="no panels"):
        plot_panels([], tmp_path / "x.png")


def test_importing_render_loads_no_plotting_library():
    names = "curves, png, rgb, sheet"
    code = f"import sys; from lensscan.render import {names}; print({{'matplotlib', 'PIL'}} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
