"""Rays: the fused formulae against the lens and light modules, power laws, real galaxies, the compiled twin."""

import logging
import math

import numpy as np
import pytest
import torch

from lensscan.lens import sie
from lensscan.lens.epl import EPL
from lensscan.lens.light import elliptical_radius2, sersic, sersic_flux
from lensscan.mocks import fused
from lensscan.mocks.fused import Fusable
from lensscan.mocks.library import SourceLibrary
from lensscan.mocks.paint import render_images, render_source
from lensscan.mocks.rays import coordinates, lens_table, source_positions

PIXELS, RAYS, SCALE = 24, 3, 0.2
CPU = torch.device("cpu")
AT = coordinates(PIXELS, RAYS, SCALE, torch.float64, CPU)


def systems(m, clumps=2, seed=3):
    """Return masses (m, 7) and sources (m, 6 + 4 clumps); the first lens is round."""
    rng = np.random.default_rng(seed)
    q, phi = rng.uniform(0.3, 0.99, m), rng.uniform(0, np.pi, m)
    q[0] = 1.0
    e = (1 - q) / (1 + q)
    mass = [rng.uniform(0.6, 1.6, m), e * np.cos(2 * phi), e * np.sin(2 * phi), *rng.normal(0, 0.1, (2, m))]
    mass += list(rng.normal(0, 0.05, (2, m)))
    source = [*rng.normal(0, 0.3, (2, m)), rng.uniform(0.15, 0.5, m), rng.uniform(0.7, 2.0, m)]
    source += list(rng.uniform(-0.2, 0.2, (2, m)))
    for _ in range(clumps):
        source += [*rng.normal(0, 0.4, (2, m)), rng.uniform(0.05, 0.15, m), rng.uniform(0.0, 0.2, m)]
    return torch.from_numpy(np.stack(mass, 1)), torch.from_numpy(np.stack(source, 1))


def columns(table):
    return (column[:, None, None] for column in table.unbind(1))


def plain(mass, source, deflection):
    """Return the picture from the formulae as they stand in lensscan.lens, ray by ray."""
    px, py = AT[None, None, :], AT[None, :, None]
    ax, ay = deflection(px, py, *columns(mass))
    bx, by = px - ax, py - ay
    sx, sy, radius, n, e1, e2, *clumps = columns(source)
    shares = clumps[3::4]
    light = sersic(elliptical_radius2(bx, by, e1, e2, sx, sy), radius, n, floor=1e-6) / sersic_flux(radius, n)
    light = light * (1 - sum(shares, torch.zeros(())))
    for x, y, size, share in zip(*(clumps[k::4] for k in range(4)), strict=True):
        light = light + share * torch.exp(-0.5 * ((bx - x) ** 2 + (by - y) ** 2) / size**2) / (2 * math.pi * size**2)
    return SCALE**2 * light.view(-1, RAYS, PIXELS, RAYS, PIXELS).mean(dim=(1, 3))


def distance(image, truth):
    return float(((image - truth).abs() / truth.amax(dim=(1, 2), keepdim=True)).max())


@pytest.mark.parametrize("clumps", [0, 1, 2, 3])
def test_fused_formulae_are_those_of_the_lens_and_light_modules(clumps):
    mass, source = systems(12, clumps)
    truth = plain(mass, source, sie.deflection)
    assert distance(render_source(mass, source, PIXELS, RAYS, SCALE, dtype=torch.float64), truth) < 1e-12
    assert distance(render_source(mass, source, PIXELS, RAYS, SCALE), truth) < 1e-5


@pytest.mark.parametrize("slope", [1.6, 2.0, 2.4])
def test_power_laws_are_those_of_the_lens_module(slope):
    mass, source = systems(8)
    mass = torch.cat([mass, torch.full((8, 1), slope, dtype=mass.dtype)], dim=1)
    truth = plain(mass, source, lambda px, py, *lens: EPL(*lens).deflection(px, py))
    assert distance(render_source(mass, source, PIXELS, RAYS, SCALE, dtype=torch.float64), truth) < 1e-12
    assert distance(render_source(mass, source, PIXELS, RAYS, SCALE), truth) < 1e-5


def test_slope_two_is_the_isothermal_ellipse():
    mass, source = systems(8)
    bent = torch.cat([mass, torch.full((8, 1), 2.0, dtype=mass.dtype)], dim=1)
    images = [render_source(m, source, PIXELS, RAYS, SCALE, dtype=torch.float64) for m in (mass, bent)]
    assert distance(images[0], images[1]) < 1e-12


@pytest.mark.parametrize("slope", [(), (2.0,), (1.7,)])
def test_without_mass_the_source_is_seen_as_it_is(slope):
    mass, source = systems(5)
    mass[:, [0, 5, 6]] = 0.0
    mass = torch.cat([mass, *(torch.full((5, 1), s, dtype=mass.dtype) for s in slope)], dim=1)
    truth = plain(mass, source, lambda px, py, *_: (torch.zeros(()), torch.zeros(())))
    image = render_source(mass, source, PIXELS, RAYS, SCALE, dtype=torch.float64)
    assert distance(image, truth) < 1e-12


@pytest.mark.parametrize("slope", [(), (2.2,)])
def test_a_row_does_not_depend_on_its_batch(slope):
    mass, source = systems(9)
    mass = torch.cat([mass, *(torch.full((9, 1), s, dtype=mass.dtype) for s in slope)], dim=1)
    together = render_source(mass, source, 60, 3, SCALE)
    for k in (0, 4, 8):
        alone = render_source(mass[k : k + 1], source[k : k + 1], 60, 3, SCALE)
        assert distance(alone, together[k : k + 1]) < 1e-5


