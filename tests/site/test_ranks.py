"""Where the ranks landed, by hand and under a real mpiexec."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch import run

from lensscan.mpi import World
from lensscan.site.outcome import Outcome
from lensscan.site.ranks import check_ranks, describe, shared_devices


def place(host: str, uuid: str) -> dict[str, object]:
    return {"host": host, "cores": 8, "device": "A100" if uuid else "", "uuid": uuid, "vendor": "MPI"}


def test_one_process_says_nothing() -> None:
    assert list(check_ranks(World())) == []


def test_shared_gpu_is_pointed_out() -> None:
    found = {0: place("n1", "u1"), 1: place("n1", "u2"), 2: place("n1", "u1"), 3: place("n2", "u1"), 4: place("n2", "")}
    (check,) = shared_devices(found)
    assert check.outcome is Outcome.WARN
    assert "ranks 0, 2 share GPU u1 on n1" in check.text


def test_ranks_without_a_gpu_share_nothing() -> None:
    assert list(shared_devices({0: place("n1", ""), 1: place("n1", "")})) == []
    assert "CPU" in describe(place("n1", ""))


@pytest.mark.mpi
@pytest.mark.slow
def test_every_rank_is_reported(tmp_path: Path) -> None:
    result = run(["doctor", "--output", str(tmp_path)], ranks=3)
    assert result.code == 0, result
    ranks = [line.split()[2] for line in result.out.splitlines() if line.split()[1:2] == ["rank"]]
    assert ranks == ["0", "1", "2"]
