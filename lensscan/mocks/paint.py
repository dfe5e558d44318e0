"""Paint lensed sources: rays through the lens, a supersampled grid around it, summed to pixels.

The grid covers the arcs of the lens at hand: three sizes by theta_E, so that small rings get the finest rays.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensscan.lens.epl import series_terms
from lensscan.mocks.fused import Fusable
from lensscan.mocks.library import SourceLibrary, load_sources
from lensscan.mocks.population import flux
from lensscan.mocks.rays import ISOTHERMAL, axis_table, coordinates, image_light, lens_table, light_table, source_light
from lensscan.mocks.recipes import Recipe
from lensscan.mocks.systems import Systems
from lensscan.mocks.tables import CLASSES

__all__ = ["grids", "paint_arcs", "render_images", "render_source"]

REACH = 2.1  # a grid's half width in theta_E ...
MORE = 1.1  # ... plus this, arcsec ...
WINGS = 5.0  # ... or, where a recipe draws radii of sources uniformly, plus this many of the largest
FLATTEST = 0.25  # axis ratio of the flattest mass, unless a recipe has flatter ones
BLOCK = {"cpu": 150_000, "cuda": 1 << 26}  # rays at a time: on a CPU temporaries stay in the cache
COMPILED = 8  # times as many in compiled code
MASS = ("theta_E", "e1", "e2", "x", "y", "gamma1", "gamma2", "slope")
UNBENT = CLASSES.index("unlensed_source")

SOURCE_LIGHT = Fusable(source_light)


def grids(recipe: Recipe, canvas: int) -> list[tuple[float, int, int]]:
    """Return (largest theta_E, pixels, rays per pixel and axis) of the ray grids for a canvas of so many pixels."""
    fine, wide = recipe.supersampling, recipe.source.uniform_radius
    more = MORE if wide is None else max(MORE, WINGS * wide[1])
    result = []
    for theta_E, rays in ((0.9, fine + 1), (1.6, fine), (np.inf, max(fine - 1, 1))):
        pixels = (
            canvas
            if np.isinf(theta_E)
            else 2 * int(np.ceil((REACH * theta_E + more) / recipe.pixel_scale)) + canvas % 2
        )
        result.append((theta_E, min(pixels, canvas), rays))
    largest = 2 * int(np.ceil((REACH * recipe.lens.theta_E[1] + more) / recipe.pixel_scale)) + canvas % 2
    result[-1] = (np.inf, min(largest, canvas), result[-1][2])
    return result


def render_source(
    mass: Tensor,
    source: Tensor,
    pixels: int,
    rays: int,
    pixel_scale: float,
    *,
    terms: int | None = None,
    dtype: torch.dtype = torch.float32,
    compiled: bool = False,
) -> Tensor:
    """Return the lensed light per pixel, shape (m, pixels, pixels), for unit unlensed flux.

    Parameters
    ----------
    mass : Tensor, shape (m, 7) or (m, 8)
        theta_E, e1, e2, x, y, gamma1, gamma2, and the slope if it is not 2; arcsec from the grid's centre.
    source : Tensor, shape (m, 6 + 4 K)
        sx, sy, radius, n, e1, e2, then K times (x, y, size, share) of Gaussian clumps; arcsec.
    pixels, rays : int
        Pixels along an axis, and rays along an axis of a pixel.
    pixel_scale : float
        Arcsec.
    terms : int, optional
        Terms of the series of power laws; None: enough for the flattest of the batch.
    dtype : torch.dtype
        Precision of the rays.
    compiled : bool
        Trace through `torch.compile`, where there is a compiler: several times the speed after a first call of
        seconds, pixels the same within 1e-5 of the peak.  Power laws are always traced plainly: written out, their
        series is too long for the compiler.  `simulate` does not ask for it: its survey recipes have power laws,
        and pixels would depend on whether a machine has a compiler.
    """
    mass, source = mass.double(), source.double()
    lens = lens_table(mass, source[:, 0], source[:, 1], _terms(mass, terms, dtype)).to(dtype)
    return _render(lens, light_table(mass, source).to(dtype), pixels, rays, pixel_scale, compiled)


def render_images(
    mass: Tensor,
    source: Tensor,
    library: SourceLibrary,
    number: Tensor,
    pixels: int,
    rays: int,
    pixel_scale: float,
    *,
    terms: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the lensed light of galaxy images per pixel, shape (m, pixels, pixels), for unit unlensed flux.

    Parameters
    ----------
    mass : Tensor, shape (m, 7) or (m, 8)
        As `render_source`, and so are the other arguments.
    source : Tensor, shape (m, 4)
        sx, sy, half-light radius (arcsec) and the angle (radians) by which the image is turned.
    library : SourceLibrary
        The images.
    number : Tensor, shape (m,), int64
        Which of them.
    """
    mass, source = mass.double(), source.double()
    sx, sy, radius, turn = source.unbind(1)
    lens = lens_table(mass, sx, sy, _terms(mass, terms, dtype)).to(dtype)
    return _render_images(lens, axis_table(mass, radius, turn).to(dtype), library, number, pixels, rays, pixel_scale)


