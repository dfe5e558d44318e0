"""Where a galaxy is and how flat: adaptive moments, and the elliptical coordinates that follow, batched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lensscan.lens.light import elliptical_radius2

__all__ = ["Shape", "adaptive_moments", "pixel_grid"]

LARGEST = 0.6
"""Largest |e| that is believed."""


@dataclass(slots=True)
class Shape:
    """Centre (arcsec from the stamp's centre), ellipticity e1, e2 and Gaussian width (arcsec), each (n,)."""

    x: Tensor
    y: Tensor
    e1: Tensor
    e2: Tensor
    width: Tensor

    def radius(self, px: Tensor, py: Tensor) -> Tensor:
        """Return the elliptical radius sqrt(q x'^2 + y'^2 / q) of the pixels, (n, H, W), arcsec."""
        x, y, e1, e2 = (value[:, None, None] for value in (self.x, self.y, self.e1, self.e2))
        return elliptical_radius2(px, py, e1, e2, x, y).clamp_min(0).sqrt()

    def distance(self, px: Tensor, py: Tensor) -> Tensor:
        """Return the circular distance of the pixels from the centre, (n, H, W), arcsec."""
        return torch.hypot(px - self.x[:, None, None], py - self.y[:, None, None])

    def angle(self, px: Tensor, py: Tensor) -> Tensor:
        """Return the polar angle of the pixels from the major axis, (n, H, W), radians."""
        major = 0.5 * torch.atan2(self.e2, self.e1)
        return torch.atan2(py - self.y[:, None, None], px - self.x[:, None, None]) - major[:, None, None]


def pixel_grid(height: int, width: int, pixel_scale: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return x (1, W) and y (H, 1) of the pixels, arcsec from the stamp's centre, float64, on the device of `like`."""
    x = (torch.arange(width, dtype=torch.float64, device=like.device) - (width - 1) / 2) * pixel_scale
    y = (torch.arange(height, dtype=torch.float64, device=like.device) - (height - 1) / 2) * pixel_scale
    return x[None, :], y[:, None]


def adaptive_moments(
    image: Tensor, valid: Tensor, pixel_scale: float, width: Tensor, reach: Tensor, rounds: int = 12
) -> Shape:
    """Measure centre and shape with an elliptical Gaussian weight that follows the light.

    Bernstein & Jarvis 2002, AJ 123, 583, section 3: at the fixed point weight and light have one shape.  The
    weight's size stays between the seeing and `reach`, so that arcs and neighbours count little.  (For painting on,
    `lensscan.mocks.shapes` measures galaxies alone: the weight follows them freely, the PSF is taken off, and what
    runs away is refused.)

    Parameters
    ----------
    image, valid : Tensor, shape (n, H, W), float64
        Flux per pixel; 1 for pixels to be used, 0 for others.
    width : Tensor, shape (n,)
        Gaussian sigma of the first weight and of the smallest, arcsec.
    reach : Tensor, shape (n,)
        Largest distance of the centre from the stamp's, and three times the largest sigma, arcsec.
    """
    px, py = pixel_grid(image.shape[-2], image.shape[-1], pixel_scale, image)
    zero = torch.zeros_like(width)
    shape = Shape(zero, zero, zero, zero, width.clone())
    for _ in range(rounds):
        radius = shape.radius(px, py) / shape.width[:, None, None]
        weight = torch.exp(-0.5 * radius.square()) * valid
        light = weight * image
        norm = light.sum(dim=(1, 2))
        positive = norm > 0
        norm = torch.where(positive, norm, torch.ones_like(norm))
        dx, dy = px - shape.x[:, None, None], py - shape.y[:, None, None]
        shift_x, shift_y = ((light * d).sum(dim=(1, 2)) / norm for d in (dx, dy))
        xx, yy, xy = ((light * d).sum(dim=(1, 2)) / norm for d in (dx * dx, dy * dy, dx * dy))
        trace = xx + yy
        good = positive & (trace > 0) & (xx * yy > xy * xy)
        trace = torch.where(good, trace, torch.ones_like(trace))
        # Moments of a product of like Gaussians are half of theirs; (a^2 - b^2) / (a^2 + b^2) = 2e / (1 + e^2).
        chi1, chi2 = torch.where(good, (xx - yy) / trace, zero), torch.where(good, 2 * xy / trace, zero)
        chi = torch.hypot(chi1, chi2).clamp(1e-9, 0.999)
        e = ((1 - (1 - chi * chi).sqrt()) / chi).clamp_max(LARGEST)
        det = torch.where(good, xx * yy - xy * xy, shape.width**4 / 4).clamp_min(1e-30)
        size = torch.minimum((2 * det.sqrt()).sqrt(), reach / 3)
        shape = Shape(
            (shape.x + 2 * torch.where(good, shift_x, zero)).clamp(-reach, reach),
            (shape.y + 2 * torch.where(good, shift_y, zero)).clamp(-reach, reach),
            e * chi1 / chi,
            e * chi2 / chi,
            torch.maximum(size, width),
        )
    return shape
