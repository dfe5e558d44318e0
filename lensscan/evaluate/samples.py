"""Samples of stamps held in memory.

For the realism gate mocks, real stamps in their eight views, and mocks as bright as those; for classical baselines
mocks with clear labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lensscan.errors import ConfigError
from lensscan.mocks.labels import ambiguous
from lensscan.mocks.realsky import N_VIEWS, RealSky
from lensscan.mocks.recipes import CLASSES, Recipe
from lensscan.mocks.simulate import simulate
from lensscan.mocks.systems import draw_systems
from lensscan.nets.baseline import fill_missing
from lensscan.survey.noise import estimate_sigma

__all__ = [
    "LIKE_REAL",
    "Sample",
    "appearance",
    "draw_labelled",
    "draw_sample",
    "galaxy_light",
    "labelled_stamps",
    "match_brightness",
    "real_sample",
]

LIKE_REAL = "elliptical"
"""Class of the mocks that are set against real stamps: massive galaxies without a source."""
CHUNK = 256
BEYOND = 1 << 40
"""Galaxies of labelled mocks without a real stamp have numbers from here on."""
LABELLED = 512
"""Mocks drawn at once where those below the label rule are left out."""
Labelled = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]
"""Stamps (n, C, S, S) in nJy, which are lenses (n,), and the number of their galaxy (n,), see `Sample`."""
APERTURE = 2.0
AB_NJY = 31.4


@dataclass(frozen=True, slots=True)
class Sample:
    """Stamps held in memory.

    Attributes
    ----------
    images : (n, C, S, S) float32 array
        nJy; zero where missing.
    missing : bool array of the same shape, or None
    present : (n, C) bool array
    fwhm : (n, C) array
        Arcsec, NaN where unknown.
    truth : dict of (n,) arrays
        See `lensscan.mocks.simulate.Mocks`; empty for real stamps.
    galaxy : (n,) int array
        Rows of one galaxy share a number: real stamps their own, mocks beyond all of those.
    """

    images: NDArray[np.float32]
    missing: NDArray[np.bool_] | None
    present: NDArray[np.bool_]
    fwhm: NDArray[np.floating]
    truth: dict[str, NDArray[Any]]
    galaxy: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, chosen: NDArray[Any]) -> Sample:
        """Return some rows."""
        return Sample(
            self.images[chosen],
            None if self.missing is None else self.missing[chosen],
            self.present[chosen],
            self.fwhm[chosen],
            {key: value[chosen] for key, value in self.truth.items()},
            self.galaxy[chosen],
        )

    def holed(self) -> NDArray[np.float32]:
        """Return the images with NaN in missing pixels."""
        return self.images if self.missing is None else np.where(self.missing, np.float32(np.nan), self.images)

    def magnitude(
        self, band: int, pixel_scale: float, inner: float = 0.0, outer: float = APERTURE
    ) -> NDArray[np.float64]:
        """Return AB magnitudes (n,) between two radii (arcsec) about the centre; fluxes below 1 nJy count as 1."""
        axis = (np.arange(self.images.shape[-1]) - (self.images.shape[-1] - 1) / 2) * pixel_scale
        radius = np.hypot(axis[:, None], axis[None, :])
        flux = self.images[:, band, (radius >= inner) & (radius <= outer)].sum(axis=1, dtype=np.float64)
        return np.asarray(AB_NJY - 2.5 * np.log10(np.maximum(flux, 1.0)))


def draw_sample(
    recipe: Recipe,
    n: int,
    seed: int,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    start: int = 0,
    first: int = 0,
) -> Sample:
    """Simulate the rows [start, start + n); mocks on real stamps have the stamp's galaxy, others `first` + row."""
    parts = []
    progress(0, n)
    for low in range(0, n, CHUNK):
        parts.append(simulate(recipe, seed=seed, start=start + low, n=min(CHUNK, n - low), device=device))
        progress(min(low + CHUNK, n), n)
    truth = {key: np.concatenate([part.truth[key].numpy() for part in parts]) for key in parts[0].truth}
    images, present, fwhm = (
        np.concatenate([getattr(part, name).cpu().numpy() for part in parts]) for name in ("images", "present", "fwhm")
    )
    missing = None
    if parts[0].missing is not None:
        missing = np.concatenate([part.missing.cpu().numpy() for part in parts if part.missing is not None])
    stamp = truth.get("stamp", np.full(n, -1)).astype(np.int64)
    galaxy = np.where(stamp >= 0, stamp, first + start + np.arange(n))
    return Sample(images, missing, present, np.where(fwhm > 0, fwhm, np.nan), truth, galaxy)


