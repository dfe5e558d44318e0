"""Unlensed light: fluxes, places, mirror images."""

import numpy as np
import pytest
import torch

from lensscan.mocks.scene import FULL, LARGE, SMALL, Scene, paint_discs, paint_galaxies

PIXEL = 0.263
VALUES = {"radius": 0.6, "n": 1.5, "e1": 0.2, "e2": -0.1, "x": 0.31, "y": -0.17}


def paint(kind, size=80, rows=(0,), stamps=1, **values):
    scene = Scene(2)
    rows = np.array(rows)
    flux = np.tile([100.0, 50.0], (len(rows), 1))
    scene.add_galaxies(kind, rows, flux, **(VALUES | values))
    canvas = torch.zeros(stamps, size, size, 2)
    paint_galaxies(
        canvas, *scene.freeze().part(scene.freeze().galaxies[kind], 0, stamps, torch.device("cpu")), kind, PIXEL
    )
    return canvas


@pytest.mark.parametrize(("kind", "values"), [(FULL, {}), (LARGE, {}), (SMALL, {"radius": 0.3, "n": 1.0})])
def test_total_flux(kind, values):
    total = paint(kind, **values).sum(dim=(0, 1, 2))
    assert float(total[0]) == pytest.approx(100.0, rel=0.01)
    assert float(total[1]) == pytest.approx(50.0, rel=0.01)


@pytest.mark.parametrize("n", [1.0, 2.5, 4.0, 6.0])
def test_steep_cores_keep_their_flux(n):
    small = paint(FULL, n=n, radius=0.4, e1=0.0, e2=0.0, size=200)[0, :, :, 0]
    assert float(small.sum()) == pytest.approx(100.0, rel=0.02 if n < 5 else 0.05)


@pytest.mark.parametrize("kind", [FULL, LARGE, SMALL])
@pytest.mark.parametrize("size", [80, 81])
def test_centre_of_light(kind, size):
    image = paint(kind, size=size, radius=0.35, n=1.0)[0, :, :, 0].double()
    grid = (torch.arange(size) - (size - 1) / 2) * PIXEL
    x, y = (image.sum(0) * grid).sum() / image.sum(), (image.sum(1) * grid).sum() / image.sum()
    assert float(x) == pytest.approx(VALUES["x"], abs=0.012)
    assert float(y) == pytest.approx(VALUES["y"], abs=0.012)


@pytest.mark.parametrize("kind", [FULL, LARGE, SMALL])
def test_mirror_and_quarter_turn(kind):
    image = paint(kind)[0, :, :, 0]
    mirrored = paint(kind, x=-VALUES["x"], e2=-VALUES["e2"])[0, :, :, 0]
    torch.testing.assert_close(image.flip(1), mirrored, rtol=1e-4, atol=1e-4)
    turned = paint(kind, x=-VALUES["y"], y=VALUES["x"], e1=-VALUES["e1"], e2=-VALUES["e2"])[0, :, :, 0]
    torch.testing.assert_close(torch.rot90(image, -1), turned, rtol=1e-4, atol=1e-4)


def test_light_from_outside_reaches_in_and_is_cut():
    image = paint(LARGE, x=80 * PIXEL / 2 + 0.2, y=0.0)[0, :, :, 0]
    assert 20 < float(image.sum()) < 50
    assert float(image[:, :40].sum()) == 0.0


def test_rows_are_kept_apart():
    canvas = paint(LARGE, rows=(2, 0, 2), stamps=3)
    assert canvas.sum(dim=(1, 2))[:, 0].tolist() == pytest.approx([100.0, 0.0, 200.0], rel=1e-4)


def test_discs_and_rings_have_their_flux_and_shape():
    scene = Scene(1)
    common = {
        "e1": 0.0,
        "e2": 0.0,
        "x": 0.0,
        "y": 0.0,
        "width": 0.2,
        "arms": 2.0,
        "strength": 0.0,
        "pitch": 0.3,
        "phase": 0.0,
    }
    scene.add_discs(np.array([0, 1]), np.full((2, 1), 70.0), radius=2.0, ring=np.array([0.0, 1.0]), **common)
    canvas = torch.zeros(2, 81, 81, 1)
    frozen = scene.freeze()
    paint_discs(canvas, *frozen.part(frozen.discs, 0, 2, torch.device("cpu")), PIXEL)
    assert canvas.sum(dim=(1, 2, 3)).tolist() == pytest.approx([70.0, 70.0], rel=1e-5)
    assert float(canvas[0].max()) == float(canvas[0, 40, 40])
    profile = canvas[1, 40, 40:, 0]
    assert abs(int(profile.argmax()) * PIXEL - 2.0) < PIXEL
