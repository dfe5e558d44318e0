"""Training in steps a second: what ranks, Horovod and mocks cost; and how long the network takes over a stamp."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from lensscan.errors import LensscanError
from lensscan.nets.model import Model
from lensscan.process import tune_allocator
from lensscan.site.bench.endtoend import BATCH, FAST_BATCH, network
from lensscan.site.bench.launcher import ENVIRONMENT, find_mpiexec
from lensscan.site.bench.report import Rate, Report, announce, interleave, on_threads
from lensscan.site.bench.trainrank import Case, Timed

__all__ = ["Measured", "bench_train", "run_case"]

SERIAL, STORED = "plain serial", "plain serial, mocks stored"
OTHER = "plain serial, mocks stored, the other precision"
ONE, TWO, TORCH = "one rank, Horovod", "two ranks, Horovod", "two ranks, torch.distributed"
APART = "two trainings side by side"
RANKS = {SERIAL: 0, STORED: 0, OTHER: 0, ONE: 1, TWO: 2, TORCH: 2, APART: 2}
"""The cases, and how many ranks mpiexec starts for each; 0: no mpiexec."""
SPEEDUP, OVERHEAD, MOCKS, MILLISECONDS = 1.8, 5.0, 10.0, 1.0
TIMEOUT = 1200.0
STAMPS = {"cpu": (256, 16), "cuda": (16_384, 512)}
"""Stamps classified in batches, and one by one, in one measurement."""
Runner = Callable[[Case, int], list[Timed]]


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """The rounds of one case.

    Attributes
    ----------
    rates : Rate
        Stamps a second, by the slowest rank.
    working : Rate
        The same by processor time, the all-reduce left out: what ranks that need not share their cores could reach.
    reducing, simulating : float
        Median shares, mean over the ranks: of the time, spent in the all-reduce; of the processor time, in the
        thread that makes mocks.
    """

    rates: Rate
    working: Rate
    reducing: float
    simulating: float

    @classmethod
    def of(cls, rounds: list[list[Timed]]) -> Measured:
        """Summarise rounds, each a list of what the ranks measured."""

        def share(part: str, whole: str) -> float:
            means = [statistics.mean(getattr(rank, part) / getattr(rank, whole) for rank in ranks) for ranks in rounds]
            return statistics.median(means)

        def rate(time: str) -> Rate:
            return Rate(tuple(ranks[0].stamps / max(getattr(rank, time) for rank in ranks) for ranks in rounds))

        return cls(rate("seconds"), rate("working"), share("reducing", "seconds"), share("simulating", "working"))


def run_case(case: Case, ranks: int) -> list[Timed]:
    """Do a case in processes of its own: plain for 0 ranks, else under mpiexec; return what each rank measured.

    Raises
    ------
    LensscanError
        If a rank fails or hangs.
    """
    line = [sys.executable, "-m", "lensscan.site.bench.trainrank", json.dumps(dataclasses.asdict(case))]
    launcher = [find_mpiexec() or "mpiexec", "-n", str(ranks)] if ranks else []
    # ranks choose their core themselves: a launcher would bind a lone rank, too, and to what it likes
    variables = {**os.environ, **ENVIRONMENT, "PRTE_MCA_hwloc_default_binding_policy": "none"}
    with tempfile.TemporaryDirectory() as temp:
        try:
            done = subprocess.run(
                [*launcher, *line, temp], capture_output=True, text=True, env=variables, check=False, timeout=TIMEOUT
            )
        except subprocess.TimeoutExpired:
            raise LensscanError(f"the training under test took more than {TIMEOUT:.0f} s ({case.backend})") from None
        found = [Timed(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted(Path(temp).glob("*.json"))]
    if done.returncode or len(found) != max(1, ranks):
        said = done.stderr.strip().splitlines()[-1:]
        raise LensscanError(f"the training under test failed ({case.backend}, {ranks} ranks): {said}")
    return found


def bench_train(
    training: str = "des-griz",
    model: str = "des-griz",
    rounds: int = 3,
    device: str = "cpu",
    periods: int = 2,
    assignments: Sequence[str] = (),
    runner: Runner = run_case,
) -> Report:
    """Measure training plain and on ranks, all with the same global batch, and classification.

    On a CPU a rank is one core with one thread, which also makes its mocks; on GPUs a rank is one GPU.

    Parameters
    ----------
    training, model : str
        Training file, and model of the classification: shipped names or paths.
    rounds : int
        In each, every case runs once.
    device : str
    periods : int
        Length of a measurement, see `lensscan.site.bench.trainrank.Case`.
    assignments : sequence of str
        Changes of the training file, ``KEY=VALUE``.
    runner : callable
        Does a case on so many ranks.
    """
    tune_allocator()
    report = Report("train")
    cores = () if device == "cuda" else tuple(sorted(os.sched_getaffinity(0)))
    plain = Case(training, device=device, periods=periods, cores=cores, assignments=tuple(assignments))
    settings = plain.settings()
    report.add("load of the machine before, 1 minute", os.getloadavg()[0], "", note="whatever else was running")
    missing = _missing(device)
    other = "fp32" if settings.precision == "bf16" else "bf16"
    changes = {OTHER: f"precision={other}", APART: f"batch={max(1, settings.batch // 2)}"}
    found = _measure(plain, changes, rounds, missing, runner)
    for name, case in found.items():
        report.rate(f"{name}, batch {settings.batch}", case.rates)
    precisions = {STORED: settings.precision, OTHER: other}
    half, full = (STORED, OTHER) if settings.precision == "bf16" else (OTHER, STORED)
    value, spread = ratio(found, half, full)
    report.add(
        f"bf16 / {precisions[full]}, mocks stored", value, "x", note=f"{spread}; the training has {settings.precision}"
    )
    _ratios(report, found, missing)
    _shares(report, found, device)
    _classification(report, model, rounds, device)
    report.add("load of the machine after, 1 minute", os.getloadavg()[0], "")
    return report


def _missing(device: str) -> dict[str, str]:
    """Return why a case cannot be measured here, by case."""
    units = torch.cuda.device_count() if device == "cuda" else len(os.sched_getaffinity(0))
    missing: dict[str, str] = {}
    for name, ranks in RANKS.items():
        if ranks and find_mpiexec() is None:
            missing[name] = "no mpiexec"
        elif name in (ONE, TWO) and find_spec("horovod") is None:
            missing[name] = "Horovod is not installed"
        elif ranks > units:
            missing[name] = f"{units} {'GPU' if device == 'cuda' else 'core'} only"
    return missing


def _measure(
    plain: Case, changes: Mapping[str, str], rounds: int, missing: Mapping[str, str], runner: Runner
) -> dict[str, Measured]:
    """Run every case that can be run, in turn, `rounds` times; `changes` of the training, by case."""
    backends = {ONE: "horovod", TWO: "horovod", TORCH: "torch"}
    samples: dict[str, list[list[Timed]]] = {name: [] for name in RANKS if name not in missing}
    for turn in range(1, rounds + 1):
        for name, rows in samples.items():
            announce(f"{name}, round {turn} of {rounds}")
            assignments = (*plain.assignments, changes[name]) if name in changes else plain.assignments
            stored, backend = name in (STORED, OTHER), backends.get(name, "none")
            case = dataclasses.replace(plain, backend=backend, stored=stored, assignments=assignments)
            ranks = runner(case, RANKS[name])
            if name == APART:  # each has batches of its own
                ranks = [dataclasses.replace(rank, stamps=sum(each.stamps for each in ranks)) for rank in ranks]
            rows.append(ranks)
    return {name: Measured.of(rows) for name, rows in samples.items()}


def ratio(found: Mapping[str, Measured], above: str, below: str, kind: str = "rates") -> tuple[float, str]:
    """Return the median over the rounds of one case's rate by another's, and its spread in words."""
    pairs = zip(getattr(found[above], kind).samples, getattr(found[below], kind).samples, strict=True)
    values = [a / b for a, b in pairs]
    return statistics.median(values), f"{min(values):.2f} to {max(values):.2f} round by round"


def _ratios(report: Report, found: Mapping[str, Measured], missing: Mapping[str, str]) -> None:
    """Set two ranks against one, and Horovod at one rank against none."""
    for two, one in ((TWO, ONE), (TORCH, SERIAL)):
        name = f"{two} / {one}"
        if _lacking(report, name, "x", missing, two, one):
            continue
        value, spread = ratio(found, two, one)
        report.at_least(name, value, SPEEDUP, "x", note=spread)
        value, spread = ratio(found, two, one, "working")
        report.add(f"{name}, by processor time", value, "x", note=f"{spread}, all-reduce left out")
    cost = "what working together costs"
    for above, below, what in (
        (APART, SERIAL, "what the machine gives, half a batch each"),
        (TWO, APART, cost),
        (TORCH, APART, cost),
    ):
        name = f"{above} / {below}"
        if _lacking(report, name, "x", missing, above, below):
            continue
        value, spread = ratio(found, above, below)
        report.add(name, value, "x", note=f"{spread}; {what}")
    name = "Horovod's overhead at one rank, beside plain serial"
    if _lacking(report, name, "%", missing, ONE):
        return
    value, spread = ratio(found, SERIAL, ONE)
    report.at_most(name, 100 * (value - 1), OVERHEAD, "%", note=f"rates {spread}")
    value, spread = ratio(found, SERIAL, ONE, "working")
    report.add("Horovod's overhead at one rank, by processor time", 100 * (value - 1), "%", note=f"rates {spread}")


def _lacking(report: Report, name: str, unit: str, missing: Mapping[str, str], *cases: str) -> bool:
    """Whether a case that a figure needs was not measured, which the report then says."""
    reason = next((missing[case] for case in cases if case in missing), "")
    if reason:
        report.add(name, math.nan, unit, note=f"not measured: {reason}")
    return bool(reason)


def _shares(report: Report, found: Mapping[str, Measured], device: str) -> None:
    """Say what of a step goes into mocks and into the all-reduce."""
    value, spread = ratio(found, SERIAL, STORED)
    name, note = "of a step, what mocks add to it", f"rates {spread}"
    if device == "cuda":
        report.at_most(name, 100 * (1 - value), MOCKS, "%", note=note)
    else:
        report.add(name, 100 * (1 - value), "%", note=f"{note}; the goal of {MOCKS:g} % is a GPU's")
        simulating = 100 * found[SERIAL].simulating
        report.add("of a step's processor time, the thread that makes mocks", simulating, "%")
    for case in (TWO, TORCH):
        if case in found:
            name = f"of a step, the all-reduce, {case}"
            report.add(name, 100 * found[case].reducing, "%", note="waiting for the other rank included")


def _classification(report: Report, name: str, rounds: int, device: str) -> None:
    """Measure the network alone, in batches and stamp by stamp."""
    model = Model.load(name)
    size = FAST_BATCH if device == "cuda" else BATCH
    many, few = STAMPS[device]
    tasks: dict[str, Callable[[], int]] = {}
    for threads in (1,) if device == "cuda" else (1, 2):
        on = "GPU" if device == "cuda" else f"{threads} thread{'s' * (threads > 1)}"
        tasks[f"batches of {size}, {on}"] = on_threads(threads, network(model, many, size, device))
        tasks[f"one by one, {on}"] = on_threads(threads, network(model, few, 1, device))
    for case, rate in interleave("classification", tasks, rounds).items():
        times = [1000 / value for value in rate.samples]
        note = f"{min(times):.3g} to {max(times):.3g}, views {model.card.views}"
        figure = f"{name}: classification, {case}"
        if device == "cuda":
            report.at_most(figure, 1000 / rate.median, MILLISECONDS, "ms/stamp", note=note)
        else:
            report.add(figure, 1000 / rate.median, "ms/stamp", note=note)
