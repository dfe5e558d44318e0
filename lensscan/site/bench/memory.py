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
from lensscan.site.bench.report import Report
from lensscan.survey.stamps import Frame

__all__ = ["ROWS", "bench_memory"]

ROWS = (100_000, 1_000_000, 10_000_000)
FRAME = Frame(("i",), 8, 0.263, 1)
BATCH = 512


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
            data = make_packs(Path(temp), FRAME, n)
            model = Path(temp) / "trivial.safetensors"
            make_trivial(FRAME.bands, FRAME.size, FRAME.pixel_scale).save(model)
            settings = ("root_scores=no", "top=1000")
            run = scan(data, str(model), data.catalog, BATCH, (launcher, "-n", "2"), settings, ENVIRONMENT)
        peaks.append((n, run.root_peak, run.peaks[1]))
        report.add(f"{n:,} rows: root", run.root_peak / 2**20, "MiB", note=f"worker {run.peaks[1] / 2**20:.0f} MiB")
    (n0, root0, worker0), (n1, root1, worker1) = peaks[0], peaks[-1]
    if n1 > n0:
        report.at_most("root: bytes per further selected row", max(0, root1 - root0) / (n1 - n0), 16, "bytes")
        report.at_most("worker: growth of the peak", 100 * (worker1 / worker0 - 1), 5, "%")
    return report
