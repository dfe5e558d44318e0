"""Models: weights and card in one safetensors file, loaded by name or path, saved atomically."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from lensscan.config import find
from lensscan.errors import ModelError
from lensscan.files import replacing
from lensscan.nets.architecture import build_network
from lensscan.nets.blocks import Network, fold
from lensscan.nets.card import FORMAT, Card
from lensscan.nets.novelty import Novelty
from lensscan.nets.trivial import Trivial
from lensscan.survey.stamps import Frame

if TYPE_CHECKING:
    import numpy as np
    from astropy.table import QTable
    from numpy.typing import NDArray

__all__ = ["Card", "Model", "build_network", "common_frame", "load_model", "make_trivial"]

KEY = "lensscan"
"""The one metadata key of a model file (one, because safetensors writes several in random order)."""
DIGEST = "weights_sha256"
"""What `_digest` gave, beside the card; files of older trainings have none."""


@dataclass(slots=True)
class Model:
    """A network and its card.

    Attributes
    ----------
    card : Card
    module : Network
        In evaluation mode; maps (images, scalars) to an `Outcome`.
    novelty : Novelty, optional
        What tells how unlike its training a stamp is; files of older trainings have none.
    """

    card: Card
    module: Network
    novelty: Novelty | None = None

    @classmethod
    def load(cls, name: str | Path) -> Model:
        """Load a model by shipped name or path.

        Raises
        ------
        ConfigError
            If there is no such model.
        ModelError
            If the file is not a model file of a known format, or weights are missing, not finite or not those saved.
        """
        path = find("models", name)
        stored, tensors = _read(path)
        weights, novelty = Novelty.split(tensors)
        card = Card.from_mapping(stored, str(path))
        card = dataclasses.replace(card, hash=hashlib.sha256(path.read_bytes()).hexdigest())
        module = build_network(card.architecture, len(card.bands), card.size, str(path))
        expected = {key: value.shape for key, value in module.state_dict().items()}
        found = {key: value.shape for key, value in weights.items()}
        wrong = [key for key in {**expected, **found} if expected.get(key) != found.get(key)]
        if novelty is not None and not novelty.fits(module):
            wrong.append("of the out-of-distribution score")
        if wrong:
            raise ModelError(f"{path}: weights {wrong[0]} do not fit the card; the file is damaged")
        if not _finite(tensors):
            raise ModelError(f"{path} holds weights that are not finite; the file is damaged, get it anew")
        module.load_state_dict(weights)
        return cls(card, module.eval(), novelty)

    def save(self, path: str | Path) -> str:
        """Write the model file under a temporary name, re-read, sync, rename; return its SHA-256.

        Raises
        ------
        ModelError
            If its card or weights are such that it could not be loaded again.
        DiskError, OutputError
            If it cannot be written.
        """
        target = Path(path)
        self.card.checked(str(target))
        weights = {key: value.detach().cpu().contiguous() for key, value in self.module.state_dict().items()}
        weights |= self.novelty.tensors() if self.novelty else {}
        if not _finite(weights):
            raise ModelError(f"{target}: the weights of {self.card.name} are not finite; not saved, train it anew")
        header = {"format": FORMAT, "card": self.card.to_mapping(), DIGEST: _digest(weights)}
        data = save_tensors(weights, {KEY: json.dumps(header, sort_keys=True)})
        with replacing(target) as temporary:
            temporary.write_bytes(data)
            _read(temporary)
        return hashlib.sha256(data).hexdigest()

    def __repr__(self) -> str:
        """Say in a line what the model is and takes."""
        card, weights = self.card, sum(weight.numel() for weight in self.module.parameters())
        frame = f"{' '.join(card.bands)}, {card.size} pixels of {card.pixel_scale:g} arcsec"
        return f"<Model {card.name}, version {card.version}: {frame}; {weights:,} weights>"

    @property
    def scores(self) -> bool:
        """Whether its logit means anything: the network gives one, and its training had more than lenses."""
        return self.module.scores and "detection" not in self.card.evaluation

    def frame(self) -> Frame:
        """Return what the network wants to see."""
        card = self.card
        return Frame(tuple(card.bands), card.size, card.pixel_scale, card.min_bands)

    def inference(self) -> Network:
        """Return a copy of the network for inference: standardised convolutions folded, no gradients."""
        copy = build_network(self.card.architecture, len(self.card.bands), self.card.size)
        copy.load_state_dict(self.module.state_dict())
        return fold(copy).eval().requires_grad_(False)

    def score(
        self,
        images: NDArray[np.floating],
        mask: NDArray[np.bool_] | None = None,
        fwhm: Sequence[float] | NDArray[np.floating] | None = None,
        sigma: Sequence[float] | NDArray[np.floating] | None = None,
        present: NDArray[np.bool_] | None = None,
        prevalence: float | None = None,
        views: int | None = None,
        batch: int = 64,
        device: str = "cpu",
    ) -> QTable:
        """Score stamps held in memory; bit-equal to a scan with the same batch shape and device.

        Parameters
        ----------
        images : (n, C, H, W) array
            nJy per pixel, bands in the card's order, at the card's pixel scale.  Larger than the network's
            frame: cropped about the centre; smaller: padded and masked.
        mask : (n, C, H, W) bool array, optional
            True = missing pixel.  Pixels that are not finite are taken as missing too.
        fwhm, sigma : (C,) or (n, C) arrays, optional
            Seeing (arcsec) and noise per pixel (nJy); NaN = unknown.
        present : (n, C) bool array, optional
            Bands present; default: every band with a pixel that is not missing.
        prevalence : float, optional
            Lens fraction of the population, for p_lens; without it p_lens is NaN.
        views, batch, device
            As in a scan: dihedral views (default the card's), rows per batch, ``cpu`` or ``cuda``.

        Returns
        -------
        QTable
            ``logit`` (calibrated) ``logit_raw p_lens theta_E e1 e2 x y sx sy``, their ``_err``, the quantiles
            of theta_E, ``cov snr ood flags``; positions in arcsec from the centre of the given stamps.  NaN where a
            scan would fail the row: too little is there.

        Raises
        ------
        ModelError
            If the images do not have the card's bands or are too small, or something else does not have their shape.
        """
        from lensscan.nets.scoring import score_stamps

        return score_stamps(self, images, mask, fwhm, sigma, present, prevalence, views, batch, device)


def common_frame(models: Sequence[Model]) -> Frame:
    """Return what models that are scanned together want to see: as many bands as the strictest of them needs.

    Raises
    ------
    ModelError
        If they differ in bands, size or pixel scale.
    """
    frames = [model.frame() for model in models]
    for model, frame in zip(models[1:], frames[1:], strict=True):
        if dataclasses.replace(frame, min_bands=frames[0].min_bands) != frames[0]:
            names = f"{models[0].card.name} and {model.card.name}"
            raise ModelError(f"models {names} differ in bands, size or pixel scale; scan with each alone")
    return dataclasses.replace(frames[0], min_bands=max(frame.min_bands for frame in frames))


def load_model(name: str | Path) -> Model:
    """Load a model by shipped name or path; see `Model.load`."""
    return Model.load(name)


def make_trivial(bands: Sequence[str], size: int, pixel_scale: float) -> Model:
    """Return a model whose logit is the central pixel of the first band."""
    card = Card("trivial", {"kind": "trivial"}, tuple(bands), size, pixel_scale, label="bright")
    return Model(card, Trivial().eval())


def _read(path: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    """Read card and tensors, or raise a one-line `ModelError`."""
    remedy = "give a model made by lensscan train"
    try:
        data = path.read_bytes()
        with safe_open(str(path), framework="pt") as stream:
            metadata = stream.metadata() or {}
        weights = load_tensors(data)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a safetensors file ({error}); {remedy}") from None
    if KEY not in metadata:
        raise ModelError(f"{path}: a safetensors file without a lensscan card; {remedy}")
    try:
        header = json.loads(metadata[KEY])
        stated, card, digest = header.get("format"), header["card"], header.get(DIGEST)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{path}: its card cannot be read; the file is damaged, {remedy}") from None
    if stated != FORMAT:
        newer = isinstance(stated, int) and stated > FORMAT
        remedy = "upgrade lensscan" if newer else "the file is older or damaged, train or finish it anew"
        raise ModelError(f"{path}: model format {stated}, this lensscan reads {FORMAT}; {remedy}")
    if digest not in (None, _digest(weights)):
        raise ModelError(f"{path}: its weights are not those that were saved; the file is damaged, get it anew")
    return card, weights


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of the tensors' names, types, shapes and bytes, in the order of their names."""
    result = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        result.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        result.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return result.hexdigest()


def _finite(tensors: Mapping[str, torch.Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors.values())
