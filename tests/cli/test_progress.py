"""The progress line: its rate is that of this very run."""

from __future__ import annotations

import pytest

from lensscan.cli import progress
from lensscan.cli.evaluate import Stages
from lensscan.cli.progress import ProgressLine


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_rate_and_time_to_go(clock, capsys):
    line = ProgressLine("rows")
    clock[0] += 5
    line.show(50, 400)
    assert capsys.readouterr().err == "", "ten seconds have not passed"
    clock[0] += 5
    line.show(100, 400)
    assert capsys.readouterr().err == "100/400 rows, 10/s, 30 s to go\n"


def test_what_stood_before_is_not_in_the_rate(clock, capsys):
    line = ProgressLine("rows")
    clock[0] += 10
    line.show(300, 400, 20, ", 1 failed")
    assert capsys.readouterr().err == "300/400 rows, 2/s, 50 s to go, 1 failed\n"
    clock[0] += 10
    line.show(300, 400, 0)
    assert capsys.readouterr().err == "300/400 rows\n", "nothing was done, so nothing is known of the rate"


def test_stages_pass_it_on(clock, capsys):
    stages = Stages()
    stages("first", 0, 10)
    clock[0] += 1
    stages("first", 10, 10)
    stages("images", 0, 3200, 0)
    clock[0] += 100
    stages("images", 1120, 3200, 20)
    said = capsys.readouterr().err.splitlines()
    assert said == ["10/10 first, 10/s", "1,120/3,200 images, 0/s, 10,400 s to go"]
