"""Environment check: what a scan needs, what this machine has, and what to do where they differ."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lensscan import process
from lensscan.config import shipped
from lensscan.site.launchers import check_launchers
from lensscan.site.outcome import Check, Outcome
from lensscan.site.storage import check_storage

__all__ = ["Check", "Outcome", "diagnose"]

REQUIRED = ("numpy", "scipy", "astropy", "fitsio", "h5py", "torch", "safetensors", "pyarrow", "numexpr", "pillow")
OPTIONAL = {
    "mpi4py": "needed for more than one rank: pip install 'lensscan[mpi]', or build it against the site's MPI",
    "matplotlib": "needed for plots: pip install 'lensscan[view]'",
    "optuna": "needed for sweeps: pip install 'lensscan[sweep]'",
    "horovod": "needed to train with Horovod: bash jobs/setup.sh --train",
}
SLOW_IMPORT = 1.0


def diagnose(folder: Path) -> Iterator[Check]:
    """Run every check; a check that breaks is itself a failure.

    Parameters
    ----------
    folder : Path
        Where the output of a scan is to be written.

    Yields
    ------
    Check
        In the order of the report, each as soon as it is known.
    """
    parts: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
        ("python", check_python),
        ("packages", check_packages),
        ("cores", check_cores),
        ("allocator", check_allocator),
        ("fitsio", check_fitsio),
        ("h5py", check_h5py),
        ("launcher", check_launchers),
        ("devices", check_devices),
        ("models", check_models),
        ("output folder", lambda: check_storage(folder)),
    )
    for name, part in parts:
        try:
            yield from part()
        except Exception as error:
            yield Check(name, Outcome.FAIL, f"the check itself broke: {type(error).__name__}: {error}")


def check_python() -> Iterator[Check]:
    """Report the interpreter, and how long a rank takes to start."""
    yield Check("python", Outcome.OK, f"{platform.python_version()}, {sys.executable}")
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import lensscan.cli.main"], check=True, timeout=120)
    seconds = time.perf_counter() - start
    if seconds > SLOW_IMPORT:
        advice = "the file system is slow for Python; on many nodes use a container or a node-local copy"
        yield Check("start-up", Outcome.WARN, f"{seconds:.1f} s; {advice} (docs/supercomputer.md)")
    else:
        yield Check("start-up", Outcome.OK, f"{seconds:.2f} s")


def check_packages() -> Iterator[Check]:
    """Report the versions of what lensscan imports."""
    found, missing = [], []
    for name in REQUIRED:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        yield Check("packages", Outcome.FAIL, f"missing: {', '.join(missing)}; pip install lensscan again")
    yield Check("packages", Outcome.OK, ", ".join(found))
    for name, advice in OPTIONAL.items():
        try:
            yield Check(name, Outcome.OK, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, Outcome.WARN, f"not installed; {advice}")


def check_cores() -> Iterator[Check]:
    """Report the cores that this process may use, and thread counts that exceed them."""
    cores, total = process.available_cores(), os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) > cores:
        yield Check(
            "cores", Outcome.WARN, f"OMP_NUM_THREADS={threads}, but only {cores} of {total} may be used; lower it"
        )
    else:
        yield Check(
            "cores", Outcome.OK, f"{cores} of {total} in the affinity mask, OMP_NUM_THREADS={threads or 'unset'}"
        )


def check_allocator() -> Iterator[Check]:
    """Report whether the allocator can be tuned as a scan does at its start."""
    tuned = process.tune_allocator()
    if tuned:
        yield Check("allocator", Outcome.OK, "glibc, " + ", ".join(f"{k}={v}" for k, v in tuned.items()))
    else:
        yield Check("allocator", Outcome.WARN, "not glibc: scoring on a CPU may be up to twice slower")


def check_fitsio() -> Iterator[Check]:
    """Report whether several threads may read FITS files at once."""
    from lensscan.survey import fits

    if fits.reentrant():
        yield Check("fitsio", Outcome.OK, "reentrant: several reader threads a rank")
    else:
        text = "its cfitsio is not reentrant: one reader thread a rank; install fitsio's own wheel"
        yield Check("fitsio", Outcome.WARN, text)


def check_h5py() -> Iterator[Check]:
    """Report HDF5's version and locking; parallel HDF5 is never needed."""
    import h5py

    kind = "parallel (not needed)" if h5py.get_config().mpi else "serial (all that is needed)"
    locking = os.environ.get("HDF5_USE_FILE_LOCKING", "unset")
    yield Check("h5py", Outcome.OK, f"HDF5 {h5py.version.hdf5_version}, {kind}, HDF5_USE_FILE_LOCKING={locking}")


def check_devices() -> Iterator[Check]:
    """Report the GPUs that torch sees."""
    import torch

    if not torch.cuda.is_available():
        if Path("/proc/driver/nvidia/gpus").is_dir() or Path("/dev/kfd").exists():
            text = f"this node has GPUs, but torch {torch.__version__} cannot use them; install the build for them"
            yield Check("devices", Outcome.WARN, text)
        else:
            yield Check("devices", Outcome.OK, "no GPU: the CPU scores")
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        uuid = getattr(properties, "uuid", "unknown")
        text = f"GPU {index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB, UUID {uuid}"
        yield Check("devices", Outcome.OK, f"{text}, CUDA_VISIBLE_DEVICES={visible}")


def check_models() -> Iterator[Check]:
    """Load every shipped model and score a stamp at two places of a batch: the same bits must come out."""
    names = shipped("models")
    if not names:
        yield Check("models", Outcome.WARN, "none shipped: give scan a model file")
    for name in names:
        yield check_model(name)


def check_model(name: str) -> Check:
    """Load and try one shipped model."""
    import numpy as np

    from lensscan.nets.model import load_model

    model = load_model(name)
    frame = model.frame()
    shape = (len(frame.bands), frame.size, frame.size)
    stamps = np.random.default_rng(1).normal(size=(3, *shape)).astype(np.float32)
    first = np.asarray(model.score(stamps)["logit"])
    again = np.asarray(model.score(stamps[::-1].copy())["logit"])[::-1]
    text = f"{name}: {' '.join(frame.bands)}, {frame.size} px of {frame.pixel_scale} arcsec"
    if not np.array_equal(first, again, equal_nan=True):
        return Check("models", Outcome.FAIL, f"{text}: a stamp's score depends on its place in the batch; report it")
    return Check("models", Outcome.OK, f"{text}, loads and scores, the same bits at any place of a batch")
