"""History of a training: JSON lines, curves, progress line."""

from __future__ import annotations

import json
import sys
import time
import types

import pytest
from toy_mocks import TRAINING, toy_trainer, train

from lensscan.errors import ConfigError
from lensscan.train import history as history_module
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


def test_only_what_was_learnt_is_drawn(tmp_path, monkeypatch):
    """A stage of a modular network that learns images has no cross entropy: its records hold zeros."""
    drawn = []
    monkeypatch.setattr(history_module, "plot_panels", lambda panels, path, title: drawn.extend(panels))
    history = History(tmp_path / "curves.jsonl")
    history.add("train", 50, {"loss": 0.3, "bce": 0.0, "nll": 0.0})
    history.add("valid", 50, {"psnr_denoise": 33.0})
    history.plot(tmp_path / "curves.png", "toy")
    assert [panel.ylabel for panel in drawn] == ["loss, all terms", "PSNR of the images (dB)"]
    assert [(curve.label, curve.style) for curve in drawn[1].curves] == [("denoised", "o")], "one point is no line"
    assert (drawn[0].curves[0].x, drawn[0].curves[0].y) == ([50.0], [0.3])


def test_progress_line():
    progress = Progress(total=1000, batch=100, begun=200, start=time.monotonic() - 10.0)
    line = progress.line(300, 0.25)
    assert line.startswith("step 300/1000  loss 0.2500  ")
    assert " images/s  ETA 0:01:" in line
    assert "ETA ?" in Progress(total=10, batch=1, begun=5).line(5, 0.0)


class Board:
    """Stands for TensorBoard's writer: keeps what it is given."""

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.scalars = folder, purge_step, []

    def add_scalar(self, tag, value, step):
        self.scalars.append((tag, step, value))

    def flush(self):
        pass


def test_tensorboard_gets_the_same_records(tmp_path, monkeypatch):
    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Board
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    boards = []
    training = {**TRAINING, "steps": 4, "validate_every": 2, "tensorboard": True}
    for until in (2, None):
        trainer = toy_trainer(tmp_path, training)
        train(trainer, until)
        boards.append(trainer.history.board)
    assert trainer.settings.digest == toy_trainer(tmp_path, {**training, "tensorboard": False}).settings.digest
    assert [(board.folder, board.purge_step) for board in boards] == [(str(tmp_path), 1), (str(tmp_path), 3)]
    found = [scalar for board in boards for scalar in board.scalars]
    names = [(r, name) for r in trainer.history.records for name in r if name not in ("kind", "step")]
    assert found == [(f"{r['kind']}/{name}", r["step"], r[name]) for r, name in names]
    assert ("valid/auroc", 4) in [scalar[:2] for scalar in found]


def test_without_tensorboard_its_setting_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="needs the package tensorboard, which cannot be imported"):
        toy_trainer(tmp_path, {**TRAINING, "tensorboard": True})
