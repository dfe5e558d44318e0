"""Normalisation: noise estimate, asinh, scalars, aperture signal to noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lensscan.nets.normalise import aperture_snr, estimate_sigma, n_scalars, normalise, scalar_inputs


def noise(n=40, bands=2, size=64, sigma=7.0, seed=1):
    return sigma * torch.randn(n, bands, size, size, generator=torch.Generator().manual_seed(seed))


def test_sigma_of_white_noise():
    found = estimate_sigma(noise())
    assert found.mean() == pytest.approx(7.0, rel=0.01)
    assert found.std() < 0.06 * 7.0


def test_sigma_ignores_the_middle_and_bright_neighbours():
    images = noise()
    clean = estimate_sigma(images)
    images[:, :, 20:44, 20:44] += 1e5
    assert torch.equal(estimate_sigma(images), clean), "only the border may count"
    images[:, :, :6, :6] += 1e4
    assert (estimate_sigma(images) / clean).max() < 1.1


def test_sigma_of_a_padded_stamp_is_that_of_its_own_border():
    images, mask = torch.zeros(40, 2, 64, 64), torch.ones(40, 2, 64, 64, dtype=torch.bool)
    small = noise(size=44)
    small[:, :, 10:34, 10:34] += 1e5
    images[:, :, 10:54, 10:54], mask[:, :, 10:54, 10:54] = small, False
    assert torch.equal(estimate_sigma(images, mask), estimate_sigma(small))
    images[5, 0], mask[5, 0] = 0.0, True
    images[5, 0, 20:50, 8:44], mask[5, 0, 20:50, 8:44] = small[5, 0, :30, :36], False
    mask[3, 1] = True
    sigma, expected = estimate_sigma(images, mask), estimate_sigma(small)
    expected[3, 1], expected[5, 0] = math.nan, estimate_sigma(small[5:6, :1, :30, :36])[0, 0]
    assert torch.equal(sigma.nan_to_num(-1), expected.nan_to_num(-1))
    assert sigma[5, 0] != sigma[5, 1]


def test_sigma_skips_masked_pixels():
    images = noise()
    mask = torch.zeros_like(images, dtype=torch.bool)
    assert torch.equal(estimate_sigma(images, mask), estimate_sigma(images))
    spoilt = images.clone()
    mask[:, :, :3] = True
    spoilt[mask] = 0.0
    assert estimate_sigma(spoilt, mask).mean() == pytest.approx(7.0, rel=0.02)
    mask[:] = True
    assert torch.isnan(estimate_sigma(spoilt, mask)).all()


def test_sigma_agrees_with_plain_numpy():
    images = noise(n=3, size=25)
    for row in range(3):
        border = np.ones((25, 25), bool)
        border[2:-2, 2:-2] = False
        values = images[row, 0].numpy()[border]
        values = np.sort(np.abs(values - np.sort(values)[(len(values) - 1) // 2]))
        mad = values[(len(values) - 1) // 2]
        values = values[values <= 3 * 1.482602218505602 * mad]
        expected = 1.482602218505602 * values[(len(values) - 1) // 2]
        assert float(estimate_sigma(images)[row, 0]) == pytest.approx(expected, rel=1e-6)


def test_asinh():
    images = torch.tensor([-300.0, -1.0, -0.0, 0.0, 1e-3, 2.0, 5e5]).reshape(1, 1, 1, 7)
    out = normalise(images, None, torch.tensor([[4.0]]), 2.0)
    torch.testing.assert_close(out, torch.asinh(images / 8), rtol=1e-6, atol=2e-7)


def test_normalise_is_zero_where_nothing_is_known():
    images, sigma = noise(n=3), torch.tensor([[1.0, math.nan], [0.0, 1.0], [1.0, 1.0]])
    mask = torch.zeros_like(images, dtype=torch.bool)
    mask[2, 1, 10:20] = True
    out = normalise(images, mask, sigma, 2.0)
    assert torch.isfinite(out).all()
    assert (out[0, 1] == 0).all()
    assert (out[1, 0] == 0).all()
    assert (out[2, 1, 10:20] == 0).all()
    assert torch.equal(out[2, 0], normalise(images, None, sigma, 2.0)[2, 0])


def test_scalars_are_finite_and_tell_missing_from_zero():
    sigma, fwhm = torch.tensor([[10.0, math.nan]]), torch.tensor([[1.0, math.nan]])
    present = torch.tensor([[True, False]])
    scalars = scalar_inputs(sigma, fwhm, present, 0.2)
    assert scalars.shape == (1, n_scalars(2))
    assert torch.isfinite(scalars).all()
    assert scalars[0].tolist() == pytest.approx([0, 0, 0, 0, 1, 0, 1, 0, 0], abs=1e-6)


def test_aperture_snr():
    images = torch.zeros(2, 2, 64, 64)
    images[0, 1, 31:33, 31:33] = 50.0
    images[1, 0, 0, 0] = 1e6
    sigma, present = torch.tensor([[2.0, 4.0], [2.0, 4.0]]), torch.ones(2, 2, dtype=torch.bool)
    axis = (np.arange(64) - 31.5) * 0.263
    count = (axis[:, None] ** 2 + axis**2 <= 4.0).sum()
    snr = aperture_snr(images, None, sigma, present, 0.263)
    assert float(snr[0]) == pytest.approx(200 / (4 * math.sqrt(count)), rel=1e-5)
    assert float(snr[1]) == 0.0, "light outside the aperture must not count"
    mask = torch.zeros_like(images, dtype=torch.bool)
    mask[0, 1, 31] = True
    masked = aperture_snr(images, mask, sigma, present, 0.263)
    assert float(masked[0]) < float(snr[0])
    assert torch.isnan(aperture_snr(images, None, sigma, ~present, 0.263)).all()
