"""The scorer: runs one or several models over constant-shape batches, on a CPU or a GPU.

A row's numbers do not depend on its neighbours, its position or the padding of its batch.  On a GPU a batch
goes from its pinned slot over a copy stream to the compute stream, and the results come back in pinned
memory; the caller may refill the slot after `Pending.released`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensscan.errors import ConfigError
from lensscan.nets.blocks import Outcome
from lensscan.nets.bridge import fit_gaussians
from lensscan.nets.card import Card
from lensscan.nets.dihedral import N_VIEWS, combine_views, transform_covariance, transform_images, undo
from lensscan.nets.flow import SAMPLES, base_points
from lensscan.nets.flowposterior import pack_outcome, packed_width
from lensscan.nets.heads import covariance, pack_triangle
from lensscan.nets.latent import N_COV, N_LATENT, TRIANGLE
from lensscan.nets.model import Model, common_frame
from lensscan.nets.normalise import aperture_snr, estimate_sigma, normalise, scalar_inputs
from lensscan.nets.novelty import make_detector
from lensscan.schema import Flag
from lensscan.survey.stamps import Batch

__all__ = ["Pending", "Scorer"]

PRECISIONS = ("fp32", "tf32", "bf16")
Columns = dict[str, NDArray[Any]]


class Scorer:
    """Scores batches with one or several models that share a frame.

    Parameters
    ----------
    models : sequence of Model
    device : str or torch.device
        ``cpu`` or ``cuda[:i]``.
    batch : int
        Rows per batch, constant.
    precision : str
        ``fp32``; ``tf32`` or ``bf16`` only on request.
    views : int, optional
        Dihedral views to average, 1 or 8; default: each card's own.
    regress_above : float, optional
        Posteriors of rows whose raw logit, averaged over the models, is not above this are NaN; infinity: none is made.
    keep_flow : bool
        Whether results also hold ``post_flow``, what the posteriors of normalising flows follow from.

    Raises
    ------
    ModelError
        If the models do not share bands, frame size and pixel scale.
    ConfigError
        If precision or views are unknown.
    """

    def __init__(
        self,
        models: Sequence[Model],
        device: str | torch.device = "cpu",
        batch: int = 64,
        precision: str = "fp32",
        views: int | None = None,
        regress_above: float | None = None,
        keep_flow: bool = False,
    ) -> None:
        if precision not in PRECISIONS:
            raise ConfigError(f"precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
        if views not in (None, 0, 1, N_VIEWS):
            raise ConfigError(f"views must be 1 or {N_VIEWS}, not {views}")
        self.frame = common_frame(models)
        self.device = torch.device(device)
        self.batch = batch
        self.precision = precision
        self.regress_above = regress_above
        self.keep_flow = keep_flow
        self.networks = [_Network(model, self.device, precision, views) for model in models]
        self.pool: list[_Slot] = []
        if self.device.type == "cuda":
            _make_deterministic(precision)
            self.copy_stream = torch.cuda.Stream(self.device)
            self.compute_stream = torch.cuda.Stream(self.device)

    def submit(self, batch: Batch) -> Pending:
        """Score a batch of exactly `batch` rows: at once on a CPU, asynchronously on a GPU."""
        shape = (self.batch, len(self.frame.bands), self.frame.size, self.frame.size)
        if batch.images.shape != shape:
            raise ValueError(f"batch of shape {batch.images.shape}, the scorer was made for {shape}")
        small = np.concatenate([batch.sigma, batch.fwhm, batch.present], axis=1, dtype=np.float32)
        resampled = (batch.flags & np.uint32(Flag.RESAMPLED)) != 0
        mask = batch.mask if batch.masked else None
        if self.device.type == "cpu":
            host_mask = None if mask is None else torch.from_numpy(mask)
            packed = self._compute(torch.from_numpy(batch.images), host_mask, torch.from_numpy(small))
            return Pending(self, packed, resampled)
        return self._submit_cuda(batch.images, mask, small, resampled)

    def _submit_cuda(
        self,
        images: NDArray[np.float32],
        mask: NDArray[np.bool_] | None,
        small: NDArray[np.float32],
        resampled: NDArray[np.bool_],
    ) -> Pending:
        """Queue one batch: copy stream in, compute stream, pinned result out."""
        slot = self.pool.pop() if self.pool else _Slot.allocate(small.shape, (self.batch, self._width()))
        slot.small.copy_(torch.from_numpy(small))
        copied, done = torch.cuda.Event(), torch.cuda.Event()
        with torch.cuda.stream(self.copy_stream):
            inputs = [torch.from_numpy(images).to(self.device, non_blocking=True)]
            inputs.append(slot.small.to(self.device, non_blocking=True))
            if mask is not None:
                inputs.append(torch.from_numpy(mask).to(self.device, non_blocking=True))
            copied.record()
        with torch.cuda.stream(self.compute_stream):
            self.compute_stream.wait_event(copied)
            for tensor in inputs:
                tensor.record_stream(self.compute_stream)
            packed = self._compute(inputs[0], inputs[2] if mask is not None else None, inputs[1])
            slot.result.copy_(packed, non_blocking=True)
            done.record()
        return Pending(self, slot.result, resampled, slot, copied, done)

    def _width(self) -> int:
        """Return the number of float32 columns of a packed result."""
        return sum(self._widths())

    def _widths(self) -> list[int]:
        """Return the numbers of float32 columns: logit, ood, means, covariances, weights, sigma, snr, out of range,
        and what flows follow from.
        """
        n, k = len(self.networks), sum(network.components for network in self.networks)
        kept = sum(network.flow_width for network in self.networks) if self.keep_flow else 0
        return [n, n, k * N_LATENT, k * N_COV, k if k > n else 0, len(self.frame.bands), 1, 1, kept]

    @torch.inference_mode()
    def _compute(self, images: Tensor, mask: Tensor | None, small: Tensor) -> Tensor:
        """Return the packed result (B, width), see `_widths`."""
        sigma, fwhm, present = small.chunk(3, dim=1)
        present = present > 0.5
        if any(network.module.normalised for network in self.networks):
            sigma = torch.where(torch.isfinite(sigma), sigma, estimate_sigma(images, mask))
            sigma = torch.where(present, sigma, torch.full_like(sigma, torch.nan))
            snr = aperture_snr(images, mask, sigma, present, self.frame.pixel_scale)
        else:
            snr = torch.full_like(sigma[:, 0], torch.nan)
        seen = [network(images, mask, sigma, fwhm, present, self.frame.pixel_scale) for network in self.networks]
        logit, ood = torch.stack([each[0] for each in seen], dim=1), torch.stack([each[1] for each in seen], dim=1)
        below = None if self.regress_above is None else ~(logit.mean(dim=1) > self.regress_above)
        idle = self.regress_above == math.inf
        if below is not None and self.device.type == "cpu":  # a GPU would have to be waited for
            idle = bool(below.all())
        found = [network.posterior(each[2], idle) for network, each in zip(self.networks, seen, strict=True)]
        mean, cov, weight, kept = (torch.cat([each[k] for each in found], dim=1) for k in range(4))
        outside = torch.stack([network.outside(sigma, fwhm, present) for network in self.networks]).any(dim=0)
        if below is not None:
            mean = mean.masked_fill(below[:, None, None], torch.nan)
            cov = cov.masked_fill(below[:, None, None], torch.nan)
        parts = [
            logit,
            ood,
            mean.flatten(1),
            cov.flatten(1),
            weight,
            sigma,
            snr[:, None],
            outside[:, None].float(),
            kept,
        ]
        return torch.cat([part[:, :width] for part, width in zip(parts, self._widths(), strict=True)], dim=1)

    def unpack(self, packed: NDArray[np.float32], resampled: NDArray[np.bool_]) -> Columns:
        """Cut a packed result into its columns."""
        n = len(packed)
        parts = np.split(packed, np.cumsum(self._widths())[:-1], axis=1)
        logit, ood, mean, cov, weight, sigma, snr, outside, kept = parts
        out_of_range = (outside[:, 0] > 0.5) | resampled
        optional = {"post_weight": weight, "post_flow": kept}
        return {name: part.copy() for name, part in optional.items() if part.shape[1]} | {
            "logit": logit.copy(),
            "post_mean": mean.reshape(n, -1, N_LATENT).copy(),
            "post_cov": cov.reshape(n, -1, N_COV).copy(),
            "sigma": sigma.copy(),
            "snr": snr[:, 0].copy(),
            "ood": ood.copy(),
            "flags": np.where(out_of_range, np.uint32(Flag.OUT_OF_RANGE), np.uint32(0)).astype(np.uint32),
        }


@dataclass(slots=True)
class Pending:
    """A batch under way."""

    scorer: Scorer
    packed: Tensor
    resampled: NDArray[np.bool_]
    slot: _Slot | None = None
    copied: torch.cuda.Event | None = None
    done: torch.cuda.Event | None = None
    columns: Columns | None = field(default=None)

    def released(self) -> None:
        """Block until the batch's memory may be refilled."""
        if self.copied is not None:
            self.copied.synchronize()

    def result(self) -> Columns:
        """Block until the numbers are there and return them for all B rows.

        Returns
        -------
        dict
            ``logit`` (B, M) raw, mean over the views; ``post_mean`` (B, K, 7) and ``post_cov`` (B, K, 28)
            latent, the K = M components of the networks; with mixture heads K > M, and ``post_weight`` (B, K) of sum
            1 for each network; ``sigma`` (B, C) nJy; ``snr`` (B,), see `lensscan.nets.normalise.aperture_snr`; ``ood``
            (B, M), see `lensscan.nets.novelty`, NaN for a model that gives none; ``flags`` (B,) uint32,
            ``OUT_OF_RANGE`` where sigma or seeing lie outside any card's range or the stamp was resampled.
        """
        if self.columns is None:
            if self.done is not None:
                self.done.synchronize()
            self.columns = self.scorer.unpack(self.packed.numpy(), self.resampled)
            if self.slot is not None:
                self.scorer.pool.append(self.slot)
                self.slot = None
        return self.columns


