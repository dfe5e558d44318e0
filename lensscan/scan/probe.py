"""Reads and scores some plan rows in a process of its own, to see whether that kills it.

``python -m lensscan.scan.probe SETTINGS START STOP``
"""

from __future__ import annotations

import json
import sys

from lensscan.scan.engine import build_engine
from lensscan.scan.settings import ScanSettings
from lensscan.survey.stamps import allocate

__all__ = ["probe"]


def probe(settings: ScanSettings, start: int, stop: int) -> None:
    """Read and score the plan rows [start, stop), keeping nothing."""
    engine = build_engine(settings, local_size=1)
    rows = engine.plan.rows(start, stop)
    reader = engine.ring.source.reader()
    batch = allocate(engine.plan.batch, engine.ring.frame)
    for at in range(0, len(rows), engine.plan.batch):
        batch.clear()
        reader.read(rows, at, min(at + engine.plan.batch, len(rows)), batch)
        engine.scorer.submit(batch).result()


if __name__ == "__main__":
    probe(ScanSettings.from_mapping(json.loads(sys.argv[1]), "probe"), int(sys.argv[2]), int(sys.argv[3]))
    sys.exit(0)
