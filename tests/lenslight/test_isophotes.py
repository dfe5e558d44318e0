"""The smooth model of one band: its parts, and arcs on a galaxy at the resolution of space."""

from __future__ import annotations

import pytest
import torch
from lenslight.toys import sharp_lens

from lensscan.lens.light import elliptical_radius2, sersic, sersic_flux
from lensscan.lenslight.isophotes import find_arcs, one_sided
from lensscan.lenslight.sersic import fit_sersic, sersic_image
from lensscan.lenslight.shape import Shape, adaptive_moments, pixel_grid
from lensscan.lenslight.stage import remove_lens_light


def shape(**values: float) -> Shape:
    names = {"x": 0.05, "y": -0.08, "e1": 0.15, "e2": -0.1, "width": 0.8} | values
    return Shape(*(torch.tensor([names[k]], dtype=torch.float64) for k in ("x", "y", "e1", "e2", "width")))


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


@pytest.mark.parametrize("n", [1.0, 4.0])
def test_a_rendered_galaxy_is_the_finely_sampled_one(n: float) -> None:
    """Without a PSF each pixel is the mean of the profile over it."""
    size, scale, rays = 41, 0.2, 25
    image = sersic_image(shape(), one(n), one(0.0), size, size, scale)[0]
    px, py = pixel_grid(size * rays, size * rays, scale / rays, image)
    s = shape()
    fine = sersic(elliptical_radius2(px, py, s.e1, s.e2, s.x, s.y), s.width, one(n)) / sersic_flux(s.width, one(n))
    truth = fine.view(size, rays, size, rays).mean(dim=(1, 3)) * scale**2
    middle = torch.zeros(size, size, dtype=torch.bool)
    middle[18:23, 18:23] = True
    assert float((image / truth - 1)[middle].abs().max()) < 0.03
    assert float((image - truth)[~middle].abs().max()) < 0.01 * float(truth.max())
    assert float(image.sum()) == pytest.approx(float(truth.sum()), rel=0.01)


def test_the_fit_finds_the_galaxy() -> None:
    truth, size, scale = shape(), 61, 0.2
    galaxy = 5e4 * sersic_image(truth, one(3.0), one(0.8), size, size, scale)
    noise = torch.randn(galaxy.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = shape(x=0.0, y=0.0, e1=0.0, e2=0.0, width=0.6)
    weight = torch.ones_like(galaxy)
    fit = fit_sersic(galaxy + noise, weight, start, one(2.0), one(0.8), one(0.1), scale, one(5.0), 20)
    assert float(fit.n) == pytest.approx(3.0, rel=0.05)
    assert float(fit.flux) == pytest.approx(5e4, rel=0.02)
    for name, error in (("x", 0.01), ("y", 0.01), ("e1", 0.01), ("e2", 0.01), ("width", 0.03)):
        assert float(getattr(fit.shape, name)) == pytest.approx(float(getattr(truth, name)), abs=error)
    assert float(fit.chi2) == pytest.approx(1.0, abs=0.1)


def test_moments_measure_centre_and_shape_of_a_gaussian() -> None:
    size, scale = 61, 0.2
    px, py = pixel_grid(size, size, scale, torch.zeros(1))
    truth = shape(width=1.0)
    image = torch.exp(-0.5 * truth.radius(px, py).square())
    found = adaptive_moments(image, torch.ones_like(image), scale, one(0.5), one(6.0), rounds=40)
    for name in ("x", "y", "e1", "e2", "width"):
        assert float(getattr(found, name)) == pytest.approx(float(getattr(truth, name)), abs=0.005)


def test_what_has_no_counterpart_opposite_is_found_before_any_model() -> None:
    toy = sharp_lens()
    centre = shape(x=0.03, y=-0.02, e1=0.0, e2=0.0)
    found = one_sided(toy.images.double(), toy.sigma.double(), toy.fwhm, centre, toy.pixel_scale)[0]
    bright = toy.arcs[0, 0] > 0.5 * toy.arcs.max()
    assert found[bright].float().mean() > 0.9
    assert found.float().mean() < 0.25


def test_noise_alone_is_rarely_taken_for_arcs() -> None:
    noise = torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = find_arcs(noise, torch.ones_like(noise), torch.full((4, 1), 0.8, dtype=torch.float64), 0.2)
    assert found.double().mean() < 0.05


def test_arcs_come_back_from_one_sharp_band() -> None:
    toy = sharp_lens()
    light = remove_lens_light(
        toy.images, pixel_scale=toy.pixel_scale, fwhm=toy.fwhm, sigma=toy.sigma, method="auto", radius=2.4
    )
    assert light.method[0] == "isophotes"
    bright = toy.arcs > 0.1 * toy.arcs.max()
    recovered = light.arcs[bright].sum() / toy.arcs[bright].sum()
    assert 0.9 < float(recovered) < 1.1
    px, py = pixel_grid(*toy.images.shape[2:], toy.pixel_scale, toy.fwhm)
    core = (torch.hypot(px - toy.x, py - toy.y) < toy.fwhm[0, 0])[None, None]
    lens = toy.images - toy.arcs
    assert abs(float(light.arcs[core].sum() / lens[core].sum())) < 0.02
    assert float(light.diagnostics["x"][0]) == pytest.approx(float(toy.x), abs=0.03)
    assert light.mask_used[0][toy.arcs[0, 0] > 0.5 * toy.arcs.max()].float().mean() > 0.95
