"""The end of a job: no rank waits in MPI for one that died or never comes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from launch import environment, finish, mpiexec

SURVIVORS = """
import os, signal, time
from lensscan import faults
from lensscan.mpi import start
world = start()
faults.reach("test:up")
if world.rank in (1, 2):
    time.sleep(0.3 * world.rank)
    os.kill(os.getpid(), signal.SIGKILL)
dead, deadline = set(), time.monotonic() + 30
while len(dead) < 2 and time.monotonic() < deadline:
    world.receive()
    dead |= set(world.dead())
    time.sleep(0.01)
world.finalize()
os.write(1, b"%d left\\n" % world.rank)
"""
WATCHDOG = """
import os, time
from lensscan.mpi import start
from lensscan.scan import run
world = start()
if world.rank:
    time.sleep(600)
run.FINALIZE_SECONDS = 1.0
os.write(1, b"entering\\n")
run._finalize(world, 3)
os.write(1, b"finalized\\n")
"""


def ranks(script, number, *options):
    line = [mpiexec(), *options, "-n", str(number), sys.executable, "-c", script]
    pipe = subprocess.PIPE
    env = environment(f"point=test:up,do=meet,ranks={number}")
    process = subprocess.Popen(line, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    return finish(process)


@pytest.mark.mpi
@pytest.mark.slow
@pytest.mark.timeout(480)
def test_survivors_do_not_wait_for_the_dead():
    for _ in range(4):
        result = ranks(SURVIVORS, 5, "--with-ft", "ulfm")
        assert sorted(result.out.split("\n")) == ["", "0 left", "3 left", "4 left"], result


@pytest.mark.mpi
def test_the_watchdog_ends_a_rank_that_hangs_in_mpi():
    result = ranks(WATCHDOG, 2)
    assert "entering" in result.out
    assert "finalized" not in result.out
    assert result.code == 3, result
