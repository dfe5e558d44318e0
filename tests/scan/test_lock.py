"""The lock refuses a living owner and yields from a dead one."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time

import pytest

from lensscan.errors import DiskError, LockedError
from lensscan.scan import lock as lock_module
from lensscan.scan.lock import RunLock


def test_second_owner_is_refused_and_told_who(tmp_path):
    first = RunLock(tmp_path / "lock")
    assert first.acquire() == ""
    with pytest.raises(LockedError, match=f"pid {os.getpid()}"):
        RunLock(tmp_path / "lock").acquire()
    first.release()
    assert RunLock(tmp_path / "lock").acquire() == ""


def test_a_dead_owner_on_this_host_is_replaced_at_once(tmp_path):
    imports = "import sys; from pathlib import Path; from lensscan.scan.lock import RunLock"
    code = f"{imports}; RunLock(Path(sys.argv[1])).acquire()"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], check=True)
    assert "dead" in RunLock(tmp_path / "lock").acquire()


def test_a_recycled_pid_does_not_count_as_the_owner(tmp_path):
    lock = RunLock(tmp_path / "lock")
    (tmp_path / "lock").write_text(json.dumps({**lock.owner(), "start": "1"}))
    assert "dead" in lock.acquire()


def test_an_owner_elsewhere_counts_until_it_is_stale(tmp_path):
    path = tmp_path / "lock"
    path.write_text(json.dumps({"host": "elsewhere", "boot": "x", "pid": 1, "start": "1", "job": ""}))
    with pytest.raises(LockedError, match="elsewhere"):
        RunLock(path).acquire()
    old = time.time() - lock_module.STALE_SECONDS - 1
    os.utime(path, (old, old))
    assert "not refreshed" in RunLock(path).acquire()


def test_an_owner_who_lives_here_keeps_it_however_long_he_was_suspended(tmp_path):
    path = tmp_path / "lock"
    RunLock(path).acquire()
    old = time.time() - lock_module.STALE_SECONDS - 1
    os.utime(path, (old, old))
    with pytest.raises(LockedError, match="in use by another scan"):
        RunLock(path).acquire()


def test_our_own_job_on_another_node_is_taken_over(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    path = tmp_path / "lock"
    path.write_text(json.dumps({"host": "elsewhere", "boot": "x", "pid": 1, "start": "1", "job": "4711"}))
    assert "4711" in RunLock(path).acquire()


def test_the_owner_notices_that_the_lock_was_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "REFRESH_SECONDS", 0.0)
    lock = RunLock(tmp_path / "lock")
    lock.acquire()
    assert lock.refresh()
    (tmp_path / "lock").write_text("{}")
    assert not lock.refresh()
    lock.release()
    assert (tmp_path / "lock").exists(), "a lock that is not ours is left alone"


def test_of_two_who_find_a_stale_lock_one_gets_it(tmp_path, monkeypatch):
    """The slower one has judged the old lock, and removes the new one."""
    path = tmp_path / "lock"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    old = time.time() - lock_module.STALE_SECONDS - 1
    os.utime(path, (old, old))
    winner = {"host": "faster", "pid": 2}

    def judged(self, holder):
        monkeypatch.undo()
        path.write_text(json.dumps(winner))
        return "not refreshed"

    monkeypatch.setattr(RunLock, "_takeover_reason", judged)
    with pytest.raises(LockedError, match="host faster, pid 2"):
        RunLock(path).acquire()
    assert json.loads(path.read_text(encoding="ascii")) == winner
    assert [item.name for item in tmp_path.iterdir()] == ["lock"]


def test_a_disk_too_full_for_the_lock_leaves_none(tmp_path, monkeypatch):
    def full(owner, stream):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json, "dump", full)
    with pytest.raises(DiskError, match="free disk space"):
        RunLock(tmp_path / "lock").acquire()
    monkeypatch.undo()
    assert RunLock(tmp_path / "lock").acquire() == ""


def test_a_thread_keeps_it_fresh_until_the_work_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "REFRESH_SECONDS", 0.02)
    path = tmp_path / "lock"
    with RunLock(path, "training").kept() as note:
        assert note == ""
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 30
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0
        with pytest.raises(LockedError, match="in use by another training"):
            RunLock(path, "training").acquire()
    assert not path.exists()