def labelled_stamps(
    recipe: Recipe,
    n: int,
    seed: int,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Labelled]:
    """Yield, some at a time, the first n stamps of a seed that are lenses or clearly none, and what they are.

    Lensed systems below the label rule are left out and drawn again; missing pixels are filled.

    Raises
    ------
    ConfigError
        If most mocks lie below the label rule, or, after the last stamps, if all were of one kind.
    """
    start = done = lenses = 0
    progress(0, n)
    while done < n:
        if start >= 4 * n + LABELLED:
            raise ConfigError(f"recipe {recipe.name}: most of its mocks lie below its label rule; change it")
        drawn = draw_sample(recipe, LABELLED, seed, device, start=start, first=BEYOND)
        start += LABELLED
        sample = drawn.rows(np.flatnonzero(~ambiguous(drawn.truth))[: n - done])
        images = sample.images if sample.missing is None else fill_missing(sample.holed()).astype(np.float32)
        yield images, sample.truth["is_lens"], sample.galaxy
        done += len(sample)
        lenses += int(sample.truth["is_lens"].sum())
        progress(done, n)
    if lenses in (0, n):
        raise ConfigError(f"recipe {recipe.name}: its mocks are of one kind; it needs lenses and others")


def draw_labelled(
    recipe: Recipe,
    n: int,
    seed: int,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Labelled:
    """Return all of `labelled_stamps`."""
    images, labels, galaxies = zip(*labelled_stamps(recipe, n, seed, device, progress), strict=True)
    return np.concatenate(images), np.concatenate(labels), np.concatenate(galaxies)


def real_sample(sky: RealSky) -> Sample:
    """Return all real stamps, each in its eight views; the first rows are the stamps as they are."""
    number, view = np.tile(np.arange(len(sky)), N_VIEWS), np.repeat(np.arange(N_VIEWS), len(sky))
    images, missing = sky.stamps(number, view)
    return Sample(
        images.numpy(),
        None if missing is None else missing.numpy(),
        sky.present[number].astype(bool),
        sky.fwhm[number].astype(np.float32),
        {},
        number,
    )


def appearance(sample: Sample, recipe: Recipe) -> dict[str, NDArray[np.float64]]:
    """Return what an astronomer would compare first, (n,) each, by name.

    Colours within two arcsec; in every band how much brighter the inner arcsec and how much fainter the ring from two
    to four is than these two arcsec (mag), the noise per pixel (mag), and the sky: median of the border over the noise.
    """
    scale, bands = recipe.pixel_scale, recipe.bands
    whole = [sample.magnitude(k, scale) for k in range(len(bands))]
    found = {f"{a} - {b}": whole[k] - whole[k + 1] for k, (a, b) in enumerate(pairwise(bands))}
    missing = None if sample.missing is None else torch.from_numpy(sample.missing)
    sigma = estimate_sigma(torch.from_numpy(sample.images), missing).numpy().astype(np.float64)
    edge = np.ones(sample.images.shape[-2:], bool)
    edge[4:-4, 4:-4] = False
    for k, band in enumerate(bands):
        found[f"{band}, inner arcsec"] = sample.magnitude(k, scale, 0.0, 1.0) - whole[k]
        found[f"{band}, ring of 2 to 4 arcsec"] = sample.magnitude(k, scale, APERTURE, 2 * APERTURE) - whole[k]
        with np.errstate(divide="ignore", invalid="ignore"):
            found[f"{band}, noise"] = -2.5 * np.log10(sigma[:, k])
            found[f"{band}, sky in sigma"] = np.median(sample.images[:, k, edge], axis=1) / sigma[:, k]
    return found


def match_brightness(
    wanted: NDArray[np.float64], found: NDArray[np.float64], most: int
) -> tuple[NDArray[np.int64], float]:
    """Choose mocks as bright as real galaxies, the same number for each, none twice.

    Parameters
    ----------
    wanted, found : (n,) and (m,) arrays
        Magnitudes of real galaxies and of mocks.
    most : int
        Most mocks for each galaxy; fewer if half of the mocks would not do.

    Returns
    -------
    rows : (k,) int array
        Chosen mocks.
    distance : float
        Median difference in magnitude.
    """
    each = max(1, min(most, len(found) // (2 * len(wanted))))
    free = found.copy()
    rows, distances = [], []
    for _ in range(each):
        for magnitude in wanted:
            nearest = int(np.argmin(np.abs(free - magnitude)))
            if not math.isfinite(free[nearest]):
                break
            rows.append(nearest)
            distances.append(abs(float(free[nearest]) - float(magnitude)))
            free[nearest] = math.inf
    return np.array(rows, np.int64), float(np.median(distances))


def galaxy_light(recipe: Recipe, seed: int, n: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the true light of the mocks' massive galaxies, arcs left out, and which of them are lenses.

    Magnitudes, log of the half-light radius, Sersic index and axis ratio, (k, C + 3), of lenses and of `LIKE_REAL`;
    simulated galaxies only.
    """
    systems = draw_systems(recipe, seed, np.arange(n, dtype=np.int64))
    used = (systems.is_lens | (systems.klass == CLASSES.index(LIKE_REAL))) & (systems.stamp < 0)
    light = {key: systems.light[key][used] for key in ("mags", "radius", "n", "q") if key in systems.light}
    if not light:
        return np.empty((0, 0)), np.empty(0, bool)
    table = np.column_stack([light["mags"], np.log(light["radius"]), light["n"], light["q"]])
    good = np.isfinite(table).all(axis=1)
    return table[good], systems.is_lens[used][good]
