"""Peak memory of root and workers against the number of catalog rows."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from lensscan.errors import ConfigError
from lensscan.nets.model import make_trivial
from lensscan.site.bench.dataset import make_packs
from lensscan.site.bench.endtoend import scan
from lensscan.site.bench.launcher import ENVIRONMENT, find_mpiexec
from lensscan.site.bench.report import Report, announce
from lensscan.survey.stamps import Frame

__all__ = ["ROWS", "bench_memory"]

ROWS = (100_000, 1_000_000, 10_000_000)
FRAME = Frame(("i",), 8, 0.263, 1)
BATCH = 512
LEAST = 1_000_000
"""Rows of the longest catalog from which on rows, and not chance, decide how the peaks grow."""


def bench_memory(rows: Sequence[int], folder: str | None = None) -> Report:
    """Scan catalogs of growing length with one worker beside a root that does not score.

    Parameters
    ----------
    rows : sequence of int
        Lengths; about 350 bytes of disk a row.
    folder : str, optional
        Where to write; default: a temporary folder.

    Raises
    ------
    ConfigError
        If no mpiexec is found.
    """
    launcher = find_mpiexec()
    if launcher is None:
        raise ConfigError(
            "lensscan bench memory needs an mpiexec, for a root apart from its worker; see lensscan doctor"
        )
    report = Report("memory")
    peaks: list[tuple[int, int, int]] = []
    for n in sorted(rows):
        with tempfile.TemporaryDirectory(dir=folder) as temp:
            announce(f"{n:,} rows: writing them")
            data = make_packs(Path(temp), FRAME, n)
            model = Path(temp) / "trivial.safetensors"
            make_trivial(FRAME.bands, FRAME.size, FRAME.pixel_scale).save(model)
            settings = ("root_scores=no", "top=1000")
            announce(f"{n:,} rows: scanning them")
            run = scan(data, str(model), data.catalog, BATCH, (launcher, "-n", "2"), settings, ENVIRONMENT)
        peaks.append((n, run.root_peak, run.peaks[1]))
        report.add(f"{n:,} rows: root", run.root_peak / 2**20, "MiB", note=f"worker {run.peaks[1] / 2**20:.0f} MiB")
    judge(report, peaks)
    return report


def judge(report: Report, peaks: Sequence[tuple[int, int, int]]) -> None:
    """Add how the peaks grow from the shortest to the longest catalog; a verdict only if that is long enough.

    Parameters
    ----------
    report : Report
    peaks : sequence of (rows, bytes of root, bytes of the worker)
        By rows.
    """
    (n0, root0, worker0), (n1, root1, worker1) = peaks[0], peaks[-1]
    if n1 <= n0:
        return
    root, worker = max(0, root1 - root0) / (n1 - n0), 100 * (worker1 / worker0 - 1)
    names = "root: bytes per further selected row", "worker: growth of the peak"
    if n1 >= LEAST:
        report.at_most(names[0], root, 16, "bytes")
        report.at_most(names[1], worker, 5, "%")
        return
    note = f"no verdict below {LEAST:,} rows: from run to run peaks differ by a MiB, which so few rows make much of"
    report.add(names[0], root, "bytes", note=note)
    report.add(names[1], worker, "%", note=note)
