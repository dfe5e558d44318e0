"""What a modular network makes of stamps on its way: every image between its modules, and the bottleneck's belief."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lensscan.errors import ModelError
from lensscan.nets.bottleneck import rate
from lensscan.nets.model import Model
from lensscan.nets.modular import ModularNet
from lensscan.nets.normalise import estimate_sigma, normalise, scalar_inputs

__all__ = ["Inspector", "Intermediate"]

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Intermediate:
    """Images and beliefs of n stamps.

    Attributes
    ----------
    sigma : (n, C) array
        Noise per pixel as stated or measured, nJy; NaN in absent bands.
    softening : float
        k of the normalisation asinh(f / (k sigma)).
    shown, denoised, deblended : (n, C, S, S) arrays
        Normalised: the stamp as the network sees it, and what each module makes of it.
    mean, spread : (n, d) arrays
        Of the bottleneck's Gaussian.
    logits : (n, s) array
        Raw, of the bottleneck's fixed points.
    rate : (n,) array
        Information through the bottleneck, nats.
    """

    sigma: Floats
    softening: float
    shown: Floats
    denoised: Floats
    deblended: Floats
    mean: Floats
    spread: Floats
    logits: Floats
    rate: Floats

    def flux(self, normalised: Floats) -> Floats:
        """Return normalised images (n, C, S, S) in nJy per pixel; zero in absent bands."""
        scale = self.softening * np.nan_to_num(self.sigma)[:, :, None, None]
        return np.asarray(np.sinh(normalised) * scale, np.float32)

    def normalised(self, flux: Floats) -> Floats:
        """Return images (n, C, S, S) in nJy normalised as these stamps are."""
        return normalise(torch.from_numpy(flux), None, torch.from_numpy(self.sigma), self.softening).numpy()


class Inspector:
    """Runs a modular model and keeps what it makes on the way, one view, on the CPU.

    Parameters
    ----------
    model : Model

    Raises
    ------
    ModelError
        If it is not modular.
    """

    def __init__(self, model: Model) -> None:
        module = model.inference()
        if not isinstance(module, ModularNet):
            raise ModelError(f"model {model.card.name} is not modular: nothing lies between its input and its output")
        self.module, self.card = module, model.card

    @torch.inference_mode()
    def __call__(
        self,
        images: Floats,
        mask: NDArray[np.bool_] | None = None,
        fwhm: NDArray[np.floating] | None = None,
        present: NDArray[np.bool_] | None = None,
        noise: NDArray[np.floating] | None = None,
    ) -> Intermediate:
        """Run the model on stamps of its own frame.

        Parameters
        ----------
        images : (n, C, S, S) array
            nJy per pixel, bands in the card's order.
        mask : (n, C, S, S) bool array, optional
            True = missing.
        fwhm : (n, C) array, optional
            Seeing, arcsec; NaN = unknown.
        present : (n, C) bool array, optional
            Bands present; default: all.
        noise : (n, C) array, optional
            Noise per pixel, nJy; NaN or not given: measured, as in a scan.

        Raises
        ------
        ModelError
            If the stamps do not have the card's bands and size.
        """
        card = self.card
        if images.shape[1:] != (len(card.bands), card.size, card.size):
            raise ModelError(f"stamps of shape {images.shape[1:]}: model {card.name} takes {len(card.bands)} bands of "
                             f"{card.size} pixels")  # fmt: skip
        pixels = torch.from_numpy(np.ascontiguousarray(images, np.float32))
        gone = None if mask is None else torch.from_numpy(mask)
        there = torch.ones(pixels.shape[:2], dtype=torch.bool) if present is None else torch.from_numpy(present)
        seeing = torch.full(pixels.shape[:2], torch.nan) if fwhm is None else torch.from_numpy(fwhm).float()
        sigma = estimate_sigma(pixels, gone)
        if noise is not None:
            stated = torch.from_numpy(noise).float()
            sigma = torch.where(torch.isfinite(stated), stated, sigma)
        sigma = torch.where(there, sigma, torch.nan)
        shown = normalise(pixels, gone, sigma, card.softening)
        trace = self.module.trace(shown, scalar_inputs(sigma, seeing, there, card.pixel_scale))
        parts = (shown, trace.denoised, trace.deblended, *trace.belief, rate(trace.belief))
        return Intermediate(sigma.numpy(), card.softening, *(part.numpy() for part in parts))
