"""Checkpoints: whole or not at all."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys

import pytest
import torch

from lensscan import faults
from lensscan.errors import DiskError, OutputError, PlanMismatch
from lensscan.train.checkpoint import load_checkpoint, save_checkpoint

STATE = {"step": 3, "weights": {"w": torch.arange(4.0)}}


def test_round_trip(tmp_path):
    assert load_checkpoint(tmp_path / "c.pt", "abc") is None
    save_checkpoint(tmp_path / "c.pt", "abc", STATE)
    state = load_checkpoint(tmp_path / "c.pt", "abc")
    assert state["step"] == 3
    assert torch.equal(state["weights"]["w"], STATE["weights"]["w"])
    assert os.listdir(tmp_path) == ["c.pt"]


def test_other_settings(tmp_path):
    save_checkpoint(tmp_path / "c.pt", "abc", STATE)
    with pytest.raises(PlanMismatch, match="other settings"):
        load_checkpoint(tmp_path / "c.pt", "abd")


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_damaged(tmp_path, content):
    path = tmp_path / "c.pt"
    save_checkpoint(path, "abc", STATE)
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    with pytest.raises(OutputError, match="remove it to start anew") as caught:
        load_checkpoint(path, "abc")
    assert str(path) in str(caught.value)


def test_full_disk(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "c.pt", "abc", STATE)
    monkeypatch.setenv("LENSSCAN_FAULT", "point=checkpoint:written,do=enospc")
    monkeypatch.setattr(faults, "_faults", None)
    monkeypatch.setattr(faults, "_hits", type(faults._hits)())
    with pytest.raises(DiskError, match="free disk space"):
        save_checkpoint(tmp_path / "c.pt", "abc", {"step": 4})
    monkeypatch.setattr(faults, "_faults", [])
    assert load_checkpoint(tmp_path / "c.pt", "abc")["step"] == 3
    assert os.listdir(tmp_path) == ["c.pt"]


def test_a_disk_that_is_full_while_torch_writes(tmp_path):
    """torch closes its file all the same, and raises another error over that of the write."""
    save_checkpoint(tmp_path / "c.pt", "abc", STATE)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(DiskError, match="File too large; free disk space"):
            save_checkpoint(tmp_path / "c.pt", "abc", {"step": 4, "weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_checkpoint(tmp_path / "c.pt", "abc")["step"] == 3
    assert os.listdir(tmp_path) == ["c.pt"]


@pytest.mark.slow
@pytest.mark.parametrize(("point", "step"), [("checkpoint:written", 3), ("checkpoint:renamed", 4)])
def test_killed_while_saving(tmp_path, point, step):
    save_checkpoint(tmp_path / "c.pt", "abc", STATE)
    code = (
        "from pathlib import Path; from lensscan.train.checkpoint import save_checkpoint;"
        f"save_checkpoint(Path({str(tmp_path)!r}) / 'c.pt', 'abc', {{'step': 4}})"
    )
    environment = {**os.environ, "LENSSCAN_FAULT": f"point={point},do=SIGKILL"}
    killed = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert load_checkpoint(tmp_path / "c.pt", "abc")["step"] == step
