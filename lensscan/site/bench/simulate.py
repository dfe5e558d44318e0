"""Images simulated a second, beside caustics and lenstronomy in the same run, with what they agree to."""

from __future__ import annotations

import cProfile
import importlib.util
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensscan.lens.conventions import to_axis_ratio
from lensscan.lens.light import sersic_flux
from lensscan.mocks.fused import Fusable
from lensscan.mocks.paint import render_source
from lensscan.mocks.simulate import simulate
from lensscan.process import tune_allocator
from lensscan.site.bench.report import Rate, Report, announce, interleave, on_threads

__all__ = ["bench_simulate"]

PIXELS, RAYS, SCALE = 64, 4, 0.168
KERNEL = 21
FWHM = (0.9, 1.1, 0.8, 0.85)  # of the Gaussian PSF, arcsec: of the only band, and of griz
BATCH = 20
IMAGES = 400
RIVAL_IMAGES = 100
STAMPS = 512
RECIPE = "des-griz"
PARTS = {
    "truth: systems drawn and measured": ("systems.py:draw_systems",),
    "scene: lists of galaxies and stars": ("negatives.py:compose", "scene.py:freeze"),
    "unlensed light": ("scene.py:paint_galaxies", "scene.py:paint_discs", "scene.py:paint_trails"),
    "lensed light": ("paint.py:paint_arcs",),
    "PSF": ("psf.py:psf_transform", "observe.py:convolve", "observe.py:settle_stars"),
    "noise": ("observe.py:add_noise",),
}