def _render(lens: Tensor, light: Tensor, pixels: int, rays: int, pixel_scale: float, compiled: bool = False) -> Tensor:
    compiled = compiled and lens.shape[1] == ISOTHERMAL
    single = compiled and len(lens) == 1
    if single:  # the compiler would make other code for it
        lens, light = lens.expand(2, -1), light.expand(2, -1)
    at = coordinates(pixels, rays, pixel_scale, lens.dtype, lens.device)
    images = [
        _sum_rays(SOURCE_LIGHT(lens[k], light[k], at, compiled=compiled), pixels, rays)
        for k in _blocks(len(lens), len(at), lens.device, compiled)
    ]
    return (pixel_scale / rays) ** 2 * (images[0][:1] if single else torch.cat(images))


def _render_images(
    lens: Tensor, axis: Tensor, library: SourceLibrary, number: Tensor, pixels: int, rays: int, pixel_scale: float
) -> Tensor:
    at = coordinates(pixels, rays, pixel_scale, lens.dtype, lens.device)
    images = [
        _sum_rays(image_light(lens[k], axis[k], library, number[k], at), pixels, rays)
        for k in _blocks(len(lens), len(at), lens.device)
    ]
    return (pixel_scale / rays) ** 2 * torch.cat(images)


def _terms(mass: Tensor, terms: int | None, dtype: torch.dtype) -> int:
    if mass.shape[1] < len(MASS):
        return 0
    return terms or series_terms(float(torch.hypot(mass[:, 1], mass[:, 2]).max()), dtype)


def _blocks(rows: int, side: int, device: torch.device, compiled: bool = False) -> list[slice]:
    """Return slices of about equal length, of at least two rows where there are two.

    Compiled code keeps no temporaries; threads share those of plain code, and wait for each other at every operation.
    """
    more = COMPILED if compiled else torch.get_num_threads()
    most = max(2, more * BLOCK.get(device.type, BLOCK["cuda"]) // side**2)
    edges = np.linspace(0, rows, -(-rows // most) + 1).round().astype(int).tolist()
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def _sum_rays(light: Tensor, pixels: int, rays: int) -> Tensor:
    # One axis after the other: both at once is slower by a factor of ten.
    return light.view(-1, rays, pixels, rays, pixels).sum(dim=1).sum(dim=2)


def _mass(recipe: Recipe, systems: Systems, rows: NDArray[np.int64]) -> Tensor:
    """Return the lenses of some rows, (m, 7), or (m, 8) where the recipe has power laws; unbent rows have none."""
    names = MASS[:-1] if recipe.lens.slope == (2.0, 0.0) else MASS
    table = np.stack([systems.mass[name][rows] for name in names], axis=1)
    unbent = systems.klass[rows] == UNBENT
    for name in ("theta_E", "gamma1", "gamma2"):
        table[unbent, MASS.index(name)] = 0.0
    return torch.from_numpy(table)


def _source(systems: Systems, rows: NDArray[np.int64], names: tuple[str, ...]) -> Tensor:
    """Return position, the named columns and the clumps of some sources."""
    mass = {k: systems.mass[k][rows] for k in "xy"}
    source = {k: v[rows] for k, v in systems.source.items()}
    sx, sy = mass["x"] + source["bx"], mass["y"] + source["by"]
    columns = [sx, sy, *(source[name] for name in names)]
    if "n" in names:
        for r, phi, size, share in zip(
            *(source[f"clump_{name}"].T for name in ("r", "phi", "size", "share")), strict=True
        ):
            columns += [sx + r * np.cos(phi), sy + r * np.sin(phi), size, share]
    return torch.from_numpy(np.stack(columns, axis=1))


def _series_of(recipe: Recipe) -> int:
    """Return the terms that the flattest mass of a recipe needs: the same for every row and batch."""
    q = FLATTEST if recipe.lens.one_minus_q is None else 1 - recipe.lens.one_minus_q[1]
    return series_terms((1 - q) / (1 + q), torch.float32)


def paint_arcs(canvas: Tensor, recipe: Recipe, systems: Systems, start: int, stop: int) -> None:
    """Add the lensed sources of the rows [start, stop) to `canvas` (n, P, P, C)."""
    rows = start + np.flatnonzero(systems.lensed[start:stop])
    if not len(rows):
        return
    device, dtype = canvas.device, torch.float32
    mass, theta_E = _mass(recipe, systems, rows), systems.mass["theta_E"][rows]
    library = load_sources(recipe.source.images, recipe.source.part) if recipe.source.profile == "images" else None
    source = _source(systems, rows, ("radius", "n", "e1", "e2") if library is None else ("radius", "turn"))
    lens = lens_table(mass, source[:, 0], source[:, 1], _series_of(recipe) if mass.shape[1] == len(MASS) else 0)
    light = light_table(mass, source) if library is None else axis_table(mass, source[:, 2], source[:, 3])
    lens, light = lens.to(device, dtype), light.to(device, dtype)
    f = torch.from_numpy(flux(systems.source["mags"][rows])).to(device, dtype)
    places = torch.from_numpy(rows - start).to(device)
    low = 0.0
    for high, pixels, rays in grids(recipe, canvas.shape[1]):
        some = np.flatnonzero((theta_E >= low) & (theta_E < high))
        low = high
        if not len(some):
            continue
        k = torch.from_numpy(some).to(device)
        if library is None:
            image = _render(lens[k], light[k], pixels, rays, recipe.pixel_scale)
        else:
            number = torch.from_numpy(library.pick(systems.source["image"][rows[some]])).to(device)
            image = _render_images(lens[k], light[k], library, number, pixels, rays, recipe.pixel_scale)
        first = (canvas.shape[1] - pixels) // 2
        part = canvas[:, first : first + pixels, first : first + pixels]
        part.index_add_(0, places[k], image[..., None] * f[k][:, None, None, :])
