"""Parameters of published regressors, (theta_E, e_x, e_y, x, y) as in their papers, from and to our latent space.

The same conventions as `lensscan.lens.conventions` has for arrays, which a test holds against these; here for tensors
and straight to the latent space, where both are short: |u| = atanh|e| = -ln(q) / 2.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

__all__ = ["LARGEST", "LEAST_RADIUS", "N_PARAMETERS", "Convention", "latent_of", "parameters_of"]

Convention: TypeAlias = Literal["hezaveh2017", "holismokes4"]
N_PARAMETERS = 5
LEAST_RADIUS = 0.01
"""Arcsec; a smaller theta_E, which an untrained network may well give, is taken as this."""
LARGEST = 0.98
"""Of the papers' ellipticities, both below 1 for a legal lens; larger ones are taken as this."""
TINY = 1e-12


def latent_of(parameters: Tensor, convention: Convention) -> Tensor:
    """Return the latent (log theta_E, u1, u2, x, y) of parameters, both (n, 5); illegal lenses become legal ones."""
    radius, ex, ey, x, y = parameters.unbind(dim=-1)
    square = ex * ex + ey * ey + TINY
    size = square.sqrt().clamp(max=LARGEST)
    log_radius = radius.clamp(min=LEAST_RADIUS).log()
    if convention == "hezaveh2017":  # 1 - q at the minor axis' angle t, up to a common sign: 2 phi = 2 t - pi
        stretch = -0.5 * torch.log1p(-size)
        u1, u2 = -stretch * (ex * ex - ey * ey) / square, -stretch * 2 * ex * ey / square
    else:  # (1 - q^2) / (1 + q^2) = tanh 2|u|; the mean radius is cosh|u| times the product average
        stretch = 0.5 * torch.atanh(size)
        u1, u2 = stretch * ex / square.sqrt(), stretch * ey / square.sqrt()
        log_radius = log_radius - stretch.cosh().log()
    return torch.stack([log_radius, u1, u2, x, y], dim=-1)


def parameters_of(latent: Tensor, convention: Convention) -> Tensor:
    """Return the parameters (n, 5) of latent vectors (n, 5 or more); of Hezaveh's pair the one with t in (0, pi]."""
    log_radius, u1, u2, x, y = latent[..., :N_PARAMETERS].unbind(dim=-1)
    size = torch.hypot(u1, u2)
    if convention == "hezaveh2017":
        flattening, phi = -torch.expm1(-2 * size), 0.5 * torch.atan2(u2, u1)
        return torch.stack([log_radius.exp(), -flattening * phi.sin(), flattening * phi.cos(), x, y], dim=-1)
    factor = torch.tanh(2 * size) / size.clamp(min=TINY)
    return torch.stack([log_radius.exp() * size.cosh(), factor * u1, factor * u2, x, y], dim=-1)
