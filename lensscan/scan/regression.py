"""A separate regression model: posteriors for the rows of a block whose score is above a limit.

The models of a scan score every stamp; the regressor sees the promising ones only.  They are copied out of the
batches as these are scored and gathered into full batches of the same shape, within one block, so that what a batch
holds depends on the block alone, whoever scores it and whenever.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lensscan import faults
from lensscan.errors import ModelError
from lensscan.nets.latent import N_COV, N_LATENT
from lensscan.nets.mixture import Pooling
from lensscan.schema import Flag, Status
from lensscan.survey.placement import Placement, place_centred
from lensscan.survey.stamps import SCALE_TOLERANCE, Batch, Frame, allocate

if TYPE_CHECKING:
    from lensscan.nets.card import Card
    from lensscan.nets.model import Model
    from lensscan.nets.scorer import Pending, Scorer

__all__ = ["Regression", "has_measured_errors", "require_regressor"]

Columns = dict[str, NDArray[Any]]


def has_measured_errors(card: Card) -> bool:
    """Whether the widths of a model's posteriors were fitted to its errors on mocks: the finish of its training did."""
    return "parameters" in card.evaluation


def require_regressor(model: Model, frame: Frame) -> None:
    """Check that a model can give the posteriors of a scan.

    Parameters
    ----------
    model : Model
    frame : Frame
        What the scoring models want, and the scan reads.

    Raises
    ------
    ModelError
        If it has no posterior, states no widths that anybody measured, or wants more than the scan reads: other bands,
        larger stamps, other pixels.
    """
    from lensscan.nets.classic.pointregressor import PointNetwork

    card = model.card
    if not card.regresses:
        raise ModelError(f"regressor {card.name} learned to classify only, it gives no posterior; name it as --model")
    if isinstance(model.module, PointNetwork) and not has_measured_errors(card):
        raise ModelError(
            f"regressor {card.name} gives points, and its card has no errors measured on mocks, which their widths "
            "would follow from; finish its training: lensscan train --finish MODEL"
        )
    foreign = [band for band in card.bands if band not in frame.bands]
    if foreign:
        raise ModelError(
            f"regressor {card.name} wants the band {foreign[0]}, the scan reads {' '.join(frame.bands)} for its model; "
            "choose a regressor for these bands, or some of them"
        )
    if card.size > frame.size:
        raise ModelError(
            f"regressor {card.name} wants {card.size} pixels, the scan reads {frame.size} for its model; choose a "
            "regressor for stamps of at most that size"
        )
    if abs(card.pixel_scale / frame.pixel_scale - 1) > SCALE_TOLERANCE:
        raise ModelError(
            f'regressor {card.name} wants pixels of {card.pixel_scale:g}", the scan\'s model {frame.pixel_scale:g}"; '
            "choose a regressor for this pixel scale"
        )


