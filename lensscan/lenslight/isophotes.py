"""The lens's light in one band: a Sersic profile, what elliptical annuli add to it, arcs left out in rounds.

The annuli are isophote fitting (Jedrzejewski 1987, MNRAS 226, 747) with the geometry given by the Sersic fit:
on every ellipse the light is a mean and two-fold harmonics of the angle, piecewise linear in asinh(radius), so
that one linear system per stamp does it.  How far they may leave the Sersic profile is limited by a prior, so
that they do not take the light of the arcs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lensscan.lenslight.match import smooth
from lensscan.lenslight.sersic import SersicFit, fit_sersic, sersic_image
from lensscan.lenslight.shape import Shape, pixel_grid

__all__ = ["Annuli", "Smooth", "annuli", "find_arcs", "fit_annuli", "fit_smooth"]

KNOTS = 14
HARMONICS = (2,)
ROUNDS = 3
FIRST_STEPS, LATER_STEPS = 12, 6
CLIPS = 4
CLIP = 3.0
"""Pixels (arcs: groups of them) above the model by more than this many sigma are left out."""
GROWTH = 2
"""Pixels by which groups are enlarged: the faint rim of an unmasked arc would make the galaxy broad."""
MODEL_ERROR = 0.03
"""Relative error of the model that counts as noise."""
CENTRAL, FREE, BENT = 0.3, 0.05, 0.03
"""Prior standard deviations in units of the Sersic light: of the profile within and beyond the PSF, of harmonics."""
PROTECTED = 0.6
"""Pixels within this many FWHM of the centre are never taken for arcs."""
NEIGHBOURS = 1.1
"""Radius of the outermost annulus, in units of that of the fit."""
FIRST_INDEX = 3.5
SKY = 0.1
"""Prior error of the sky that is left in a stamp, sigma per pixel."""
ASYMMETRY = 0.1
"""Relative asymmetry that a galaxy may have about its centre."""


@dataclass(slots=True)
class Annuli:
    """Functions on elliptical annuli.

    Attributes
    ----------
    basis : Tensor, shape (n, M, P)
    radius : Tensor, shape (n, M)
        Where each function peaks, arcsec.
    harmonic : Tensor of bool, shape (M,)
        Depends on the angle.
    """

    basis: Tensor
    radius: Tensor
    harmonic: Tensor


@dataclass(slots=True)
class Smooth:
    """A smooth model of the lens.

    Attributes
    ----------
    lens : Tensor, shape (n, C, H, W)
        nJy per pixel, without the sky.
    sky : Tensor, shape (n, C)
        nJy per pixel, as fitted; it stays in the image.
    arcs : Tensor of bool, shape (n, H, W)
        Pixels taken for arcs or neighbours and left out.
    fit : SersicFit
        Of all bands, (n * C,).
    """

    lens: Tensor
    sky: Tensor
    arcs: Tensor
    fit: SersicFit


def annuli(shape: Shape, height: int, width: int, pixel_scale: float, step: Tensor, reach: Tensor) -> Annuli:
    """Return hat functions in asinh(r / step) out to `reach` (arcsec, (n,)), times 1, cos 2t and sin 2t."""
    px, py = pixel_grid(height, width, pixel_scale, step)
    radius = shape.radius(px, py).flatten(1)
    rate = torch.asinh(reach / step)[:, None] / (KNOTS - 1)
    knots = torch.arange(KNOTS, dtype=radius.dtype, device=radius.device)
    hats = (1 - ((torch.asinh(radius / step[:, None]) / rate)[:, None] - knots[:, None]).abs()).clamp_min(0)
    angle = shape.angle(px, py).flatten(1)
    waves = [torch.ones_like(angle)]
    for m in HARMONICS:
        waves += [torch.cos(m * angle), torch.sin(m * angle)]
    basis = torch.cat([hats * wave[:, None] for wave in waves], dim=1)
    peaks = (step[:, None] * torch.sinh(knots * rate)).repeat(1, len(waves))
    return Annuli(basis, peaks, torch.arange(len(waves) * KNOTS, device=radius.device) >= KNOTS)


def fit_annuli(images: Tensor, weight: Tensor, expected: Tensor, parts: Annuli, fwhm: Tensor) -> Tensor:
    """Return how much of each function on the annuli (n, M) makes up what a model leaves (`images`, (n, P)).

    Parameters
    ----------
    weight : Tensor, shape (n, P)
        Inverse variance; 0 leaves a pixel out.
    expected : Tensor, shape (n, P)
        The model's light, the scale of the prior.
    fwhm : Tensor, shape (n,)
        PSF, arcsec.
    """
    size = parts.basis.abs()
    light = (size @ expected[..., None])[..., 0] / size.sum(dim=2).clamp_min(1e-6)
    inner = torch.exp(-0.5 * (parts.radius / fwhm[:, None]).square())
    freedom = torch.where(parts.harmonic, torch.full_like(inner, BENT), FREE + CENTRAL * inner)
    ridge = torch.diag_embed(1 / (light.clamp_min(0) * freedom).square().clamp_min(1e-12))
    kept = weight
    amount = torch.zeros_like(light)
    for _ in range(CLIPS):
        weighted = parts.basis * kept[:, None]
        normal = weighted @ parts.basis.transpose(1, 2) + ridge
        amount = torch.linalg.solve(normal, (weighted @ images[..., None])[..., 0])
        kept = weight * ((images - (amount[:, None] @ parts.basis)[:, 0]).square() * weight < CLIP**2)
    return amount


def find_arcs(excess: Tensor, sigma: Tensor, fwhm: Tensor, pixel_scale: float) -> Tensor:
    """Return which pixels stand out above the model, (n, H, W), in any band.

    Parameters
    ----------
    excess, sigma : Tensor, shape (n, C, H, W)
        Image minus model, and the error of both; an infinite error leaves a pixel out.
    fwhm : Tensor, shape (n, C)
    """
    scale = fwhm / pixel_scale
    signal = smooth(excess / sigma.clamp_min(1e-30), scale)
    # A Gaussian of FWHM w pixels averages white noise down to 0.66 / w.
    threshold = CLIP * (0.664 / scale.clamp_min(0.664))
    found = (signal > threshold[..., None, None]).any(dim=1, keepdim=True).double()
    return torch.nn.functional.max_pool2d(found, 2 * GROWTH + 1, 1, GROWTH)[:, 0] > 0


def one_sided(images: Tensor, sigma: Tensor, fwhm: Tensor, shape: Shape, pixel_scale: float) -> Tensor:
    """Return the pixels that are brighter than those opposite the centre, (n, H, W): arcs, before there is a model."""
    n, _, height, width = images.shape
    px, py = pixel_grid(height, width, pixel_scale, images)
    half = torch.tensor([width, height], dtype=images.dtype, device=images.device) * pixel_scale / 2
    across = torch.stack(
        [
            (2 * shape.x[:, None, None] - px).expand(n, height, width) / half[0],
            (2 * shape.y[:, None, None] - py).expand(n, height, width) / half[1],
        ],
        dim=-1,
    )
    opposite = torch.nn.functional.grid_sample(images, across, align_corners=False, padding_mode="border")
    error = (2 * sigma[..., None, None].square() + (ASYMMETRY * opposite).square()).sqrt()
    return find_arcs(images - opposite, error, fwhm, pixel_scale)


def fit_smooth(
    images: Tensor, sigma: Tensor, valid: Tensor, shape: Shape, fwhm: Tensor, pixel_scale: float, reach: Tensor
) -> Smooth:
    """Fit the smooth model to every band; the bands share the mask of arcs.

    Parameters
    ----------
    images : Tensor, shape (n, C, H, W), float64
        nJy per pixel.
    sigma, fwhm : Tensor, shape (n, C)
        Noise, nJy per pixel; PSF, arcsec.
    valid : Tensor, shape (n, C, H, W), float64
        1 for pixels to be used, else 0.
    shape : Shape
        First guess, (n,).
    reach : Tensor, shape (n,)
        Radius of what is fitted, arcsec.
    """
    whole = images.shape[-2:]
    box = _box(whole, float(reach.max()) / pixel_scale)
    pixels, valid = images[..., box[0], box[1]], valid[..., box[0], box[1]]
    n, bands, height, width = pixels.shape
    px, py = pixel_grid(height, width, pixel_scale, images)
    distance = shape.distance(px, py)
    valid = valid * (distance < reach[:, None, None])[:, None]
    core = distance < PROTECTED * fwhm.amax(dim=1)[:, None, None]
    start = Shape(*(_spread(v, bands) for v in (shape.x, shape.y, shape.e1, shape.e2, 1.2 * shape.width)))
    wide, far = fwhm.flatten(), _spread(reach, bands)
    index, sky_error = torch.full_like(wide, FIRST_INDEX), SKY * sigma.flatten()
    noise = sigma[..., None, None]
    arcs = one_sided(pixels, sigma, fwhm, shape, pixel_scale) & ~core
    light, kept = pixels.clamp_min(0), torch.ones_like(pixels)
    for turn in range(ROUNDS):
        variance = noise.square() + (MODEL_ERROR * light).square()
        weight = valid * ~arcs[:, None] * kept / variance
        steps = FIRST_STEPS if turn == 0 else LATER_STEPS
        data = pixels.flatten(0, 1), weight.flatten(0, 1)
        fit = fit_sersic(*data, start, index, wide, sky_error, pixel_scale, far, steps)
        start, index = fit.shape, fit.n
        model = fit.light.clamp_min(0)
        sky = fit.sky.view(n, bands)
        left = (data[0] - model - fit.sky[:, None, None]).flatten(1)
        parts = annuli(fit.shape, height, width, pixel_scale, wide / 2, NEIGHBOURS * far)
        amount = fit_annuli(left, data[1].flatten(1), model.flatten(1), parts, wide)
        light = (model + (amount[:, None] @ parts.basis).view_as(model)).clamp_min(0).view_as(pixels)
        error = (noise.square() + (MODEL_ERROR * light).square()).sqrt()
        excess = pixels - light - sky[..., None, None]
        arcs = find_arcs(excess * valid, error, fwhm, pixel_scale) & ~core
        # Light that is too faint to be masked pixel by pixel still pulls: what lies above counts less.
        pull = (excess / error - 1).clamp_min(0).square()
        kept = 1 / (1 + torch.where(core[:, None], torch.zeros_like(pull), pull))
    full = fit.flux[:, None, None] * sersic_image(fit.shape, fit.n, wide, whole[0], whole[1], pixel_scale)
    parts = annuli(fit.shape, whole[0], whole[1], pixel_scale, wide / 2, NEIGHBOURS * far)
    full = (full + (amount[:, None] @ parts.basis).view_as(full)).clamp_min(0).view_as(images)
    found = torch.zeros_like(images[:, 0], dtype=torch.bool)
    found[:, box[0], box[1]] = arcs
    return Smooth(full, sky, found, fit)


def _box(whole: tuple[int, ...], radius: float) -> tuple[slice, slice]:
    """Return the pixels (lines, columns) of the middle of a stamp, out to `radius` (pixels) and a little more."""
    cuts = [max(0, int((side - 1) / 2 - radius - 2)) for side in whole]
    return slice(cuts[0], whole[0] - cuts[0]), slice(cuts[1], whole[1] - cuts[1])


def _spread(values: Tensor, bands: int) -> Tensor:
    return values.repeat_interleave(bands)
