"""The journal's file: appends cut short by a full disk, torn lines, locks that others broke."""

from __future__ import annotations

import os
import resource
import tomllib
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_sweep import SWEEP, journal

from lensscan.errors import DiskError
from lensscan.train.sweep.journal import Claim, Journal
from lensscan.train.sweep.logfile import LockFile, LogFile
from lensscan.train.sweep.owner import Owner
from lensscan.train.sweep.settings import Sweep

pytest.importorskip("optuna")


@pytest.fixture
def owner(tmp_path):
    with Owner(tmp_path / "alive") as found:
        yield found


def opened(folder: Path, owner: Owner) -> Journal:
    return Journal(folder, Sweep.from_mapping({**tomllib.loads(SWEEP), "trials": 4}, "small.toml"), owner)


def claimed(journal: Journal) -> Claim:
    found = journal.claim()
    assert isinstance(found, Claim)
    return found


@contextmanager
def room(path: Path, more: int):
    """Let files grow by so many bytes beyond this one's, as on a disk that fills up."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_an_append_cut_short_by_a_full_disk_leaves_nothing(tmp_path, owner):
    """It used to leave half a line, with which the next append made a line that nobody could read."""
    one, two = opened(tmp_path, owner), opened(tmp_path, owner)
    leg, path = claimed(one), tmp_path / "journal.log"
    before = path.read_bytes()
    with room(path, 20), pytest.raises(DiskError, match=r"cannot write .*journal\.log: .*; free disk space"):
        leg.done(0.5, 1.0)
    assert path.read_bytes() == before
    assert claimed(two).trial == 1
    leg.done(0.25, 1.0)
    assert [found.value for found in opened(tmp_path, owner).rungs()[0].values() if found.state == "done"] == [0.25]


def test_half_a_line_of_a_process_killed_meanwhile_is_cut_off_before_the_next(tmp_path, owner):
    one = opened(tmp_path, owner)
    leg = claimed(one)
    with open(tmp_path / "journal.log", "a") as stream:
        stream.write('{"op_code":4,"wor')
    leg.done(0.5, 1.0)
    assert claimed(one).trial == 1
    assert len(journal(tmp_path)) > 5, "every line can be read"


def test_torn_lines_within_are_dropped_with_a_note(tmp_path, owner, caplog):
    """Half a record and, behind it on the same line, a whole one; and a line of nothing but zeros."""
    claimed(opened(tmp_path, owner)).done(0.5, 1.0)
    path = tmp_path / "journal.log"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:-2], b"\0\0\0\n", b'{"op_code":4,"wor' + lines[-2], lines[-1]]))
    (leg,) = opened(tmp_path, owner).rungs()[0].values()
    assert (leg.state, leg.value) == ("done", 0.5)
    assert path.read_bytes().splitlines(keepends=True)[: len(lines)] == lines
    assert "2 torn lines dropped" in caplog.text


def test_a_whole_journal_is_left_as_it_stands(tmp_path, owner, caplog):
    claimed(opened(tmp_path, owner)).done(0.5, 1.0)
    path = tmp_path / "journal.log"
    before, inode = path.read_bytes(), path.stat().st_ino
    LogFile(path).mend()
    assert (path.read_bytes(), path.stat().st_ino) == (before, inode)
    assert not caplog.text


def test_mending_waits_for_the_lock_that_appends_take(tmp_path, owner, monkeypatch):
    opened(tmp_path, owner)
    file, held = LogFile(tmp_path / "journal.log"), []
    cut = file._cut
    monkeypatch.setattr(file, "_cut", lambda: held.append((tmp_path / "journal.log.lock").exists()) or cut())
    file.mend()
    file.append_logs([])
    assert held == [True, True]
    assert not (tmp_path / "journal.log.lock").exists()


def test_a_lock_broken_by_another_ends_nothing(tmp_path):
    """Its owner stood still for half a minute; at the release, optuna's own lock raises."""
    lock = LockFile(tmp_path / "queue")
    with lock.held():
        os.unlink(tmp_path / "queue.lock")
    with lock.held():
        assert (tmp_path / "queue.lock").exists()
    assert not (tmp_path / "queue.lock").exists()
