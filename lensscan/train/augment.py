"""Augmentation: dihedral views that also transform the truth, noise, gains, masks, and stated scalars.

Every draw is a function of (seed, step, row of the global batch), so the same step gives the same stamps
after a resume and for any number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from lensscan.nets.dihedral import N_VIEWS, transform_images, transform_latent
from lensscan.nets.normalise import estimate_sigma, normalise, scalar_inputs
from lensscan.train.settings import Augmentation

__all__ = ["Sample", "augment", "network_inputs", "rank_seed", "stated_sigma", "step_generator", "step_seed"]

NOISE_ROWS = 16
NETWORK = 3
"""Purpose of what a network draws by itself in a step."""


@dataclass(slots=True)
class Sample:
    """Stamps with truth, ready for augmentation.

    Attributes
    ----------
    images : Tensor, (n, C, S, S)
        nJy per pixel.
    present : bool Tensor, (n, C)
    fwhm : Tensor, (n, C)
        Arcsec.
    is_lens : bool Tensor, (n,)
    latent : Tensor, (n, 7)
        NaN for non-lenses.
    mask : bool Tensor, (n, C, S, S), or None
        Missing pixels.
    sigma_factor, scale_factor : Tensor (n, C) and (n, 1), or None
        Factors on the estimated noise and on the stated pixel scale.
    blend, arcs : Tensor, (n, C, S, S), or None
        nJy per pixel without noise: all light, and that of the source alone.
    vague : bool Tensor, (n,), or None
        Lensed, but below the recipe's label rule: neither lens nor anything else in the classification; None: no row.
    """

    images: Tensor
    present: Tensor
    fwhm: Tensor
    is_lens: Tensor
    latent: Tensor
    mask: Tensor | None = None
    sigma_factor: Tensor | None = None
    scale_factor: Tensor | None = None
    blend: Tensor | None = None
    arcs: Tensor | None = None
    vague: Tensor | None = None

    def rows(self, chosen: Tensor | slice) -> Sample:
        """Return some rows."""
        return self._changed(lambda value: value[chosen])

    def to(self, device: torch.device | str) -> Sample:
        """Return the sample on a device."""
        return self._changed(lambda value: value.to(device))

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Sample:
        values: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        for name, value in values.items():
            values[name] = None if value is None else change(value)
        return Sample(**values)


def step_seed(seed: int, step: int, purpose: int) -> int:
    """Return the seed of one step and purpose (a small number)."""
    return (seed * 1_000_003 + step) * 17 + purpose


def rank_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of what the network draws in one step on one rank; that of rank 0 is a lone process's.

    Steps lie 17 apart, so that ranks are not counted on from there.  Generators on CPUs look at the last 32 bits alone.
    """
    alone = step_seed(seed, step, NETWORK)
    return alone if rank == 0 else (alone * 65_537 + rank) % 2**63


def step_generator(seed: int, step: int, purpose: int) -> torch.Generator:
    """Return the CPU generator of one step and purpose (a small number)."""
    return torch.Generator().manual_seed(step_seed(seed, step, purpose))


def augment(sample: Sample, settings: Augmentation, seed: int, step: int, first: int, total: int) -> Sample:
    """Return an augmented copy of the rows [first, first + n) of a global batch of `total` rows."""
    n, n_bands, size, _ = sample.images.shape
    device = sample.images.device
    generator = step_generator(seed, step, 1)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(total, *shape, generator=generator)[first : first + n].to(device)

    def log_normal(scatter: float, *shape: int) -> Tensor:
        draw = torch.randn(total, *shape, generator=generator)[first : first + n].to(device)
        return torch.exp(scatter * draw)

    views = (uniform() * N_VIEWS).long()
    gain = log_normal(settings.gain, n_bands)
    amplitude = settings.noise * uniform(1)
    sigma_factor, fwhm_factor = log_normal(settings.sigma, n_bands), log_normal(settings.fwhm, n_bands)
    scale_factor = log_normal(settings.pixel_scale, 1)
    unstated = uniform(1) < settings.fwhm_missing
    absent = _absent_band(uniform(2), n_bands, settings.band_missing)
    absent &= (sample.present & ~absent).any(dim=1, keepdim=True)  # never the only one there is
    hidden = [_rectangles(uniform(6), n_bands, size, settings)]
    hidden.append(_frames(uniform(2), size, settings) if settings.pad > 0 else None)
    present = sample.present & ~absent

    def shown(values: Tensor) -> Tensor:
        return _turn(values * gain[:, :, None, None], views, transform_images)

    images = shown(sample.images)
    latent = _turn(sample.latent, views, transform_latent)
    missing = None if sample.mask is None else _turn(sample.mask, views, transform_images)
    hidden.append(missing)
    if settings.noise > 0:
        noise = _row_noise(seed, step, first, images)
        images += noise * (amplitude * estimate_sigma(images, missing).nan_to_num())[:, :, None, None]
    images *= present[:, :, None, None]
    blend, arcs = (
        None if layer is None else shown(layer) * present[:, :, None, None] for layer in (sample.blend, sample.arcs)
    )
    fwhm = torch.where(unstated, torch.nan, sample.fwhm * fwhm_factor)
    mask = _union(hidden, images.shape)
    return Sample(
        images, present, fwhm, sample.is_lens, latent, mask, sigma_factor, scale_factor, blend, arcs, sample.vague
    )


