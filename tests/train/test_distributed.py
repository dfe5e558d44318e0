"""Engines: which one is chosen, and that they agree; Horovod under a real mpiexec where it is built."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest
import torch
from curves import needs_horovod
from launch import environment, mpiexec

from lensscan.errors import ConfigError, LauncherError
from lensscan.train import distributed
from lensscan.train.distributed import Serial, choose, default_port, start_engine


@pytest.fixture
def world(monkeypatch):
    def set_size(size, horovod=False):
        monkeypatch.setattr(distributed, "launched_size", lambda: size)
        monkeypatch.setattr(distributed, "find_spec", lambda name: object() if horovod else None)

    return set_size


def test_choice(world):
    world(None)
    assert choose("auto") == "none"
    world(1)
    assert choose("auto") == "none"
    world(4)
    assert choose("auto") == "torch"
    world(4, horovod=True)
    assert choose("auto") == "horovod"
    assert choose("torch") == "torch"
    with pytest.raises(ConfigError, match="4 ranks would train 4 models"):
        choose("none")
    with pytest.raises(ConfigError, match="choose one of"):
        choose("mpi")


def test_serial():
    engine = Serial()
    flat = torch.arange(3.0)
    engine.average(flat)
    engine.broadcast([flat])
    assert flat.tolist() == [0, 1, 2]
    assert engine.any(75) == 75
    engine.close()


def test_steps_of_one_allocation_have_ports_of_their_own(monkeypatch):
    def port(**variables: str) -> int:
        monkeypatch.setattr(os, "environ", variables)
        return default_port()

    first = port(SLURM_JOB_ID="812", SLURM_STEP_ID="0", SLURM_PROCID="0")
    assert first == port(SLURM_JOB_ID="812", SLURM_STEP_ID="0", SLURM_PROCID="3")
    assert first != port(SLURM_JOB_ID="812", SLURM_STEP_ID="1")
    assert first != port(SLURM_JOB_ID="813", SLURM_STEP_ID="0")
    assert port(PBS_JOBID="7.host") != port(PBS_JOBID="8.host")
    assert 20_000 <= first < 40_000


NODES = {
    "openmpi": {"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"},
    "mpich": {"PMI_SIZE": "8", "MPI_LOCALNRANKS": "4"},
    "slurm": {"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2"},
}


@pytest.mark.parametrize("launcher", NODES)
def test_torch_on_several_nodes_asks_for_the_first_ones_name_at_once(monkeypatch, launcher):
    """It would look for rank 0 on its own node, and wait for torch's half an hour."""
    joined = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **options: joined.append(options))
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 8)
    monkeypatch.setattr(os, "environ", dict(NODES[launcher]))
    with pytest.raises(LauncherError, match=r"8 ranks on several nodes only if MASTER_ADDR names") as caught:
        start_engine("torch", torch.device("cpu"))
    assert "\n" not in str(caught.value)
    assert not joined
    os.environ["MASTER_ADDR"] = "node1"
    assert start_engine("torch", torch.device("cpu")).size == 8
    monkeypatch.setattr(os, "environ", {"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_SIZE": "8"})
    assert start_engine("torch", torch.device("cpu")).size == 8
    assert os.environ["MASTER_ADDR"] == "127.0.0.1"
    assert len(joined) == 2


def test_missing_horovod_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "horovod", None)
    monkeypatch.setitem(sys.modules, "horovod.torch", None)
    with pytest.raises(ConfigError, match=r"build it with jobs/build-horovod\.sh"):
        start_engine("horovod", torch.device("cpu"))


@pytest.mark.parametrize(("device", "given", "found"), [("cpu", None, "5"), ("cpu", "2", "2"), ("cuda", None, None)])
def test_horovods_thread_leaves_cpu_cores_alone_unless_told(monkeypatch, device, given, found):
    """What Horovod is started with: its thread reads the environment once, in init."""
    started = {}
    fake = types.ModuleType("horovod.torch")
    fake.init = lambda: started.update(os.environ)
    fake.rank, fake.size = (lambda: 0), (lambda: 1)
    monkeypatch.setattr(os, "environ", {"HOROVOD_CYCLE_TIME": given} if given else {})
    package = types.ModuleType("horovod")
    package.torch = fake
    monkeypatch.setitem(sys.modules, "horovod", package)
    monkeypatch.setitem(sys.modules, "horovod.torch", fake)
    monkeypatch.setattr(distributed, "launched_size", lambda: 1)
    start_engine("horovod", torch.device(device))
    assert started.get("HOROVOD_CYCLE_TIME") == found
    assert started.get("OMPI_MCA_mpi_yield_when_idle") == ("1" if device == "cpu" else None)


def test_importing_training_needs_no_engine():
    code = "import sys, lensscan.train.run; sys.exit('horovod' in sys.modules or 'mpi4py' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


CHECK = """
import sys, torch
from lensscan.train.distributed import start_engine
engine = start_engine(sys.argv[1], torch.device("cpu"))
assert engine.size == 2, engine.size
flat = torch.arange(5.0) * (engine.rank + 1)
engine.average(flat)
assert flat.tolist() == [1.5 * i for i in range(5)], flat
weights = [torch.full((2, 3), float(engine.rank + 7)), torch.tensor([float(engine.rank)])]
engine.broadcast(weights)
assert weights[0].unique().tolist() == [7.0] and weights[1].tolist() == [0.0]
assert engine.any(75 if engine.rank == 1 else 0) == 75
assert engine.any(0) == 0
engine.close()
print("ok", engine.rank)
"""


@pytest.mark.mpi
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", pytest.param("horovod", marks=needs_horovod)])
def test_two_ranks(backend):
    line = [mpiexec(), "-n", "2", sys.executable, "-c", CHECK, backend]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == ["0", "1", "ok", "ok"]
