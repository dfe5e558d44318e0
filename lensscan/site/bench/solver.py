"""How many lenses a second the image solver solves, beside lenstronomy's analytical solver in the same run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import torch

from lensscan.lens.caustics import image_number
from lensscan.lens.sie import SIE
from lensscan.process import tune_allocator
from lensscan.site.bench.report import Report, announce, interleave, on_threads

__all__ = ["bench_solver"]

LENSES = 8192
RIVAL_LENSES = 200
SHEAR = 0.1
GOAL = 10_000
TIMES = 5


class Systems:
    """Random lenses (q 0.3 to 0.95) with sources inside 0.9 theta_E; lenstronomy misses images of rounder ones."""

    def __init__(self, n: int, shear: float, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        q, phi, turn = rng.uniform(0.3, 0.95, n), rng.uniform(0, np.pi, n), rng.uniform(0, np.pi, n)
        e = (1 - q) / (1 + q)
        theta_E, x, y = rng.uniform(0.5, 3.0, n), *rng.normal(0, 0.1, (2, n))
        gamma = shear * np.cos(2 * turn), shear * np.sin(2 * turn)
        self.columns = (theta_E, e * np.cos(2 * phi), e * np.sin(2 * phi), x, y, *gamma)
        self.lens = SIE(*self.columns)
        r, angle = 0.9 * theta_E * np.sqrt(rng.uniform(size=n)), rng.uniform(0, 2 * np.pi, n)
        self.sx, self.sy = torch.from_numpy(x + r * np.cos(angle)), torch.from_numpy(y + r * np.sin(angle))

    def solve(self) -> int:
        """Solve all; return their number."""
        return int(self.lens.images(self.sx, self.sy).count.numel())

    def wrong(self) -> int:
        """Return how many have another number of images than degree theory says."""
        counts = self.lens.images(self.sx, self.sy).count
        lenses = torch.arange(len(counts)).split(256)
        want = [image_number(SIE(*(c[k.numpy()] for c in self.columns)), self.sx[k], self.sy[k]) for k in lenses]
        return int((torch.cat(want).clamp(max=5) != counts).sum())


def _rival(systems: Systems) -> Callable[[], int]:
    """Return the same first lenses as a task of lenstronomy, one after the other, as its solver works."""
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LensModel.Solver.lens_equation_solver import LensEquationSolver

    solver = LensEquationSolver(LensModel(["SIE"]))
    names = ("theta_E", "e1", "e2", "center_x", "center_y")
    rows = [dict(zip(names, row[:5], strict=True)) for row in np.stack(systems.columns, axis=1)[:RIVAL_LENSES].tolist()]
    places = list(zip(systems.sx.tolist(), systems.sy.tolist(), strict=True))[:RIVAL_LENSES]

    def task() -> int:
        for (sx, sy), row in zip(places, rows, strict=True):
            solver.image_position_from_source(sx, sy, [row], solver="analytical")
        return len(rows)

    return task


def bench_solver(rounds: int = 3) -> Report:
    """Measure the solver on one and two threads, without and with shear, and count what it misses."""
    tune_allocator()
    report = Report("solver")
    plain, sheared = Systems(LENSES, 0.0), Systems(LENSES, SHEAR)
    tasks = {f"lensscan, {n} thread{'s' * (n > 1)}": on_threads(n, plain.solve) for n in (1, 2)}
    tasks[f"lensscan, 2 threads, shear {SHEAR}"] = on_threads(2, sheared.solve)
    rival = importlib.util.find_spec("lenstronomy") is not None
    if rival:
        tasks["lenstronomy, analytical"] = _rival(plain)
    rates = interleave("lenses", tasks, rounds)
    for name, rate in rates.items():
        report.rate(name, rate, "lenses/s")
    best = rates["lensscan, 2 threads"].median
    report.at_least("lenses a second on 2 threads", best, GOAL, "1/s")
    if rival:
        ratio = best / rates["lenstronomy, analytical"].median
        report.at_least("times lenstronomy's analytical solver, in the same run", ratio, TIMES)
    else:
        report.add("times lenstronomy's analytical solver", float("nan"), "", note="lenstronomy is not installed")
    announce("counting images against degree theory")
    wrong = plain.wrong() + sheared.wrong()
    report.at_most(f"of {2 * LENSES} lenses with a wrong number of images", wrong, 0)
    return report
