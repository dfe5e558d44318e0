"""Lenses with truth: simulated ones whose arcs are known, and a sharp one composed by hand."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor

from lensscan.lenslight.match import smooth
from lensscan.lenslight.sersic import sersic_image
from lensscan.lenslight.shape import Shape, pixel_grid
from lensscan.mocks import simulate as simulation
from lensscan.mocks.recipes import load_recipe


@dataclass
class Truth:
    images: Tensor
    arcs: Tensor
    fwhm: Tensor
    sigma: Tensor
    x: Tensor
    y: Tensor
    pixel_scale: float


def mock_lenses(n: int, seed: int = 5) -> Truth:
    """Observed lenses of des-griz (colour gradients, neighbours, Moffat seeing, noise) and their arcs alone."""
    recipe = dataclasses.replace(load_recipe("des-griz"), classes={"lens": 1.0})
    mocks = simulation.simulate(recipe, seed=seed, n=n)
    clean = simulation.simulate(recipe, seed=seed, n=n, noise=False).images
    with mock.patch.object(simulation, "paint_arcs"):
        bare = simulation.simulate(recipe, seed=seed, n=n, noise=False).images
    truth = mocks.truth
    return Truth(
        mocks.images, clean - bare, mocks.fwhm, mocks.sigma, truth["x_light"], truth["y_light"], recipe.pixel_scale
    )


def sharp_lens(n_bands: int = 1, size: int = 81) -> Truth:
    """A galaxy of n = 3 in space-like seeing with a thick arc and its counter-image; all bands of one PSF."""
    scale, fwhm = 0.06, torch.tensor([0.12], dtype=torch.float64)
    shape = Shape(*(torch.tensor([v], dtype=torch.float64) for v in (0.03, -0.02, 0.1, 0.05, 0.7)))
    galaxy = 4e4 * sersic_image(shape, torch.tensor([3.0], dtype=torch.float64), fwhm, size, size, scale)
    px, py = pixel_grid(size, size, scale, galaxy)
    radius, angle = torch.hypot(px, py), torch.atan2(py, px)
    arc = 60 * torch.exp(-0.5 * ((radius - 1.2) / 0.08) ** 2 - 0.5 * (angle / 0.9) ** 2)
    arc = arc + 80 * torch.exp(-0.5 * ((px + 0.9) ** 2 + py**2) / 0.08**2)
    arc = smooth(arc[None], fwhm / scale)
    lens_colour = torch.linspace(0.3, 1.0, n_bands, dtype=torch.float64) if n_bands > 1 else torch.ones(1)
    images = galaxy[:, None] * lens_colour[:, None, None].double()
    arcs = arc[:, None].expand(-1, n_bands, -1, -1)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    wide = fwhm[:, None].expand(-1, n_bands)
    return Truth((images + arcs + noise).float(), arcs.float(), wide, torch.ones(1, n_bands), shape.x, shape.y, scale)
