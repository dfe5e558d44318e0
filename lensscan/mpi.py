"""The only door to MPI: launch checks, device pinning, fixed-size messages, dead ranks, abort.

Every rank calls `start` once, before torch is imported.  Without a launcher nothing of MPI is loaded and
the job runs as one process.  All waiting is done with `Iprobe` and a short sleep, because a Python rank
blocked inside an MPI call never runs its signal handlers and burns a core.
"""

from __future__ import annotations

import ctypes
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lensscan import faults
from lensscan.errors import ExitCode, LauncherError

__all__ = ["World", "abort", "launched_rank", "launched_size", "local_rank", "orphan_watch", "several_nodes", "start"]

log = logging.getLogger(__name__)

# Variables by which launchers tell a process how many ranks they started, its rank, and its place on the node.
SIZE_VARIABLES = (
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "PALS_SIZE",
    "SLURM_STEP_NUM_TASKS",
)
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PALS_RANKID", "SLURM_PROCID")
LOCAL_RANK_VARIABLES = (
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "PMI_LOCAL_RANK",
    "PALS_LOCAL_RANKID",
    "MPI_LOCALRANKID",
    "SLURM_LOCALID",
)
LOCAL_SIZE_VARIABLES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "PMI_LOCAL_SIZE", "PALS_LOCAL_SIZE", "MPI_LOCALNRANKS")
ULFM_VARIABLE = "OMPI_MCA_mpi_ft_enable"  # set in the ranks by ``mpiexec --with-ft ulfm``
TAG = 7
TAG_TEXT = 8


def launched_size() -> int | None:
    """Return the number of ranks that the launcher says it started; None without a launcher.

    Inside a Slurm batch script but outside ``srun`` only ``SLURM_NTASKS`` is set; that is not a launch.
    """
    for variable in SIZE_VARIABLES:
        text = os.environ.get(variable, "")
        if text.isdigit():
            return int(text)
    if "SLURM_STEP_ID" in os.environ and os.environ.get("SLURM_NTASKS", "").isdigit():
        return int(os.environ["SLURM_NTASKS"])
    return None


def launched_rank() -> int:
    """Return the rank that the launcher gave this process, 0 without a launcher."""
    return _first_number(RANK_VARIABLES, 0) if launched_size() else 0


def local_rank() -> int:
    """Return this rank's place on its node, 0 without a launcher."""
    return _first_number(LOCAL_RANK_VARIABLES, 0)


def several_nodes() -> bool:
    """Tell whether the launcher says that it started ranks on other nodes too; not all of them do."""
    local = _first_number(LOCAL_SIZE_VARIABLES, 0)
    if local:
        return local < (launched_size() or 1)
    return _first_number(("SLURM_STEP_NUM_NODES",), 1) > 1


def _first_number(variables: tuple[str, ...], default: int) -> int:
    for variable in variables:
        text = os.environ.get(variable, "")
        if text.isdigit():
            return int(text)
    return default


