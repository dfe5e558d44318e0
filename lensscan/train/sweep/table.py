"""What a sweep has found: the table of its trials, the picture, and the best one as a training file."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensscan.config import toml_text
from lensscan.files import replacing
from lensscan.render.parallel import Axis, plot_parallel
from lensscan.train.sweep.journal import Rungs
from lensscan.train.sweep.schedule import Leg
from lensscan.train.sweep.settings import Sweep

__all__ = ["Row", "rows", "text", "write_best", "write_picture", "write_table"]

COLUMNS = ("rank", "trial", "outcome", "rung", "step", "value", "seconds", "reason")


@dataclass(frozen=True, slots=True)
class Row:
    """One trial: how far it came, the metric there, and its parameters by the training's keys.

    `outcome` is ``finished`` (trained to its last step), ``stopped`` (at the end of `rung`, counted from 1, since
    others were better), ``failed`` or ``unfinished``; `value` is NaN where no rung was reached, `seconds` those
    of all its training.
    """

    trial: int
    outcome: str
    rung: int
    step: int
    value: float
    seconds: float
    reason: str
    values: Mapping[str, Any]


def rows(sweep: Sweep, rungs: Rungs) -> list[Row]:
    """Return the trials, best first: who came further stands higher, failed and unfinished ones last."""
    found = []
    complete = all(leg.state != "running" for legs in rungs for leg in legs.values())
    for trial in sorted({trial for legs in rungs for trial in legs if trial < sweep.trials}):
        found.append(_row(sweep, [legs[trial] for legs in rungs if trial in legs], complete))
    worst = {"finished": 0, "stopped": 0, "unfinished": 1, "failed": 2}
    return sorted(found, key=lambda row: (worst[row.outcome], -row.rung, -sweep.sign * row.value, row.trial))


def _row(sweep: Sweep, legs: Sequence[Leg], complete: bool) -> Row:
    done = [leg for leg in legs if leg.state == "done"]
    last, best = legs[-1], done[-1] if done else None
    values = {key: parameter.value(last.params[key]) for key, parameter in sweep.space.items()}
    if last.state == "failed":
        outcome = "failed"
    elif best is not None and best.rung + 1 == len(sweep.shares):
        outcome = "finished"
    else:
        outcome = "stopped" if complete and last.state == "done" else "unfinished"
    step = sweep.steps(sweep.training_of(values, sweep.name), best.rung) if best is not None else 0
    return Row(
        trial=last.trial,
        outcome=outcome,
        rung=best.rung + 1 if best is not None else 0,
        step=step,
        value=best.value if best is not None else math.nan,
        seconds=round(sum(leg.seconds for leg in legs if math.isfinite(leg.seconds)), 2),
        reason=last.reason,
        values=values,
    )


def write_table(sweep: Sweep, table: Sequence[Row], path: Path) -> None:
    """Write the table as CSV: the columns of `Row`, the metric under its name, then one column a parameter."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        head = [sweep.metric if name == "value" else name for name in COLUMNS]
        writer.writerow([*head, *sweep.space])
        for rank, row in enumerate(table, start=1):
            cells = [rank, *(getattr(row, name) for name in COLUMNS[1:])]
            writer.writerow([*cells, *(_cell(row.values[key]) for key in sweep.space)])


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, bool)) else value


def text(sweep: Sweep, table: Sequence[Row], n: int = 10) -> str:
    """Return the first rows as aligned text."""
    keys = list(sweep.space)
    lines = [["trial", "outcome", "step", sweep.metric, *(_short(key, keys) for key in keys)]]
    for row in table[:n]:
        values = [_word(row.values[key]) for key in keys]
        lines.append([str(row.trial), row.outcome, str(row.step), _word(row.value), *values])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines)


def _short(key: str, keys: Sequence[str]) -> str:
    """Return the last part of a key, or all of it where two would look the same."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value).replace(" ", "") if isinstance(value, (list, bool)) else str(value)


def write_picture(sweep: Sweep, table: Sequence[Row], path: Path) -> None:
    """Draw one line a trial through an axis for each parameter; nothing if no trial reached a rung."""
    reached = [row for row in table if row.rung > 0]
    if not reached:
        return
    keys = list(sweep.space)
    axes = []
    for key, parameter in sweep.space.items():
        drawn = [row.values[key] for row in reached]
        if parameter.choices:
            words = [_word(choice) for choice in parameter.choices]
            places = tuple(float(words.index(_word(value))) for value in drawn)
            axes.append(Axis(_short(key, keys), places, words=tuple(words)))
        else:
            limits = (float(parameter.low), float(parameter.high))
            axes.append(Axis(_short(key, keys), tuple(map(float, drawn)), limits=limits, log=parameter.log))
    value = Axis(sweep.metric, tuple(row.value for row in reached))
    finished = [row.outcome == "finished" for row in reached]
    n_failed = sum(row.outcome == "failed" for row in table)
    title = f"{sweep.name}: {len(table)} trials, {sum(finished)} trained to the end, {n_failed} failed"
    plot_parallel(axes, value, finished, path, title=title, upward=sweep.sign > 0)


def write_best(sweep: Sweep, table: Sequence[Row], path: Path) -> None:
    """Write the best trial as a training file; nothing if no trial reached a rung."""
    best = next((row for row in table if row.rung > 0), None)
    if best is None:
        return
    mapping = sweep.mapping_of(best.values)
    head = (
        f"# The best of {len(table)} trials of the sweep {sweep.name}: trial {best.trial}, {sweep.metric} "
        f"{best.value:.5g} at step {best.step} on the\n# validation mocks, which chose it: as the best of many it is "
        "flattered. Measure it on others.\n"
    )
    with replacing(path) as temporary:
        temporary.write_text(head + toml_text(mapping), encoding="utf-8")
