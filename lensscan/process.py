"""One process and its machine: cores, threads, memory allocator, and by what it is known."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

__all__ = [
    "available_cores",
    "available_memory",
    "boot_id",
    "peak_memory",
    "release_memory",
    "start_time",
    "tune_allocator",
]

# glibc mallopt parameters and values: keep large temporaries mapped instead of returning them page by page.
MALLOPT = {"M_MMAP_THRESHOLD": (-3, 1 << 30), "M_TRIM_THRESHOLD": (-1, 1 << 30), "M_TOP_PAD": (-2, 64 << 20)}


def available_cores(local_size: int = 1) -> int:
    """Return the cores that this rank may use: its affinity mask, shared fairly with the ranks of the node.

    Parameters
    ----------
    local_size : int
        Ranks on this node.
    """
    mask = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = max(1, (os.cpu_count() or 1) // max(1, local_size))
    return max(1, min(mask, share))


def available_memory() -> int:
    """Return the bytes that new arrays may take without swapping, 0 where the system does not tell."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="ascii"))  # "max": no limit, a ValueError
        used = int((group / "memory.current").read_text(encoding="ascii"))
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        cache = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        found.append(limit - used + cache)
    return max(min(found), 0) if found else 0


def tune_allocator() -> dict[str, int]:
    """Raise glibc's mmap and trim thresholds and its top pad; return what was set (empty without glibc).

    Large temporaries otherwise go back to the kernel and come back as page faults at every batch, which
    costs half of the speed on a CPU.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return {}
    return {name: value for name, (number, value) in MALLOPT.items() if mallopt(number, value) == 1}


def release_memory() -> None:
    """Give freed memory back to the system; with the raised thresholds glibc would keep it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def peak_memory() -> int:
    """Return the peak resident memory of this process, bytes; 0 where /proc does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii") as stream:
            for line in stream:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def boot_id() -> str:
    """Return what names this boot of this machine, empty where /proc does not tell."""
    return _read("/proc/sys/kernel/random/boot_id")


def start_time(pid: int) -> str:
    """Return the start time of a process (clock ticks since boot), empty if there is none."""
    text = _read(f"/proc/{pid}/stat")
    return text.rsplit(")", 1)[-1].split()[19] if text else ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""
