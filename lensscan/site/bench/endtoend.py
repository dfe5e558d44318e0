"""The scan end to end, against the ceilings measured in the same run and against what one would write instead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lensscan.errors import LensscanError
from lensscan.nets.model import Model, make_trivial
from lensscan.nets.scorer import Scorer
from lensscan.process import tune_allocator
from lensscan.site.bench.dataset import Dataset, make_loose, make_packs
from lensscan.site.bench.launcher import ENVIRONMENT, find_mpiexec
from lensscan.site.bench.report import Rate, Report, announce, interleave
from lensscan.survey.catalog import open_catalog
from lensscan.survey.fits import open_fitsio
from lensscan.survey.packfile import PackFile
from lensscan.survey.stamps import Frame, Rows, StampReader, allocate, open_source

__all__ = ["bench_scan"]

BATCH = 64  # the scan's default on a CPU
FAST_BATCH = 512  # its default on a GPU: the read-bound cases stand for a device that outruns reading
N_PACKED = 32_000
N_LOOSE = 4_000
FINE = ("batch=16",)  # blocks of 256 rows: the last block of a short run must not decide its rate


def bench_scan(model_name: str, rounds: int = 3, folder: str | None = None) -> Report:
    """Measure reading, network, the whole scan and the rival, on one core; then two ranks on two cores.

    Parameters
    ----------
    model_name : str
        Network of the network-bound case; the read-bound case has a trivial one.
    rounds : int
        Interleaved rounds.
    folder : str, optional
        Where to write about 2 GB of test data; default: a temporary folder.
    """
    tune_allocator()
    report = Report("scan")
    model = Model.load(model_name)
    with tempfile.TemporaryDirectory(dir=folder) as temp:
        announce(f"writing {N_PACKED:,} packed and {N_LOOSE:,} loose stamps")
        packs = make_packs(Path(temp) / "packed", model.frame(), N_PACKED)
        loose = make_loose(Path(temp) / "loose", model.frame(), N_LOOSE)
        trivial = Path(temp) / "trivial.safetensors"
        frame = model.frame()
        make_trivial(frame.bands, frame.size, frame.pixel_scale).save(trivial)
        everything = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(everything)})
        torch.set_num_threads(1)
        try:
            _one_core(report, model, model_name, trivial, packs, loose, rounds)
        finally:
            os.sched_setaffinity(0, everything)
        if len(everything) > 1:
            _two_ranks(report, model_name, packs, sorted(everything)[:2], rounds)
    return report


def _one_core(
    report: Report, model: Model, name: str, trivial: Path, packs: Dataset, loose: Dataset, rounds: int
) -> None:
    fast = Model.load(trivial)
    few = Subset(packs, _network_rows(model))
    tasks: dict[str, Callable[[], int]] = {
        "read packs": reading(packs, packs.n, FAST_BATCH),
        "bare copy-and-check loop": bare_map(packs, FAST_BATCH),
        "read loose files": reading(loose, loose.n, FAST_BATCH),
        "bare fitsio loop": bare_fitsio(loose),
        "network": network(model, few.n, BATCH),
        "trivial network": network(fast, packs.n, FAST_BATCH),
    }
    rates = interleave("reading and network", tasks, rounds)
    for key, rate in rates.items():
        report.rate(f"{key}, one core", rate)
    report.at_least("packs into batches, finite check included, one core", rates["read packs"].median, 100_000, "1/s")
    raw = rates["read packs"].median / rates["bare copy-and-check loop"].median
    report.add(
        "packs / bare copy-and-check loop over the mapped file", raw, "", note="what the machine's memory allows"
    )
    ratio = rates["read loose files"].median / rates["bare fitsio loop"].median
    report.at_least("loose files / bare fitsio loop", ratio, 0.9)
    _end_to_end(report, rates, name, trivial, packs, loose, few, rounds)
    _rivals(report, model, fast, packs, loose, few, rounds)


@dataclass(frozen=True, slots=True)
class Subset:
    """The first rows of a data set, as a catalog of its own."""

    data: Dataset
    n: int

    def catalog(self) -> Path:
        """Write and return the shortened catalog."""
        from astropy.table import Table

        path = self.data.folder / f"first-{self.n}.fits"
        if not path.exists():
            Table.read(self.data.catalog)[: self.n].write(path)
        return path


def _network_rows(model: Model) -> int:
    """Return how many stamps keep the network busy for a few seconds."""
    begin = time.perf_counter()
    network(model, 4 * BATCH, BATCH)()
    rate = 4 * BATCH / (time.perf_counter() - begin)
    return int(min(N_PACKED, max(16 * BATCH, 6 * rate)) // BATCH * BATCH)


def _end_to_end(
    report: Report, rates: dict[str, Rate], name: str, trivial: Path, packs: Dataset, loose: Dataset,
    few: Subset, rounds: int,
) -> None:  # fmt: skip
    cases = {
        "network-bound": (packs, name, few.catalog(), "read packs", "network", BATCH),
        "read-bound, packs": (packs, str(trivial), packs.catalog, "read packs", "trivial network", FAST_BATCH),
        "read-bound, loose files": (
            loose,
            str(trivial),
            loose.catalog,
            "read loose files",
            "trivial network",
            FAST_BATCH,
        ),
    }
    samples: dict[str, list[Scanned]] = {case: [] for case in cases}
    for turn in range(1, rounds + 1):
        announce(f"whole scans on one core, round {turn} of {rounds}")
        for case, (data, model, catalog, _, _, batch) in cases.items():
            samples[case].append(scan(data, model, catalog, batch))
    for case, (_, _, _, reader, net, _) in cases.items():
        rate = Rate(tuple(s.rate for s in samples[case]))
        ceiling = 1 / (1 / rates[reader].median + 1 / rates[net].median)
        report.rate(f"scan, {case}, one core, scoring phase", rate)
        overhead = np.median([s.wall - s.rows / s.rate for s in samples[case]])
        note = f"ceiling {ceiling:,.0f}/s; start, plan and merge take {overhead:.1f} s beside it"
        report.at_least(f"scan / 1/(1/reading + 1/network), {case}", rate.median / ceiling, 0.95, note=note)


def _rivals(
    report: Report, model: Model, fast: Model, packs: Dataset, loose: Dataset, few: Subset, rounds: int
) -> None:
    from lensscan.site.bench.rivals import LooseStamps, PackedStamps, score_all

    ours = {
        "loose": (loose, fast, loose.n),
        "packs": (packs, fast, packs.n),
        "network": (packs, model, few.n),
    }
    their_loose, their_packs = LooseStamps(loose.folder / "stamps"), PackedStamps(packs.folder / "packs")
    tasks: dict[str, Callable[[], int]] = {
        f"lensscan {key}": together(data, net, n, BATCH) for key, (data, net, n) in ours.items()
    }
    tasks["rival loose"] = score_all(their_loose, fast, BATCH, min(loose.n, 1_000))
    tasks["rival packs"] = score_all(their_packs, fast, BATCH, min(packs.n, 4_000))
    tasks["rival network"] = score_all(their_packs, model, BATCH, few.n)
    rates = interleave("scoring beside astropy and a DataLoader", tasks, rounds)
    for key, rate in rates.items():
        report.rate(f"{key}, one core", rate)
    for key, goal in (("loose", 4.0), ("packs", 20.0), ("network", 1.0)):
        ratio = rates[f"lensscan {key}"].median / rates[f"rival {key}"].median
        report.at_least(f"faster than astropy + DataLoader, {key}", ratio, goal, "x")


def rows_of(data: Dataset, n: int) -> Rows:
    """Return the first `n` rows in storage order."""
    from lensscan.config import load_survey

    survey = load_survey(data.survey)
    source = open_source(data.spec, survey, data.frame)
    chunk = next(iter(open_catalog(str(data.catalog), survey, source.required_columns()).chunks()))
    chunk = chunk.select(np.arange(chunk.n) < n)
    return Rows.of(chunk, source.locate(chunk))


def reader_of(data: Dataset) -> StampReader:
    """Return a reader of the data set."""
    from lensscan.config import load_survey

    return open_source(data.spec, load_survey(data.survey), data.frame).reader()


def reading(data: Dataset, n: int, size: int) -> Callable[[], int]:
    """Return a task that reads `n` stamps into a ring of three batches, each time with a reader of its own.

    A scan reads every stamp once; pages that an earlier round has mapped would be an unfair gift.
    """
    rows = rows_of(data, n)
    ring = [allocate(size, data.frame) for _ in range(3)]

    def task() -> int:
        reader = reader_of(data)
        for k, start in enumerate(range(0, n, size)):
            batch = ring[k % len(ring)]
            batch.clear()
            reader.read(rows, start, min(start + size, n), batch)
            if batch.status[: batch.n].any():
                raise LensscanError("a benchmark stamp could not be read")
        reader.close()
        return n

    return task


def bare_fitsio(data: Dataset) -> Callable[[], int]:
    """Return a task that reads header and pixels of every loose file with fitsio, and nothing else."""
    paths = [str(path) for path in sorted((data.folder / "stamps").glob("*.fits"))]

    def task() -> int:
        for path in paths:
            with open_fitsio(path) as fits:
                fits[0].read_header()
                fits[0].read()
        return len(paths)

    return task


def bare_map(data: Dataset, size: int) -> Callable[[], int]:
    """Return a task that copies every row of the mapped packs into native order and checks it, and nothing else."""
    packs = [PackFile.open(str(path)) for path in sorted((data.folder / "packs").glob("*.fits"))]
    ring = [allocate(size, data.frame).images for _ in range(3)]
    zeros = np.zeros(data.frame.size**2, np.float32)
    step = 8

    def task() -> int:
        count = 0
        for pack in packs:
            images = pack.rows["IMAGE"]
            for low in range(0, len(images), step):
                high = min(low + step, len(images))
                slot = low % size
                out = ring[low // size % len(ring)][slot : slot + high - low]
                np.copyto(out, images[low:high])
                if np.vecdot(out.reshape(high - low, len(data.frame.bands), -1), zeros).any():
                    raise LensscanError("a benchmark stamp is not finite")
                if high % size == 0 or high == len(images):
                    pack.release(max(0, high - size), high)
            count += len(images)
        return count

    return task


def network(model: Model, n: int, size: int, device: str = "cpu") -> Callable[[], int]:
    """Return a task that scores batches of noise, `n` stamps in all."""
    frame: Frame = model.frame()
    scorer = Scorer([model], device, size)
    batch = allocate(size, frame)
    batch.images[:] = np.random.default_rng(0).normal(0, 1, batch.images.shape)
    batch.present[:] = True
    batch.n = size

    def task() -> int:
        for _ in range(n // size):
            scorer.submit(batch).result()
        return n // size * size

    return task


def together(data: Dataset, model: Model, n: int, size: int) -> Callable[[], int]:
    """Return a task that reads and scores `n` stamps one batch after the other, with the scan's own parts."""
    rows, reader = rows_of(data, n), reader_of(data)
    scorer = Scorer([model], "cpu", size)
    batch = allocate(size, data.frame)

    def task() -> int:
        for start in range(0, n, size):
            batch.clear()
            reader.read(rows, start, min(start + size, n), batch)
            scorer.submit(batch).result()
        return n

    return task


