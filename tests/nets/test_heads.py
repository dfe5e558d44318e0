"""Latent space: there and back, and the posterior head's Cholesky factor."""

from __future__ import annotations

import numpy as np
import torch

from lensscan.nets.heads import PosteriorHead, covariance, pack_triangle, to_latent
from lensscan.nets.latent import PARAMETERS, from_latent, unpack_triangle


def truth(n=500):
    rng = np.random.default_rng(1)
    size, angle = rng.uniform(0, 0.95, n), rng.uniform(0, 2 * np.pi, n)
    columns = [rng.uniform(0.1, 4, n), size * np.cos(angle), size * np.sin(angle), *rng.normal(0, 0.5, (4, n))]
    columns[1][0] = columns[2][0] = 0.0
    return {name: torch.from_numpy(column) for name, column in zip(PARAMETERS, columns, strict=True)}


def test_latent_there_and_back():
    lenses = truth()
    back = from_latent(to_latent(lenses).double().numpy())
    for index, name in enumerate(PARAMETERS):
        np.testing.assert_allclose(back[:, index], lenses[name], rtol=2e-6, atol=2e-7, err_msg=name)


def test_latent_is_continuous_in_the_angle():
    """phi and phi + 180 deg are one lens (the wrap that breaks angle regressions)."""
    angles = torch.tensor([0.0, np.pi - 1e-7, np.pi, 2 * np.pi], dtype=torch.float64)
    one = torch.ones_like(angles)
    lenses = dict.fromkeys(PARAMETERS, one) | {"e1": 0.3 * torch.cos(2 * angles), "e2": 0.3 * torch.sin(2 * angles)}
    latent = to_latent(lenses)
    torch.testing.assert_close(latent, latent[:1].expand(4, 7), rtol=0, atol=1e-6)


def test_latent_keeps_nan():
    lenses = truth(3)
    for column in lenses.values():
        column[1] = torch.nan
    latent = to_latent(lenses)
    assert torch.isnan(latent[1]).all()
    assert torch.isfinite(latent[[0, 2]]).all()


def test_factor_is_the_covariance():
    torch.manual_seed(1)
    head = PosteriorHead(8, 16, [0.0] * 7, [0.5, 0.2, 0.2, 0.1, 0.1, 0.3, 0.3])
    _, factor, log_weight = head(torch.randn(5, 8))
    assert factor.shape == (5, 1, 7, 7)
    assert (log_weight == 0).all()
    full = covariance(factor)
    torch.testing.assert_close(full, factor @ factor.transpose(-1, -2), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(unpack_triangle(pack_triangle(full).detach().numpy()), full.detach().numpy())
