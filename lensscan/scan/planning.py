"""From catalog, cut and storage to ``plan.h5``; and whether an existing plan is the same one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lensscan import faults
from lensscan.config import Cut, Survey
from lensscan.errors import CatalogError, ModelError, OutputError, PlanMismatch
from lensscan.files import keep_inputs
from lensscan.scan.columns import row_bytes
from lensscan.scan.engine import default_batch, stamp_source
from lensscan.scan.plan import CHUNK_ROWS, FORMAT, Plan, PlanWriter
from lensscan.scan.regression import require_regressor
from lensscan.scan.settings import ScanSettings, canonical
from lensscan.scan.storage import ABSENT, SomeRows, changed_files, record_files
from lensscan.survey.catalog import Catalog, Chunk, open_catalog
from lensscan.survey.presence import LOOKS, SomeFiles
from lensscan.survey.select import CutFlow, Selector, read_stored_flow
from lensscan.survey.stamps import Frame, StampSource, check_bands

if TYPE_CHECKING:
    from lensscan.nets.card import Card

__all__ = ["Planner"]

PATIENCE = 60.0
FORMER = ("stamp_size",)
"""Settings that older plans state, and that never changed a byte of a shard: the model gives the frame."""


class Planner:
    """Knows the inputs of one run and makes, or recognises, its plan.

    Parameters
    ----------
    settings : ScanSettings
    announce : callable
        Told now and then, as text, how far planning is.
    """

    def __init__(self, settings: ScanSettings, announce: Callable[[str], None] = lambda text: None) -> None:
        from lensscan.nets.model import Model, common_frame

        self.settings = settings
        self.announce = announce
        if os.path.isdir(settings.output):
            raise OutputError(f"cannot write {settings.output}: it is a folder; give a file")
        self.survey, self.cut = settings.load()
        models = [Model.load(name) for name in settings.model]
        self.cards: list[Card] = [model.card for model in models]
        names = [card.name for card in self.cards]
        if len(set(names)) != len(names):
            raise ModelError(f"models {', '.join(names)}: two have the same name; a scan names its columns by them")
        mute = next((model.card.name for model in models if not model.scores), None)
        if mute is not None:
            raise ModelError(
                f"model {mute} learned to regress only, and a scan ranks by a score; "
                f"give it as --regressor, and a model that scores as --model"
            )
        self.frame: Frame = common_frame(models)
        self.regressor: Card | None = None
        if settings.regressor is not None:
            regressor = Model.load(settings.regressor)
            require_regressor(regressor, self.frame)
            self.regressor = regressor.card
        check_bands(self.survey, self.frame, self.cards[0].name)
        self.source: StampSource = stamp_source(settings, self.survey, self.frame)
        self.catalog: Catalog = open_catalog(settings.catalog, self.survey, self.source.required_columns())
        keep_inputs(settings.output, *self.catalog.paths)
        # taken before anything is located, so that a resumed run compares like with like
        self.fingerprint = [list(item) for item in (*self.catalog.fingerprint(), *self.source.fingerprint())]
        self.catalog.require(Selector(self.survey, self.cut).bands)
        self.stored_flow = None if self.cut else read_stored_flow(settings.catalog)

    def disk_bytes(self, n_rows: int) -> int:
        """Return about how many bytes a scan of so many rows needs for shards and output together."""
        from lensscan.nets.mixture import Pooling

        pooling = Pooling.of([self.regressor] if self.regressor else self.cards, self.settings.views)
        return n_rows * row_bytes(len(self.frame.bands), len(self.cards), pooling.total)

    @property
    def prevalence(self) -> float | None:
        """Return the prevalence: the setting, else that of the cut made here or by ``lensscan select``, else None."""
        if self.settings.prevalence is not None:
            return self.settings.prevalence
        made = self.cut or self.stored_flow
        return made.prevalence if made else None

    def identity(self) -> dict[str, Any]:
        """Return everything but the rows that can change a byte of a shard."""
        s = self.settings
        regressor = {"regressor": _named(self.regressor)} if self.regressor else {}
        return {
            "format": FORMAT,
            "cut": _without(self.cut, ("title", "prevalence", "prevalence_source", "reference")),
            "survey": _without(self.survey, ("title",)),
            "stamps": s.stamps,
            "resample": s.resample,
            "models": [_named(card) for card in self.cards],
            **regressor,
            "views": s.views,
            "precision": s.precision,
            "regress_above": s.threshold,
            "batch": default_batch(s),
        }

    def make(self, path: Path, storage: Sequence[Any] | None = None) -> Plan:
        """Stream the catalog through cut and storage into ``plan.h5``.

        Parameters
        ----------
        path : Path
        storage : sequence, optional
            Of a plan that stands and is compared with this one: its stamps may be gone by now, and are not looked at.

        Raises
        ------
        ConfigError
            If none of the selected rows that are tried has a file.
        """
        writer = PlanWriter(path, default_batch(self.settings), not self._loose)
        begun = time.monotonic()
        selector = Selector(self.survey, self.cut)
        tried, some = SomeFiles(self.source, self.settings.stamps, LOOKS if storage is None else 0), SomeRows()
        try:
            for chunk in self.catalog.chunks(CHUNK_ROWS):
                self._append(writer, chunk, selector.apply(chunk), tried, some)
                del chunk  # else it would still be held while the next one is read
                rate = selector.flow.n_catalog / max(1e-9, time.monotonic() - begun)
                self.announce(
                    f"plan: {selector.flow.n_catalog} catalog rows read, {writer.n_rows} selected, {rate:.0f} rows/s"
                )
            tried.require()
            faults.reach("plan:before_rename")
            flow = self._flow(selector.flow)
            if storage is None:
                storage = self._storage(some.names if self._loose else writer.shared)
            writer.finish(self.identity(), flow, self.fingerprint, self.frame.bands, storage)
        except BaseException:
            writer.discard()
            raise
        faults.reach("plan:after_rename")
        return Plan.open(path)

    @property
    def _loose(self) -> bool:
        """Whether each stamp has a file of its own."""
        return self.settings.stamps.startswith("stamps:")

    @property
    def _patience(self) -> float | None:
        """Seconds to look at files of pixels: a single stamp that hangs is for the scan to fail, not for the plan."""
        return PATIENCE if self._loose else None

    def _storage(self, names: Sequence[str]) -> list[list[Any]]:
        """Return what to remember of the files that hold rows; of single stamps only of those that are there.

        A stamp that comes, or goes, later makes a row fail, or not: nothing is mixed.
        """
        files = {file for name in names for file in self.source.stored_in(name)}
        records = record_files(files, self._patience)
        return [each for each in records if not (self._loose and each[1] == ABSENT)]

    def _flow(self, flow: CutFlow) -> CutFlow:
        """Return the cut flow: ours, or the one that ``lensscan select`` stored with the selection."""
        if self.stored_flow is None:
            return flow
        if self.stored_flow.n_selected != flow.n_catalog:
            raise CatalogError(
                f"{self.settings.catalog} holds {flow.n_catalog} rows, but its stored cut flow says "
                f"{self.stored_flow.n_selected}; run lensscan select again"
            )
        return self.stored_flow

    def _append(self, writer: PlanWriter, chunk: Chunk, mask: np.ndarray, tried: SomeFiles, some: SomeRows) -> None:
        kept = chunk if mask.all() else chunk.select(mask)
        located = self.source.locate(kept)
        tried.look(located.file)
        numbers: dict[str, NDArray[Any]] = {
            "ra": kept.ra, "dec": kept.dec, "px": kept.px, "py": kept.py,
            "offset": located.offset, "status": located.status, "row": chunk.start + np.flatnonzero(mask),
        }  # fmt: skip
        if self._loose:
            some.add(numbers["row"], located.file)
        writer.append(kept.id, numbers, located.file, self._carried(kept))

    def _carried(self, kept: Chunk) -> dict[str, NDArray[Any]]:
        """Return the columns to carry by their names in the output, where a slash would begin a group."""
        columns: dict[str, NDArray[Any]] = {}
        for name in dict.fromkeys(self.survey.catalog.keep):
            values = kept.columns[name]
            where = f"{self.settings.catalog}: column {name!r} of catalog.keep"
            if values.ndim > 1:
                raise CatalogError(
                    f"{where} holds {values[0].size} values a row; name elements, such as {name + '[0]'!r}"
                )
            if values.dtype.kind not in "biufU":
                raise CatalogError(f"{where} has dtype {values.dtype}; keep numbers or text only")
            safe = name.replace("/", "_")
            if safe in columns:
                raise CatalogError(f"{where} would be named cat_{safe} like another; keep one of them")
            columns[safe] = values
        return columns

    def resume(self, path: Path) -> Plan:
        """Return the plan at `path` if it is ours, or make it anew if the input files were touched but say the same.

        Raises
        ------
        PlanMismatch
            If it belongs to another configuration, catalog or other pixels; the message names the fields or the file.
        """
        plan = Plan.open(path)
        self.require_same(plan.settings, str(path.parent))
        self.require_pixels(plan.storage, f"the plan in {path.parent} was made")
        if canonical(plan.fingerprint) == canonical(self.fingerprint):
            return plan
        fresh = self.make(path.with_name("plan-again.h5"), plan.storage)
        if fresh.plan_hash != plan.plan_hash:
            fresh.path.unlink(missing_ok=True)
            raise PlanMismatch(
                f"{path.parent}: the catalog or the stamp index changed since the plan was made; {self._remedy()}"
            )
        os.replace(fresh.path, path)  # the same rows: its shards stand, and the next resume need not ask again
        return Plan.open(path)

    def require_pixels(self, storage: Sequence[Any], since: str, gone: bool = True, scored: bool = False) -> None:
        """Raise `PlanMismatch` if files that hold pixels changed; tell of those that were only touched.

        Parameters
        ----------
        storage : sequence
            What `record_files` said of them.
        since : str
            Completes "changed since ...".
        gone : bool
            Whether files that are not there any more count: not where nothing more is read.
        scored : bool
            Whether rows were scored since, so that putting an old file back would not help.
        """
        changed, touched = changed_files(storage, gone and not self._loose, self._patience)
        if changed:
            more = f" and {len(changed) - 1} other files" if len(changed) > 1 else ""
            back = "" if scored else "put the old file back, "
            raise PlanMismatch(
                f"{changed[0]}{more} changed since {since}, and scores of two versions must not be mixed; "
                f"{back}choose another output, or give --overwrite to scan all anew"
            )
        if touched:
            self.announce(
                f"{len(touched)} files of stamps, {touched[0]} first, have another time than when {since}, but the "
                f"same size and sampled bytes: taken for the same"
            )

    def require_same(self, stored: dict[str, Any], where: str) -> None:
        """Raise `PlanMismatch`, naming the fields, if a stored plan's settings are not ours."""
        mine = self.identity()
        names = [*mine, *(name for name in stored if name not in (*mine, "rows", *FORMER))]
        changed = [name for name in names if canonical(mine.get(name)) != canonical(stored.get(name))]
        if changed:
            raise PlanMismatch(f"{where} belongs to another plan: {', '.join(changed)} changed; {self._remedy()}")

    def _remedy(self) -> str:
        return f"undo the change, choose another output, or remove {self.settings.output}* (or give --overwrite)"


def _named(card: Card) -> dict[str, str]:
    """Return what tells a model from any other."""
    return {"name": card.name, "sha256": card.hash}


def _without(value: Cut | Survey | None, names: tuple[str, ...]) -> dict[str, Any] | None:
    """Return a configuration as plain values, without the fields that only describe it."""
    if value is None:
        return None
    plain: dict[str, Any] = json.loads(canonical(value))
    return {name: item for name, item in plain.items() if name not in names}