@dataclass(frozen=True, slots=True)
class Scanned:
    """One run of the scan: rows, rate of the scoring phase, wall time of everything, peak memory by rank."""

    rows: int
    rate: float
    wall: float
    peaks: dict[int, int]
    root_peak: int


def scan(
    data: Dataset, model: str, catalog: Path, batch: int,
    launcher: tuple[str, ...] = (), settings: tuple[str, ...] = (), environment: dict[str, str] | None = None,
) -> Scanned:  # fmt: skip
    """Run ``lensscan scan`` in processes of its own and read its log."""
    with tempfile.TemporaryDirectory(dir=data.folder) as temp:
        out = Path(temp) / "out.h5"
        line = [*launcher, sys.executable, "-m", "lensscan", *data.arguments(model, out), "--keep-shards"]
        line[line.index("--catalog") + 1] = str(catalog)
        for setting in (f"batch={batch}", "views=1", *settings):
            line += ["--set", setting]
        begin = time.perf_counter()
        variables = {**os.environ, **(environment or {})}
        done = subprocess.run(line, capture_output=True, text=True, env=variables, check=False)
        wall = time.perf_counter() - begin
        if done.returncode:
            raise LensscanError(f"the scan under test failed: {done.stderr.strip().splitlines()[-1:]}")
        events = [
            json.loads(line) for line in (Path(f"{out}.run") / "log.jsonl").read_text(encoding="utf-8").splitlines()
        ]
    ready = max(e["time"] for e in events if e["event"] == "ready")  # the steady state, when every rank is up
    blocks = [(e["time"], e["rows"]) for e in events if e["event"] == "block" and e["time"] > ready]
    last = max(at for at, _ in blocks)
    rows = sum(n for _, n in blocks)
    peaks = {e["rank"]: e["peak_memory"] for e in events if e["event"] == "left"}
    root_peak = max(e["peak_memory"] for e in events if e["event"] == "exit")
    return Scanned(rows, rows / max(1e-3, last - ready), wall, peaks, root_peak)


