"""Re-checking an output by reading all of it: accounting law, exactly-once, ranking and content hash."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lensscan.candidates.digest import content_hash
from lensscan.candidates.file import Header, open_output
from lensscan.candidates.rank import rank_order
from lensscan.errors import VerificationError
from lensscan.schema import Status, status_name

if TYPE_CHECKING:
    import h5py

__all__ = ["Verification", "verify_output"]

CHUNK = 1_000_000


@dataclass(slots=True)
class Verification:
    """What was found in an output that holds.

    Attributes
    ----------
    header : Header
    failed : dict
        Reason -> rows.
    """

    header: Header
    failed: dict[str, int] = field(default_factory=dict)

    def law(self) -> str:
        """Return the accounting law in figures."""
        h = self.header
        failed = "".join(f" + {count:,} failed:{reason}" for reason, count in sorted(self.failed.items()))
        return f"n_catalog = {h.n_catalog:,} = {h.n_cut:,} cut + {h.n_scored:,} scored{failed or ' + 0 failed'}"


def verify_output(path: str | Path, expected_hash: str | None = None) -> Verification:
    """Read the whole file and check everything that it promises.

    Memory: one chunk of a few columns, the ranked table, and one bit per catalog row.

    Parameters
    ----------
    path : str or Path
    expected_hash : str, optional
        Content hash of what was meant to be written; default: the one stated in the file.

    Raises
    ------
    VerificationError
        If a row is missing, doubled or unaccounted for, the ranking is not the total order, or the content
        hash differs.
    OutputError
        If the file cannot be read at all.
    """
    with open_output(path) as h5:
        result = Verification(Header.of(h5))
        try:
            _check_flow(h5, result.header)
            _check_rows(h5, result)
            _check_ranking(h5, result.header)
            found = content_hash(h5)
        except _Broken as problem:
            raise VerificationError(f"{path}: {problem}; remove it and run the scan again") from None
    stated = result.header.content_hash if expected_hash is None else expected_hash
    if found != stated:
        message = f"content hash is {found[:16]}\u2026, not {stated[:16]}\u2026"
        raise VerificationError(f"{path}: {message}: the data are damaged; remove it and run the scan again")
    return result


class _Broken(Exception):
    """One broken promise."""


def _require(fine: bool, problem: str) -> None:
    if not fine:
        raise _Broken(problem)


def _check_flow(h5: h5py.File, header: Header) -> None:
    """The law must hold, and the cut flow must lead from the catalog to the selected rows without a gap."""
    total = header.n_cut + header.n_scored + header.n_failed
    _require(header.n_catalog == total, f"n_catalog = {header.n_catalog} but {total} rows are accounted for")
    steps = h5["cutflow"][()]
    n = header.n_catalog
    for step in steps:
        _require(int(step["n_in"]) == n, f"cut step {step['name'].decode()!r} got {step['n_in']} of {n} rows")
        n = int(step["n_kept"])
    _require(n == header.n_rows, f"the cut left {n} rows but {header.n_rows} are listed")
    _require(
        header.n_cut == header.n_catalog - n,
        f"{header.n_cut} rows are said to be cut, not {header.n_catalog - n}",
    )


def _check_rows(h5: h5py.File, result: Verification) -> None:
    """Every selected row has one end, every catalog row occurs at most once, /failures lists the failed."""
    scores, header = h5["scores"], result.header
    for name, dataset in scores.items():
        _require(dataset.shape[0] == header.n_rows, f"/scores/{name} has {dataset.shape[0]} rows")
    seen = np.zeros(header.n_catalog // 8 + 1, dtype=np.uint8)
    counts: Counter[int] = Counter()
    n_failed = 0
    for start in range(0, header.n_rows, CHUNK):
        stop = min(start + CHUNK, header.n_rows)
        status, logit = scores["status"][start:stop], scores["logit"][start:stop]
        codes, numbers = np.unique(status, return_counts=True)
        counts.update(dict(zip(codes.tolist(), numbers.tolist(), strict=True)))
        _mark(seen, scores["row"][start:stop], header.n_catalog)
        _require(
            bool((np.isnan(logit) == (status != Status.SCORED)).all()),
            "a scored row has no logit, or a failed one has",
        )
        failed = np.flatnonzero(status != Status.SCORED)
        listed = h5["failures"][n_failed : n_failed + len(failed)]
        same = len(listed) == len(failed) and bool((listed["plan_row"] == failed + start).all())
        same = same and bool((listed["status"] == status[failed]).all())
        _require(same, f"/failures does not list the failed rows of /scores from row {start} on")
        n_failed += len(failed)
    _require(
        n_failed == h5["failures"].shape[0] == header.n_failed,
        f"{n_failed} rows failed, not {header.n_failed}",
    )
    _require(
        counts[Status.SCORED] == header.n_scored,
        f"{counts[Status.SCORED]} rows are scored, not {header.n_scored}",
    )
    for code, number in counts.items():
        known = code == Status.SCORED or (code in Status._value2member_map_ and Status(code).is_failure)
        _require(known, f"{number} rows have status {code}, which is neither scored nor failed")
        if code != Status.SCORED:
            result.failed[status_name(code).removeprefix("failed:")] = number


def _mark(seen: NDArray[np.uint8], rows: NDArray[np.int64], n_catalog: int) -> None:
    """Set one bit per catalog row; complain about rows that occur twice."""
    if not len(rows):
        return
    rows = np.sort(rows)
    low, high = int(rows[0]), int(rows[-1])
    _require(low >= 0 and high < n_catalog, f"catalog row {low if low < 0 else high} does not exist")
    places = rows >> 3
    first = np.flatnonzero(np.diff(places, prepend=-1))
    bits = np.bitwise_or.reduceat((128 >> (rows & 7)).astype(np.uint8), first)
    twice = bool((rows[1:] == rows[:-1]).any() or (seen[places[first]] & bits).any())
    _require(not twice, "a catalog row occurs twice")
    seen[places[first]] |= bits


def _check_ranking(h5: h5py.File, header: Header) -> None:
    """The ranked table is in the total order, agrees with /scores, and misses no better row."""
    table = h5["candidates"][()]
    n = len(table)
    _require(n == header.n_candidates, f"/candidates has {n} rows, not {header.n_candidates}")
    order = rank_order(table["logit"], table["id"], table["plan_row"])
    _require(bool((order == np.arange(n)).all()), "/candidates is not in rank order")
    _require(bool((table["rank"] == np.arange(1, n + 1)).all()), "the ranks are not 1, 2, 3 ...")
    top, limit = header.merge_settings.get("top", 0), header.merge_settings.get("min_logit")
    eligible = better = matched = 0
    by_row = np.argsort(table["plan_row"], kind="stable")
    rows = table["plan_row"][by_row]
    for start in range(0, header.n_rows, CHUNK):
        stop = min(start + CHUNK, header.n_rows)
        logit, ids = h5["scores/logit"][start:stop], h5["scores/id"][start:stop]
        fine = logit > (-np.inf if limit is None else limit)
        eligible += int(np.count_nonzero(fine))
        if n:
            fine &= logit >= table["logit"][-1]
            better += _ahead(logit, ids, np.flatnonzero(fine), start, table[-1])
        mine = by_row[np.searchsorted(rows, start) : np.searchsorted(rows, stop)]
        at = table["plan_row"][mine] - start
        same = bool((logit[at] == table["logit"][mine]).all() and (ids[at] == table["id"][mine]).all())
        _require(same, "/candidates and /scores disagree")
        matched += len(mine)
    wanted = min(eligible, top) if top else eligible
    _require(matched == n == wanted, f"/candidates has {n} rows, {wanted} belong there")
    _require(n == 0 or better == n - 1, "a row that ranks higher is missing from /candidates")


def _ahead(logit: NDArray[np.float64], ids: NDArray[Any], fine: NDArray[np.intp], start: int, last: np.void) -> int:
    """Count the rows `fine` that stand before the last candidate in the total order."""
    value, tied_ids = logit[fine], ids[fine]
    tie = value == last["logit"]
    lower = (tied_ids < last["id"]) | ((tied_ids == last["id"]) & (fine + start < last["plan_row"]))
    return int(np.count_nonzero(~tie | lower))
