"""Lens and arcs by colour: ICA of matched bands gives the lens's colour, its own light and the arcs' follow.

Every band is taken as ``a_c L + b_c S + noise`` with one map L of the lens and one map S of the arcs
(Hezaveh, Perreault Levasseur & Marshall 2017, Nature 548, 555, separate lens and arcs by ICA of several
filters).  ICA wants independent maps, but light that falls off everywhere is not independent of anything.
Any linear filter leaves the colours as they are, so ICA is done on maps without their smooth part.  That
gives the lens's colour a well.  The arcs' colour b comes out badly where arcs are faint against the noise;
it is fitted to what the arcs do across the bands, with blue galaxies (flat in f_nu) as the prior.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lensscan.lenslight.ica import fast_ica, whiten
from lensscan.lenslight.isophotes import annuli
from lensscan.lenslight.match import smooth
from lensscan.lenslight.shape import Shape, pixel_grid

__all__ = ["Separation", "separate"]

FILTER, SHORTEST = 1.5, 0.6
"""Width of the smooth part taken away before ICA, in FWHM, and at least in arcsec."""
CORE = 0.4
"""Radius of the lens's core, FWHM."""
SCATTER = 0.2
"""Prior scatter of the arcs' flux in a band about that of a spectrum flat in f_nu, relative."""
INNER, BRIGHT = 0.5, 3.0
"""Arcs are looked for beyond this many FWHM, and above this many sigma."""
ROUNDS = 4
PARALLEL = 1e-4
"""Smallest sine^2 of the angle between the two colours, in units of the noise."""


@dataclass(slots=True)
class Separation:
    """Two colours and their maps.

    Attributes
    ----------
    lens : Tensor, shape (n, C, H, W)
        a_c L, nJy.
    lens_colour, arc_colour : Tensor, shape (n, C)
        a and b, nJy; a sums to 1 over the bands, the geometric mean of b is 1.
    blind_colour : Tensor, shape (n, C)
        The other component's colour as ICA alone gives it, of unit norm in units of the noise.
    lens_flux : Tensor, shape (n,)
        Light of all bands in the core, nJy.
    converged, iterations : Tensor, shape (n,)
        Of FastICA.
    """

    lens: Tensor
    lens_colour: Tensor
    arc_colour: Tensor
    blind_colour: Tensor
    lens_flux: Tensor
    converged: Tensor
    iterations: Tensor


