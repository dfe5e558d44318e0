"""Builds what a worker scores with from the settings and the plan: device, models, readers."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lensscan.errors import ConfigError, PlanMismatch
from lensscan.process import available_cores
from lensscan.scan.pipeline import ReaderRing
from lensscan.scan.plan import Plan
from lensscan.scan.poison import Attempts
from lensscan.scan.settings import ScanSettings
from lensscan.scan.worker import Engine
from lensscan.survey.stamps import Frame, StampSource, allocate, open_reader, open_source

if TYPE_CHECKING:
    from lensscan.config import Survey
    from lensscan.nets.model import Model
    from lensscan.nets.scorer import Scorer

__all__ = [
    "build_engine",
    "default_batch",
    "device_key",
    "device_name",
    "gpu_number",
    "settle_threads",
    "stamp_source",
]

BATCH = {"cpu": 64, "cuda": 512}


def device_name(settings: ScanSettings) -> str:
    """Return ``cuda`` or ``cpu``; asking for a GPU where there is none is a `ConfigError`."""
    if settings.device == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if settings.device == "cuda":
        raise ConfigError("device = cuda, but torch sees no GPU; install a CUDA build of torch, or set device = cpu")
    return "cpu"


def default_batch(settings: ScanSettings) -> int:
    """Return the rows per batch: the setting, or 64 on a CPU and 512 on a GPU; never probed."""
    return settings.batch or BATCH[device_name(settings)]


def device_key(device: str, precision: str) -> str:
    """Return what decides the bits of a score: GPU model or CPU instruction set, library versions, precision."""
    import torch

    if device == "cuda":
        name = torch.cuda.get_device_name(0)
        versions = f"torch {torch.__version__}; cuda {torch.version.cuda}; cudnn {torch.backends.cudnn.version()}"
        return f"{name}; {versions}; {precision}"
    key = f"cpu {torch.backends.cpu.get_cpu_capability()}; torch {torch.__version__}"
    if precision == "bf16":
        key = " ".join([f"{key}; bf16", *_half_precision_units()])
    return key if precision != "tf32" else f"{key}; tf32"


def _half_precision_units() -> list[str]:
    """Return the instructions of this CPU that multiply in bf16; without them libraries compute it otherwise."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("flags"):
                return sorted({"amx_bf16", "avx512_bf16"} & set(line.split()))
    return []


def gpu_number(device: str) -> int:
    """Return a number (63 bits) that no other GPU of any node has, made from the UUID of this rank's; 0 on a CPU."""
    if device != "cuda":
        return 0
    import torch

    uuid = str(torch.cuda.get_device_properties(0).uuid)
    return int.from_bytes(hashlib.sha256(uuid.encode()).digest()[:8]) >> 1 or 1


def stamp_source(settings: ScanSettings, survey: Survey, frame: Frame) -> StampSource:
    """Open the storage of the stamps."""
    return open_source(settings.stamps, survey, frame, resample=settings.resample)


def build_engine(settings: ScanSettings, local_size: int) -> Engine:
    """Load plan and models and start the readers; called in the worker thread of every rank that scores.

    Raises
    ------
    PlanMismatch
        If this rank sees another model file than root did.
    """
    from lensscan.nets.model import Model, common_frame
    from lensscan.nets.scorer import Scorer
    from lensscan.scan.regression import Regression

    plan = Plan.open(settings.run_dir / "plan.h5")
    device = device_name(settings)
    cores = available_cores(local_size)
    models = [Model.load(name) for name in settings.model]
    regressor = Model.load(settings.regressor) if settings.regressor else None
    _require_planned([*models, regressor] if regressor else models, plan)
    frame = common_frame(models)
    precision, views, above = settings.precision, settings.views or None, settings.threshold
    scorer = Scorer(models, device, plan.batch, precision, views, math.inf if regressor else above)
    open_one = partial(open_reader, settings.stamps, settings.load()[0], frame, resample=settings.resample)
    ring = ReaderRing(open_one, frame, plan.batch, _readers(settings, cores), pinned=device == "cuda")
    regression = None
    if regressor and above is not None:
        second = Scorer([regressor], device, plan.batch, precision, views)
        regression = Regression.of(regressor, second, frame, above, pinned=device == "cuda")
    threads = settings.threads or cores
    settle_threads(threads, [scorer, regression.scorer] if regression else [scorer])
    attempts = Attempts(settings, plan)
    return Engine(
        plan,
        ring,
        scorer,
        settings.run_dir,
        device_key(device, settings.precision),
        attempts.suspects,
        attempts.finished,
        regression,
        gpu_number(device),
    )


def settle_threads(wanted: int, scorers: Sequence[Scorer]) -> int:
    """Let networks compute with several threads if these give the bits of one thread, else with one.

    Libraries share the sums of some layers, in batches of few rows, among threads: the last bits of a score would
    then follow the number of threads, and with it that of the ranks on a node.  Which layers, their shapes decide,
    not the pixels, so that one batch of noise shows it; it also sets up libraries and memory.

    Parameters
    ----------
    wanted : int
    scorers : sequence of Scorer

    Returns
    -------
    int
        The number of threads, which torch has now.
    """
    import torch

    found = []
    on_cpu = all(scorer.device.type == "cpu" for scorer in scorers)
    for threads in sorted({1, wanted} if on_cpu else {wanted}):
        torch.set_num_threads(threads)
        found.append([_score_noise(scorer) for scorer in scorers])
    same = all(
        np.array_equal(one[name], many[name], equal_nan=True)
        for one, many in zip(found[0], found[-1], strict=True)
        for name in one
    )
    torch.set_num_threads(wanted if same else 1)
    return wanted if same else 1


def _score_noise(scorer: Scorer) -> dict[str, NDArray[Any]]:
    slot = allocate(scorer.batch, scorer.frame)
    slot.images[:] = np.random.default_rng(0).normal(size=slot.images.shape)
    slot.n = scorer.batch
    slot.present[:] = True
    return scorer.submit(slot).result()


def _require_planned(models: list[Model], plan: Plan) -> None:
    """Check that these, the regressor last, are the plan's model files."""
    planned = [*plan.settings["models"], plan.settings.get("regressor")]
    for model, stated in zip(models, planned, strict=False):
        if model.card.hash != stated["sha256"]:
            raise PlanMismatch(
                f"model {model.card.name} on this node differs from the one in the plan; "
                "install the same files on all nodes"
            )


def _readers(settings: ScanSettings, cores: int) -> int:
    """Return the reader threads of a rank.

    On a single core, packs are read by the scoring thread itself: they stream at memory speed, and two threads
    would only fight for the core.  Loose files and tiles wait for metadata, which a thread hides.
    """
    if settings.readers:
        return settings.readers
    return 0 if cores == 1 and settings.stamps.startswith("packs:") else max(1, min(4, cores - 1))