def _row_noise(seed: int, step: int, first: int, images: Tensor) -> Tensor:
    """White noise like `images`, a function of the rows' places in the global batch (`first` is the first's).

    Drawn in blocks of rows that lie the same for any number of ranks.
    """
    last = first + len(images)
    blocks = []
    for block in range(first // NOISE_ROWS, -(-last // NOISE_ROWS)):
        key = (seed * 1_000_003 + step) * 65_537 + block
        generator = torch.Generator(images.device).manual_seed(key)
        shape = (NOISE_ROWS, *images.shape[1:])
        blocks.append(torch.randn(shape, generator=generator, device=images.device))
    skip = first % NOISE_ROWS
    return torch.cat(blocks)[skip : skip + len(images)]


def _turn(values: Tensor, views: Tensor, transform: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Return each row of `values` in its view."""
    values = values.clone()
    for view in range(1, N_VIEWS):
        rows = torch.nonzero(views == view)[:, 0]
        if len(rows):
            values[rows] = transform(values[rows], view)
    return values


def _absent_band(draw: Tensor, n_bands: int, probability: float) -> Tensor:
    """Return which bands (n, C) go missing: at most one."""
    band = (draw[:, 1:] * n_bands).long()
    return (torch.arange(n_bands, device=draw.device) == band) & (draw[:, :1] < probability)


def _rectangles(draw: Tensor, n_bands: int, size: int, settings: Augmentation) -> Tensor | None:
    """Return masks (n, C, S, S): for some rows one rectangle, in all bands or in one; None if settings ask none."""
    if settings.mask <= 0:
        return None
    axis = torch.arange(size, device=draw.device)
    low = (draw[:, 1:3] * size).long()
    high = low + 1 + (draw[:, 3:5] * settings.mask_size).long()
    inside = (axis >= low[:, :, None]) & (axis < high[:, :, None])
    rectangle = inside[:, 0, :, None] & inside[:, 1, None, :] & (draw[:, :1, None] < settings.mask)
    band = (draw[:, 5:] * 2 * n_bands).long()
    chosen = (torch.arange(n_bands, device=draw.device) == band) | (band >= n_bands)
    return rectangle[:, None] & chosen[:, :, None, None]


def _frames(draw: Tensor, size: int, settings: Augmentation) -> Tensor:
    """Return masks (n, 1, S, S): for some rows everything outside of a centred square, as where a scan pads stamps."""
    side = size * (1 - (1 - settings.pad_side) * draw[:, 1:])
    width = torch.where(draw[:, :1] < settings.pad, (0.5 * (size - side)).round(), 0.0)
    axis = torch.arange(size, device=draw.device)
    outside = (axis < width) | (axis >= size - width)
    return (outside[:, :, None] | outside[:, None, :])[:, None]


def _union(masks: list[Tensor | None], shape: torch.Size) -> Tensor | None:
    """Return what any of the masks hides, of the shape; None where there is none."""
    union = None
    for mask in masks:
        if mask is not None:
            union = mask if union is None else union | mask
    return None if union is None else union.expand(shape)


def stated_sigma(sample: Sample) -> Tensor:
    """Return the noise per pixel (n, C) that the network is told, nJy; NaN in absent bands."""
    sigma = estimate_sigma(sample.images, sample.mask)
    if sample.sigma_factor is not None:
        sigma = sigma * sample.sigma_factor
    return torch.where(sample.present, sigma, torch.nan)


def network_inputs(
    sample: Sample, softening: float, pixel_scale: float, normalised: bool = True
) -> tuple[Tensor, Tensor]:
    """Return what the network sees: images (n, C, S, S), normalised or masked nJy, and scalars (n, 4C + 1)."""
    sigma = stated_sigma(sample)
    scale = torch.full_like(sigma[:, :1], pixel_scale)
    if sample.scale_factor is not None:
        scale = scale * sample.scale_factor
    if normalised:
        images = normalise(sample.images, sample.mask, sigma, softening)
    else:
        images = sample.images if sample.mask is None else sample.images.masked_fill(sample.mask, 0.0)
    return images, scalar_inputs(sigma, sample.fwhm, sample.present, scale)