def separate(
    images: Tensor,
    noise: Tensor,
    valid: Tensor,
    shape: Shape,
    fwhm: Tensor,
    pixel_scale: float,
    reach: Tensor,
    *,
    blind: bool = False,
) -> Separation:
    """Separate matched bands into lens and arcs.

    Parameters
    ----------
    images : Tensor, shape (n, C, H, W), float64
        nJy per pixel, one PSF; C at least 2.
    noise : Tensor, shape (n, C)
        nJy per pixel.
    valid : Tensor, shape (n, H, W), float64
        1 where all bands have a value, else 0.
    shape : Shape
        Of the lens.
    fwhm, reach : Tensor, shape (n,)
        PSF, and the radius within which colours are measured, arcsec.
    blind : bool
        Take both colours from ICA, without the prior.
    """
    n, bands, height, width = images.shape
    px, py = pixel_grid(height, width, pixel_scale, images)
    distance = shape.distance(px, py)
    core = ((distance < CORE * fwhm[:, None, None]) * valid).flatten(1)
    scaled = (images / noise[..., None, None]).flatten(2)

    scale = torch.maximum(FILTER * fwhm, torch.full_like(fwhm, SHORTEST)) / pixel_scale
    filtered = images - smooth(images, scale[:, None].expand(-1, bands))
    region = ((distance < reach[:, None, None]) * valid).flatten(1)
    white = whiten((filtered / noise[..., None, None]).flatten(2), region, 2)
    unmixed = fast_ica(white.pixels, region)
    mixing = white.back @ unmixed.rotation.transpose(1, 2)
    # The lens is what fills the core; its sign is that of light.
    central = ((unmixed.rotation @ white.pixels) * core[:, None]).sum(dim=2)
    which = central.abs().argmax(dim=1)
    rows = torch.arange(n, device=images.device)
    lens = mixing[rows, :, which]
    lens = lens * torch.where((lens * noise).sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
    other = mixing[rows, :, 1 - which]
    other = other * torch.where(other.sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
    arcs = other if blind else _arc_colour(scaled, lens, noise, valid, shape, fwhm, pixel_scale, reach, distance)
    weights = _reader(lens, arcs)
    light = (weights[:, None] @ scaled).view(n, 1, height, width)
    colour = lens * noise
    total = colour.sum(dim=1, keepdim=True)
    flux = (light.flatten(1) * core).sum(dim=1) * total[:, 0]
    sized = arcs * noise
    if not blind:
        sized = sized / sized.log().mean(dim=1, keepdim=True).exp()
    return Separation(
        lens=light * colour[..., None, None],
        lens_colour=colour / total,
        arc_colour=sized,
        blind_colour=other / other.norm(dim=1, keepdim=True).clamp_min(1e-30),
        lens_flux=flux,
        converged=unmixed.converged,
        iterations=unmixed.iterations,
    )


def _reader(wanted: Tensor, other: Tensor) -> Tensor:
    """Return weights (n, C) that read one component from scaled bands: 1 on `wanted`, 0 on `other`, least noise."""
    part = (wanted * other).sum(dim=1, keepdim=True) / other.square().sum(dim=1, keepdim=True).clamp_min(1e-30)
    apart = wanted - part * other
    size = wanted.square().sum(dim=1, keepdim=True)
    return apart / torch.maximum((apart * wanted).sum(dim=1, keepdim=True), PARALLEL * size.clamp_min(1e-30))


def _arc_colour(
    scaled: Tensor,
    lens: Tensor,
    noise: Tensor,
    valid: Tensor,
    shape: Shape,
    fwhm: Tensor,
    pixel_scale: float,
    reach: Tensor,
    distance: Tensor,
) -> Tensor:
    """Return the arcs' colour in units of the noise, (n, C).

    Profile and two-fold harmonics of elliptical annuli are projected out of every band, the lens's light with
    them; how the bands go with the arcs' map in what is left, is the colour.  The map is read from the bands
    themselves: the covariance of their noise is taken off.
    """
    height, width = distance.shape[-2:]
    inside = (distance < 1.2 * reach[:, None, None]).flatten(1) * valid.flatten(1)
    around = (distance < reach[:, None, None]) & (distance > INNER * fwhm[:, None, None])
    around = around.flatten(1) * valid.flatten(1)
    parts = annuli(shape, height, width, pixel_scale, fwhm / 2, 1.2 * reach)
    weighted = parts.basis * inside[:, None]
    normal = weighted @ parts.basis.transpose(1, 2)
    trace = normal.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(1e-12)
    normal = normal + torch.diag_embed((1e-9 * trace)[:, None].expand(-1, normal.shape[1]))
    left = scaled - torch.linalg.solve(normal, weighted @ scaled.transpose(1, 2)).transpose(1, 2) @ parts.basis
    arcs = 1 / noise
    for _ in range(ROUNDS):
        reader = _reader(arcs, lens)
        error = reader.norm(dim=1, keepdim=True)
        signal = (reader[:, None] @ left)[:, 0]
        bright = around * (signal > BRIGHT * error)
        pixels = bright.sum(dim=1, keepdim=True)
        across = (left * (bright * signal)[:, None]).sum(dim=2) - reader * pixels
        power = ((bright * signal * signal).sum(dim=1, keepdim=True) - pixels * error.square()).clamp_min(0)
        information = power / noise.square()
        flux = (across / noise + SCATTER**-2) / (information + SCATTER**-2)
        flux = flux.clamp(0.1, 10.0)
        arcs = flux / flux.log().mean(dim=1, keepdim=True).exp() / noise
    return arcs
