"""The features a network ends in: what its last linear step sees, for probes by simpler fits."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lensscan.nets.model import Model
from lensscan.nets.normalise import estimate_sigma, normalise, scalar_inputs
from lensscan.nets.novelty import FeatureTap, feature_layer

__all__ = ["embed"]


@torch.inference_mode()
def embed(
    model: Model,
    images: NDArray[np.float32],
    missing: NDArray[np.bool_] | None = None,
    present: NDArray[np.bool_] | None = None,
    batch: int = 64,
    device: str = "cpu",
) -> NDArray[np.float32] | None:
    """Return the features (n, f) of stamps, or None if the network has none.

    The noise is estimated in the stamp and the seeing is unknown, for all stamps alike: features then tell stamps
    apart by their pixels, not by what a catalog states beside them.

    Parameters
    ----------
    model : Model
    images : (n, C, S, S) array
        nJy per pixel, the card's bands, size and pixel scale.
    missing : bool array of the same shape, optional
    present : (n, C) bool array, optional
        Default: all bands.
    batch : int
    device : str
    """
    module = model.module.to(device)
    layer = feature_layer(module)
    if layer is None:
        return None
    tap = FeatureTap(module, layer)
    try:
        for start in range(0, len(images), batch):
            rows = slice(start, start + batch)
            stamps = torch.from_numpy(np.ascontiguousarray(images[rows])).to(device)
            mask = None if missing is None else torch.from_numpy(missing[rows]).to(device)
            exists = torch.ones(stamps.shape[:2], dtype=torch.bool, device=device)
            if present is not None:
                exists = torch.from_numpy(present[rows]).to(device)
            sigma = estimate_sigma(stamps, mask)
            sigma = torch.where(exists, sigma, torch.full_like(sigma, torch.nan))
            unknown = torch.full_like(sigma, torch.nan)
            if module.normalised:
                stamps = normalise(stamps, mask, sigma, model.card.softening)
            module(stamps, scalar_inputs(sigma, unknown, exists, model.card.pixel_scale))
    finally:
        tap.remove()
        module.to("cpu")
    return torch.cat(tap.take()).cpu().numpy() if len(images) else None