@dataclass(slots=True, eq=False)
class Regression:
    """Gathers promising rows of one block after the other and gives them posteriors.

    Attributes
    ----------
    scorer : Scorer
        Of the regressor alone; its batches have as many rows as the scan's.
    above : float
        Rows whose raw logit, averaged over models and views, is above are regressed.
    components : int
        Of its posterior.
    bands : (c,) int array
        Places of its bands among the scan's.
    place : Placement
        Its frame within the scan's.
    slot : Batch
        Rows on their way.
    """

    scorer: Scorer
    above: float
    components: int
    bands: NDArray[np.intp]
    place: Placement
    slot: Batch
    _block: Columns | None = None
    _rows: list[int] = field(default_factory=list)
    _pending: tuple[list[int], NDArray[np.float32], Pending] | None = None

    @classmethod
    def of(cls, model: Model, scorer: Scorer, frame: Frame, above: float, pinned: bool = False) -> Regression:
        """Return the regression by a model, of which `scorer` was made, in a scan that reads `frame`."""
        own = model.frame()
        return cls(
            scorer,
            above,
            Pooling.of([model.card], scorer.networks[0].views).total,
            np.array([frame.bands.index(band) for band in own.bands]),
            place_centred((frame.size, frame.size), own.size),
            allocate(scorer.batch, own, pinned),
        )

    def blank(self, result: Columns) -> Columns:
        """Return the columns of a scored batch with empty posteriors of this regressor's shape."""
        n = len(result["logit"])
        kept = {name: column for name, column in result.items() if not name.startswith("post_")}
        shapes = {"post_mean": (N_LATENT,), "post_cov": (N_COV,)} | ({"post_weight": ()} if self.components > 1 else {})
        return kept | {name: np.full((n, self.components, *rest), np.nan, "f4") for name, rest in shapes.items()}

    def add(self, block: Columns, at: int, n: int, batch: Batch) -> None:
        """Take the promising ones of the rows [at, at + n) of a block, which `batch` holds.

        Parameters
        ----------
        block : dict
            Columns of the whole block; those rows have status and logit.  Posteriors are written into it, at the
            latest by `finish`.  Rows of another block that was never finished are forgotten.
        at, n : int
        batch : Batch
            May be refilled afterwards.
        """
        if self._block is not block:
            self._block, self._pending = block, None
            self._empty()
        rows = slice(at, at + n)
        above = block["logit"][rows].mean(axis=1) > self.above
        for row in np.flatnonzero(above & (block["status"][rows] == Status.SCORED)):
            if self._take(batch, int(row)):
                self._rows.append(at + int(row))
            else:
                block["flags"][at + row] |= np.uint32(Flag.NO_POSTERIOR)
            if len(self._rows) == self.scorer.batch:
                self._submit()

    def finish(self, block: Columns) -> None:
        """Regress what is left of a block and write all its posteriors."""
        if self._block is block:
            if self._rows:
                self._submit()
            self._collect()
        self._block = None

    def _empty(self) -> None:
        self._rows = []
        self.slot.clear()

    def _take(self, batch: Batch, row: int) -> bool:
        """Copy one row into the slot; False if too few of its bands are there."""
        present, at = batch.present[row, self.bands], len(self._rows)
        if np.count_nonzero(present) < self.scorer.frame.min_bands:
            return False
        slot, crop = self.slot, (slice(None), *self.place.source)
        slot.images[at] = batch.images[row, self.bands][crop]
        if batch.masked and (mask := batch.mask[row, self.bands][crop]).any():
            slot.mask_of(at)[...] = mask
        slot.present[at], slot.fwhm[at] = present, batch.fwhm[row, self.bands]
        slot.sigma[at], slot.origin[at] = batch.sigma[row, self.bands], batch.origin[row]
        return True

    def _submit(self) -> None:
        """Send the slot to the network; the batch before it is collected meanwhile."""
        faults.reach("regress:batch")
        self._collect()
        n = len(self._rows)
        self.slot.close(n)
        pending = self.scorer.submit(self.slot)
        moved = np.array(self.place.offset, np.float32) * np.float32(self.scorer.frame.pixel_scale)
        self._pending = self._rows, self.slot.origin[:n] + moved, pending
        pending.released()
        self._empty()

    def _collect(self) -> None:
        """Write the posteriors of the batch under way; what is not finite becomes NaN and a flag."""
        if self._pending is None or self._block is None:
            return
        rows, origin, pending = self._pending
        self._pending = None
        found = {name: column[: len(rows)] for name, column in pending.result().items()}
        mean = found["post_mean"]
        for place in (slice(3, 5), slice(5, 7)):
            mean[..., place] += origin[:, None]
        posterior = [name for name in ("post_mean", "post_cov", "post_weight") if name in found]
        good = np.all([np.isfinite(found[name]).reshape(len(rows), -1).all(axis=1) for name in posterior], axis=0)
        for name in posterior:
            found[name][~good] = np.nan
            self._block[name][rows] = found[name]
        self._block["flags"][rows] |= found["flags"] | np.where(good, 0, Flag.NO_POSTERIOR).astype(np.uint32)
