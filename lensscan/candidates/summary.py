"""What ``lensscan show`` says about an output, as lines of text."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lensscan.candidates.file import (
    Header,
    open_output,
    read_candidates,
    read_cutflow,
    read_files,
    read_header,
    read_provenance,
)
from lensscan.nets.flags import UNCLEAN
from lensscan.schema import STATUS_TEXT, flag_names, status_name
from lensscan.survey.select import flow_lines

if TYPE_CHECKING:
    from astropy.table import QTable

__all__ = ["clean_leaders", "format_table", "probability", "summary"]

FAILURE_CHUNK = 1_000_000
NUMBER = re.compile(r"-|[+-]?[\d,]*\.?\d+(e[+-]?\d+)?")
WIDTH = 120
"""Columns of a line of the ranking; longer ones (many flags) are cut off."""
TOPS = (10, 100, 1_000, 10_000, 100_000)
DISAGREE = 2.0
"""Factor between the numbers of lenses expected by p_lens and by p_survey above which ``show`` warns."""
FLOW = ("name", "n_in", "n_kept", "n_nan", "n_sentinel")


def clean_leaders(table: QTable, clean: bool = False) -> QTable:
    """Return the leaders of the groups, in rank order; with `clean` only those without a warning flag."""
    keep = np.asarray(table["group_rank"]) == 1
    if clean:
        keep &= (np.asarray(table["flags"]) & int(UNCLEAN)) == 0
    return table[keep]


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table; the columns are as wide as their longest cell, numbers flush right."""
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(head))]
    right = [all(_is_number(row[k]) for row in rows) for k in range(len(head))]
    lines = []
    for row in cells:
        parts = [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)]
        lines.append("  ".join(parts).rstrip())
    return lines


def summary(path: str | Path, n: int = 20, clean: bool = False) -> list[str]:
    """Return the summary of an output.

    Parameters
    ----------
    path : str or Path
    n : int
        Candidates to list; groups count once.
    clean : bool
        Leave out candidates with a warning flag.

    Raises
    ------
    OutputError
        If the file cannot be read.
    """
    header, provenance = read_header(path), read_provenance(path)
    table = read_candidates(path)
    lines = [f"{path}  (format {header.format_version}, lensscan {header.version})", *_counts(path, header)]
    lines += _cutflow(path)
    lines += _failures(path, header)
    lines += _top(table, n, clean)
    lines += _expected(clean_leaders(table, clean))
    lines += _provenance(header, provenance)
    return lines


def _counts(path: str | Path, h: Header) -> list[str]:
    return [
        f"n_catalog = {h.n_catalog:,} = {h.n_cut:,} cut + {h.n_scored:,} scored + {h.n_failed:,} failed",
        f"content hash {h.content_hash}",
    ]


def _cutflow(path: str | Path) -> list[str]:
    steps = read_cutflow(path)
    if not steps:
        return ["", "no colour cut: every catalog row was scored"]
    return ["", "cut flow", *flow_lines([tuple(step[name] for name in FLOW) for step in steps])]


def _failures(path: str | Path, header: Header) -> list[str]:
    if not header.n_failed:
        return ["", "no failed rows"]
    reasons: Counter[str] = Counter()
    examples: dict[str, tuple[str, int]] = {}
    with open_output(path) as h5:
        dataset = h5["failures"]
        for start in range(0, dataset.shape[0], FAILURE_CHUNK):
            records = dataset[start : start + FAILURE_CHUNK]
            names, first, counts = np.unique(records["reason"], return_index=True, return_counts=True)
            for name, at, count in zip(names, first, counts, strict=True):
                reasons[name.decode()] += int(count)
                examples.setdefault(name.decode(), (_text(records["id"][at]), int(records["file"][at])))
    meaning = {status_name(code).removeprefix("failed:"): text for code, text in STATUS_TEXT.items()}
    rows: list[list[str]] = []
    files: list[str] = []
    for name, count in reasons.most_common():
        example, number = examples[name]
        rows.append([name, f"{count:,}", example, meaning.get(name, "")])
        file = read_files(path, np.array([number]))[0]
        files += [f"first {name}: {file}"] if file else []
    return ["", "failed rows", *format_table(["reason", "rows", "first id", "meaning"], rows), *files]


def _top(table: QTable, n: int, clean: bool) -> list[str]:
    leaders = clean_leaders(table, clean)
    which = "clean candidates" if clean else "candidates"
    hidden = len(table) - len(leaders)
    title = f"top {min(n, len(leaders))} of {len(leaders):,} {which}" if len(leaders) else f"no {which}"
    if hidden:
        title += f" (left out: {hidden:,} further members of a group{', or flagged' if clean else ''})"
    lines = ["", title, *(_flagged(clean_leaders(table)) if clean else [])]
    if not len(leaders) or not n:
        return lines
    rows = []
    for row in leaders[:n]:
        theta, error = _value(row["theta_E"]), _value(row["theta_E_err"])
        size = f"{theta:.2f} +- {error:.2f}" if np.isfinite(theta) else "-"
        rows.append([
            str(row["rank"]), str(row["id"]), _number(row["ra"], ".5f"), _number(row["dec"], "+.5f"),
            _number(row["logit"], "+.3f"), probability(_value(row["p_lens"])), size, _number(row["snr"], ".1f"),
            " ".join(flag_names(int(row["flags"]))),
        ])  # fmt: skip
    head = ["rank", "id", "ra", "dec", "logit", "p_lens", 'theta_E ["]', "S/N", "flags"]
    return [*lines, *(_cut_off(line) for line in format_table(head, rows))]


