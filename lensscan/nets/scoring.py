"""Scoring of stamps held in memory, with the scan's own batches, scorer and summaries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units as u
from astropy.table import QTable
from numpy.typing import NDArray

from lensscan.errors import ModelError
from lensscan.nets.flags import merge_flags
from lensscan.nets.mixture import Pooling
from lensscan.nets.scorer import Scorer
from lensscan.schema import Status
from lensscan.survey.placement import MIN_FILL, place_centred
from lensscan.survey.quality import check_piece, settle
from lensscan.survey.stamps import Batch, Frame, allocate

if TYPE_CHECKING:
    from lensscan.nets.model import Model

__all__ = ["score_stamps"]

Floats = NDArray[np.floating]
ARCSEC = ("theta_E", "x", "y", "sx", "sy")


def score_stamps(
    model: Model,
    images: Floats,
    mask: NDArray[np.bool_] | None = None,
    fwhm: Sequence[float] | Floats | None = None,
    sigma: Sequence[float] | Floats | None = None,
    present: NDArray[np.bool_] | None = None,
    prevalence: float | None = None,
    views: int | None = None,
    batch: int = 64,
    device: str = "cpu",
) -> QTable:
    """Score stamps; parameters, columns and errors as in `lensscan.nets.model.Model.score`."""
    images = np.asarray(images)
    n_bands = len(model.card.bands)
    if images.ndim != 4 or images.shape[1] != n_bands:
        wanted = f"(n, {n_bands}, height, width) for bands {', '.join(model.card.bands)}"
        raise ModelError(f"model {model.card.name}: images have shape {images.shape}, not {wanted}")
    if min(images.shape[2:]) < MIN_FILL * model.card.size:
        what = f"images of {images.shape[2]} x {images.shape[3]} pixels are less than half as wide as its stamps"
        raise ModelError(f"model {model.card.name}: {what}, {model.card.size}; give larger cut-outs")
    if prevalence is not None and not 0 < prevalence < 1:
        raise ModelError(f"prevalence must lie between 0 and 1, not {prevalence}")
    n = len(images)
    _require_shape(model, "mask", mask, images.shape)
    _require_shape(model, "present", present, (n, n_bands))
    for name, values in (("fwhm", fwhm), ("sigma", sigma)):
        _require_shape(model, name, values, (n_bands,), (n, n_bands), ())
    missing = ~np.isfinite(images)
    if mask is not None:
        missing |= np.asarray(mask, bool)
    seen = np.asarray(~missing.all(axis=(2, 3)) if present is None else present, bool)
    sides = [_per_band(values, n, n_bands) for values in (fwhm, sigma)]
    scorer = Scorer([model], device, batch, views=views)
    slot = allocate(batch, model.frame(), pinned=scorer.device.type == "cuda")
    parts: list[dict[str, NDArray[Any]]] = []
    for start in range(0, max(n, 1), batch):
        rows = slice(start, min(start + batch, n))
        _fill(slot, model.frame(), images[rows], missing[rows], seen[rows], sides[0][rows], sides[1][rows])
        columns = scorer.submit(slot).result()
        columns |= {"origin": slot.origin, "fwhm": slot.fwhm, "flags": slot.flags | columns["flags"]}
        for name in ("logit", "post_mean", "post_cov", "snr", "ood"):
            columns[name] = columns[name].copy()
            columns[name][slot.status != Status.PENDING] = np.nan
        parts.append({name: column[: slot.n].copy() for name, column in columns.items()})
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return _table(model, columns, prevalence, Pooling.of([model.card], views or 0))


def _require_shape(model: Model, name: str, values: Any, *shapes: tuple[int, ...]) -> None:
    """Raise a `ModelError` for what does not belong to the images, before numpy stretches it over other rows."""
    if values is not None and np.shape(values) not in shapes:
        wanted = " or ".join(str(shape) for shape in shapes if shape)
        raise ModelError(f"model {model.card.name}: {name} has shape {np.shape(values)}, not {wanted}")


def _per_band(values: Sequence[float] | Floats | None, n: int, n_bands: int) -> NDArray[np.float32]:
    return np.broadcast_to(np.asarray(math.nan if values is None else values, np.float32), (n, n_bands))


def _fill(
    slot: Batch,
    frame: Frame,
    images: Floats,
    missing: NDArray[np.bool_],
    present: NDArray[np.bool_],
    fwhm: NDArray[np.float32],
    sigma: NDArray[np.float32],
) -> None:
    """Fill one slot as the scan's readers do: crop or pad about the centre, settle which rows can be scored."""
    n = len(images)
    slot.clear()
    place = place_centred((images.shape[2], images.shape[3]), frame.size)
    for row in range(n):
        for band in np.flatnonzero(present[row]):
            bad = missing[row, band]
            place.put(np.where(bad, 0.0, images[row, band]).astype(np.float32), 1.0, slot.images[row, band])
            if place.padding or bad[place.source].any():
                place.put_mask(bad, slot.mask_of(row)[band])
        slot.images[row, ~present[row]] = 0.0
    slot.present[:n], slot.fwhm[:n], slot.sigma[:n] = present, fwhm, sigma
    slot.origin[:n] = np.array(place.offset) * frame.pixel_scale
    slot.padding[:n] = place.padding
    doubtful = np.zeros(n, bool)
    if slot.masked:
        doubtful |= slot.mask[:n].any(axis=(1, 2, 3))
    settle(slot, 0, n, frame, doubtful, check_piece(slot.images)[:n])
    slot.close(n)


def _table(model: Model, columns: dict[str, NDArray[Any]], prevalence: float | None, pooling: Pooling) -> QTable:
    """Turn the scorer's columns into the table of `Model.score`."""
    card = model.card
    raw = columns["logit"][:, 0]
    mean = columns["post_mean"].copy()
    mean[:, :, 3:5] += columns["origin"][:, None]
    mean[:, :, 5:7] += columns["origin"][:, None]
    logit = card.calibration(raw)
    table = QTable({"logit": logit, "logit_raw": raw, "p_lens": card.calibration.p_lens(logit, prevalence)})
    posterior = pooling.columns(mean, columns["post_cov"], columns.get("post_weight"))
    for name, column in posterior.items():
        table[name] = column * u.arcsec if name.split("_err")[0].split("_q")[0] in ARCSEC else column
    table["snr"], table["ood"] = columns["snr"], columns["ood"][:, 0]
    told = posterior | {"ood": columns["ood"][:, 0], "logit_std": np.full(len(raw), np.nan)}
    table["flags"] = columns["flags"] | merge_flags(told, columns["fwhm"], card.theta_E_prior.range)
    table.meta.update(model=card.name, model_hash=card.hash, label=card.label)
    return table
