"""The simulation benchmark draws the same images with every code, and reports what it says."""

import math

import pytest
import torch

from lensscan.mocks.fused import Fusable
from lensscan.site.bench import simulate


@pytest.fixture
def eager(monkeypatch):
    """Measure without the compiler, which takes its time."""
    monkeypatch.setattr(Fusable, "works", False)
    for name, value in (("IMAGES", 20), ("RIVAL_IMAGES", 3), ("STAMPS", 8), ("RAYS", 2)):
        monkeypatch.setattr(simulate, name, value)


def test_images_are_those_of_lenstronomy():
    pytest.importorskip("lenstronomy", reason="lenstronomy comes with lensscan[test]")
    systems = simulate.Systems(12)
    truth = torch.from_numpy(simulate.lenstronomy_images(systems, 12)())
    peak = truth.amax(dim=(1, 2), keepdim=True)
    for dtype, limit in ((torch.float64, 1e-7), (torch.float32, 5e-5)):
        images = systems.ours(1, False, dtype)
        assert images.shape == (12, 1, simulate.PIXELS, simulate.PIXELS)
        assert float(((images[:, 0] - truth).abs() / peak).max()) < limit


def test_bands_share_the_rays_and_differ_in_flux_and_psf():
    systems = simulate.Systems(3)
    images = systems.ours(4, False, torch.float64)
    light = images.sum(dim=(2, 3)) / systems.flux
    torch.testing.assert_close(light, light[:, :1].expand(-1, 4), rtol=5e-3, atol=0)
    sharpest = (images / systems.flux[..., None, None]).amax(dim=(2, 3)).argmax(dim=1)
    assert set(sharpest.tolist()) == {simulate.FWHM.index(min(simulate.FWHM))}
    torch.testing.assert_close(images[:, :1], systems.ours(1, False, torch.float64))


def test_report_has_rates_goals_agreement_and_parts(eager, monkeypatch):
    monkeypatch.setattr(simulate, "caustics_light", lambda: lambda table: torch.ones(len(table), 64, 64))
    figures = {figure["name"]: figure for figure in simulate.bench_simulate(1).figures}
    for on in ("1 thread", "2 threads"):
        assert figures[f"lensscan, compiled, griz, {on}"]["value"] > 0
        assert figures[f"griz against one band, {on}"]["goal"] == ">= 0.5"
    parts = [figure["value"] for name, figure in figures.items() if name.startswith("  of it, ")]
    assert len(parts) == len(simulate.PARTS) + 1
    assert sum(parts) == pytest.approx(100)
    assert all(part > 0 for part in parts)
    assert any("no compiler" in figure["note"] for figure in figures.values())


def test_missing_codes_are_said_to_be_missing(eager, monkeypatch):
    monkeypatch.setattr(simulate.importlib.util, "find_spec", lambda name: None)
    figures = {figure["name"]: figure for figure in simulate.bench_simulate(1).figures}
    for rival, name in (("caustics", "caustics, vmap and compiled"), ("lenstronomy", "lenstronomy")):
        figure = figures[f"times {name}, 1 thread"]
        assert math.isnan(figure["value"])
        assert figure["note"] == f"{rival} is not installed"
    assert "max |difference| / peak to lensscan in float64: lensscan, eager" in figures
