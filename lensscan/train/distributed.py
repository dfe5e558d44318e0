"""The seam between training and the engine that joins its ranks: none, torch (gloo, NCCL) or Horovod.

Four things are asked of an engine: rank and size, broadcast, the average of gradients, and whether any rank
wants to stop.  Horovod is imported only by its own engine.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import Tensor

from lensscan.errors import ConfigError, LauncherError
from lensscan.mpi import launched_rank, launched_size, several_nodes

__all__ = ["BACKENDS", "Engine", "Horovod", "Serial", "TorchDistributed", "choose", "describe_device", "start_engine"]

BACKENDS = ("auto", "none", "torch", "horovod")
QUIET = {"HOROVOD_CYCLE_TIME": "5", "OMPI_MCA_mpi_yield_when_idle": "1"}
"""Milliseconds between two rounds of Horovod's thread; Open MPI's processes yield while they wait."""
JOB_VARIABLES = ("PMIX_NAMESPACE", "SLURM_JOB_ID", "PBS_JOBID")


class Engine(Protocol):
    """Joins the ranks of one training.

    Attributes
    ----------
    name : str
    rank, size : int
    """

    name: str
    rank: int
    size: int

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite, in place, every rank's tensors by those of rank 0."""

    def average(self, flat: Tensor) -> None:
        """Replace, in place, a flat tensor by its mean over the ranks."""

    def any(self, flag: int) -> int:
        """Return the largest flag over the ranks."""

    def close(self) -> None:
        """Leave in order."""


class Serial:
    """One process, nothing to join."""

    name = "none"
    rank = 0
    size = 1

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Do nothing."""

    def average(self, flat: Tensor) -> None:
        """Do nothing."""

    def any(self, flag: int) -> int:
        """Return the flag."""
        return flag

    def close(self) -> None:
        """Do nothing."""


def default_port() -> int:
    """Return a port that all ranks of a launch agree on: a hash of its job, and of its step under Slurm.

    Two ``srun`` steps of one allocation may share a node.
    """
    job = next((os.environ[name] for name in JOB_VARIABLES if name in os.environ), str(os.getppid()))
    launch = f"{job}.{os.environ.get('SLURM_STEP_ID', '')}"
    return 20_000 + zlib.crc32(launch.encode()) % 20_000


class TorchDistributed:
    """``torch.distributed`` with gloo on CPUs and NCCL on GPUs.

    Rank and size come from the launcher's environment.  On one host nothing more is needed; on several,
    MASTER_ADDR names that of rank 0, and MASTER_PORT a port there if the usual one is taken.

    Raises
    ------
    LauncherError
        If the ranks cannot join; at once where they are on several hosts and rank 0's is not named.
    """

    name = "torch"

    def __init__(self, device: torch.device) -> None:
        import torch.distributed as dist

        size = launched_size() or int(os.environ.get("WORLD_SIZE", "1"))
        rank = int(os.environ.get("RANK", launched_rank()))
        if several_nodes() and "MASTER_ADDR" not in os.environ:
            raise LauncherError(
                f"torch.distributed joins {size} ranks on several nodes only if MASTER_ADDR names the node of rank 0; "
                "set it in the job script, or build Horovod with jobs/build-horovod.sh"
            )
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(default_port()))
        backend = "nccl" if device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(backend, init_method="env://", rank=rank, world_size=size)
        except (RuntimeError, ValueError) as error:
            raise LauncherError(
                f"torch.distributed cannot join {size} ranks ({error}); set MASTER_ADDR and MASTER_PORT"
            ) from None
        self._dist = dist
        self._device = device
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite, in place, every rank's tensors by those of rank 0."""
        for tensor in tensors:
            self._dist.broadcast(tensor, src=0)

    def average(self, flat: Tensor) -> None:
        """Replace, in place, a flat tensor by its mean over the ranks."""
        self._dist.all_reduce(flat)
        flat /= self.size

    def any(self, flag: int) -> int:
        """Return the largest flag over the ranks."""
        value = torch.tensor([flag], device=self._device)
        self._dist.all_reduce(value, op=self._dist.ReduceOp.MAX)
        return int(value)

    def close(self) -> None:
        """Leave the process group."""
        self._dist.destroy_process_group()


class Horovod:
    """Horovod over MPI or NCCL, as built by ``jobs/build-horovod.sh``.

    Its thread in the background wakes a thousand times a second and waits for those of the other ranks, spinning.
    Beside a GPU's cores nobody notices; a core that computes is better left alone, so that on CPUs it wakes less
    often and yields while it waits, unless the environment says otherwise.
    """

    name = "horovod"

    def __init__(self, device: torch.device) -> None:
        if device.type == "cpu":
            for name, value in QUIET.items():
                os.environ.setdefault(name, value)
        try:
            import horovod.torch as hvd
        except ImportError as error:
            raise ConfigError(
                f"Horovod cannot be imported ({error}); build it with jobs/build-horovod.sh or give --backend torch"
            ) from None
        hvd.init()
        self._hvd: Any = hvd
        self.rank, self.size = int(hvd.rank()), int(hvd.size())
        self._check()

    def _check(self) -> None:
        expected = launched_size()
        if expected is not None and expected != self.size:
            raise LauncherError(
                f"the launcher started {expected} ranks, Horovod sees {self.size}; "
                "use the mpiexec of the MPI it was built with"
            )

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite, in place, every rank's tensors by those of rank 0."""
        for number, tensor in enumerate(tensors):
            self._hvd.broadcast_(tensor, root_rank=0, name=f"broadcast.{number}")

    def average(self, flat: Tensor) -> None:
        """Replace, in place, a flat tensor by its mean over the ranks."""
        # one name per length: Horovod remembers the shape that it agreed on under a name
        self._hvd.allreduce_(flat, op=self._hvd.Average, name=f"average.{flat.numel()}")

    def any(self, flag: int) -> int:
        """Return the largest flag over the ranks."""
        value = torch.tensor([flag], dtype=torch.int64)
        return int(self._hvd.allgather(value, name="flag").max())

    def close(self) -> None:
        """Leave Horovod."""
        self._hvd.shutdown()


def choose(backend: str) -> str:
    """Resolve ``auto``: none without a launcher, else Horovod where it is installed, else torch.

    Raises
    ------
    ConfigError
        If the name is unknown, or ``none`` is asked for under several ranks.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"--backend {backend}: choose one of {', '.join(BACKENDS)}")
    size = launched_size() or 1
    if backend == "auto":
        if size == 1:
            return "none"
        return "horovod" if find_spec("horovod") else "torch"
    if backend == "none" and size > 1:
        raise ConfigError(f"--backend none under {size} ranks would train {size} models; give torch or horovod")
    return backend


def start_engine(backend: str, device: torch.device) -> Engine:
    """Start the engine of a backend (``auto`` is resolved by `choose`)."""
    name = choose(backend)
    if name == "torch":
        return TorchDistributed(device)
    return Horovod(device) if name == "horovod" else Serial()


def describe_device(device: torch.device) -> str:
    """Say in words on what a training runs, for its card."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"cpu, {torch.get_num_threads()} thread"
