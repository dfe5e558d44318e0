"""Paint lensed sources: rays through the lens, a supersampled grid around it, averaged to pixels.

The grid covers the arcs of the lens at hand: three sizes by theta_E, so that small rings get the finest rays.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensscan.lens.light import elliptical_radius2, sersic, sersic_flux
from lensscan.lens.sie import deflection
from lensscan.mocks.population import flux
from lensscan.mocks.recipes import Recipe
from lensscan.mocks.systems import Systems

__all__ = ["grids", "paint_arcs", "render_source"]

REACH = 2.1  # a grid's half width in theta_E ...
MORE = 1.1  # ... plus this, arcsec


def grids(recipe: Recipe, canvas: int) -> list[tuple[float, int, int]]:
    """Return (largest theta_E, pixels, rays per pixel and axis) of the ray grids for a canvas of so many pixels."""
    fine = recipe.supersampling
    result = []
    for theta_E, rays in ((0.9, fine + 1), (1.6, fine), (np.inf, max(fine - 1, 1))):
        pixels = (
            canvas
            if np.isinf(theta_E)
            else 2 * int(np.ceil((REACH * theta_E + MORE) / recipe.pixel_scale)) + canvas % 2
        )
        result.append((theta_E, min(pixels, canvas), rays))
    largest = 2 * int(np.ceil((REACH * recipe.lens.theta_E[1] + MORE) / recipe.pixel_scale)) + canvas % 2
    result[-1] = (np.inf, min(largest, canvas), result[-1][2])
    return result


def render_source(mass: Tensor, source: Tensor, pixels: int, rays: int, pixel_scale: float) -> Tensor:
    """Return the lensed light per pixel, shape (m, pixels, pixels), for unit unlensed flux.

    Parameters
    ----------
    mass : Tensor, shape (m, 7)
        theta_E, e1, e2, x, y, gamma1, gamma2; arcsec from the grid's centre.
    source : Tensor, shape (m, 6 + 8)
        sx, sy, radius, n, e1, e2, then twice (x, y, size, share) of Gaussian clumps.
    """
    count = pixels * rays
    grid = (torch.arange(count, device=mass.device, dtype=mass.dtype) - (count - 1) / 2) * (pixel_scale / rays)
    theta_E, e1, e2, x, y, g1, g2 = (mass[:, k, None, None] for k in range(7))
    px, py = grid[None, None, :], grid[None, :, None]
    ax, ay = deflection(px, py, theta_E, e1, e2, x, y, g1, g2)
    bx, by = px - ax, py - ay
    sx, sy, radius, n, s1, s2 = (source[:, k, None, None] for k in range(6))
    share = 1 - source[:, 9, None, None] - source[:, 13, None, None]
    light = sersic(elliptical_radius2(bx, by, s1, s2, sx, sy), radius, n, floor=1e-6) * (share / sersic_flux(radius, n))
    for at in (6, 10):
        cx, cy, size, part = (source[:, at + k, None, None] for k in range(4))
        distance2 = (bx - cx) ** 2 + (by - cy) ** 2
        light = light + torch.exp(-0.5 * distance2 / size**2) * (part / (2 * torch.pi * size**2))
    return light.view(-1, pixels, rays, pixels, rays).mean(dim=(2, 4)) * pixel_scale**2


def _tables(systems: Systems, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    mass = {k: v[rows] for k, v in systems.mass.items()}
    source = {k: v[rows] for k, v in systems.source.items()}
    sx, sy = mass["x"] + source["bx"], mass["y"] + source["by"]
    columns = [sx, sy, source["radius"], source["n"], source["e1"], source["e2"]]
    for k in range(2):
        r, phi = source["clump_r"][:, k], source["clump_phi"][:, k]
        columns += [sx + r * np.cos(phi), sy + r * np.sin(phi), source["clump_size"][:, k], source["clump_share"][:, k]]
    lens = [mass[k] for k in ("theta_E", "e1", "e2", "x", "y", "gamma1", "gamma2")]
    return tuple(torch.from_numpy(np.stack(part, axis=1).astype(np.float32)) for part in (lens, columns))  # type: ignore[return-value]


def paint_arcs(canvas: Tensor, recipe: Recipe, systems: Systems, start: int, stop: int) -> None:
    """Add the lensed sources of the rows [start, stop) to `canvas` (n, P, P, C)."""
    rows = start + np.flatnonzero(systems.lensed[start:stop])
    theta_E = systems.mass["theta_E"][rows] if len(rows) else np.zeros(0)
    low = 0.0
    for high, pixels, rays in grids(recipe, canvas.shape[1]):
        some = rows[(theta_E >= low) & (theta_E < high)]
        low = high
        if not len(some):
            continue
        mass, source = (t.to(canvas.device) for t in _tables(systems, some))
        image = render_source(mass, source, pixels, rays, recipe.pixel_scale)
        f = torch.from_numpy(flux(systems.source["mags"][some]).astype(np.float32)).to(canvas.device)
        first = (canvas.shape[1] - pixels) // 2
        part = canvas[:, first : first + pixels, first : first + pixels]
        part.index_add_(0, torch.from_numpy(some - start).to(canvas.device), image[..., None] * f[:, None, None, :])
