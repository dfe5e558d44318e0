"""Rates, ratios and how they are printed: medians over interleaved rounds, with their spread."""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lensscan.files import replacing
from lensscan.process import available_cores

__all__ = ["Rate", "Report", "announce", "interleave", "on_threads"]


@dataclass(frozen=True, slots=True)
class Rate:
    """Repeated measurements of one rate.

    Attributes
    ----------
    samples : tuple of float
        Items per second, one per round.
    """

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median rate."""
        return statistics.median(self.samples)

    def __str__(self) -> str:
        low, high = min(self.samples), max(self.samples)
        return f"{self.median:,.0f}/s [{low:,.0f}-{high:,.0f}]"


def announce(part: str) -> None:
    """Say on stderr which part begins: a benchmark must not be silent for minutes."""
    sys.stderr.write(f"lensscan bench: {part}\n")
    sys.stderr.flush()


def interleave(what: str, tasks: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, Rate]:
    """Time tasks in turn, `rounds` times, so that a noisy neighbour hits them alike.

    Parameters
    ----------
    what : str
        For the line at the beginning of every round.
    tasks : mapping of name to callable
        Each does some work and returns how many items it handled.
    rounds : int
        Measured rounds, after one that warms up.

    Returns
    -------
    dict of name to Rate
    """
    samples: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(rounds + 1):
        announce(f"{what}, {f'round {turn} of {rounds}' if turn else 'warming up'}")
        for name, task in tasks.items():
            begin = time.perf_counter()
            items = task()
            seconds = time.perf_counter() - begin
            if turn:
                samples[name].append(items / seconds)
    return {name: Rate(tuple(values)) for name, values in samples.items()}


def on_threads(threads: int, task: Callable[[], int]) -> Callable[[], int]:
    """Return the task as one that torch does with so many CPU threads."""

    def bounded() -> int:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return task()
        finally:
            torch.set_num_threads(before)

    return bounded


@dataclass(slots=True)
class Report:
    """Lines of figures beside their goals."""

    title: str
    figures: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self, name: str, value: float, unit: str, goal: str = "", reached: bool | None = None, note: str = ""
    ) -> None:
        """Add one figure; `goal` is text, `reached` whether it was."""
        entry = {"name": name, "value": value, "unit": unit, "goal": goal, "reached": reached, "note": note}
        self.figures.append(entry)

    def rate(self, name: str, rate: Rate, unit: str = "stamps/s") -> None:
        """Add a measured rate."""
        spread = f"{min(rate.samples):,.0f} to {max(rate.samples):,.0f} over {len(rate.samples)} rounds"
        self.add(name, rate.median, unit, note=spread)

    def at_least(self, name: str, value: float, goal: float, unit: str = "", note: str = "") -> None:
        """Add a figure that should be at least `goal`."""
        self.add(name, value, unit, f">= {goal:g}", value >= goal, note)

    def at_most(self, name: str, value: float, goal: float, unit: str = "", note: str = "") -> None:
        """Add a figure that should be at most `goal`."""
        self.add(name, value, unit, f"<= {goal:g}", value <= goal, note)

    def text(self) -> str:
        """Return the table."""
        lines = [f"{self.title}  ({platform.machine()}, {available_cores()} cores, Python {platform.python_version()})"]
        for f in self.figures:
            number = f"{f['value']:,.0f}" if abs(f["value"]) >= 100 else f"{f['value']:.3g}"
            mark = {True: "reached", False: "NOT REACHED", None: ""}[f["reached"]]
            verdict = f"  goal {f['goal']}: {mark}" if f["goal"] else ""
            note = f"  ({f['note']})" if f["note"] else ""
            lines.append(f"  {f['name']:<62s} {number:>12s} {f['unit']:<9s}{verdict}{note}")
        return "\n".join(lines)

    def save(self, path: str | Path) -> None:
        """Write the figures as JSON."""
        text = json.dumps({"title": self.title, "figures": self.figures}, indent=1)
        with replacing(path) as temporary:
            temporary.write_text(f"{text}\n", encoding="utf-8")