def _two_ranks(report: Report, name: str, packs: Dataset, cores: list[int], rounds: int) -> None:
    """Compare two ranks on two cores with two one-process scans side by side, each on a core and half the rows."""
    launcher = find_mpiexec()
    if launcher is None:
        report.add("two ranks / two scans side by side", float("nan"), "", note="not measured: no mpiexec")
        return
    half = Subset(packs, packs.n // 2).catalog()
    ranks: list[float] = []
    pairs: list[float] = []
    for turn in range(1, rounds + 1):
        announce(f"two ranks, and two scans side by side, round {turn} of {rounds}")
        ranks.append(
            scan(packs, name, packs.catalog, BATCH, (launcher, "-n", "2", "--bind-to", "core"), FINE, ENVIRONMENT).rate
        )
        pairs.append(_side_by_side(packs, name, half, cores))
    ratio = float(np.median(ranks) / np.median(pairs))
    note = f"{np.median(ranks):,.0f} against {np.median(pairs):,.0f} stamps/s"
    report.at_least("two ranks / two one-process scans side by side", ratio, 0.95, note=note)


def _side_by_side(packs: Dataset, name: str, catalog: Path, cores: list[int]) -> float:
    """Return the summed rate of one-process scans running at the same time, each bound to its core."""
    from concurrent.futures import ThreadPoolExecutor

    def one(core: int) -> float:
        return scan(packs, name, catalog, BATCH, ("taskset", "-c", str(core)), FINE, {"OMP_NUM_THREADS": "1"}).rate

    with ThreadPoolExecutor(len(cores)) as pool:
        return sum(pool.map(one, cores))
