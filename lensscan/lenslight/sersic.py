"""Elliptical Sersic fits of many single-band stamps at once, in float64.

Levenberg-Marquardt in centre, ellipticity, log radius and log index; flux and sky are linear and are solved for
in every model (variable projection, Golub & Pereyra 1973, SIAM J. Numer. Anal. 10, 413).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lensscan.lens.light import elliptical_radius2, sersic, sersic_flux
from lensscan.lenslight.match import smooth
from lensscan.lenslight.shape import Shape, pixel_grid

__all__ = ["SersicFit", "fit_sersic", "sersic_image"]

CORE, RAYS = 5, 5
"""Innermost pixels that are averaged over RAYS x RAYS points."""
LOWEST, HIGHEST = 0.5, 8.0
"""Limits of the Sersic index."""
FLATTEST = 0.6
"""Largest |e|."""
STEP = 1e-4
PARAMETERS = 6


@dataclass(slots=True)
class SersicFit:
    """A fitted profile.

    Attributes
    ----------
    shape : Shape
        Centre and ellipticity; its width is the half-light radius, arcsec.
    n, flux, sky, chi2 : Tensor, shape (m,)
        Sersic index; nJy; nJy per pixel; weighted squares per weighted pixel.
    light : Tensor, shape (m, H, W)
        The galaxy without the sky, nJy per pixel.
    """

    shape: Shape
    n: Tensor
    flux: Tensor
    sky: Tensor
    chi2: Tensor
    light: Tensor


def sersic_image(shape: Shape, n: Tensor, fwhm: Tensor, height: int, width: int, pixel_scale: float) -> Tensor:
    """Return galaxies of unit flux behind a Gaussian PSF, (m, H, W); `shape.width` is the half-light radius."""
    px, py = pixel_grid(height, width, pixel_scale, n)
    x, y, e1, e2, radius, index = (v[:, None, None] for v in (shape.x, shape.y, shape.e1, shape.e2, shape.width, n))
    image = sersic(elliptical_radius2(px, py, e1, e2, x, y), radius, index)
    # Cusps: points within the pixels round the centre, wherever that is in the stamp.
    column = ((shape.x / pixel_scale + (width - 1) / 2).round().long() - CORE // 2).clamp(0, width - CORE)
    line = ((shape.y / pixel_scale + (height - 1) / 2).round().long() - CORE // 2).clamp(0, height - CORE)
    steps = torch.arange(CORE, device=n.device)
    fine = (torch.arange(CORE * RAYS, device=n.device, dtype=n.dtype) + 0.5) / RAYS - 0.5
    fx = (column[:, None] + fine - (width - 1) / 2) * pixel_scale
    fy = (line[:, None] + fine - (height - 1) / 2) * pixel_scale
    inner = sersic(
        elliptical_radius2(fx[:, None, :], fy[:, :, None], e1, e2, x, y) + (0.2 * pixel_scale / RAYS) ** 2,
        radius,
        index,
    )
    inner = inner.view(-1, CORE, RAYS, CORE, RAYS).mean(dim=(2, 4))
    rows = torch.arange(len(n), device=n.device)[:, None, None]
    image[rows, (line[:, None] + steps)[:, :, None], (column[:, None] + steps)[:, None, :]] = inner
    image = image * (pixel_scale**2 / sersic_flux(radius, index))
    return smooth(image, fwhm / pixel_scale)


def _shape_of(p: Tensor, smallest: Tensor, reach: Tensor) -> tuple[Shape, Tensor]:
    """Return shape and index of free parameters (m, 6): centre, u1, u2, log radius, log index."""
    bent = FLATTEST / (1 + p[:, 2] ** 2 + p[:, 3] ** 2).sqrt()
    radius = torch.minimum(torch.maximum(p[:, 4].exp(), smallest), 2 * reach)
    return Shape(p[:, 0], p[:, 1], p[:, 2] * bent, p[:, 3] * bent, radius), p[:, 5].exp().clamp(LOWEST, HIGHEST)


def _project(template: Tensor, images: Tensor, root: Tensor, sky_error: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return flux, sky and the weighted residuals (m, P + 1) of the best linear fit of template and constant.

    The last residual is the sky in units of its prior.
    """
    zero = torch.zeros_like(sky_error)[:, None]
    a, d = torch.cat([template * root, zero], dim=1), torch.cat([images * root, zero], dim=1)
    b = torch.cat([root, 1 / sky_error[:, None]], dim=1)
    aa, ab, bb = ((u * v).sum(dim=1) for u, v in ((a, a), (a, b), (b, b)))
    da, db = (d * a).sum(dim=1), (d * b).sum(dim=1)
    det = (aa * bb - ab * ab).clamp_min(1e-30)
    flux, sky = (bb * da - ab * db) / det, (aa * db - ab * da) / det
    return flux, sky, d - flux[:, None] * a - sky[:, None] * b


