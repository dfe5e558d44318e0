"""Unlensed light of a batch of stamps: flat lists of galaxies, discs and stars, and their rendering.

A scene is drawn once (numpy) as lists over all rows; rendering takes the part of a chunk of rows to torch.
Galaxies are painted into patches around themselves, the innermost pixels supersampled; stars are
kept for Fourier space, where a point source is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensscan.lens.light import elliptical_radius2, sersic, sersic_flux

__all__ = ["FULL", "LARGE", "SMALL", "Scene", "paint_discs", "paint_galaxies", "paint_trails"]

Array = NDArray[np.floating]
Listed = tuple[NDArray[np.int64], Array, Array]
FULL = 0
LARGE = 1
SMALL = 2
PATCH = {LARGE: 32, SMALL: 16}
CORE = {FULL: 7, LARGE: 4, SMALL: 4}
FINE = {FULL: 7, LARGE: 5, SMALL: 5}
SOFT = 0.2  # softening of cusps in sub-pixels: centres of steep galaxies are then right to 0.002 arcsec
GALAXY = ("radius", "n", "e1", "e2", "x", "y")
TRAIL = ("x", "y", "angle", "width", "length")
DISC = ("radius", "e1", "e2", "x", "y", "ring", "width", "arms", "strength", "pitch", "phase")


@dataclass(slots=True)
class Scene:
    """Lists of components: each entry is (rows, flux (m, C) in nJy, values (m, k))."""

    bands: int
    galaxies: dict[int, list[tuple[NDArray[np.int64], Array, Array]]] = field(
        default_factory=lambda: {FULL: [], LARGE: [], SMALL: []}
    )
    discs: list[tuple[NDArray[np.int64], Array, Array]] = field(default_factory=list)
    trails: list[tuple[NDArray[np.int64], Array, Array]] = field(default_factory=list)
    stars: list[tuple[NDArray[np.int64], Array, Array]] = field(default_factory=list)

    def add_galaxies(self, kind: int, rows: NDArray[np.int64], flux: Array, **values: Array | float) -> None:
        """Add Sersic galaxies: radius (arcsec), n, e1, e2, x, y (arcsec from the frame's centre)."""
        self._add(self.galaxies[kind], rows, flux, GALAXY, values)

    def add_discs(self, rows: NDArray[np.int64], flux: Array, **values: Array | float) -> None:
        """Add exponential discs with spiral arms (`ring` = 0), rings (1) or pieces of rings (2) of Gaussian profile.

        A piece of a ring lies about the angle `phase`, its light going as exp(pitch (cos(angle - phase) - 1)).
        """
        self._add(self.discs, rows, flux, DISC, values)

    def add_trails(self, rows: NDArray[np.int64], peak: Array, **values: Array | float) -> None:
        """Add straight trails through (x, y): `peak` (m, C) in nJy arcsec^-2, Gaussian across, exponential along.

        `angle` in radians from +x; `width` (standard deviation) and `length` (scale) in arcsec.
        """
        self._add(self.trails, rows, peak, TRAIL, values)

    def add_stars(self, rows: NDArray[np.int64], flux: Array, x: Array, y: Array) -> None:
        """Add point sources."""
        self._add(self.stars, rows, flux, ("x", "y"), {"x": x, "y": y})

    @staticmethod
    def _add(
        into: list[Listed],
        rows: NDArray[np.int64],
        flux: Array,
        names: tuple[str, ...],
        values: dict[str, Array | float],
    ) -> None:
        if len(rows):
            into.append(
                (
                    rows,
                    flux,
                    np.stack([np.broadcast_to(np.asarray(values[k], float), rows.shape) for k in names], axis=1),
                )
            )

    def freeze(self) -> Frozen:
        """Return the scene with every list sorted by row, ready for slicing."""
        return Frozen(
            {k: _sorted(v, len(GALAXY), self.bands) for k, v in self.galaxies.items()},
            _sorted(self.discs, len(DISC), self.bands),
            _sorted(self.trails, len(TRAIL), self.bands),
            _sorted(self.stars, 2, self.bands),
        )


def _sorted(parts: list[Listed], width: int, bands: int) -> Listed:
    if not parts:
        return np.zeros(0, np.int64), np.zeros((0, bands)), np.zeros((0, width))
    rows, flux, values = (np.concatenate([p[k] for p in parts]) for k in range(3))
    order = np.argsort(rows, kind="stable")
    return rows[order], flux[order], values[order]


@dataclass(frozen=True, slots=True)
class Frozen:
    """A scene sorted by row."""

    galaxies: dict[int, Listed]
    discs: Listed
    trails: Listed
    stars: Listed

    @staticmethod
    def part(listed: Listed, start: int, stop: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows (counted from `start`), flux (m, C) and values (m, k) of the rows [start, stop) as tensors."""
        rows, flux, values = listed
        a, b = np.searchsorted(rows, [start, stop])
        return (
            torch.from_numpy(rows[a:b] - start).to(device),
            torch.from_numpy(flux[a:b].astype(np.float32)).to(device),
            torch.from_numpy(values[a:b].astype(np.float32)).to(device),
        )


def _steps(count: int, step: float, device: torch.device) -> Tensor:
    return (torch.arange(count, device=device, dtype=torch.float32) - (count - 1) / 2) * step


def _profile(values: Tensor, dx: Tensor, dy: Tensor, size: int, kind: int, pixel: float) -> Tensor:
    """Return Sersic flux per pixel (m, size, size) for total flux 1; (dx, dy) is the centre relative to the patch's."""
    radius, n, e1, e2 = (values[:, k, None, None] for k in range(4))
    ex, ey = dx[:, None, None], dy[:, None, None]
    core, rays = CORE[kind] + (size - CORE[kind]) % 2, FINE[kind]  # of the frame's parity, so that mirror images agree
    grid = _steps(size, pixel, values.device)
    scale = pixel * pixel / sersic_flux(radius, n)
    image = sersic(elliptical_radius2(grid[None, None, :], grid[None, :, None], e1, e2, ex, ey), radius, n)
    first = (size - core) // 2
    fine = _steps(core * rays, pixel / rays, values.device)
    radius2 = elliptical_radius2(fine[None, None, :], fine[None, :, None], e1, e2, ex, ey)
    inner = sersic(radius2.add_((SOFT * pixel / rays) ** 2), radius, n)
    image[:, first : first + core, first : first + core] = inner.view(-1, core, rays, core, rays).mean(dim=(2, 4))
    return image.mul_(scale)


def paint_galaxies(canvas: Tensor, rows: Tensor, flux: Tensor, values: Tensor, kind: int, pixel: float) -> None:
    """Add galaxies to `canvas` (n, P, P, C), whose centre is the frame's centre.

    FULL components are normalised to their total light; patches hold all light of their galaxy.
    """
    size = canvas.shape[1]
    if not len(rows):
        return
    x, y = values[:, 4], values[:, 5]
    if kind == FULL:
        image = _profile(values, x, y, size, kind, pixel)
        canvas.index_add_(0, rows, image[..., None] * flux[:, None, None, :])
        return
    patch = PATCH[kind]
    # Patches have an even side: their centre is the corner between pixels nearest to the galaxy.
    left, low = (torch.round(v / pixel + size / 2).to(torch.int64) - patch // 2 for v in (x, y))
    middle_x, middle_y = ((v + patch / 2 - size / 2).to(torch.float32) * pixel for v in (left, low))
    image = _profile(values, x - middle_x, y - middle_y, patch, kind, pixel)
    taper = (
        1
        - (
            torch.hypot(
                *torch.meshgrid(_steps(patch, 2 / patch, x.device), _steps(patch, 2 / patch, x.device), indexing="ij")
            )
        ).clamp_max(1)
        ** 4
    )
    image = image * taper
    image = image / image.sum(dim=(1, 2), keepdim=True)
    steps = torch.arange(patch, device=x.device)
    columns, lines = left[:, None] + steps, low[:, None] + steps
    inside = ((columns >= 0) & (columns < size))[:, None, :] & ((lines >= 0) & (lines < size))[:, :, None]
    target = (rows[:, None, None] * size + lines.clamp(0, size - 1)[:, :, None]) * size + columns.clamp(0, size - 1)[
        :, None, :
    ]
    light = (image * inside)[..., None] * flux[:, None, None, :]
    canvas.view(-1, canvas.shape[-1]).index_add_(0, target.reshape(-1), light.reshape(-1, light.shape[-1]))


def paint_discs(canvas: Tensor, rows: Tensor, flux: Tensor, values: Tensor, pixel: float) -> None:
    """Add discs with logarithmic arms, and rings, to `canvas` (n, P, P, C); normalised to the light in the frame."""
    if not len(rows):
        return
    radius, e1, e2, x, y, ring, width, arms, strength, pitch, phase = (
        values[:, k, None, None] for k in range(len(DISC))
    )
    grid = _steps(canvas.shape[1], pixel, canvas.device)
    px, py = grid[None, None, :], grid[None, :, None]
    r = torch.sqrt(elliptical_radius2(px, py, e1, e2, x, y) + 1e-6)
    angle = torch.atan2(py - y, px - x)
    spiral = 1 + strength * torch.cos(arms * (angle - torch.log(r / radius) / torch.tan(pitch)) + phase)
    spiral = torch.where(r > 0.3 * radius, spiral, torch.ones_like(spiral))
    disc = torch.exp((-1.678 * r / radius).clamp_min(-87.0)) * spiral
    across = -0.5 * ((r - radius) / width) ** 2
    band = torch.exp(across.clamp_min(-87.0)) * (1 + strength * torch.cos(arms * angle + phase))
    piece = torch.exp((across + pitch * (torch.cos(angle - phase) - 1)).clamp_min(-87.0))
    image = torch.where(ring > 1, piece, torch.where(ring > 0, band, disc))
    image = image / image.sum(dim=(1, 2), keepdim=True)
    canvas.index_add_(0, rows, image[..., None] * flux[:, None, None, :])


def paint_trails(canvas: Tensor, rows: Tensor, peak: Tensor, values: Tensor, pixel: float) -> None:
    """Add straight trails (satellites, spikes of stars) to `canvas` (n, P, P, C)."""
    if not len(rows):
        return
    x, y, angle, width, length = (values[:, k, None, None] for k in range(len(TRAIL)))
    grid = _steps(canvas.shape[1], pixel, canvas.device)
    dx, dy = grid[None, None, :] - x, grid[None, :, None] - y
    along = dx * torch.cos(angle) + dy * torch.sin(angle)
    across = dy * torch.cos(angle) - dx * torch.sin(angle)
    image = torch.exp(-0.5 * (across / width) ** 2 - along.abs() / length) * pixel**2
    canvas.index_add_(0, rows, image[..., None] * peak[:, None, None, :])
