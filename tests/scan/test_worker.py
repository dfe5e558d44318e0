"""What a worker thread tells root."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from lensscan.scan import shards
from lensscan.scan.protocol import Kind
from lensscan.scan.worker import BlockJob, Worker
from lensscan.schema import Status

PLAN = "a" * 64


@pytest.fixture
def job():
    status = np.array([Status.SCORED, Status.BLANK, Status.SCORED], np.uint8)
    columns = {"logit": np.zeros((3, 1), np.float32), "status": status}
    return BlockJob(0, 10, 13, range(3), columns=columns)


def engine_of(folder, finished):
    return SimpleNamespace(run_dir=folder, plan=SimpleNamespace(plan_hash=PLAN), device_key="cpu", finished=finished)


def test_a_block_whose_marks_cannot_be_removed_is_told_as_done(tmp_path, job):
    """Its shard stands; root would wait for it for ever."""

    def finished(block):
        raise OSError("Stale file handle")

    (tmp_path / "shards").mkdir()
    worker = Worker(1, lambda: None)
    worker._durable(engine_of(tmp_path, finished), job)
    (message,) = worker.outbox
    assert (message.kind, message.block, message.rows, message.failed) == (Kind.DONE, 0, 3, 1)
    assert "Stale file handle" in worker.notes.pop()
    assert shards.done_blocks(tmp_path, PLAN, [(0, 10, 13)]) == ({0}, [])


def test_a_block_that_cannot_be_written_is_told_as_failed(tmp_path, job):
    worker = Worker(1, lambda: None)
    worker._durable(engine_of(tmp_path / "gone", lambda block: None), job)
    assert [message.kind for message in worker.outbox] == [Kind.FAIL]
