"""Bands brought to one PSF."""

from __future__ import annotations

import math

import pytest
import torch

from lensscan.lenslight.match import MISMATCH, kernel_fwhm, match_bands, smooth
from lensscan.lenslight.shape import pixel_grid


def gaussian(fwhm: float, size: int = 65, scale: float = 0.2) -> torch.Tensor:
    px, py = pixel_grid(size, size, scale, torch.zeros(1))
    sigma = fwhm / 2.354820045
    return torch.exp(-0.5 * (px**2 + py**2) / sigma**2) * (scale**2 / (2 * math.pi * sigma**2))


def moffat(fwhm: float, beta: float, size: int = 161, scale: float = 0.1) -> torch.Tensor:
    px, py = pixel_grid(size, size, scale, torch.zeros(1))
    core = fwhm / (2 * math.sqrt(2 ** (1 / beta) - 1))
    return (1 + (px**2 + py**2) / core**2) ** -beta


def measured_fwhm(image: torch.Tensor, scale: float) -> float:
    line = image[image.shape[0] // 2, image.shape[1] // 2 :] / image.max()
    below = int((line < 0.5).nonzero()[0])
    high, low = float(line[below - 1]), float(line[below])
    return 2 * scale * (below - 1 + (high - 0.5) / (high - low))


def test_a_gaussian_becomes_the_broader_gaussian() -> None:
    image = smooth(gaussian(1.0)[None], torch.tensor([math.sqrt(1.5**2 - 1) / 0.2], dtype=torch.float64))[0]
    torch.testing.assert_close(image, gaussian(1.5), atol=2e-5 * float(image.max()), rtol=0)


@pytest.mark.parametrize("beta", [2.5, 3.2, 4.5])
@pytest.mark.parametrize("target", [1.1, 1.4, 2.0])
def test_seeing_ends_where_it_should_within_the_stated_mismatch(beta: float, target: float) -> None:
    fwhm = torch.tensor([[1.0]], dtype=torch.float64)
    kernel, mismatch = kernel_fwhm(fwhm, torch.tensor([[target]], dtype=torch.float64))
    image = smooth(moffat(1.0, beta)[None], kernel[0] / 0.1)[0]
    assert abs(measured_fwhm(image, 0.1) / target - 1) < float(mismatch) + 0.01
    assert float(mismatch) < MISMATCH


def test_all_bands_are_brought_to_the_worst() -> None:
    images = torch.stack([moffat(0.9, 3.2), moffat(1.2, 3.2)])[None]
    matched = match_bands(images, torch.zeros_like(images, dtype=torch.bool), torch.tensor([[0.9, 1.2]]), 0.1)
    one, other = (measured_fwhm(matched.images[0, band], 0.1) for band in (0, 1))
    assert abs(one / other - 1) < 0.01
    torch.testing.assert_close(matched.images[0, 1], images[0, 1])
    assert matched.fwhm.item() == pytest.approx(1.2)


def test_a_sharper_target_and_an_unknown_psf_show_in_the_mismatch() -> None:
    images = torch.stack([gaussian(0.9), gaussian(1.2)])[None]
    none = torch.zeros_like(images, dtype=torch.bool)
    sharper = match_bands(images, none, torch.tensor([[0.9, 1.2]]), 0.2, target=torch.tensor([0.9]))
    assert sharper.mismatch[0, 0] < MISMATCH < sharper.mismatch[0, 1]
    unknown = match_bands(images, none, torch.tensor([[0.9, math.nan]]), 0.2)
    assert unknown.mismatch[0].isnan().tolist() == [False, True]


def test_missing_pixels_are_neither_read_nor_darken_their_neighbours() -> None:
    images = torch.full((1, 2, 40, 40), 7.0)
    mask = torch.zeros(1, 2, 40, 40, dtype=torch.bool)
    mask[0, 0, 15, 10:20] = True
    mask[0, 0, 25:36, 25:36] = True
    images[mask] = 1e9
    matched = match_bands(images, mask, torch.tensor([[0.6, 1.2]]), 0.2)
    light = matched.images[0, 0]
    assert not matched.mask[0, 0, 15].any(), "a thin line is filled from both sides"
    assert matched.mask[0, 0, 30, 30], "the middle of a large hole stays missing"
    torch.testing.assert_close(light[~matched.mask[0, 0]], torch.full_like(light[~matched.mask[0, 0]], 7.0))
    assert (light[matched.mask[0, 0]] == 0).all()


def test_the_noise_is_lowered_as_stated() -> None:
    noise = torch.randn(1, 2, 200, 200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    matched = match_bands(noise, torch.zeros_like(noise, dtype=torch.bool), torch.tensor([[0.8, 1.6]]), 0.2)
    assert matched.images[0, 0].std() == pytest.approx(float(matched.noise[0, 0]), rel=0.05)
    assert matched.noise[0, 1] == 1
