"""Stamps taken apart by the trained modules of a network: the light of the source as it is made, and the rest."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lensscan.errors import ModelError
from lensscan.lenslight.stage import MODULE, LensLight
from lensscan.nets.intermediate import Inspector
from lensscan.nets.model import Model
from lensscan.nets.scorer import card_ranges, outside_ranges
from lensscan.schema import Flag
from lensscan.survey.stamps import Batch

__all__ = ["Deblending"]


class Deblending:
    """Takes the lens's light off by the modules of a trained network (Madireddy+2019), one view, on the CPU.

    Parameters
    ----------
    model : Model
        Of kind ``modular``, with a deblender.

    Raises
    ------
    ModelError
        If it has no deblender.
    """

    def __init__(self, model: Model) -> None:
        self.inspector = Inspector(model)
        modules = self.inspector.module.modules_of_images
        if "deblend" not in modules:
            raise ModelError(f"model {model.card.name} has no module that deblends; give one that has")
        self.denoises = "denoise" in modules

    def __call__(self, batch: Batch, missing: NDArray[np.bool_]) -> LensLight:
        """Take the stamps of a batch apart.

        Parameters
        ----------
        batch : Batch
            In the model's frame.
        missing : (n, C, S, S) bool array
            Pixels without a value, those of absent bands among them.

        Returns
        -------
        LensLight
            `arcs` is what the deblender makes, in nJy, and `lens` the image without it: lens, noise and all that the
            network takes for neither source nor galaxy.  ``diagnostics`` tells ``out_of_range``, (n,): rows whose
            noise or seeing the training had not, or that were resampled; as flagged in a scan.
        """
        n = len(missing)
        images = np.where(missing, 0.0, batch.images[:n]).astype(np.float32)
        made = self.inspector(images, missing, batch.fwhm[:n], batch.present[:n], batch.sigma[:n])
        arcs = np.where(missing, np.float32(0), made.flux(made.deblended))
        there = batch.present[:n].any(axis=1)
        given = (torch.from_numpy(values) for values in (made.sigma, batch.fwhm[:n], batch.present[:n]))
        outside = outside_ranges(card_ranges(self.inspector.card), *given).numpy()
        return LensLight(
            arcs=arcs,
            lens=images - arcs,
            missing=missing,
            mask_used=missing.all(axis=1),
            fwhm=batch.fwhm[:n].copy(),
            method=np.where(there, MODULE, "").astype("<U9"),
            ok=there,
            reason=np.where(there, "", "masked").astype("<U13"),
            denoised=np.where(missing, np.float32(0), made.flux(made.denoised)) if self.denoises else None,
            diagnostics={"out_of_range": outside | ((batch.flags[:n] & Flag.RESAMPLED) > 0)},
        )