def _flagged(leaders: QTable) -> list[str]:
    """Return a line that counts the warning flags for which `clean` leaves candidates out."""
    flags = np.asarray(leaders["flags"]) & int(UNCLEAN)
    counts = Counter(name for bits in flags[flags != 0] for name in flag_names(int(bits)))
    return [f"flagged: {', '.join(f'{name} {count:,}' for name, count in counts.most_common())}"] if counts else []


def _expected(leaders: QTable) -> list[str]:
    """Return how many lenses the two probabilities promise among the first candidates, and where they disagree."""
    sums = [np.cumsum(np.asarray(leaders[name], np.float64)) for name in ("p_lens", "p_survey")]
    stops = sorted({n for n in TOPS if n < len(leaders)} | ({len(leaders)} if len(leaders) else set()))
    rows, apart = [], []
    for stop in stops:
        known = [float(total[stop - 1]) for total in sums]
        rows.append([f"{stop:,}", *(f"{value:.3g}" if np.isfinite(value) else "-" for value in known)])
        if np.isfinite(known).all() and max(known) > DISAGREE * min(known):
            apart.append(f"{stop:,}")
    if not rows or all(row[1] == row[2] == "-" for row in rows):
        return []
    lines = ["", "lenses expected", *format_table(["in the top", "by p_lens", "by p_survey"], rows)]
    if apart:
        lines.append(
            f"warning: in the top {', '.join(apart)} they differ by more than a factor of {DISAGREE:g}: the survey's "
            "scores are not distributed as the model and the prevalence say; trust neither before you have looked"
        )
    return lines


def _provenance(header: Header, p: dict[str, Any]) -> list[str]:
    merge, blocks, config = p.get("merge", {}), p.get("blocks", {}), p.get("config", {})
    models = [_model(model) for model in p.get("models", [])]
    pairs = [
        ("created", p.get("created")),
        ("command", p.get("command")),
        ("lensscan", f"{p.get('lensscan', header.version)} {p.get('git', '')}".strip()),
        ("survey", (p.get("survey") or {}).get("name")),
        ("stamps", config.get("stamps")),
        ("cut", (p.get("cut") or {}).get("name")),
        ("magnitudes", p.get("magnitudes")),
        ("models", "; ".join(models) or ", ".join(header.models)),
        (
            "regressor",
            _regressor(p.get("regressor")),
        ),
        ("prevalence", merge.get("prevalence")),
        ("calibration", json.dumps(merge.get("calibration")) if merge.get("calibration") else "none"),
        ("MPI", " ".join(f"{k}={v}" for k, v in p.get("mpi", {}).items())),
        ("devices", "; ".join(f"{key} ({n} blocks)" for key, n in blocks.get("device_keys", {}).items())),
        ("attempts", len(p.get("attempts", [])) or None),
        ("scoring", _scoring_time(blocks, header)),
        ("merge", f"{merge['seconds']} s" if "seconds" in merge else None),
        ("plan hash", header.plan_hash),
        *(("note", note) for note in merge.get("notes", [])),
    ]
    return ["", "provenance", *(f"  {name:<11} {value}" for name, value in pairs if value not in (None, ""))]


def _model(model: dict[str, Any]) -> str:
    return f"{model['name']} {model.get('version', '')} {model.get('sha256', '')[:12]}"


def _regressor(regressor: dict[str, Any] | None) -> str | None:
    return f"{_model(regressor)}, of rows with a raw logit above {regressor['above']:g}" if regressor else None


def _scoring_time(blocks: dict[str, Any], header: Header) -> str | None:
    if not blocks.get("seconds"):
        return None
    read, network = blocks.get("seconds_read", 0.0), blocks.get("seconds_network", 0.0)
    rate = header.n_rows / blocks["seconds"]
    return f"{blocks['seconds']:.1f} worker seconds ({rate:,.0f} rows/s; reading {read:.1f} s, network {network:.1f} s)"


def probability(p: float) -> str:
    """Return a probability with two significant digits, more near 1; ``-`` if it is NaN."""
    if not np.isfinite(p):
        return "-"
    return f"{p:.3f}" if p >= 0.1 else f"{p:.2g}"


def _cut_off(line: str) -> str:
    """Return a line that fits the terminal, cut behind a whole word."""
    return line if len(line) <= WIDTH else line[: WIDTH - 3].rpartition(" ")[0].rstrip() + " ..."


def _value(cell: Any) -> float:
    return float(getattr(cell, "value", cell))


def _number(cell: Any, form: str) -> str:
    value = _value(cell)
    return format(value, form) if np.isfinite(value) else "-"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _is_number(text: str) -> bool:
    return NUMBER.fullmatch(text) is not None
