"""A mock survey under mpiexec: the ranks share the blocks, and every byte of them is the same."""

import pytest
from launch import run

from lensscan.cli.main import main
from lensscan.nets.model import make_trivial

BASE = ["--mock-survey", "des-griz", "--set", "size=16", "-n", "300", "--lenses", "30", "--prevalence", "0.1"]
BASE += ["--bootstrap", "3", "--no-plots"]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.run/*") if path.suffix != ".tmp"}


@pytest.mark.slow
def test_ranks_agree_with_one_process_also_after_a_death(tmp_path):
    make_trivial(("g", "r", "i", "z"), 16, 0.263).save(tmp_path / "trivial.safetensors")
    line = ["evaluate", str(tmp_path / "trivial.safetensors"), *BASE]
    assert main([*line, "-o", str(tmp_path / "one")]) == 0
    assert len(contents(tmp_path / "one")) == 5, "four blocks and survey.json"
    died = run([*line, "-o", str(tmp_path / "two")], 2, fault="point=survey:before_rename,do=SIGKILL,rank=1")
    assert died.code != 0
    assert "top 100" not in died.out
    done = run([*line, "-o", str(tmp_path / "two")], 2)
    assert done.code == 0, done
    assert done.out.count("top 100") == 1, "root alone speaks"
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
