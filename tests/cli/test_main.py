"""The command as a user meets it: one line of error, the right exit code, streams that nobody reads."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from lensscan.cli import main as cli
from lensscan.cli.main import COMMANDS, main
from lensscan.cli.streams import SteadyStream


def spawn(*arguments: str, shell: str = "") -> subprocess.CompletedProcess[str]:
    command = f'"{sys.executable}" -m lensscan {" ".join(arguments)} {shell}'
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_one_worked_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"lensscan {name}" in text.split("example:\n")[1]


@pytest.mark.parametrize("arguments", [["scn"], ["scan", "--prevalence", "x"], ["show"], ["show", "a.h5", "-n", "-3"]])
def test_usage_errors_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "error:" in text
    assert "--help" in text


WRITERS = {
    "bench": "bench solver -o",
    "doctor": "doctor --output",
    "ensemble": "ensemble a b -o",
    "evaluate": "evaluate des-griz --testset des-griz:smoke -o",
    "export": "export a.h5 --to csv -o",
    "images": "images a.h5 -o",
    "images, page": "images a.h5 --page",
    "jobscript": "jobscript --site slurm --train des-griz -o",
    "mosaic": "mosaic a.h5 -o",
    "pack": "pack a.fits --stamps packs:a --survey des -o",
    "scan": "scan run.toml -o",
    "select": "select a.fits --survey des --cut des-jacobs2019-a -o",
    "simulate": "simulate des-griz -o",
    "subtract": "subtract a.fits -o",
    "sweep": "sweep argonne2017 -o",
    "train": "train des-griz -o",
}


@pytest.mark.parametrize("name", WRITERS)
def test_an_empty_output_is_not_the_default(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A script whose variable is not set gives one."""
    assert main([*WRITERS[name].split(), ""]) == 2
    text = capsys.readouterr().err
    assert "is empty; give a path" in text
    assert text.count("\n") == 1


@pytest.mark.parametrize("name", [".", "..", "pages/", "pages/..", ".png"])
def test_pages_need_a_name(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mosaic", str(tmp_path / "a.h5"), "-o", name]) == 2
    assert f"-o {name} is a folder; say how the pages are called" in capsys.readouterr().err


def test_nothing_given_shows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    text = capsys.readouterr().err
    assert all(name in text for name in COMMANDS)


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (PermissionError(13, "Permission denied", "/x/y"), 1, ("/x/y", "Permission denied")),
        (OSError(28, "No space left on device"), 74, ("free disk space",)),
        (RuntimeError("first\nsecond"), 1, ("internal error", "first second")),
        (KeyboardInterrupt(), 130, ("interrupted",)),
    ],
)
def test_what_a_command_raises_becomes_one_line(
    raised: BaseException,
    code: int,
    words: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = cli.command_module("show")

    def run(_args: object) -> int:
        raise raised

    monkeypatch.setattr(module, "run", run)
    assert main(["show", "out.h5"]) == code
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert all(word in text for word in words)


def test_a_reader_that_leaves_does_not_change_the_outcome() -> None:
    done = spawn("jobscript", "--site", "slurm", shell="| true; exit ${PIPESTATUS[0]}")
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_under_the_output_is_told_apart() -> None:
    done = spawn("jobscript", "--site", "slurm", shell=">/dev/full")
    assert done.returncode == 74
    assert done.stderr.count("\n") == 1


def test_streams_may_be_closed_from_the_start() -> None:
    assert spawn("jobscript", "--site", "slurm", shell=">&- 2>&-").returncode == 0


def test_choices_are_those_of_the_modules_that_are_not_imported_for_help() -> None:
    from lensscan.candidates.export import FORMATS
    from lensscan.metrics.calibration import KINDS
    from lensscan.train.distributed import BACKENDS

    assert tuple(FORMATS) == cli.command_module("export").FORMATS
    assert cli.command_module("train").BACKENDS == BACKENDS
    assert KINDS[1:] == cli.command_module("ensemble").KINDS


def test_steady_stream_passes_other_errors_on() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        SteadyStream(Full()).write("x")


def test_an_unknown_option_names_the_help_that_has_the_known_ones(capsys):
    assert main(["simulate", "des-griz", "-n", "4", "--format", "packs", "-o", "m"]) == 2
    text = capsys.readouterr().err
    assert text == "lensscan simulate: error: unrecognized arguments: --format packs; see lensscan simulate --help\n"
