"""A full disk ends with 74 and a message, leaves nothing invalid, and the run resumes."""

from __future__ import annotations

import pytest
from launch import run
from tiny_survey import assert_ledger_is_valid, content_hash

from lensscan.errors import ExitCode

SIZES = [1, 4, 16, 32, 64, 128]  # KiB; Python ignores SIGXFSZ, so that writes fail with EFBIG


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("ranks", [0, 2])
def test_disk_full_at_any_file_size(survey, reference, tmp_path, ranks):
    codes = []
    for size in SIZES:
        folder = tmp_path / str(size)
        folder.mkdir()
        out = folder / "out.h5"
        result = run(survey.args(out), ranks, file_kib=size)
        codes.append(result.code)
        assert result.code in (ExitCode.DISK, ExitCode.OK), result
        if result.code == ExitCode.DISK:
            assert "free disk space" in result.err, result
            assert "Traceback" not in result.err, result
            assert not out.exists()
            assert_ledger_is_valid(folder / "out.h5.run")
        again = run(survey.args(out))
        assert again.code == 0, again
        assert content_hash(out) == reference
    assert codes.count(ExitCode.DISK) >= 3, codes


@pytest.mark.parametrize("point", ["shard:before_close", pytest.param("merge:before_close", marks=pytest.mark.slow)])
def test_no_space_left_is_74(survey, tmp_path, point):
    out = tmp_path / "out.h5"
    result = run(survey.args(out), fault=f"point={point},do=enospc")
    assert result.code == ExitCode.DISK, result
    assert not out.exists()
    assert run(survey.args(out)).code == 0
