"""Sersic profiles and the images of an independent code."""

import numpy as np
import pytest
import torch

from lensscan.lens import SIE
from lensscan.lens.light import (
    clumpy_sersic,
    double_sersic,
    elliptical_radius2,
    gaussian,
    point_images,
    sersic,
    sersic_flux,
    sersic_peak,
)
from lensscan.lens.solver import MOST_IMAGES


def t(value):
    return torch.as_tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("n", [0.7, 1.0, 2.5, 4.0, 6.0])
def test_total_flux_and_half_light(n):
    r = torch.logspace(-6, 4, 400001, dtype=torch.float64)
    light = sersic(r * r, t(0.8), t(n), floor=0.0) * 2 * torch.pi * r
    total = torch.trapezoid(light, r)
    assert float(total) == pytest.approx(float(sersic_flux(t(0.8), t(n))), rel=2e-4)
    inside = r <= 0.8
    assert float(torch.trapezoid(light[inside], r[inside]) / total) == pytest.approx(0.5, abs=2e-3 if n >= 1 else 6e-3)


def test_elliptical_radius_is_the_product_average():
    q, phi = 0.6, 0.7
    e = (1 - q) / (1 + q)
    e1, e2 = t(e * np.cos(2 * phi)), t(e * np.sin(2 * phi))
    for angle, along in ((phi, q), (phi + np.pi / 2, 1 / q)):
        got = elliptical_radius2(t(0.3 + np.cos(angle)), t(np.sin(angle)), e1, e2, t(0.3), t(0.0))
        assert float(got) == pytest.approx(along, rel=1e-12)


def polar_total(light, x=0.0, y=0.0, points=2001, angles=32):
    """Integrate a surface brightness over the plane, on circles about (x, y) from 1e-7 to 1e5 arcsec."""
    r = torch.logspace(-7, 5, points, dtype=torch.float64)[:, None]
    a = torch.arange(angles, dtype=torch.float64) * (2 * torch.pi / angles)
    mean = light(x + r * torch.cos(a), y + r * torch.sin(a)).mean(dim=-1, keepdim=True)
    return float(torch.trapezoid((2 * torch.pi * r * r * mean)[:, 0], torch.log(r[:, 0])))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_double_sersic_has_flux_one_shared_as_told(share):
    shape = [t([0.1, -0.2]), t([0.05, 0.1]), t([0.3, 1.5]), t([4.0, 1.0])]
    total = polar_total(lambda px, py: double_sersic(px, py, t(0.2), t(-0.1), *shape, share, floor=0.0), 0.2, -0.1)
    assert total == pytest.approx(1.0, rel=1e-6)
    px, py = t(0.9), t(0.4)
    parts = []
    for k in range(2):
        e1, e2, radius, n = (v[k] for v in shape)
        parts.append(sersic(elliptical_radius2(px, py, e1, e2, t(0.2), t(-0.1)), radius, n) / sersic_flux(radius, n))
    got = double_sersic(px, py, t(0.2), t(-0.1), *shape, share)
    torch.testing.assert_close(got, share * parts[0] + (1 - share) * parts[1], rtol=1e-14, atol=0)


def test_clumps_take_their_share_and_move_with_the_galaxy():
    clumps = (t([0.3, -0.2, 0.0]), t([0.1, 0.25, -0.4]), t([0.05, 0.1, 0.08]), t([0.1, 0.2, 0.05]))
    shape = (t(0.2), t(-0.1), t(0.4), t(1.0))

    def light(px, py, x=0.0, y=0.0, some=clumps):
        return clumpy_sersic(px, py, t(x), t(y), *shape, some, floor=0.0)

    # the clumps are off the centre of the circles: many points, and a tolerance for them
    assert polar_total(light, points=4001, angles=256) == pytest.approx(1.0, rel=1e-6)
    smooth = polar_total(lambda px, py: light(px, py, some=(*clumps[:3], torch.zeros(3, dtype=torch.float64))))
    assert smooth == pytest.approx(1.0, rel=1e-6)
    px, py = t([0.3, 0.0, -1.0]), t([0.1, -0.4, 0.7])
    torch.testing.assert_close(light(px + 2, py - 1, 2.0, -1.0), light(px, py), rtol=1e-12, atol=0)
    none = tuple(v[:0] for v in clumps)
    plain = sersic(elliptical_radius2(px, py, shape[0], shape[1], t(0.0), t(0.0)), shape[2], shape[3], 0.0)
    torch.testing.assert_close(light(px, py, some=none), plain / sersic_flux(shape[2], shape[3]), rtol=1e-14, atol=0)
    only = light(px, py) - (1 - clumps[3].sum()) * light(px, py, some=none)
    want = sum(s * gaussian((px - u) ** 2 + (py - v) ** 2, w) for u, v, w, s in zip(*clumps, strict=True))
    torch.testing.assert_close(only, want, rtol=1e-10, atol=1e-14)


