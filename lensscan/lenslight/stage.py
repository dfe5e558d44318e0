"""Removal of the lens's light from a batch of stamps: a pure function, to be used before regression or on a stamp."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lensscan.errors import ConfigError
from lensscan.lenslight.isophotes import fit_smooth
from lensscan.lenslight.match import FWHM_TO_SIGMA, MISMATCH, match_bands
from lensscan.lenslight.shape import Shape, adaptive_moments, pixel_grid
from lensscan.lenslight.unmix import separate

__all__ = ["METHODS", "MODULE", "REASONS", "LensLight", "remove_lens_light"]

METHODS = ("auto", "ica", "isophotes")
MODULE = "module"
"""Method of stamps that a trained network took apart: here the arcs are modelled, and the lens is the rest."""
REASONS = {
    "": "done",
    "one_band": "ICA needs two bands",
    "fwhm_unknown": "the PSF's FWHM is not known in every band",
    "psf_mismatch": f"the bands cannot be brought to one PSF within {MISMATCH:.0%}",
    "not_converged": "ICA did not converge",
    "masked": "too many pixels are missing around the lens",
    "no_signal": "no light at the centre",
}
"""Reason codes and what they mean."""
RADIUS = 5.0
CENTRE = 2.0
"""Arcsec within which the lens's centre must lie."""
SIGNAL = 5.0
"""Smallest signal-to-noise ratio of the core in the best band."""
FILLED = 0.5
CHUNK = 1 << 15
"""Pixels of one band worked on at a time: they fit the caches, and bound the memory."""
MAD_TO_SIGMA = 1.4826022


@dataclass(slots=True)
class LensLight:
    """Stamps taken apart; where `ok`, ``lens + arcs`` is the image in every band and pixel that is not missing.

    Arrays are numpy if the images were, else tensors on their device; texts are numpy.

    Attributes
    ----------
    arcs, lens : (n, C, H, W) float32
        nJy per pixel; 0 where missing.  A refused stamp has its own image as `arcs` and no `lens`.
    missing : (n, C, H, W) bool
        Pixels without a value.
    mask_used : (n, H, W) bool
        Pixels left out of the fit: missing, too far out, or (isophotes) taken for arcs.
    fwhm : (n, C) float32
        PSF of `arcs` and `lens`, arcsec: the worst band's after ICA, each band's own after isophotes.
    method : (n,) str
        ``ica``, ``isophotes``, or empty if refused; ``module`` of `lensscan.nets.deblended`.
    ok : (n,) bool
    reason : (n,) str
        Why a stamp was refused, see `REASONS`; empty if not.
    diagnostics : dict
        Arrays (n,) or (n, C), NaN where a method gives none: ``x y e1 e2`` (arcsec, the lens's shape),
        ``mismatch`` (of the PSFs), ``lens_colour arc_colour blind_colour core_flux iterations converged`` of
        ICA, ``sersic_index half_light sersic_flux chi2 sky`` of isophotes.
    denoised : (n, C, H, W) float32, or None
        The image without its noise, from a method that makes one.
    passed_over : (n,) str, or None
        Why ``auto`` could not have ICA, see `REASONS`; empty where it could.
    """

    arcs: Any
    lens: Any
    missing: Any
    mask_used: Any
    fwhm: Any
    method: NDArray[np.str_]
    ok: Any
    reason: NDArray[np.str_]
    diagnostics: dict[str, Any] = field(default_factory=dict)
    denoised: Any = None
    passed_over: NDArray[np.str_] | None = None


