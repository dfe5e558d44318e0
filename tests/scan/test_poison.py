"""The search for stamps that kill: which signals count, hanging, and the marks of blocks under way."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from lensscan.errors import ExitCode
from lensscan.scan import poison
from lensscan.scan.poison import Attempts, ProbeEnded, fate_of, find_crashers
from lensscan.scan.settings import ScanSettings
from lensscan.schema import Status

FINE, CRASHED, TIMEOUT = Status.PENDING, Status.CRASHED, Status.TIMEOUT
CRASHING = ["SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT"]


@pytest.fixture
def settings(tmp_path):
    return ScanSettings("catalog.fits", "tiny", "packs:p", ("m",), str(tmp_path / "out.h5"))


@pytest.fixture
def probes(monkeypatch, tmp_path):
    """Return a function that makes each probe run the next of some lines of Python, and a list of those run."""
    run = []

    def prepare(*lines):
        left = iter(lines)

        def command(*where):
            line = next(left)
            run.append(line)
            return [sys.executable, "-S", "-c", f"import os, signal, time\n{line}"]

        monkeypatch.setattr(poison, "_command", command)
        return run

    return prepare


def kill(name):
    return f"os.kill(os.getpid(), signal.{name})"


@pytest.mark.parametrize("name", CRASHING)
def test_a_signal_that_a_stamp_can_cause_is_a_crash(settings, probes, name):
    run = probes(kill(name))
    assert fate_of(settings, 0, 1) == CRASHED
    assert len(run) == 1


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGXCPU"])
def test_a_signal_of_others_is_none(settings, probes, name):
    ending = f"signal.signal(signal.{name}, signal.SIG_DFL); {kill(name)}"
    run = probes(ending, ending, "pass")
    assert fate_of(settings, 0, 1) == FINE
    assert len(run) == 3
    probes(ending, ending, ending)
    with pytest.raises(ProbeEnded, match=f"plan rows 4 to 6 was ended by signal {getattr(signal, name):d}, 3") as error:
        fate_of(settings, 4, 7)
    assert error.value.exit_code == ExitCode.INCOMPLETE


def test_killed_once_is_tried_again_killed_twice_is_a_crash(settings, probes):
    probes(kill("SIGKILL"), "pass")
    assert fate_of(settings, 0, 1) == FINE
    probes(kill("SIGKILL"), kill("SIGTERM"), kill("SIGKILL"))
    assert fate_of(settings, 0, 1) == CRASHED


def test_an_exception_is_no_crash(settings, probes):
    """The worker meets it too, and lives."""
    probes("raise SystemExit(1)")
    assert fate_of(settings, 0, 1) == FINE


def test_a_probe_that_hangs_is_ended(settings, probes, monkeypatch):
    monkeypatch.setattr(poison, "PROBE_SECONDS", 0.5)
    probes("time.sleep(60)")
    begun = time.monotonic()
    assert fate_of(settings, 0, 1) == TIMEOUT
    assert time.monotonic() - begun < 20


def test_a_probe_has_a_session_of_its_own(settings, probes):
    """What is sent to the scan's process group is not meant for it."""
    probes(f"raise SystemExit(0) if os.getsid(0) == os.getpid() else {kill('SIGABRT')}")
    assert fate_of(settings, 0, 1) == FINE


def test_a_probe_ends_with_the_scan_that_started_it():
    begin = "from lensscan.scan.probe import end_with_parent; end_with_parent()"
    line = f"import time; {begin}; print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(20) == 1
    process.stdout.close()


def search(deadly, n=13):
    """Search rows of which some are deadly; return what is found, and how many probes that took."""
    asked = []

    def probe(start, stop):
        asked.append((start, stop))
        fates = [fate for row, fate in deadly.items() if start <= row < stop]
        return CRASHED if CRASHED in fates else TIMEOUT if fates else FINE

    return find_crashers(probe, [f"f{row}" for row in range(n)]), len(asked)


@pytest.mark.parametrize("deadly", [{}, {0: CRASHED}, {12: TIMEOUT}, {3: CRASHED, 4: CRASHED, 9: TIMEOUT}])
def test_bisection_finds_the_rows_and_asks_once_of_each_range(deadly):
    found, asked = search(deadly)
    assert found == deadly
    assert asked <= 1 + 8 * len(deadly)


def test_two_neighbours_that_hang_are_found_a_storage_that_hangs_is_told():
    assert search({4: TIMEOUT, 5: TIMEOUT}, 6)[0] == {4: TIMEOUT, 5: TIMEOUT}
    with pytest.raises(ProbeEnded, match="13 stamps from f0 on hangs in both halves") as error:
        search(dict.fromkeys(range(13), TIMEOUT))
    assert error.value.exit_code == ExitCode.INCOMPLETE


def test_marks_stand_apart_and_two_dead_attempts_start_the_search(settings, monkeypatch):
    blocks = np.zeros(600, [("start", "i8")])
    blocks["start"] = np.arange(600) * 4
    asked = []
    monkeypatch.setattr(poison, "fate_of", lambda _, start, stop: asked.append((start, stop)) or FINE)
    attempts = Attempts(settings, SimpleNamespace(blocks=blocks))
    rows = SimpleNamespace(file=["f"] * 4)
    for block in (3, 259, 3):
        assert attempts.suspects(block, rows) == {}
    folders = {path.parent.name for path in attempts.folder.glob("*/B*")}
    assert folders == {"03"}, "as the shards: 256 folders"
    assert len(list(attempts.folder.glob("03/B*"))) == 3
    assert attempts.suspects(259, rows) == {}
    assert not asked
    assert attempts.suspects(3, rows) == {}
    assert asked == [(12, 16)]
    attempts.finished(3)
    assert {path.name[:8] for path in attempts.folder.glob("*/*")} == {"B000259."}
    assert attempts.suspects(4, rows) == {}
    assert (attempts.folder / "04").is_dir()
