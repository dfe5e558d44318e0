"""History of a training: JSON lines, curves, progress line."""

from __future__ import annotations

import json
import time

from lensscan.train.history import History, Progress


def test_records_survive_and_what_lies_beyond_the_checkpoint_goes(tmp_path):
    history = History(tmp_path / "curves.jsonl")
    for step in (50, 100, 150):
        history.add("train", step, {"loss": 1 / step})
    with open(history.path, "a") as stream:
        stream.write('{"kind": "train", "st')  # killed while writing
    again = History(history.path)
    again.resume(100)
    assert again.column("train", "loss") == ([50.0, 100.0], [0.02, 0.01])
    again.add("valid", 100, {"auroc": 0.9})
    lines = [json.loads(line) for line in history.path.read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [50, 100, 100]
    assert again.column("valid", "loss") == ([], [])


def test_a_new_training_starts_empty(tmp_path):
    history = History(tmp_path / "curves.jsonl")
    history.resume(0)
    assert history.records == []


def test_curves_are_a_picture(tmp_path):
    history = History(tmp_path / "curves.jsonl")
    history.add("train", 50, {"bce": 0.5, "nll": 1.0})
    history.add("valid", 50, {"bce": 0.6, "nll": 1.1, "auroc": 0.8, "tpr_2": 0.1, "theta_E_68": 0.3})
    history.plot(tmp_path / "curves.png", "toy")
    assert (tmp_path / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_progress_line():
    progress = Progress(total=1000, batch=100, begun=200, start=time.monotonic() - 10.0)
    line = progress.line(300, 0.25)
    assert line.startswith("step 300/1000  loss 0.2500  ")
    assert " images/s  ETA 0:01:" in line
    assert "ETA ?" in Progress(total=10, batch=1, begun=5).line(5, 0.0)
