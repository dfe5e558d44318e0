"""Reads and scores some plan rows in a process of its own, to see whether that kills it.

``python -m lensscan.scan.probe SETTINGS START STOP``
"""

from __future__ import annotations

import json
import os
import sys
import threading

from lensscan.scan.engine import build_engine
from lensscan.scan.settings import ScanSettings
from lensscan.scan.worker import BlockJob
from lensscan.survey.stamps import allocate

__all__ = ["end_with_parent", "probe"]


def end_with_parent() -> None:
    """End this process when standard input does: its other end is held by the scan that started it."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def probe(settings: ScanSettings, start: int, stop: int) -> None:
    """Read and score the plan rows [start, stop), keeping nothing."""
    engine = build_engine(settings, local_size=1)
    rows = engine.plan.rows(start, stop)
    reader = engine.ring.open_reader()
    batch = allocate(engine.plan.batch, engine.ring.frame)
    job = BlockJob(0, start, stop, rows)
    for at in range(0, len(rows), engine.plan.batch):
        n = min(engine.plan.batch, len(rows) - at)
        batch.clear()
        reader.read(rows, at, at + n, batch)
        result = engine.scorer.submit(batch).result()
        if engine.regression is not None:
            job.store(at, n, batch, engine.regression.blank(result))
            engine.regression.add(job.columns, at, n, batch)
    if engine.regression is not None:
        engine.regression.finish(job.columns)


if __name__ == "__main__":
    end_with_parent()
    probe(ScanSettings.from_mapping(json.loads(sys.argv[1]), "probe"), int(sys.argv[2]), int(sys.argv[3]))
    sys.exit(0)
