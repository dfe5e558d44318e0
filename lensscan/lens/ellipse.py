"""Axes and elliptical radius of a mass profile, from its ellipticity components."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["TINY", "axes", "elliptical_frame"]

TINY = 1e-30


def axes(e1: Tensor, e2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the axis ratio q = (1-e)/(1+e) and the cosine and sine of the major axis' angle."""
    e = torch.sqrt(e1 * e1 + e2 * e2)
    phi = 0.5 * torch.atan2(e2, e1)
    return (1 - e) / (1 + e), torch.cos(phi), torch.sin(phi)


def elliptical_frame(dx: Tensor, dy: Tensor, q: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return x' and y' along the axes (arcsec, about the centre) and sqrt(q^2 x'^2 + y'^2), never zero."""
    major = cos * dx + sin * dy
    minor = cos * dy - sin * dx
    return major, minor, torch.sqrt((q * major) ** 2 + minor * minor).clamp_min(TINY)