def pin_device() -> None:
    """Show each rank one GPU, before torch (or MPI) can look at them.

    A site that already binds one GPU a rank is left alone.  Ranks beyond the number of visible GPUs share
    them in turn.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        devices = [name for name in visible.split(",") if name]
    else:
        try:
            devices = [str(i) for i, _ in enumerate(os.listdir("/proc/driver/nvidia/gpus"))]
        except OSError:
            devices = []
    if len(devices) > 1 and launched_size() is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[local_rank() % len(devices)]


@dataclass(slots=True)
class World:
    """The ranks of this job.

    Attributes
    ----------
    rank, size : int
        Place in, and size of, the world.
    local_size : int
        Ranks on this node.
    vendor : str
        MPI library, or ``"serial"``.
    fault_tolerant : bool
        True where a dead rank is reported (Open MPI 5, ``mpiexec --with-ft ulfm``) instead of ending the job.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1
    vendor: str = "serial"
    fault_tolerant: bool = False
    _comm: Any = None
    _mpi: Any = None
    _pending: list[tuple[Any, bytes]] = field(default_factory=list)
    _dead: set[int] = field(default_factory=set)
    _news: list[int] = field(default_factory=list)

    def send(self, rank: int, payload: bytes, text: bool = False) -> None:
        """Send a fixed-size message (or a line of text) without blocking; a dead receiver is noted, not raised."""
        if rank in self._dead:
            return
        try:
            request = self._comm.Isend([payload, self._mpi.BYTE], dest=rank, tag=TAG_TEXT if text else TAG)
            self._pending.append((request, payload))
            self._pending = [(r, p) for r, p in self._pending if not self._finished(r)]
        except self._mpi.Exception as error:
            self._failure(error)

    def receive(self) -> tuple[int, bytes, bool] | None:
        """Return (source rank, payload, is text) of one waiting message, or None at once."""
        if self._comm is None:
            return None
        status = self._mpi.Status()
        try:
            if not self._comm.Iprobe(source=self._mpi.ANY_SOURCE, tag=self._mpi.ANY_TAG, status=status):
                return None
            buffer = bytearray(status.Get_count(self._mpi.BYTE))
            self._comm.Recv([buffer, self._mpi.BYTE], source=status.Get_source(), tag=status.Get_tag())
        except self._mpi.Exception as error:
            self._failure(error)
            return None
        return status.Get_source(), bytes(buffer), status.Get_tag() == TAG_TEXT

    def dead(self) -> list[int]:
        """Return the ranks found dead since the last call."""
        news, self._news = self._news, []
        return news

    def flush(self, seconds: float = 5.0) -> None:
        """Wait (bounded) until the messages sent so far have left."""
        deadline = time.monotonic() + seconds
        while self._pending and time.monotonic() < deadline:
            self._pending = [(r, p) for r, p in self._pending if not self._finished(r)]
            time.sleep(1e-3)

    def _finished(self, request: Any) -> bool:
        try:
            return bool(request.Test())
        except self._mpi.Exception as error:
            self._failure(error)
            return True

    def _failure(self, error: Any) -> None:
        """Note the ranks that ULFM reports dead; any other MPI error is fatal."""
        mpi = self._mpi
        classes = {getattr(mpi, name, None) for name in ("ERR_PROC_FAILED", "ERR_PROC_FAILED_PENDING", "ERR_REVOKED")}
        if not self.fault_tolerant or error.Get_error_class() not in classes:
            raise error
        self._comm.Ack_failed()
        group = self._comm.Get_failed()
        world = self._comm.Get_group()
        ranks = mpi.Group.Translate_ranks(group, list(range(group.Get_size())), world) if group.Get_size() else []
        fresh = sorted({int(r) for r in ranks} - self._dead)
        self._dead.update(fresh)
        self._news.extend(fresh)
        group.Free()
        world.Free()

    def join(self) -> None:
        """On root: return when every other rank has said that it is done, or is dead.  Elsewhere: say so."""
        if self.rank != 0:
            self.send(0, b"done")
            return
        busy = set(range(1, self.size))
        while busy:
            message = self.receive()
            if message is None:
                time.sleep(0.01)
            else:
                busy.discard(message[0])
            busy -= set(self.dead())

    def finalize(self) -> None:
        """Leave MPI in order.

        Calls the library itself: mpi4py holds the interpreter's lock meanwhile, and no watchdog could end a hang.
        """
        if self._mpi is not None and not self._mpi.Is_finalized():
            self.flush()
            ctypes.CDLL(self._mpi.__file__).MPI_Finalize()


def start() -> World:
    """Join the job: pin the device, initialise MPI if a launcher started us, compare the sizes.

    Raises
    ------
    LauncherError
        If the launcher started more ranks than the MPI library sees (an ``mpiexec`` of another MPI starts N
        jobs of size 1 that would fight over one output), or mpi4py is missing.
    """
    expected = launched_size()
    pin_device()
    if expected is None:
        return World()
    fault_tolerant = os.environ.get(ULFM_VARIABLE) in ("1", "true", "yes")
    if fault_tolerant:
        # the barrier at the end waits for ever for a rank that died (Open MPI 5.0.11: one run in ten)
        os.environ.setdefault("OMPI_MCA_async_mpi_finalize", "1")
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        mpi4py.rc.finalize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise LauncherError(
            f"started by an MPI launcher ({expected} ranks), but mpi4py cannot be loaded ({error}); "
            "pip install 'lensscan[mpi]' built for this launcher's MPI"
        ) from None
    if not MPI.Is_initialized():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a foreign launcher: said below, in one line
            MPI.Init_thread(MPI.THREAD_SERIALIZED)
    comm = MPI.COMM_WORLD
    if comm.size != expected:
        library = MPI.Get_library_version().split(",")[0].strip()
        raise LauncherError(
            f"the launcher started {expected} ranks, but {library} on {socket.gethostname()} "
            f"sees {comm.size}; use the mpiexec that belongs to mpi4py's MPI (see lensscan doctor)"
        )
    comm.Set_errhandler(MPI.ERRORS_RETURN)
    faults.set_rank(comm.rank)
    return World(
        rank=comm.rank,
        size=comm.size,
        local_size=_first_number(LOCAL_SIZE_VARIABLES, 0) or _node_size(MPI, comm),
        vendor=MPI.Get_library_version().split("\n")[0].split(",")[0].strip(),
        fault_tolerant=fault_tolerant and hasattr(comm, "Ack_failed"),
        _comm=comm,
        _mpi=MPI,
    )


def _node_size(mpi: Any, comm: Any) -> int:
    node = comm.Split_type(mpi.COMM_TYPE_SHARED)
    size = int(node.size)
    node.Free()
    return size


def abort(world: World, code: int, message: str = "") -> None:
    """End the whole job at once with a non-zero exit code; never returns.

    ``Comm.Abort()`` without a code reports success, so this is the one place that calls it.
    """
    if message:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()
    sys.stdout.flush()
    code = int(code) or int(ExitCode.ERROR)
    if world._comm is not None and not world._mpi.Is_finalized():
        world._comm.Abort(code)
    os._exit(code)


def orphan_watch() -> Callable[[], bool]:
    """Return a function that tells whether the process which launched this rank is gone."""
    parent = os.getppid()
    return lambda: os.getppid() != parent