def test_ray_at_the_very_centre_is_finite():
    mass, source = systems(2)
    mass[:, 3:5] = 0.0
    for table in (mass, torch.cat([mass, torch.full((2, 1), 2.5, dtype=mass.dtype)], dim=1)):
        for dtype in (torch.float32, torch.float64):
            image = render_source(table, source, 9, 3, SCALE, dtype=dtype)
            assert bool(image.isfinite().all())


def blob(n=33, radius=5.0, ratio=0.5):
    """Return a library of one elliptical Gaussian galaxy, long along its columns."""
    y, x = np.mgrid[:n, :n] - (n - 1) / 2
    image = np.exp(-math.log(2) * (ratio * x**2 + y**2 / ratio) / radius**2)
    image = (image / image.sum()).astype(np.float32)
    one = np.array([np.nan])
    return SourceLibrary(image[None], np.array([radius]), np.ones(1), ("blob",), one, one, {}, "")


def test_image_sources_are_scaled_turned_and_lensed():
    library, ratio = blob(129, 12.0), 0.5
    mass = systems(4)[0]
    turn, radius = torch.tensor([0.0, 0.7, 1.9, -0.4]).double(), torch.tensor([0.3, 0.4, 0.5, 0.35]).double()
    place = torch.tensor([[0.1, 0.2], [0.0, -0.1], [0.3, 0.0], [-0.2, 0.1]]).double()
    source = torch.cat([place, radius[:, None], turn[:, None]], dim=1)
    number = torch.zeros(4, dtype=torch.int64)
    image = render_images(mass, source, library, number, PIXELS, RAYS, SCALE, dtype=torch.float64)
    # The same Gaussian as Sersic profile of index 1/2 with the b that lensscan.lens.light gives it.
    px, py = AT[None, None, :], AT[None, :, None]
    ax, ay = sie.deflection(px, py, *columns(mass))
    dx, dy = px - ax - place[:, 0, None, None], py - ay - place[:, 1, None, None]
    c, s = torch.cos(turn)[:, None, None], torch.sin(turn)[:, None, None]
    along, across, r = c * dx + s * dy, c * dy - s * dx, radius[:, None, None]
    light = torch.exp(-math.log(2) * (ratio * along**2 + across**2 / ratio) / r**2) * math.log(2) / (math.pi * r**2)
    truth = SCALE**2 * light.view(-1, RAYS, PIXELS, RAYS, PIXELS).mean(dim=(1, 3))
    assert distance(image, truth) < 0.01  # bilinear between pixels of a twelfth of the radius


def test_positions_are_measured_from_the_source_in_the_lens_frame():
    mass, source = systems(6)
    u, v = source_positions(lens_table(mass, source[:, 0], source[:, 1]), AT)
    px, py = AT[None, None, :], AT[None, :, None]
    ax, ay = sie.deflection(px, py, *columns(mass))
    dx, dy = px - ax - source[:, 0, None, None], py - ay - source[:, 1, None, None]
    phi = 0.5 * torch.atan2(mass[:, 2], mass[:, 1])[:, None, None]
    torch.testing.assert_close(u, torch.cos(phi) * dx + torch.sin(phi) * dy, rtol=0, atol=1e-12)
    torch.testing.assert_close(v, torch.cos(phi) * dy - torch.sin(phi) * dx, rtol=0, atol=1e-12)


@pytest.fixture
def working(monkeypatch):
    monkeypatch.setattr(Fusable, "works", True)


def test_without_a_compiler_the_plain_function_is_used_and_said_once(working, monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("no compiler found\nand much more")

    monkeypatch.setattr(fused.torch, "compile", broken)
    double = Fusable(lambda x: x + x)
    with caplog.at_level(logging.WARNING, logger="lensscan.mocks.fused"):
        assert [float(double(torch.tensor(1.5), compiled=True)) for _ in range(3)] == [3.0] * 3
    assert [record.getMessage().count("no compiler found") for record in caplog.records] == [1]
    assert "much more" not in caplog.text


def test_fault_of_the_function_itself_is_no_fault_of_the_compiler(working, monkeypatch):
    monkeypatch.setattr(fused.torch, "compile", lambda function, **_: function)
    with pytest.raises(IndexError):
        Fusable(lambda x: x[7])(torch.zeros(2), compiled=True)
    assert Fusable.works


def test_power_laws_are_not_compiled(working, monkeypatch):
    monkeypatch.setattr(fused.torch, "compile", lambda *_, **__: pytest.fail("the series would be written out"))
    mass, source = systems(2)
    mass = torch.cat([mass, torch.full((2, 1), 2.2, dtype=mass.dtype)], dim=1)
    images = [render_source(mass, source, PIXELS, RAYS, SCALE, compiled=compiled) for compiled in (False, True)]
    assert torch.equal(*images)
    assert Fusable.works


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_compiled_pixels_are_the_plain_ones(working):
    mass, source = systems(7)
    for m, pixels, rays in ((7, 40, 3), (3, 33, 4), (1, 40, 2)):
        images = [
            render_source(mass[:m], source[:m], pixels, rays, SCALE, compiled=compiled) for compiled in (False, True)
        ]
        if not Fusable.works:
            pytest.skip("no compiler on this machine")
        assert distance(images[1], images[0]) < 1e-5
