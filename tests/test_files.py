"""A file appears whole or not at all, and failures are one line with the right exit code."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from lensscan.errors import DiskError, OutputError
from lensscan.files import (
    STALE_SECONDS,
    check_file,
    check_folder,
    replacing,
    sweep_temporary,
    temporary_files,
    temporary_name,
)


def test_the_file_appears_in_one_step_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text(encoding="utf-8") == "whole"
    assert [item.name for item in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DiskError, "free disk space"),
        (OSError(errno.EROFS, "Read-only file system"), DiskError, "system; choose a folder that can be written to"),
        (PermissionError(errno.EACCES, "Permission denied"), OutputError, "Permission denied; check the folder"),
        (ValueError("a bug"), ValueError, "a bug"),
    ],
)
def test_after_an_error_the_old_file_stands_alone(
    tmp_path: Path, error: Exception, raised: type[Exception], words: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(raised, match=words):
        write()
    assert path.read_text(encoding="utf-8") == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_what_cannot_be_replaced_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"), replacing(tmp_path / "file" / "a.txt") as temporary:
        temporary.write_text("x")
    with pytest.raises(OutputError, match="cannot write"), replacing(tmp_path) as temporary:
        temporary.write_text("x")
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_looked_at_without_being_made(tmp_path):
    check_folder(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="Not a directory; check the folder"):
            check_folder(place)


def test_a_folder_that_takes_no_file_is_told_to_root_too(tmp_path):
    """Permissions let root write everywhere; the file system of the processes does not."""
    with pytest.raises(OutputError, match=r"cannot write /proc/a: .*; check the folder"):
        check_folder("/proc/a")
    with pytest.raises(OutputError, match="check the folder"):
        check_file("/proc/e.toml")


@pytest.mark.parametrize("name", ["", ".", "..", "/", "folder", "folder/.."])
def test_an_output_that_is_a_folder_is_refused_before_the_work(tmp_path, monkeypatch, name):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="is a folder; give a file"):
        check_file(name)
    with pytest.raises(OutputError, match="is a folder; give a file"), replacing(name):
        pytest.fail("the work has begun")
    assert [item.name for item in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_what_has_no_name_has_no_temporary_name(name):
    with pytest.raises(OutputError, match="is a folder; give a file"):
        temporary_name(name)


def test_no_two_attempts_share_a_name_whatever_host_and_process(tmp_path, monkeypatch):
    """Ranks of several hosts, each alone in its container, may all be process 7 of `localhost`."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    names = {temporary_name(tmp_path / "a.fits") for _ in range(100)}
    assert len(names) == 100
    assert all(name.name.startswith(".a.fits.") and name.parent == tmp_path for name in names)


def test_sweep_removes_what_dead_attempts_left_alone(tmp_path, monkeypatch):
    ours = temporary_name(tmp_path / "a.h5")
    dead = tmp_path / f".a.h5.{os.uname().nodename}-999999999-0badcafe.tmp"
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "else.where", "", "", "")))
    foreign, forgotten = temporary_name(tmp_path / "a.h5"), temporary_name(tmp_path / "a.h5")
    monkeypatch.undo()
    for path in (ours, dead, foreign, forgotten):
        path.write_text("x")
    long_ago = time.time() - STALE_SECONDS - 60
    os.utime(forgotten, (long_ago, long_ago))
    assert sweep_temporary([*tmp_path.iterdir(), tmp_path / "gone.tmp"]) == 2
    assert [path.exists() for path in (ours, dead, foreign, forgotten)] == [True, False, True, False]


def test_the_attempts_at_a_file_are_found_whatever_its_name(tmp_path):
    path = tmp_path / "run [1]*.h5"
    names = {temporary_name(path), temporary_name(path)}
    for name in (*names, temporary_name(tmp_path / "run 1.h5")):
        name.write_text("x")
    assert set(temporary_files(path)) == names
