"""Real survey stamps to paint on: measured, turned into their eight views, and painted with simulated arcs.

The stamps keep their own PSF, noise, neighbours and faults; the same stamp unpainted is the negative.  All of
them are held in memory (`canvas`).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensscan.config import load_survey
from lensscan.errors import ConfigError
from lensscan.mocks.canvas import Canvas, read_canvas
from lensscan.mocks.lookalikes import Lookalikes
from lensscan.mocks.population import COLOURS
from lensscan.mocks.priors import pixel_normals
from lensscan.mocks.recipes import Recipe
from lensscan.mocks.shapes import KRON_MISSES, Central, measure_central
from lensscan.mocks.tables import CanvasPrior
from lensscan.survey.catalog import open_catalog
from lensscan.survey.noise import estimate_sigma
from lensscan.survey.zeropoint import NJY_ZERO_POINT

__all__ = ["N_VIEWS", "RealSky", "load_real_sky", "paint_on", "real_sky", "takes_real", "turn_spin2", "turn_vector"]

Array = NDArray[np.float64]
Views = NDArray[np.integer]
N_VIEWS = 8
MEASURED = 128  # stamps at a time
KEPT = 2  # real skies held at once: training and test
NO_GALAXY = "no_central_galaxy"
NO_NOISE = "noise_unknown"
NO_SEEING = "seeing_unknown"
_KNOWN: dict[tuple[Any, ...], RealSky] = {}
_LOCK = threading.Lock()


def turn_vector(x: Array, y: Array, view: Views) -> tuple[Array, Array]:
    """Return positions as they are in the views: view = 4 flip + k is k turns by +90 degrees after a flip of x."""
    x = np.where(view >= 4, -x, x)
    for turn in (1, 2, 3):
        again = view % 4 >= turn
        x, y = np.where(again, -y, x), np.where(again, x, y)
    return x, y


def turn_spin2(e1: Array, e2: Array, view: Views) -> tuple[Array, Array]:
    """Return ellipticity or shear as it is in the views: a flip changes the sign of e2, a quarter turn both."""
    e2 = np.where(view >= 4, -e2, e2)
    sign = np.where(view % 2 == 1, -1.0, 1.0)
    return sign * e1, sign * e2


@dataclass(frozen=True, slots=True, eq=False)
class RealSky:
    """Real stamps and their central galaxies; N stamps, C bands of the recipe, S pixels a side.

    Attributes
    ----------
    images : ndarray, shape (N, C, S, S), float32
        nJy per pixel, as observed; zero where missing or absent.
    missing : ndarray of bool, same shape, or None
        Pixels without data; None if there are none.
    present : ndarray of bool, shape (N, C)
    sigma, fwhm : ndarray, shape (N, C)
        Noise per pixel (nJy; from planes, else `estimate_sigma`) and seeing (arcsec; header or survey file);
        NaN in absent bands.
    x, y : ndarray, shape (N,)
        Measured centre of the galaxy, arcsec from the stamp's.
    mags : ndarray, shape (N, C)
        Of the catalog, else measured; NaN where neither gives one.
    mag_i : ndarray, shape (N,)
    colours : ndarray, shape (N, 3)
        g-r, r-i, i-z; NaN where a band is unknown.
    radius, e1, e2 : ndarray, shape (N,)
        Half-light radius (arcsec) and ellipticity, both corrected for the PSF.
    z, sigma_v : ndarray, shape (N,)
        From the catalog, NaN where unknown; see `guess`.
    ids : ndarray of str, shape (N,)
    left_out : mapping
        Number of stamps that could not be used, by reason.
    fingerprint : str
        Hash of ids and pixels.
    """

    images: NDArray[np.float32]
    missing: NDArray[np.bool_] | None
    present: NDArray[np.bool_]
    sigma: Array
    fwhm: Array
    x: Array
    y: Array
    mags: Array
    mag_i: Array
    colours: Array
    radius: Array
    e1: Array
    e2: Array
    z: Array
    sigma_v: Array
    ids: NDArray[np.str_]
    left_out: Mapping[str, int]
    fingerprint: str
    lookalikes: Lookalikes

    def __len__(self) -> int:
        return len(self.ids)

    def pick(self, u: Array) -> NDArray[np.int64]:
        """Return stamp numbers of uniform draws in [0, 1)."""
        return np.minimum((np.asarray(u) * len(self)).astype(np.int64), len(self) - 1)

    def guess(self, number: NDArray[np.int64], u: Array) -> tuple[Array, Array]:
        """Return redshift and velocity dispersion (km/s), shape (m,): known, else drawn with `u` from lookalikes."""
        return self.lookalikes.guess(number, u)

    def view(self, number: NDArray[np.int64], view: Views) -> dict[str, Array]:
        """Return what is known of the stamps `number` (m,) under the views (m,), 0 to 7, by attribute name."""
        names = ("present", "sigma", "fwhm", "mags", "mag_i", "colours", "radius", "z", "sigma_v")
        known = {name: getattr(self, name)[number] for name in names}
        known["x"], known["y"] = turn_vector(self.x[number], self.y[number], view)
        known["e1"], known["e2"] = turn_spin2(self.e1[number], self.e2[number], view)
        return known

    def stamps(
        self, number: NDArray[np.int64], view: Views, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor | None]:
        """Return images (m, C, S, S), float32, and missing pixels (bool) or None, under the views (m,)."""
        images = _turned(self.images, number, view, device)
        return images, None if self.missing is None else _turned(self.missing, number, view, device)


def _turned(pixels: NDArray[Any], number: NDArray[np.int64], view: Views, device: torch.device | str) -> Tensor:
    taken = torch.from_numpy(pixels[number]).to(device)
    for each in range(1, N_VIEWS):
        rows = torch.from_numpy(np.flatnonzero(np.asarray(view) == each)).to(device)
        if len(rows):
            part = taken[rows].flip(-1) if each >= 4 else taken[rows]
            taken[rows] = torch.rot90(part, each % 4, (-1, -2))
    return taken


def paint_on(
    stamps: Tensor,
    arcs: Tensor,
    poisson: Tensor,
    keys: Tensor,
    present: Tensor,
    missing: Tensor | None = None,
    noise: bool = True,
) -> Tensor:
    """Return real stamps with arcs added, and the photon noise of the arcs alone: the rest has its noise already.

    Parameters
    ----------
    stamps, arcs : Tensor, shape (n, C, S, S), float32
        nJy per pixel; the arcs without noise, as the stamp's PSF shows them.
    poisson : Tensor, shape (C,)
        nJy per detected electron, as in a recipe's bands; 0 = no photon noise.
    keys : Tensor, shape (n,), int64
        Of `lensscan.mocks.priors.row_keys`; a row's noise depends on its key alone.
    present : Tensor of bool, shape (n, C)
        Absent bands stay as they are.
    missing : Tensor of bool, shape (n, C, S, S), optional
        Missing pixels stay as they are.
    noise : bool
        False leaves out the photon noise.
    """
    added = arcs
    if noise:
        normals = pixel_normals(keys, arcs[0].numel()).view(arcs.shape) if len(arcs) else arcs
        added = arcs + normals * torch.sqrt(poisson[:, None, None] * arcs.clamp_min(0))
    seen = present[:, :, None, None]
    if missing is not None:
        seen = seen & ~missing
    return stamps + added * seen


def load_real_sky(canvas: CanvasPrior, recipe: Recipe) -> RealSky:
    """Read and measure the stamps of a canvas in the recipe's bands, size and pixel scale; kept for the next call.

    Raises
    ------
    ConfigError, CatalogError
        If catalog, survey or stamps cannot be used, none is usable, or they do not fit into memory.
    """
    recipe = recipe if canvas == recipe.canvas else replace(recipe, canvas=canvas)
    state = open_catalog(canvas.catalog, load_survey(canvas.survey)).fingerprint()
    key = (recipe.digest, tuple(state))
    with _LOCK:
        if key not in _KNOWN:
            while len(_KNOWN) >= KEPT:
                del _KNOWN[next(iter(_KNOWN))]
            _KNOWN[key] = _load(recipe)
        return _KNOWN[key]


def takes_real(recipe: Recipe) -> bool:
    """Whether a class of the recipe needs real stamps."""
    return any(recipe.classes.get(name, 0) > 0 for name in ("painted", "real"))


def real_sky(recipe: Recipe) -> RealSky:
    """Return the real stamps of a recipe.

    Raises
    ------
    ConfigError
        If the recipe names none, or they cannot be used.
    """
    canvas = recipe.canvas
    if not (canvas.catalog and canvas.survey and canvas.stamps):
        raise ConfigError(
            f"{recipe.name}: classes painted and real need real stamps; "
            "give canvas.catalog, canvas.survey and canvas.stamps (--set, or in the recipe)"
        )
    return load_real_sky(canvas, recipe)


def _load(recipe: Recipe) -> RealSky:
    read = read_canvas(recipe)
    read.sigma = _noise(read)
    central = _measure(read, recipe.pixel_scale)
    # A stamp smaller than the frame has a border of padding; arcs can neither be judged without noise nor blurred
    # without a PSF.
    good = np.ones(len(read.ids), np.bool_)
    lost: dict[str, int] = {}
    for reason, bad in (
        (NO_NOISE, (read.present & ~np.isfinite(read.sigma)).any(axis=1)),
        (NO_SEEING, (read.present & ~np.isfinite(read.fwhm)).any(axis=1)),
        (NO_GALAXY, ~central.found),
    ):
        lost[reason] = int((good & bad).sum())
        good &= ~bad
    left_out = dict(read.failed) | {reason: count for reason, count in lost.items() if count}
    if not good.any():
        reasons = ", ".join(f"{reason} {count}" for reason, count in left_out.items())
        what = "state bands.<name>.fwhm in the survey file" if lost[NO_SEEING] else "check them"
        raise ConfigError(f"canvas.stamps: no usable stamp in {recipe.canvas.stamps} ({reasons}); {what}")
    mags, offset = _magnitudes(read, central.flux, recipe.bands)
    total = (mags - offset[:, None] - KRON_MISSES)[good]
    mags, read, central = mags[good], read.take(good), central.take(good)
    known = read.mags | dict(zip(recipe.bands, mags.T, strict=True))
    nothing = np.full(len(read.ids), np.nan)
    pairs = [name.split("-") for name in COLOURS]
    colours = np.stack([known.get(a, nothing) - known.get(b, nothing) for a, b in pairs], axis=1)
    digest = hashlib.sha256("\n".join(read.ids).encode())
    digest.update(read.images.data)
    return RealSky(
        images=read.images,
        missing=read.missing,
        present=read.present,
        sigma=read.sigma,
        fwhm=np.where(read.present, read.fwhm, np.nan),
        x=central.x,
        y=central.y,
        mags=mags,
        mag_i=known.get("i", nothing),
        colours=colours,
        radius=central.radius,
        e1=central.e1,
        e2=central.e2,
        z=read.z,
        sigma_v=read.sigma_v,
        ids=read.ids,
        left_out=left_out,
        fingerprint=digest.hexdigest(),
        lookalikes=Lookalikes(recipe, total, read.z, read.sigma_v),
    )


def _magnitudes(read: Canvas, flux: Array, bands: tuple[str, ...]) -> tuple[Array, Array]:
    """Return magnitudes (N, C), and how much fainter they are than those measured (N,).

    They are the catalog's; where it has none those measured, brought to its apertures.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        measured = np.where(read.present & (flux > 0), NJY_ZERO_POINT - 2.5 * np.log10(flux), np.nan)
    nothing = np.full(len(read.ids), np.nan)
    listed = np.stack([read.mags.get(band, nothing) for band in bands], axis=1)
    both = np.isfinite(listed) & np.isfinite(measured)
    offset = np.where(both, listed - measured, 0.0).sum(axis=1) / np.maximum(both.sum(axis=1), 1)
    return np.where(np.isfinite(listed), listed, measured + offset[:, None]), offset


def _noise(read: Canvas) -> Array:
    """Return the noise that planes state, else the border's, as the networks do."""
    found = []
    for start in range(0, len(read.ids), MEASURED):
        rows = slice(start, start + MEASURED)
        mask = None if read.missing is None else torch.from_numpy(read.missing[rows])
        border = estimate_sigma(torch.from_numpy(read.images[rows]), mask).numpy().astype(np.float64)
        sigma = np.where(np.isfinite(read.sigma[rows]), read.sigma[rows], border)
        found.append(np.where(read.present[rows] & (sigma > 0), sigma, np.nan))
    return np.concatenate(found)


def _measure(read: Canvas, pixel_scale: float) -> Central:
    parts = []
    for start in range(0, len(read.ids), MEASURED):
        rows = slice(start, start + MEASURED)
        missing = None if read.missing is None else read.missing[rows]
        parts.append(
            measure_central(
                read.images[rows],
                missing,
                read.sigma[rows],
                read.fwhm[rows],
                read.x[rows],
                read.y[rows],
                pixel_scale,
            )
        )
    return Central.joined(parts)
