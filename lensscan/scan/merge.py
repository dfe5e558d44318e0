"""The merge: from the shards of a complete run to the ranked, verified OUT.h5.

Streams blocks in plan order: memory is a few chunks of `CHUNK_ROWS` rows plus the ranked table, whatever the
size of the catalog.  The file is written under a name of its own, synced, re-opened, verified in full and
only then renamed.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lensscan import faults
from lensscan.candidates.ensemble import Ensemble
from lensscan.candidates.groups import group_on_sky
from lensscan.candidates.rank import TopK
from lensscan.candidates.score import Combination, combine_cards, theta_E_range
from lensscan.candidates.verify import verify_output
from lensscan.candidates.writer import OutputWriter, failure_records
from lensscan.errors import OutputError, ShardInvalid, VerificationError, disk_error
from lensscan.files import sweep_temporary, sync_folder, temporary_files, temporary_name
from lensscan.nets.card import Card
from lensscan.nets.mixture import Pooling
from lensscan.scan.columns import ChunkColumns, Layout, tile_name
from lensscan.scan.plan import Plan
from lensscan.scan.regression import has_measured_errors
from lensscan.scan.shards import read_shard, shard_path
from lensscan.schema import Status, status_name

__all__ = ["CHUNK_ROWS", "MergeReport", "MergeSettings", "merge"]

CHUNK_ROWS = 65_536
TIMES = ("seconds", "seconds_read", "seconds_network")


@dataclass(frozen=True, slots=True)
class MergeSettings:
    """What acts at the merge only; changing it needs no new scan.

    Attributes
    ----------
    top : int
        Rows of ``/candidates``; 0 keeps all that `min_logit` lets through.
    min_logit : float or None
        Only rows whose calibrated logit is above.
    prevalence : float or None
        Fraction of lenses among the selected rows.
    ensemble : Ensemble or None
        Calibration of the mean of several networks.
    """

    top: int = 100_000
    min_logit: float | None = None
    prevalence: float | None = None
    ensemble: Ensemble | None = None

    def stored(self) -> dict[str, Any]:
        """Return the settings as plain values, as they stand in the file."""
        values = asdict(self)
        del values["ensemble"]
        return values if self.ensemble is None else values | {"ensemble": self.ensemble.stored()}


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge wrote.

    Attributes
    ----------
    path : Path
    n_catalog, n_cut, n_rows, n_scored, n_failed, n_candidates : int
    failed : dict
        Reason -> rows.
    content_hash : str
    seconds : float
    device_keys : dict
        Device key -> blocks; more than one means that scores may differ in their last bits.
    notes : tuple of str
    """

    path: Path
    n_catalog: int
    n_cut: int
    n_rows: int
    n_scored: int
    n_failed: int
    n_candidates: int
    failed: dict[str, int]
    content_hash: str
    seconds: float
    device_keys: dict[str, int]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return the report for the terminal."""
        failed = "".join(f" + {n:,} failed:{reason}" for reason, n in sorted(self.failed.items()))
        law = f"n_catalog = {self.n_catalog:,} = {self.n_cut:,} cut + {self.n_scored:,} scored{failed or ' + 0 failed'}"
        rate = self.n_rows / max(self.seconds, 1e-9)
        return [
            f"complete: {law}",
            f"{self.path}: {self.n_candidates:,} candidates, content hash {self.content_hash}",
            f"merged in {self.seconds:.1f} s ({rate:,.0f} rows/s)",
            *(f"note: {note}" for note in self.notes),
        ]


def merge(
    plan: Plan,
    run_dir: Path,
    out_path: Path,
    settings: MergeSettings,
    models: Sequence[Card],
    provenance: dict[str, Any],
    regressor: Card | None = None,
) -> MergeReport:
    """Merge the shards of a complete run.

    Parameters
    ----------
    plan : Plan
    run_dir : Path
        Holds the shards; every block of the plan must stand.
    out_path : Path
        Replaced in one step once the new file has been verified.
    settings : MergeSettings
    models : sequence of Card
        In the order of the shards' networks.
    provenance : dict
        Stored as it is, with ``merge`` added.
    regressor : Card, optional
        Of the model that gave the posteriors in place of the networks.

    Raises
    ------
    ShardInvalid
        If a shard is missing or damaged.
    DiskError
        If the disk is full; nothing is left behind.
    VerificationError
        If what was written does not hold.
    """
    out_path = Path(out_path)
    sweep_temporary(temporary_files(out_path))
    temp = temporary_name(out_path)
    task = _Merge(plan, Path(run_dir), temp, settings, models, provenance, regressor)
    try:
        faults.reach("merge:begin")
        report = task.run(out_path)
        faults.reach("merge:before_rename")
        os.replace(temp, out_path)
        faults.reach("merge:after_rename")
        sync_folder(out_path.parent)
    except BaseException as error:
        task.discard()
        if isinstance(error, OSError):
            problem = disk_error(error, out_path) or OutputError(f"cannot write {out_path}: {error}; check the folder")
            raise problem from error
        raise
    return report


@dataclass(slots=True)
class _Merge:
    """One merge under way."""

    plan: Plan
    run_dir: Path
    temp: Path
    settings: MergeSettings
    models: Sequence[Card]
    provenance: dict[str, Any]
    regressor: Card | None = None
    writer: OutputWriter | None = None
    counts: Counter[int] = field(default_factory=Counter)
    device_keys: Counter[str] = field(default_factory=Counter)
    begun: float = field(default_factory=time.perf_counter)
    times: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TIMES, 0.0))

    def run(self, out_path: Path) -> MergeReport:
        """Write, close and verify the temporary file."""
        combination = combine_cards(self.models, self.settings.prevalence, self.settings.ensemble)
        if self.regressor is not None:
            combination.theta_E = theta_E_range([self.regressor])
        with h5py.File(self.plan.path, "r", locking=False) as h5:
            layout = Layout.of(self.plan, h5["rows"], combination.names, self._pooling())
            writer = self.writer = OutputWriter(self.temp, self.plan.n_rows, layout.scores, layout.id_dtype)
            best = self._stream(h5["rows"], layout, combination, writer)
            self._survey(combination, writer)
            table = _ranked_table(best, combination, h5["files"])
            writer.write_table(table)
            writer.write_cutflow(self.plan.cutflow)
            writer.copy_files(h5)
        counts = self._totals(len(table))
        notes = self._notes(combination)
        content = writer.write_header(self._attributes(counts, combination), self._provenance(combination, notes))
        faults.reach("merge:before_close")
        writer.close()
        faults.reach("merge:before_verify")
        failed = verify_output(self.temp, content).failed
        seconds = time.perf_counter() - self.begun
        return MergeReport(
            out_path, **counts, failed=failed, content_hash=content, seconds=seconds,
            device_keys=dict(self.device_keys), notes=notes,
        )  # fmt: skip

    def _pooling(self) -> Pooling:
        """Return how what the shards hold forms one posterior."""
        views, ensemble = int(self.plan.settings.get("views", 0)), self.settings.ensemble
        if self.regressor is not None:
            return Pooling.of([self.regressor], views)
        return ensemble.pooling(self.models, views) if ensemble else Pooling.of(self.models, views)

    def discard(self) -> None:
        """Remove the temporary file."""
        if self.writer is not None:
            self.writer.discard()

    def _stream(self, rows: h5py.Group, layout: Layout, combination: Combination, writer: OutputWriter) -> NDArray[Any]:
        """Turn chunks into score columns, in order; the arithmetic runs in threads beside reading and writing."""
        best = TopK(layout.record, self.settings.top, self.settings.min_logit)
        threads = min(4, len(os.sched_getaffinity(0)))
        waiting: deque[tuple[int, Future[ChunkColumns]]] = deque()

        def store() -> None:
            start, future = waiting.popleft()
            self._store(start, future.result(), layout, combination, writer, best)

        with ThreadPoolExecutor(threads, thread_name_prefix="merge") as pool:
            for chunk in self._chunks():
                start, stop = chunk[0][1], chunk[-1][2]
                columns, shard = layout.plan_columns(rows, start, stop), self._read(chunk, layout)
                waiting.append((start, pool.submit(layout.compute, columns, shard, combination)))
                if len(waiting) > threads:
                    store()
            while waiting:
                store()
        return best.finish()

    def _chunks(self) -> Iterator[list[tuple[int, int, int]]]:
        """Yield runs of whole blocks that hold at least `CHUNK_ROWS` rows, but for the last."""
        chunk: list[tuple[int, int, int]] = []
        for block in self.plan.block_rows():
            chunk.append(block)
            if block[2] - chunk[0][1] >= CHUNK_ROWS:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _read(self, chunk: list[tuple[int, int, int]], layout: Layout) -> dict[str, NDArray[Any]]:
        """Read the shards of a run of blocks as one array per column."""
        n_bands, n_networks, n_components = len(layout.bands), len(layout.networks), layout.pooling.total
        parts = []
        for block, start, stop in chunk:
            path = shard_path(self.run_dir, block)
            notes: dict[str, Any] = {}
            part = read_shard(path, self.plan.plan_hash, block, start, stop, notes)
            shapes: dict[str, tuple[int, ...]] = {
                "present": (n_bands,),
                "fwhm": (n_bands,),
                "sigma": (n_bands,),
                "logit": (n_networks,),
            }
            shapes |= {"post_mean": (n_components, 7), "post_cov": (n_components, 28)}
            shapes |= {"ood": (n_networks,), "wcs": (6,)}
            if layout.pooling.weighted:
                shapes["post_weight"] = (n_components,)
            for name, shape in (shapes | {"status": (), "flags": (), "snr": ()}).items():
                if name not in part or part[name].shape[1:] != shape:
                    raise ShardInvalid(f"{path}: column {name} is missing or not of shape (n, *{shape})")
            self.device_keys[str(notes.get("device_key", "unknown"))] += 1
            for name in TIMES:
                self.times[name] += float(notes.get(name, 0.0))
            parts.append(part)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _store(
        self,
        start: int,
        result: ChunkColumns,
        layout: Layout,
        combination: Combination,
        writer: OutputWriter,
        best: TopK,
    ) -> None:
        """Write one chunk and keep its best rows."""
        columns = result.scores
        codes, numbers = np.unique(columns["status"], return_counts=True)
        for code, number in zip(codes.tolist(), numbers.tolist(), strict=True):
            if code != Status.SCORED and not Status(code).is_failure:
                what = f"{number} plan rows from {start} on are {status_name(code)}"
                raise VerificationError(f"{what}, neither scored nor failed; remove {self.run_dir} and scan again")
            self.counts[code] += number
        plan_row = np.arange(start, start + len(columns["status"]))
        writer.write(start, {name: columns[name] for name in layout.scores if name != "p_survey"})
        failed = np.flatnonzero(columns["status"] != Status.SCORED)
        writer.append_failures(failure_records(plan_row, columns, failed))
        combination.count(columns["logit"])
        best.add(layout.records(result, best.wanted(columns["logit"]), plan_row))
        faults.reach("merge:scores_chunk")

    def _survey(self, combination: Combination, writer: OutputWriter) -> None:
        """Write p_survey, now that the histogram of this very run is known."""
        for start in range(0, self.plan.n_rows, CHUNK_ROWS):
            logit = writer.read("logit", start, min(start + CHUNK_ROWS, self.plan.n_rows))
            writer.write(start, {"p_survey": combination.p_survey(logit)})
        if not self.plan.n_rows:
            empty = {name: writer.read(name, 0, 0) for name in writer.h5["scores"]}
            writer.write(0, empty)
            writer.append_failures(writer.h5["failures"][:0])

    def _totals(self, n_candidates: int) -> dict[str, int]:
        n_scored = self.counts[Status.SCORED]
        return {
            "n_catalog": self.plan.n_catalog,
            "n_cut": int(sum(step["n_in"] - step["n_kept"] for step in self.plan.cutflow)),
            "n_rows": self.plan.n_rows,
            "n_scored": n_scored,
            "n_failed": sum(self.counts.values()) - n_scored,
            "n_candidates": n_candidates,
        }

    def _attributes(self, counts: dict[str, int], combination: Combination) -> dict[str, Any]:
        return {
            "plan_hash": self.plan.plan_hash,
            "merge_settings": self.settings.stored(),
            "bands": list(self.plan.bands),
            "models": list(combination.names),
            **counts,
        }

    def _notes(self, combination: Combination) -> tuple[str, ...]:
        notes = list(combination.notes)
        views = int(self.plan.settings.get("views", 0))
        others = [card for card in self.models if views and card.views != views]
        if others and not self.settings.ensemble:
            notes += [
                f"{card.name}: scored with {views} views, the logit was calibrated with {card.views}: "
                "probabilities may be a little off"
                for card in others
            ]
        if self.regressor is not None:
            notes += self._regressor_notes(self.regressor)
        elif Pooling.of(self.models).silent:
            voices = [
                ", ".join(card.name for card in self.models if card.regresses is which) for which in (True, False)
            ]
            notes.append(f"posteriors are those of {voices[0]}; without a posterior: {voices[1]}")
        if len(self.device_keys) > 1:
            keys = "; ".join(sorted(self.device_keys))
            notes.append(
                f"blocks were scored on {len(self.device_keys)} kinds of device ({keys}): last bits may differ"
            )
        return tuple(notes)

    def _regressor_notes(self, card: Card) -> list[str]:
        limit = float(self.plan.settings["regress_above"])
        notes = [f"posteriors are those of the regressor {card.name}, for rows of a raw logit above {limit:g} only"]
        if not has_measured_errors(card):
            notes.append(f"the posteriors of {card.name} were never calibrated on mocks: widths are the network's own")
        return notes

    def _provenance(self, combination: Combination, notes: Sequence[str]) -> dict[str, Any]:
        merged = {
            "calibration": asdict(combination.calibration) if combination.calibrated else None,
            "networks": list(combination.names),
            "prevalence": combination.prevalence,
            "p_survey": combination.has_survey,
            "notes": list(notes),
            "seconds": round(time.perf_counter() - self.begun, 3),
        }
        return {
            **self.provenance,
            "plan_settings": self.plan.settings,
            "fingerprint": self.plan.fingerprint,
            "storage": self.plan.storage,
            "frame": {name: getattr(self.models[0], name) for name in ("bands", "size", "pixel_scale")},
            "merge": merged,
            "blocks": {"n": len(self.plan.blocks), "device_keys": dict(self.device_keys), **self.times},
        }


def _ranked_table(best: NDArray[Any], combination: Combination, files: h5py.Dataset) -> NDArray[Any]:
    """Return the records of ``/candidates``: ranks, groups, tiles and p_survey filled in."""
    numbers = np.unique(best["file"])
    tiles = {int(number): tile_name(files[int(number)].decode()).encode() for number in numbers}
    width = max(map(len, tiles.values()), default=1) or 1
    fields = [(name, best.dtype[name]) for name in best.dtype.names or ()]
    place = [name for name, _ in fields].index("file")
    table = np.zeros(len(best), np.dtype([*fields[:place], ("tile", f"S{width}"), *fields[place:]]))
    for name, _ in fields:
        table[name] = best[name]
    table["rank"] = np.arange(1, len(best) + 1)
    table["p_survey"] = combination.p_survey(np.ascontiguousarray(best["logit"]))
    table["group"], table["group_rank"] = group_on_sky(best["ra"], best["dec"])
    table["tile"] = np.array([tiles[int(number)] for number in best["file"]], dtype=f"S{width}")
    return table
