"""A job script around a real scan under a real mpiexec that dies and then lies about it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from launch import environment, mpiexec
from tiny_survey import Survey, content_hash

JOBS = Path(__file__).resolve().parents[2] / "jobs"
BIN = Path(sys.executable).parent

# the first time, rank 1 is killed and the launcher says that all is well, as when a whole host dies
SRUN = """#!/usr/bin/env bash
echo called >>calls
if [ "$(wc -l <calls)" = 1 ]; then
    LENSSCAN_FAULT="point=shard:after_rename,do=SIGKILL,rank=1" "{mpiexec}" -n 2 -x LENSSCAN_FAULT "$@"
    exit 0
fi
"{mpiexec}" -n 3 "$@"
"""


@pytest.mark.slow
@pytest.mark.mpi
def test_job_script_finishes_what_a_dead_host_left(survey: Survey, reference: str, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "srun").write_text(SRUN.format(mpiexec=mpiexec()))
    (programs / "srun").chmod(0o755)
    (programs / "lensscan").symlink_to(BIN / "lensscan")
    words = survey.args(out)
    options = dict(zip(words[1:11:2], words[2:12:2], strict=True))
    keys = {"--catalog": "catalog", "--survey": "survey", "--cut": "cut", "--stamps": "stamps", "--model": "model"}
    lines = [f'{key} = "{options[option]}"' for option, key in keys.items()]
    (tmp_path / "RUN.toml").write_text(
        "\n".join([*lines, f'output = "{out}"', "batch = 1", "max_failed = 1.0", "top = 100", "root_scores = 'no'"])
    )
    script = (JOBS / "slurm.sbatch").read_text(encoding="utf-8").replace("OUT=OUT.h5", f"OUT={out}")
    env = environment(LENSSCAN_PAUSE="0", SLURM_CPUS_PER_TASK="1", PATH=f"{programs}:{os.environ['PATH']}")
    result = subprocess.run(
        ["bash", "-s"], input=script, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=110
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "work is missing" in result.stdout
    assert (tmp_path / "calls").read_text(encoding="utf-8").count("called") == 2
    assert content_hash(out) == reference