def fit_sersic(
    images: Tensor,
    weight: Tensor,
    start: Shape,
    index: Tensor,
    fwhm: Tensor,
    sky_error: Tensor,
    pixel_scale: float,
    reach: Tensor,
    steps: int,
) -> SersicFit:
    """Fit one Sersic profile and a constant sky to each stamp.

    Parameters
    ----------
    images, weight : Tensor, shape (m, H, W), float64
        nJy per pixel; inverse variance, 0 leaves a pixel out.
    start : Shape
        Centre, ellipticity and half-light radius to begin with.
    index, fwhm, sky_error, reach : Tensor, shape (m,)
        Sersic index to begin with; PSF, arcsec; prior error of the sky, nJy per pixel; half of the largest
        half-light radius, arcsec.
    steps : int
        Levenberg-Marquardt steps.
    """
    height, width = images.shape[-2:]
    smallest = 0.1 * fwhm.clamp_min(pixel_scale)
    data, root = images.flatten(1), weight.flatten(1).sqrt()

    def model(p: Tensor) -> Tensor:
        shape, n = _shape_of(p, smallest, reach)
        return sersic_image(shape, n, fwhm, height, width, pixel_scale).flatten(1)

    unbent = (FLATTEST**2 - start.e1**2 - start.e2**2).clamp_min(1e-3).sqrt()
    p = torch.stack([start.x, start.y, start.e1 / unbent, start.e2 / unbent, start.width.log(), index.log()], dim=1)
    damping = torch.full_like(fwhm, 1e-2)
    _, _, residual = _project(model(p), data, root, sky_error)
    cost = residual.square().sum(dim=1)
    for _ in range(steps):
        columns = []
        for k in range(PARAMETERS):
            moved = p.clone()
            moved[:, k] += STEP
            columns.append((_project(model(moved), data, root, sky_error)[2] - residual) / STEP)
        jacobian = torch.stack(columns, dim=1)
        normal = jacobian @ jacobian.transpose(1, 2)
        gradient = (jacobian @ residual[..., None])[..., 0]
        scale = normal.diagonal(dim1=1, dim2=2)
        scale = scale + 1e-9 * scale.amax(dim=1, keepdim=True).clamp_min(1e-12)
        step = torch.linalg.solve(normal + torch.diag_embed(damping[:, None] * scale), -gradient)
        trial = p + step.clamp(-0.5, 0.5)
        _, _, new = _project(model(trial), data, root, sky_error)
        value = new.square().sum(dim=1)
        better = value < cost
        p = torch.where(better[:, None], trial, p)
        residual = torch.where(better[:, None], new, residual)
        cost = torch.where(better, value, cost)
        damping = torch.where(better, damping / 5, damping * 8).clamp(1e-6, 1e6)
    shape, n = _shape_of(p, smallest, reach)
    template = model(p)
    flux, sky, _ = _project(template, data, root, sky_error)
    pixels = (root > 0).sum(dim=1).clamp_min(1)
    return SersicFit(shape, n, flux, sky, cost / pixels, (flux[:, None] * template).view_as(images))
