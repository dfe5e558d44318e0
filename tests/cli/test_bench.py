"""lensscan bench as a user meets it: refused before the work, never silent, and nothing is kept."""

from __future__ import annotations

import json

import pytest

from lensscan.cli.main import main
from lensscan.site.bench import endtoend, memory, scheduler
from lensscan.site.bench.report import Report

MIB = 2**20


@pytest.fixture
def quick(monkeypatch):
    """Make the benchmark of the scheduler a short one."""
    monkeypatch.setattr(scheduler, "BLOCKS", 40)
    monkeypatch.setattr(scheduler, "WORKERS", 4)


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("memory --model nope", "--model"),
        ("memory --rounds 5", "--rounds"),
        ("solver --model nope", "--model"),
        ("solver --device cuda", "--device"),
        ("solver --set batch=2", "--set"),
        ("simulate --folder here", "--folder"),
        ("scheduler --rows 10", "--rows"),
        ("scan --train euclid-vis", "--train"),
        ("train --folder here", "--folder"),
    ],
)
def test_options_that_a_benchmark_does_not_look_at_are_refused(words, option, capsys):
    assert main(["bench", *words.split()]) == 2
    name = words.split()[0]
    assert f"lensscan bench {name} does not look at {option}; leave it out" in capsys.readouterr().err


@pytest.mark.parametrize(("output", "words"), [("", "is a folder; give a file"), ("file/a.json", "Not a directory")])
def test_an_output_that_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch, capsys, output, words):
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(scheduler, "play", lambda: pytest.fail("the benchmark has begun"))
    assert main(["bench", "scheduler", "-o", str(tmp_path / output)]) == 1
    assert words in capsys.readouterr().err


def test_every_round_is_announced_and_the_figures_are_kept(quick, tmp_path, capsys):
    path = tmp_path / "new" / "bench.json"
    assert main(["bench", "scheduler", "--rounds", "2", "-o", str(path)]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "lensscan bench: block messages, warming up",
        "lensscan bench: block messages, round 1 of 2",
        "lensscan bench: block messages, round 2 of 2",
    ]
    assert json.loads(path.read_text(encoding="utf-8"))["title"] == "scheduler"


def test_an_interrupted_benchmark_does_not_promise_to_go_on(monkeypatch, capsys):
    def stopped() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(scheduler, "play", stopped)
    assert main(["bench", "scheduler"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "lensscan bench: interrupted; a benchmark keeps nothing"


def test_a_mebibyte_of_difference_between_short_catalogs_is_no_verdict():
    report = Report("memory")
    memory.judge(report, [(1_000, 200 * MIB, 300 * MIB), (20_000, 201 * MIB, 330 * MIB)])
    root, worker = report.figures
    assert root["value"] == pytest.approx(MIB / 19_000)
    assert (root["reached"], worker["reached"]) == (None, None)
    assert "no verdict below 1,000,000 rows" in root["note"]
    assert "REACHED" not in report.text()


def test_long_catalogs_are_judged():
    report = Report("memory")
    memory.judge(report, [(100_000, 200 * MIB, 300 * MIB), (1_000_000, 201 * MIB, 330 * MIB)])
    assert [figure["reached"] for figure in report.figures] == [True, False]
    memory.judge(report, [(1_000_000, 200 * MIB, 300 * MIB)])
    assert len(report.figures) == 2, "one catalog alone grows nothing"


def test_every_length_of_the_memory_benchmark_is_announced(monkeypatch, capsys):
    monkeypatch.setattr(memory, "find_mpiexec", lambda: "mpiexec")
    run = endtoend.Scanned(10, 1.0, 1.0, {1: 300 * MIB}, 200 * MIB)
    monkeypatch.setattr(memory, "scan", lambda *args: run)
    assert main(["bench", "memory", "--rows", "20", "10"]) == 0
    told = capsys.readouterr()
    parts = [f"lensscan bench: {n} rows: {what} them" for n in (10, 20) for what in ("writing", "scanning")]
    assert told.err.splitlines() == parts
    assert "no verdict" in told.out