def test_composites_broadcast_over_batches():
    px, py = t(np.linspace(-1, 1, 7))[None, None, :], t(np.linspace(-1, 1, 5))[None, :, None]
    x, y, radius, n = (t([a, b])[:, None, None] for a, b in ((0.0, 0.1), (0.2, 0.0), (0.5, 0.3), (1.0, 2.0)))
    pair = [torch.stack([v, 2 * v], dim=-1) for v in (0.1 * radius, 0.2 * radius, radius, n)]
    share = t([0.2, 0.9])[:, None, None]
    both = double_sersic(px, py, x, y, *pair, share)
    assert both.shape == (2, 5, 7)
    alone = double_sersic(px[0], py[0], x[1], y[1], *(v[1] for v in pair), share[1])
    torch.testing.assert_close(both[1], alone, rtol=1e-14, atol=0)
    clumps = tuple(torch.stack([0.1 * radius] * 3, dim=-1) for _ in range(4))
    many = clumpy_sersic(px, py, x, y, 0.1 * radius, 0.2 * radius, radius, n, clumps)
    single = clumpy_sersic(px[0], py[0], x[1], y[1], 0.1 * radius[1], 0.2 * radius[1], radius[1], n[1],
                           tuple(v[1] for v in clumps))  # fmt: skip
    torch.testing.assert_close(many[1], single, rtol=1e-14, atol=0)


def test_gaussian_and_peak():
    assert polar_total(lambda px, py: gaussian(px * px + py * py, t(0.3))) == pytest.approx(1.0, rel=1e-9)
    centre = sersic(t(0.0), t(0.7), t(1.5), floor=0.0) / sersic_flux(t(0.7), t(1.5))
    assert float(sersic_peak(t(0.7), t(1.5))) == pytest.approx(float(centre), rel=1e-12)


def test_point_images_are_those_of_the_solver_and_unused_places_add_nothing():
    lens = SIE([[1.0], [1.4]], 0.15, 0.05, 0.2, -0.1, 0.03, 0.0)
    sx, sy = t([0.25, 0.9, 4.0]), t([-0.05, 0.2, 0.0])
    flux = t([2.0, 3.0, 1.0])
    x, y, bright = point_images(lens, sx, sy, flux)
    found = lens.images(sx, sy)
    assert x.shape == y.shape == bright.shape == (2, 3, MOST_IMAGES)
    used = torch.arange(MOST_IMAGES) < found.count[..., None]
    assert bool(torch.isfinite(torch.stack([x, y, bright])).all())
    torch.testing.assert_close(x[used], found.x[used], rtol=0, atol=0)
    torch.testing.assert_close(bright.sum(-1), flux * found.magnification.abs().nansum(-1), rtol=1e-13, atol=0)
    assert float(bright[~used].abs().max()) == 0
    assert bool((x[~used] == 0.2).all())
    assert float(point_images(lens, sx, sy, flux, limit=1.5)[2].max()) == pytest.approx(4.5)
    assert point_images(lens, sx.float(), sy.float())[0].dtype == torch.float32
    ring = point_images(SIE(1.0, 0.0, 0.0, 0.0, 0.0), t(0.0), t(0.0))
    assert [float(v.abs().sum()) for v in ring] == [0, 0, 0]


@pytest.fixture(scope="module")
def pictures(shared_oracle):
    with np.load(shared_oracle / "oracle_sie.npz") as data:
        return {key: data[key] for key in data.files}


def draw(pictures, rays, dtype=torch.float64):
    """Render the oracle's lensed sources; its shear is about (0, 0), ours about the lens."""
    names = [str(name) for name in pictures["param_names"]]
    v = {name: torch.from_numpy(pictures["params"][:, k]).to(dtype)[:, None, None] for k, name in enumerate(names)}
    size, pixel = pictures["point"].shape[-1], float(pictures["pixel_scale_arcsec"])
    grid = ((torch.arange(size * rays, dtype=torch.float64) - (size * rays - 1) / 2) * (pixel / rays)).to(dtype)
    lens = SIE(v["theta_E"], v["e1"], v["e2"], v["center_x"], v["center_y"], v["gamma1"], v["gamma2"])
    bx, by = lens.source(grid[None, None, :], grid[None, :, None])
    sx = v["source_x"] + v["gamma1"] * v["center_x"] + v["gamma2"] * v["center_y"]
    sy = v["source_y"] + v["gamma2"] * v["center_x"] - v["gamma1"] * v["center_y"]
    radius2 = elliptical_radius2(bx, by, v["source_e1"], v["source_e2"], sx, sy)
    light = v["amp"] * sersic(radius2, v["R_sersic"], v["n_sersic"], floor=0.0) * pixel**2
    return light.view(-1, size, rays, size, rays).mean(dim=(2, 4)).double().numpy()


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-7), (torch.float32, 5e-5)])
def test_lensed_images_match_the_oracle(pictures, dtype, limit):
    want = pictures["ss4"]
    worst = np.abs(draw(pictures, 4, dtype) - want).max(axis=(1, 2)) / want.max(axis=(1, 2))
    assert worst.max() < limit


def test_point_sampled_and_convolved_images_match_the_oracle(pictures):
    from scipy.signal import fftconvolve

    want = pictures["point"]
    assert (np.abs(draw(pictures, 1) - want).max(axis=(1, 2)) / want.max(axis=(1, 2))).max() < 1e-7
    blurred = fftconvolve(draw(pictures, 4), pictures["psf_kernel"][None], mode="same", axes=(1, 2))
    want = pictures["ss4_psf"]
    assert (np.abs(blurred - want).max(axis=(1, 2)) / want.max(axis=(1, 2))).max() < 1e-7