def remove_lens_light(
    images: ArrayLike | Tensor,
    *,
    pixel_scale: float,
    fwhm: ArrayLike | Tensor,
    sigma: ArrayLike | Tensor | None = None,
    mask: ArrayLike | Tensor | None = None,
    method: str = "auto",
    radius: float = RADIUS,
    target: float | None = None,
) -> LensLight:
    """Split stamps into the light of the lens and the rest, above all the arcs.

    Each stamp is treated by itself: its result does not depend on the others, and nothing is random.

    Parameters
    ----------
    images : array or Tensor, shape (n, C, H, W)
        nJy per pixel, sky-subtracted, the lens within 2 arcsec of the centre; NaN = missing.
    pixel_scale : float
        Arcsec.
    fwhm : float or array, broadcast to (n, C)
        PSF, arcsec; NaN unknown.
    sigma : float or array, broadcast to (n, C), optional
        Noise per pixel, nJy; NaN or not given: measured on the stamp's border.
    mask : bool array, shape (n, C, H, W), optional
        True = missing.  A band without a valid pixel does not exist.
    method : str
        ``ica`` separates two or more bands by colour; ``isophotes`` models each band as a smooth galaxy;
        ``auto`` takes ICA where it can be had, else isophotes.
    radius : float
        Arcsec within which the lens is fitted or colours are measured; at most half the stamp counts.
    target : float, optional
        FWHM to which ICA's bands are brought, arcsec; default each stamp's worst.

    Raises
    ------
    ConfigError
        For arrays that do not fit, an unknown method, or a pixel scale or radius that is not positive.
    """
    stamps = _Stamps.read(images, pixel_scale, fwhm, sigma, mask)
    if method not in METHODS:
        raise ConfigError(f"lens light: method {method!r} is none of {', '.join(METHODS)}")
    if not (pixel_scale > 0 and radius > 0 and (target is None or target > 0)):
        raise ConfigError("lens light: pixel_scale, radius and target must be positive (arcsec)")
    result = _empty(stamps)
    n, bands, height, width = stamps.images.shape
    step = max(1, CHUNK // (height * width))
    with torch.no_grad():
        for low in range(0, n, step):
            rows = torch.arange(low, min(low + step, n), device=stamps.images.device)
            codes = (stamps.present[rows].long() << torch.arange(bands, device=rows.device)).sum(dim=1)
            for code in codes.unique().tolist():
                chosen = [band for band in range(bands) if code >> band & 1]
                _split(stamps.take(rows[codes == code], chosen), result, method, radius, target)
    return _as_given(result, isinstance(images, Tensor))


@dataclass(slots=True)
class _Stamps:
    """Stamps of some rows and bands in float64, missing pixels 0."""

    images: Tensor
    missing: Tensor
    present: Tensor
    fwhm: Tensor
    sigma: Tensor
    pixel_scale: float
    rows: Tensor
    bands: list[int]

    @classmethod
    def read(cls, images: Any, pixel_scale: float, fwhm: Any, sigma: Any, mask: Any) -> _Stamps:
        pixels = torch.as_tensor(images)
        device = pixels.device
        if pixels.ndim != 4 or min(pixels.shape[1:]) < 1:
            raise ConfigError(
                f"lens light: images must have the shape (n, band, height, width), not {tuple(pixels.shape)}"
            )
        if min(pixels.shape[2:]) < 16:
            raise ConfigError("lens light: stamps must be at least 16 pixels wide and high")
        pixels = pixels.to(torch.float64)
        missing = ~pixels.isfinite()
        if mask is not None:
            given = torch.as_tensor(mask, device=device).bool()
            if given.shape != pixels.shape:
                raise ConfigError(
                    f"lens light: mask {tuple(given.shape)} and images {tuple(pixels.shape)} differ in shape"
                )
            missing = missing | given
        pixels = pixels.masked_fill(missing, 0.0)
        shape = pixels.shape[:2]
        try:
            widths = torch.as_tensor(fwhm, dtype=torch.float64, device=device).broadcast_to(shape)
            stated = torch.as_tensor(math.nan if sigma is None else sigma, dtype=torch.float64, device=device)
            stated = stated.broadcast_to(shape)
        except RuntimeError:
            raise ConfigError(f"lens light: fwhm and sigma must fit the shape (n, band) = {tuple(shape)}") from None
        widths = torch.where(widths > 0, widths, torch.full_like(widths, math.nan))
        noise = torch.where(stated > 0, stated, border_noise(pixels, missing))
        rows = torch.arange(len(pixels), device=device)
        present = ~missing.flatten(2).all(dim=2) & (noise > 0)
        return cls(pixels, missing, present, widths, noise, pixel_scale, rows, list(range(shape[1])))

    def take(self, rows: Tensor, bands: list[int]) -> _Stamps:
        """Return some rows and bands, counted in this object."""
        return _Stamps(
            self.images[rows][:, bands],
            self.missing[rows][:, bands],
            self.present[rows][:, bands],
            self.fwhm[rows][:, bands],
            self.sigma[rows][:, bands],
            self.pixel_scale,
            self.rows[rows],
            [self.bands[band] for band in bands],
        )


def border_noise(images: Tensor, missing: Tensor) -> Tensor:
    """Return the noise per pixel (n, C) from the clipped MAD of the border (1/12 of the side); NaN without pixels."""
    width = max(2, images.shape[-1] // 12)
    inner = torch.zeros(images.shape[-2:], dtype=torch.bool, device=images.device)
    inner[width:-width, width:-width] = True
    values = images.masked_fill(missing, math.nan)[..., ~inner]
    centre = values.nanmedian(dim=-1, keepdim=True).values
    deviation = (values - centre).abs()
    spread = deviation.nanmedian(dim=-1, keepdim=True).values
    kept = deviation.masked_fill(deviation > 3 * MAD_TO_SIGMA * spread, math.nan)
    return MAD_TO_SIGMA * kept.nanmedian(dim=-1).values


def _empty(stamps: _Stamps) -> LensLight:
    """Return the result of having refused everything."""
    n, bands = stamps.fwhm.shape
    numbers = ("x", "y", "e1", "e2", "core_flux", "iterations", "converged")
    colours = ("mismatch", "lens_colour", "arc_colour", "blind_colour")
    per_band = (*colours, "sersic_index", "half_light", "sersic_flux", "chi2", "sky")
    nothing = torch.full((n, bands), math.nan, dtype=torch.float64, device=stamps.images.device)
    return LensLight(
        arcs=stamps.images.float(),
        lens=torch.zeros_like(stamps.images, dtype=torch.float32),
        missing=stamps.missing.clone(),
        mask_used=torch.ones_like(stamps.missing[:, 0]),
        fwhm=stamps.fwhm.float(),
        method=np.full(n, "", dtype="<U9"),
        ok=torch.zeros(n, dtype=torch.bool, device=stamps.images.device),
        reason=np.full(n, "no_signal", dtype="<U13"),
        diagnostics={name: nothing[:, 0].clone() for name in numbers} | {name: nothing.clone() for name in per_band},
        passed_over=np.full(n, "", dtype="<U13"),
    )


def _split(stamps: _Stamps, result: LensLight, method: str, radius: float, target: float | None) -> None:
    """Take stamps with the same bands apart: by ICA first, what it refuses by isophotes if the method is auto."""
    left = torch.arange(len(stamps.rows), device=stamps.rows.device)
    if not stamps.bands:
        return
    if method != "isophotes":
        reason = _by_colour(stamps, result, radius, target)
        _note(result, stamps.rows, reason, "ica")
        if result.passed_over is not None:
            result.passed_over[stamps.rows.cpu().numpy()] = reason
        left = left[torch.from_numpy(reason != "").to(left.device)]
    if method != "ica" and len(left):
        rest = stamps.take(left, list(range(len(stamps.bands))))
        _note(result, rest.rows, _by_shape(rest, result, radius), "isophotes")


def _note(result: LensLight, rows: Tensor, reason: NDArray[np.str_], method: str) -> None:
    index = rows.cpu().numpy()
    result.reason[index] = reason
    result.method[index] = np.where(reason == "", method, "")
    result.ok[rows] = torch.from_numpy(reason == "").to(rows.device)


def _survey(
    images: Tensor, noise: Tensor, valid: Tensor, fwhm: Tensor, pixel_scale: float, radius: float
) -> tuple[Shape, Tensor, NDArray[np.str_]]:
    """Return the lens's shape, the radius that fits the stamp, and whether there is anything to be measured."""
    height, width = images.shape[-2:]
    px, py = pixel_grid(height, width, pixel_scale, images)
    reach = torch.full_like(fwhm, min(radius, 0.5 * min(height, width) * pixel_scale))
    near = (torch.hypot(px, py) < (0.5 * fwhm.clamp_min(2 * pixel_scale))[:, None, None]) * valid
    core = (images * near[:, None]).sum(dim=(2, 3))
    error = noise * near.sum(dim=(1, 2)).clamp_min(1).sqrt()[:, None]
    weight = (core / noise.square()).clamp_min(0)
    stack = (images * weight[..., None, None]).sum(dim=1)
    shape = adaptive_moments(
        stack, valid, pixel_scale, FWHM_TO_SIGMA * fwhm.clamp_min(pixel_scale), reach.clamp_max(CENTRE)
    )
    distance = shape.distance(px, py)
    reason = np.full(len(images), "", dtype="<U13")
    reason[((core / error).amax(dim=1) < SIGNAL).cpu().numpy()] = "no_signal"
    for extent in (reach, 0.5 * fwhm.clamp_min(2 * pixel_scale)):
        inside = (distance < extent[:, None, None]).double()
        filled = (inside * valid).sum(dim=(1, 2)) / inside.sum(dim=(1, 2)).clamp_min(1)
        reason[(filled < FILLED).cpu().numpy()] = "masked"
    return shape, reach, reason


def _psf_widths(stamps: _Stamps) -> tuple[Tensor, Tensor, NDArray[np.str_]]:
    """Return which stamps have a known PSF in every band (n,), the FWHM to work with (n, C), and the reasons (n,).

    A stamp of unknown PSF is carried along as if its bands were alike; its result is not used.
    """
    known = stamps.fwhm.isfinite().all(dim=1)
    widths = torch.where(known[:, None], stamps.fwhm, torch.full_like(stamps.fwhm, 4 * stamps.pixel_scale))
    return known, widths, np.where(known.cpu().numpy(), "", "fwhm_unknown").astype("<U13")


def _by_colour(stamps: _Stamps, result: LensLight, radius: float, target: float | None) -> NDArray[np.str_]:
    """Separate by ICA, write what succeeded into `result`, return the reasons (n,)."""
    n, device = len(stamps.rows), stamps.images.device
    if len(stamps.bands) < 2:
        return np.full(n, "one_band", dtype="<U13")
    known, widths, reason = _psf_widths(stamps)
    aim = None if target is None else torch.full((n,), float(target), dtype=torch.float64, device=device)
    matched = match_bands(stamps.images, stamps.missing, widths, stamps.pixel_scale, aim)
    reason[(reason == "") & (matched.mismatch.amax(dim=1) > MISMATCH).cpu().numpy()] = "psf_mismatch"
    valid = (~matched.mask.any(dim=1)).double()
    noise = stamps.sigma * matched.noise
    shape, reach, trouble = _survey(matched.images, noise, valid, matched.fwhm, stamps.pixel_scale, radius)
    reason = np.where(reason == "", trouble, reason)
    parts = separate(matched.images, noise, valid, shape, matched.fwhm, stamps.pixel_scale, reach)
    reason[(reason == "") & ~parts.converged.cpu().numpy()] = "not_converged"

    px, py = pixel_grid(valid.shape[1], valid.shape[2], stamps.pixel_scale, valid)
    lens = parts.lens * valid[:, None]
    arcs = (matched.images - parts.lens) * valid[:, None]
    used = (shape.distance(px, py) < reach[:, None, None]) & (valid > 0)
    good = torch.from_numpy(reason == "").to(device)
    rows = stamps.rows[good]
    fwhm = matched.fwhm[:, None].expand(-1, len(stamps.bands))
    _write(result, rows, stamps.bands, lens[good], arcs[good], valid[good] == 0, ~used[good], fwhm[good])
    notes = {"core_flux": parts.lens_flux, "iterations": parts.iterations, "converged": parts.converged}
    notes |= {"lens_colour": parts.lens_colour, "arc_colour": parts.arc_colour, "blind_colour": parts.blind_colour}
    _describe(result, rows, stamps.bands, good, notes | _outline(shape))
    mismatch = {"mismatch": torch.where(known[:, None], matched.mismatch, math.nan)}
    _describe(result, stamps.rows, stamps.bands, torch.ones_like(good), mismatch)
    return reason


def _by_shape(stamps: _Stamps, result: LensLight, radius: float) -> NDArray[np.str_]:
    """Fit smooth galaxies, write what succeeded into `result`, return the reasons (n,)."""
    bands = stamps.fwhm.shape[1]
    _, widths, reason = _psf_widths(stamps)
    valid = (~stamps.missing).double()
    shape, reach, trouble = _survey(
        stamps.images, stamps.sigma, valid.amin(dim=1), widths.amax(dim=1), stamps.pixel_scale, radius
    )
    reason = np.where(reason == "", trouble, reason)
    good = torch.from_numpy(reason == "").to(stamps.rows.device)
    if not bool(good.any()):
        return reason
    some = stamps.take(torch.nonzero(good)[:, 0], list(range(bands)))
    shape = Shape(*(v[good] for v in (shape.x, shape.y, shape.e1, shape.e2, shape.width)))
    model = fit_smooth(some.images, some.sigma, valid[good], shape, some.fwhm, some.pixel_scale, reach[good])
    px, py = pixel_grid(valid.shape[2], valid.shape[3], some.pixel_scale, valid)
    far = shape.distance(px, py) >= reach[good][:, None, None]
    left_out = far | model.arcs | some.missing.any(dim=1)
    arcs = (some.images - model.lens).masked_fill(some.missing, 0.0)
    lens = model.lens.masked_fill(some.missing, 0.0)
    _write(result, some.rows, some.bands, lens, arcs, None, left_out, some.fwhm)
    fit = model.fit
    notes = {"sersic_index": fit.n, "half_light": fit.shape.width, "sersic_flux": fit.flux, "chi2": fit.chi2}
    notes = {name: value.view(-1, bands) for name, value in notes.items()} | {"sky": model.sky}
    _describe(result, some.rows, some.bands, torch.ones_like(good[good]), notes | _outline(shape))
    return reason


def _outline(shape: Shape) -> dict[str, Tensor]:
    return {"x": shape.x, "y": shape.y, "e1": shape.e1, "e2": shape.e2}


def _write(
    result: LensLight,
    rows: Tensor,
    bands: list[int],
    lens: Tensor,
    arcs: Tensor,
    missing: Tensor | None,
    left_out: Tensor,
    fwhm: Tensor,
) -> None:
    place = rows[:, None], torch.tensor(bands, device=rows.device)[None]
    result.lens[place] = lens.float()
    result.arcs[place] = arcs.float()
    if missing is not None:
        result.missing[place] = missing[:, None].expand(-1, len(bands), -1, -1)
    result.mask_used[rows] = left_out
    result.fwhm[place] = fwhm.float()


def _describe(result: LensLight, rows: Tensor, bands: list[int], good: Tensor, notes: dict[str, Tensor]) -> None:
    for name, value in notes.items():
        column = result.diagnostics[name]
        if value.ndim == 1:
            column[rows] = value[good].double()
        else:
            column[rows[:, None], torch.tensor(bands, device=rows.device)[None]] = value[good].double()


def _as_given(result: LensLight, tensors: bool) -> LensLight:
    """Turn tensors into numpy arrays if the images were no tensor."""
    if tensors:
        return result
    for name in ("arcs", "lens", "missing", "mask_used", "fwhm", "ok"):
        setattr(result, name, getattr(result, name).numpy())
    result.diagnostics = {name: value.numpy() for name, value in result.diagnostics.items()}
    return result