@dataclass(slots=True)
class _Slot:
    """Pinned host memory of one batch under way on a GPU."""

    small: Tensor
    result: Tensor

    @classmethod
    def allocate(cls, small: tuple[int, ...], result: tuple[int, ...]) -> _Slot:
        return cls(torch.empty(small, pin_memory=True), torch.empty(result, pin_memory=True))


class _Network:
    """One model ready to run: folded weights, ranges and posterior scales on the device."""

    def __init__(self, model: Model, device: torch.device, precision: str, views: int | None) -> None:
        card = model.card
        self.module = model.inference().to(device)
        for weight in self.module.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        self.softening = card.softening
        self.views = views or card.views
        self.components = card.components(self.views)
        self.half = precision == "bf16"
        self.detector = make_detector(model.novelty, model.module, self.module, card.ood_edges(self.views), device)
        self.flow_width = self.views * packed_width(self.module.flow) if self.module.flow else 0
        self.base = base_points(SAMPLES // self.views).to(device) if self.module.flow else None
        scale = torch.tensor(card.scale_of(self.views), dtype=torch.float32)
        rows, columns = (list(axis) for axis in zip(*TRIANGLE, strict=True))
        self.cov_scale = (scale[rows] * scale[columns]).to(device)
        self.ranges = card_ranges(card, device)

    def __call__(
        self, images: Tensor, mask: Tensor | None, sigma: Tensor, fwhm: Tensor, present: Tensor, scale: float
    ) -> tuple[Tensor, Tensor, list[Outcome]]:
        """Return logit (B,) and ood (B,) over the views, and the outcome of each view."""
        if self.detector is not None:
            self.detector.tap.take()  # of a batch that failed on its way
        scalars = scalar_inputs(sigma, fwhm, present, scale)
        if self.module.normalised:
            images = normalise(images, mask, sigma, self.softening)
        outcomes = []
        for view in range(self.views):
            with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.half):
                outcomes.append(self.module(transform_images(images, view), scalars))
        logits = [outcome.logit for outcome in outcomes]
        logit = logits[0] if self.views == 1 else sum(logits[1:], logits[0]) / self.views
        ood = torch.full_like(logit, torch.nan)
        if self.detector is not None:
            ood = torch.where(torch.isfinite(logit), self.detector.score(), ood)
        return logit, ood, outcomes

    def posterior(self, outcomes: list[Outcome], idle: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return means (B, K, 7), packed covariances (B, K, 28) and weights (B, K) over the views.

        Last, what a flow's posteriors follow from (B, V (56 + c)), nothing where there is none.

        The views of a single Gaussian become one by their moments; those of a mixture are all kept, and those of a
        flow give samples, which one mixture is fitted to, but not if nobody wants the posteriors (`idle`).
        """
        if self.module.flow is None:
            mean, cov, weight = self._gaussians(outcomes)
            return mean, cov * self.cov_scale, weight, outcomes[0].condition[:, :0]
        kept = torch.cat([pack_outcome(outcome) for outcome in outcomes], dim=1)
        if idle:
            mean = kept.new_full((len(kept), self.components, N_LATENT), torch.nan)
            return mean, mean.new_full((*mean.shape[:2], N_COV), torch.nan), torch.ones_like(mean[..., 0]), kept
        mean, cov, weight = self._bent(outcomes)
        return mean, cov * self.cov_scale, weight, kept

    def _gaussians(self, outcomes: list[Outcome]) -> tuple[Tensor, Tensor, Tensor]:
        """Return means, packed covariances and weights of the Gaussians of all views, in the stamp's own frame."""
        means, covariances, weights = [], [], []
        for view, outcome in enumerate(outcomes):
            means.append(undo(outcome.mean, view))
            covariances.append(transform_covariance(pack_triangle(covariance(outcome.factor)), view, backward=True))
            weights.append(torch.exp(outcome.log_weight) / self.views)
        if self.views == 1:
            return means[0], covariances[0], weights[0]
        if self.components > 1:
            mean, cov, weight = (torch.cat(parts, dim=1) for parts in (means, covariances, weights))
            return mean, cov, weight
        mean, cov = combine_views(means, covariances)
        return mean, cov, sum(weights[1:], weights[0])

    def _bent(self, outcomes: list[Outcome]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the Gaussians that stand for the flows of all views, fitted to fixed samples of each view alike."""
        flow, base = self.module.flow, self.base
        assert flow is not None
        assert base is not None
        samples = [undo(flow.sample(base, outcome), view) for view, outcome in enumerate(outcomes)]
        return fit_gaussians(torch.cat(samples, dim=1), flow.scale)

    def outside(self, sigma: Tensor, fwhm: Tensor, present: Tensor) -> Tensor:
        """Return which rows (B,) have a band whose sigma or seeing lies outside the card's ranges."""
        return outside_ranges(self.ranges, sigma, fwhm, present)


def card_ranges(card: Card, device: torch.device | str = "cpu") -> list[Tensor]:
    """Return the ranges (2, C) of sigma and seeing that a card states for its bands, infinite where it states none."""
    return [
        torch.tensor([each.get(band, (-np.inf, np.inf)) for band in card.bands], device=device).T
        for each in (card.sigma_range, card.fwhm_range)
    ]


def outside_ranges(ranges: list[Tensor], sigma: Tensor, fwhm: Tensor, present: Tensor) -> Tensor:
    """Return which rows (B,) have a band, present, whose sigma or seeing (B, C) lies outside of `card_ranges`."""
    result = torch.zeros(len(sigma), dtype=torch.bool, device=sigma.device)
    for values, (low, high) in zip((sigma, fwhm), ranges, strict=True):
        result |= (present & ((values < low) | (values > high))).any(dim=1)
    return result


def _make_deterministic(precision: str) -> None:
    """Fix cuBLAS and cuDNN algorithms; TF32 only on request."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.use_deterministic_algorithms(True, warn_only=True)
