"""Sersic profiles and the images of an independent code."""

import numpy as np
import pytest
import torch

from lensscan.lens import SIE
from lensscan.lens.light import elliptical_radius2, sersic, sersic_flux


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
