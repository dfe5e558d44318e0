"""Job scripts filled in, and what the command says about values that cannot work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lensscan.cli.main import main
from lensscan.errors import ConfigError
from lensscan.site.jobscript import Job, folder, render, sites

SCAN = 'catalog = "c.fits"\nsurvey = "des"\nstamps = "packs:packs"\nmodel = "des-griz"\n'


@pytest.fixture
def run_toml(tmp_path: Path) -> Path:
    path = tmp_path / "my run.toml"
    path.write_text(SCAN + 'output = "big search.h5"\n')
    return path


def test_shipped_sites() -> None:
    assert set(sites()) == {"slurm", "perlmutter", "frontier", "pbs", "polaris"}
    assert (folder() / "resume.sh").is_file()


@pytest.mark.parametrize("site", sites())
def test_filled_in_script(site: str, run_toml: Path) -> None:
    text = render(site, Job(nodes=12, time="02:30:00", run=run_toml, account="m1234", queue="debug"))
    lines = text.splitlines()
    slurm = sites()[site].suffix == ".sbatch"
    if slurm:
        assert "#SBATCH --nodes=12" in lines
        assert "#SBATCH --time=02:30:00" in lines
        assert "#SBATCH --account=m1234" in lines
        assert sum(line in ("#SBATCH --qos=debug", "#SBATCH --partition=debug") for line in lines) == 1
    else:
        assert sum(line.startswith("#PBS -l select=12:") for line in lines) == 1
        assert "#PBS -l walltime=02:30:00" in lines
        assert "WALLTIME=02:30:00" in lines
        assert "#PBS -A m1234" in lines
        assert "#PBS -q debug" in lines
    assert f"RUN='{run_toml}'" in lines
    assert "OUT='big search.h5'" in lines
    assert f"BIN={Path(sys.executable).parent}" in lines
    assert lines[0] == "#!/usr/bin/env bash"
    assert subprocess.run(["bash", "-n"], input=text, text=True, timeout=60).returncode == 0


@pytest.mark.parametrize("site", sites())
@pytest.mark.parametrize(
    ("output", "out"), [(None, "des-griz-large.safetensors"), ("my model.safetensors", "'my model.safetensors'")]
)
def test_a_training_in_the_same_script(site: str, output: str | None, out: str) -> None:
    text = render(site, Job(train="des-griz-large", output=output))
    lines = text.splitlines()
    assert "RUN=des-griz-large" in lines
    assert f"OUT={out}" in lines
    assert lines[-1].endswith('lensscan train "$RUN" -o "$OUT"')
    assert "lensscan scan" not in lines[-1]
    assert subprocess.run(["bash", "-n"], input=text, text=True, timeout=60).returncode == 0


@pytest.mark.parametrize("site", sites())
def test_directives_stand_before_the_first_command(site: str) -> None:
    """Slurm and PBS read no directive after the first command."""
    lines = render(site, Job(account="m1234", queue="debug")).splitlines()
    directives = [i for i, line in enumerate(lines) if line.startswith(("#SBATCH", "#PBS"))]
    commands = [i for i, line in enumerate(lines) if line and not line.startswith("#")]
    assert max(directives) < min(commands)


@pytest.mark.parametrize("site", sites())
def test_without_values_only_the_programs_folder_changes(site: str) -> None:
    shipped = sites()[site].read_text(encoding="utf-8").splitlines()
    filled = render(site, Job()).splitlines()
    assert [new for old, new in zip(shipped, filled, strict=True) if old != new] == [
        f"BIN={Path(sys.executable).parent}"
    ]


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (Job(nodes=0), "--nodes: 0"),
        (Job(time="2h"), "HH:MM:SS"),
        (Job(time="00:05:00"), "too short"),
        (Job(account="a b"), "not one word"),
        (Job(run=Path("/nowhere/RUN.toml")), "/nowhere/RUN.toml"),
        (Job(train="des-grizz"), "des-griz"),
        (Job(run=Path("RUN.toml"), train="des-griz"), "--run and --train"),
        (Job(output="x.h5"), "goes with --train"),
    ],
)
def test_values_that_cannot_work(job: Job, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        render("slurm", job)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SCAN, "missing key 'output'"),
        (SCAN + 'outptu = "x.h5"\n', "did you mean 'output'?"),
        (SCAN + 'output = "x.h5"\nviews = 3\n', "views must be 1 or 8"),
        (SCAN + 'output = "x.fits"\n', "must end in .h5"),
    ],
)
def test_a_scan_that_would_be_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "RUN.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        render("slurm", Job(run=path))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("output", [None, "x.safetensors"])
def test_a_training_that_would_be_refused(tmp_path: Path, output: str | None) -> None:
    path = tmp_path / "TRAIN.toml"
    path.write_text('name = "x"\nrecipe = "des-griz"\nstepz = 10\n')
    with pytest.raises(ConfigError, match=r"TRAIN\.toml: unknown key 'stepz'; did you mean 'steps'"):
        render("slurm", Job(train=str(path), output=output))


def test_command_prints_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobscript", "--site", "perlmutter", "--nodes", "4"]) == 0
    out, err = capsys.readouterr()
    assert out == render("perlmutter", Job(nodes=4))
    assert "--account" in err


def test_command_names_the_nearest_site(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobscript", "--site", "perlmuter"]) == 2
    assert "did you mean 'perlmutter'?" in capsys.readouterr().err


def test_command_prints_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobscript", "--folder"]) == 0
    assert Path(capsys.readouterr().out.strip()) == folder()