def gaussian_kernel(fwhm: float) -> Tensor:
    """Return a Gaussian PSF of unit sum, shape (KERNEL, KERNEL)."""
    x = (torch.arange(KERNEL, dtype=torch.float64) - KERNEL // 2) * SCALE
    line = torch.exp(-4 * math.log(2) * (x / fwhm) ** 2)
    kernel = line[:, None] * line
    return kernel / kernel.sum()


class Systems:
    """Random lenses and Sersic sources; bands differ in flux and PSF."""

    def __init__(self, n: int, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        theta_E, q, phi = rng.uniform(0.7, 2.0, n), rng.uniform(0.5, 0.95, n), rng.uniform(0, np.pi, n)
        x, y = rng.normal(0, 0.1, (2, n))
        gamma, turn = rng.uniform(0, 0.08, n), rng.uniform(0, np.pi, n)
        e, e_source, phi_source = (1 - q) / (1 + q), rng.uniform(0.02, 0.3, n), rng.uniform(0, np.pi, n)
        r, angle = 0.7 * theta_E * np.sqrt(rng.uniform(size=n)), rng.uniform(0, 2 * np.pi, n)
        mass = [theta_E, e * np.cos(2 * phi), e * np.sin(2 * phi), x, y]
        mass += [gamma * np.cos(2 * turn), gamma * np.sin(2 * turn)]
        source = [x + r * np.cos(angle), y + r * np.sin(angle), rng.uniform(0.15, 0.5, n), rng.uniform(0.7, 2.5, n)]
        source += [e_source * np.cos(2 * phi_source), e_source * np.sin(2 * phi_source)]
        self.mass, self.source = (torch.from_numpy(np.stack(part, axis=1)) for part in (mass, source))
        self.flux = torch.from_numpy(rng.uniform(1, 3, (n, 4)))
        self.side = next(s for s in range(PIXELS + KERNEL // 2, 2 * PIXELS) if _smooth(s))
        self.kernels = torch.stack([gaussian_kernel(fwhm) for fwhm in FWHM])

    def observe(self, light: Tensor, flux: Tensor) -> Tensor:
        """Return `light` (m, S, S) with flux and PSF of the bands, (m, C, S, S)."""
        bands, first = flux.shape[1], KERNEL // 2
        transform = torch.fft.rfft2(self.kernels[:bands].to(light.dtype), s=(self.side, self.side))
        spectrum = torch.fft.rfft2(light, s=(self.side, self.side))[:, None]
        seen = torch.fft.irfft2(spectrum * (transform * flux[..., None, None]), s=(self.side, self.side))
        return seen[..., first : first + PIXELS, first : first + PIXELS]

    def ours(self, bands: int, compiled: bool, dtype: torch.dtype = torch.float32, n: int | None = None) -> Tensor:
        """Return the images of the first `n` systems, (n, C, S, S), in batches."""
        images = []
        for mass, source, flux in self._batches(n):
            light = render_source(mass, source, PIXELS, RAYS, SCALE, dtype=dtype, compiled=compiled)
            images.append(self.observe(light, flux[:, :bands].to(dtype)))
        return torch.cat(images)

    def caustics(self, draw: Callable[[Tensor], Tensor], n: int | None = None) -> Tensor:
        """Return the same images in one band, by a function made by `caustics_light`."""
        images = []
        for mass, source, flux in self._batches(n):
            light = draw(_caustics_table(mass, source).float())
            images.append(self.observe(light, flux[:, :1].float()))
        return torch.cat(images)

    def _batches(self, n: int | None) -> list[tuple[Tensor, ...]]:
        n = len(self.mass) if n is None else n
        return list(zip(*(t[:n].split(BATCH) for t in (self.mass, self.source, self.flux)), strict=True))


def _smooth(n: int) -> bool:
    """Return whether `n` has no prime factor but 2, 3 and 5."""
    for prime in (2, 3, 5):
        while n % prime == 0:
            n //= prime
    return n == 1


def _caustics_table(mass: Tensor, source: Tensor) -> Tensor:
    """Return the parameters as caustics wants them: axis ratio and angle, radii along the major axis."""
    shapes = (to_axis_ratio(t[:, k].numpy(), t[:, k + 1].numpy()) for t, k in ((mass, 1), (source, 4)))
    (q, phi), (qs, phis) = (map(torch.from_numpy, shape) for shape in shapes)
    radius, n = source[:, 2], source[:, 3]
    peak = SCALE**2 / sersic_flux(radius, n)
    lens = [mass[:, 3], mass[:, 4], q, phi, mass[:, 0], mass[:, 5], mass[:, 6]]
    return torch.stack([*lens, source[:, 0], source[:, 1], qs, phis, n, radius / qs.sqrt(), peak], dim=1)


def caustics_light() -> Callable[[Tensor], Tensor]:
    """Return caustics' own functions as one that draws a batch, vectorised by vmap and compiled."""
    from caustics.lenses.func import reduced_deflection_angle_external_shear, reduced_deflection_angle_sie
    from caustics.light.func import brightness_sersic, k_lenstronomy

    fine = (torch.arange(PIXELS * RAYS) - (PIXELS * RAYS - 1) / 2) * (SCALE / RAYS)
    py, px = torch.meshgrid(fine, fine, indexing="ij")

    def single(table: Tensor) -> Tensor:
        x, y, q, phi, theta_E, gamma1, gamma2, sx, sy, qs, phis, n, radius, peak = table.unbind()
        ax, ay = reduced_deflection_angle_sie(x, y, q, phi, theta_E, px, py)
        bx, by = reduced_deflection_angle_external_shear(x, y, gamma1, gamma2, px, py)
        light = brightness_sersic(sx, sy, qs, phis, n, radius, peak, px - ax - bx, py - ay - by, k_lenstronomy(n))
        return torch.nn.functional.avg_pool2d(light[None, None], RAYS)[0, 0]

    return torch.compile(torch.vmap(single))


def lenstronomy_images(systems: Systems, n: int) -> Callable[[], np.ndarray]:
    """Return a task that draws the first `n` images in one band with one ImageModel, as its users do."""
    from lenstronomy.Data.imaging_data import ImageData
    from lenstronomy.Data.psf import PSF
    from lenstronomy.ImSim.image_model import ImageModel
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel

    first = -(PIXELS - 1) / 2 * SCALE
    data = ImageData(
        image_data=np.zeros((PIXELS, PIXELS)),
        ra_at_xy_0=first,
        dec_at_xy_0=first,
        transform_pix2angle=SCALE * np.eye(2),
    )
    psf = PSF(psf_type="PIXEL", kernel_point_source=systems.kernels[0].numpy(), kernel_point_source_normalisation=True)
    numerics = {"supersampling_factor": RAYS, "supersampling_convolution": False}
    model = ImageModel(data, psf, LensModel(["SIE", "SHEAR"]), LightModel(["SERSIC_ELLIPSE"]), kwargs_numerics=numerics)
    amplitude = systems.flux[:, 0] / sersic_flux(systems.source[:, 2], systems.source[:, 3])
    rows = []
    for m, s, amp in zip(systems.mass[:n].tolist(), systems.source[:n].tolist(), amplitude[:n].tolist(), strict=True):
        lens = [
            {"theta_E": m[0], "e1": m[1], "e2": m[2], "center_x": m[3], "center_y": m[4]},
            {"gamma1": m[5], "gamma2": m[6], "ra_0": m[3], "dec_0": m[4]},
        ]
        place = {"center_x": s[0], "center_y": s[1]}
        rows.append((lens, [{"amp": amp, "R_sersic": s[2], "n_sersic": s[3], "e1": s[4], "e2": s[5]} | place]))

    def task() -> np.ndarray:
        return np.stack([model.image(lens, source) for lens, source in rows])

    return task


def _tasks(systems: Systems, rivals: Mapping[str, Any]) -> dict[str, Callable[[], int]]:
    tasks: dict[str, Callable[[], int]] = {}
    for threads in (1, 2):
        on = f"{threads} thread{'s' * (threads > 1)}"
        tasks[f"lensscan, eager, {on}"] = on_threads(threads, lambda: len(systems.ours(1, False)))
        tasks[f"lensscan, compiled, {on}"] = on_threads(threads, lambda: len(systems.ours(1, True)))
        tasks[f"lensscan, compiled, griz, {on}"] = on_threads(threads, lambda: len(systems.ours(4, True)))
        if "caustics" in rivals:
            tasks[f"caustics, vmap and compiled, {on}"] = on_threads(
                threads, lambda: len(systems.caustics(rivals["caustics"]))
            )
        if "lenstronomy" in rivals:
            tasks[f"lenstronomy, {on}"] = on_threads(threads, lambda: len(rivals["lenstronomy"]()))
    return tasks


def _goals(report: Report, rates: Mapping[str, Rate]) -> None:
    for on in ("1 thread", "2 threads"):
        best = rates[f"lensscan, compiled, {on}"].median
        for rival, name, goal in (
            ("caustics", "caustics, vmap and compiled", 0.9),
            ("lenstronomy", "lenstronomy", 6.0),
        ):
            if f"{name}, {on}" in rates:
                report.at_least(f"times {name}, {on}", best / rates[f"{name}, {on}"].median, goal)
            else:
                report.add(f"times {name}, {on}", math.nan, "", note=f"{rival} is not installed")
        ratio = rates[f"lensscan, compiled, griz, {on}"].median / best
        report.at_least(f"griz against one band, {on}", ratio, 0.5)


def _agreement(report: Report, systems: Systems, rivals: Mapping[str, Any]) -> None:
    """Say how far every code is from lenstronomy, which counts in float64; from our own float64 without it."""
    announce("how far the codes agree")
    exact = systems.ours(1, False, torch.float64, RIVAL_IMAGES)[:, 0]
    truth, name = exact, "lensscan in float64"
    drawn = {"lensscan, eager": systems.ours(1, False, n=RIVAL_IMAGES)[:, 0]}
    drawn["lensscan, compiled"] = systems.ours(1, True, n=RIVAL_IMAGES)[:, 0]
    if "caustics" in rivals:
        drawn["caustics"] = systems.caustics(rivals["caustics"], RIVAL_IMAGES)[:, 0]
    if "lenstronomy" in rivals:
        truth, name = torch.from_numpy(rivals["lenstronomy"]()), "lenstronomy"
        drawn = {"lensscan, float64": exact} | drawn
    peak = truth.amax(dim=(1, 2), keepdim=True)
    for code, images in drawn.items():
        error = ((images - truth).abs() / peak).amax(dim=(1, 2))
        limit = 1e-7 if code == "lensscan, float64" else 5e-5
        note = f"median {float(error.median()):.1e}, {len(error)} images"
        report.at_most(f"max |difference| / peak to {name}: {code}", float(error.max()), limit, note=note)


def _whole(report: Report, rounds: int) -> None:
    """Measure the whole simulator on one thread, and where its time goes."""
    rates = interleave(
        "the whole simulator", {"simulate": lambda: len(simulate(RECIPE, seed=1, n=STAMPS).images)}, rounds
    )
    report.rate(f"simulate({RECIPE}), all of it, 1 thread", rates["simulate"], "stamps/s")
    announce("where the simulator spends its time")
    profile = cProfile.Profile()
    profile.runcall(simulate, RECIPE, seed=2, n=STAMPS)
    calls = [(entry.code, entry.totaltime) for entry in profile.getstats() if isinstance(entry.code, CodeType)]
    spent = {f"{Path(code.co_filename).name}:{code.co_name}": seconds for code, seconds in calls}
    total = spent["simulate.py:simulate"]
    rest = 100.0
    for part, functions in PARTS.items():
        share = 100 * sum(spent.get(name, 0.0) for name in functions) / total
        rest -= share
        report.add(f"  of it, {part}", share, "%")
    report.add("  of it, everything else", rest, "%")


def bench_simulate(rounds: int = 5) -> Report:
    """Measure the ray tracer beside other codes on the same images, then the whole simulator.

    One band is a lensed Sersic source (SIE with shear) of 64 x 64 pixels with 4 x 4 rays each and a Gaussian PSF of
    21 x 21 pixels; griz are four fluxes and PSFs of it.  All codes get batches of 20, lenstronomy single images.
    """
    allocator = tune_allocator()
    report = Report("simulate")
    systems = Systems(IMAGES)
    rivals: dict[str, Any] = {}
    if importlib.util.find_spec("caustics") is not None:
        rivals["caustics"] = caustics_light()
    if importlib.util.find_spec("lenstronomy") is not None:
        rivals["lenstronomy"] = lenstronomy_images(systems, RIVAL_IMAGES)
    report.add("allocator settings raised", len(allocator), "", note=", ".join(allocator) or "not glibc")
    rates = interleave("ray tracers", _tasks(systems, rivals), rounds)
    for name, rate in rates.items():
        report.rate(name, rate, "images/s")
    if not Fusable.works:
        report.add("compiled", math.nan, "", note="no compiler on this machine: compiled means eager above")
    _goals(report, rates)
    _agreement(report, systems, rivals)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _whole(report, rounds)
    finally:
        torch.set_num_threads(before)
    return report
