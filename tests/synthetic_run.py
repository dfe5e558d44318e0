"""A complete run folder with made-up scores: a plan and its shards, without stamps or networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from lensscan.metrics.calibration import Calibration
from lensscan.nets.card import Card, LensDensity
from lensscan.scan.plan import Plan, PlanWriter
from lensscan.scan.shards import write_shard
from lensscan.schema import Status

TRIANGLE = [(i, j) for i in range(7) for j in range(i + 1)]


@dataclass
class Run:
    """A run folder ready to be merged."""

    folder: Path
    plan: Plan
    cards: list[Card]
    shards: list[dict[str, np.ndarray]]

    @property
    def out(self) -> Path:
        return Path(str(self.folder).removesuffix(".run"))


def make_card(name="demo", bands=("g", "r", "i"), calibration=None, f_lens=None, size=45) -> Card:
    return Card(
        name=name,
        architecture={"kind": "trivial"},
        bands=tuple(bands),
        size=size,
        pixel_scale=0.263,
        calibration=calibration or Calibration("temperature", 0.5, 0.0),
        f_lens=f_lens or LensDensity(),
    )


def make_shard(
    rng, n, bands=3, networks=1, failures=0.1, regressed=0.8, duplicated=None, components=None
) -> dict[str, np.ndarray]:
    """Return the columns of one shard with plausible values; `components` of all networks together, with weights."""
    status = np.full(n, Status.SCORED, np.uint8)
    status[rng.random(n) < failures] = Status.BLANK
    status[rng.random(n) < failures / 3] = Status.UNREADABLE
    if duplicated is not None:
        status[duplicated] = Status.DUPLICATE_ID
    count = components or networks
    mean = rng.normal(0, 0.3, (n, count, 7)).astype(np.float32)
    root = rng.normal(0, 0.1, (n, count, 7, 7)) + 0.15 * np.eye(7)
    full = root @ root.swapaxes(-1, -2)
    cov = np.stack([full[..., i, j] for i, j in TRIANGLE], axis=-1).astype(np.float32)
    logit = np.round(rng.normal(-3, 3, (n, networks)), 2).astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi, n)
    wcs = np.stack(
        [rng.uniform(0, 360, n), rng.uniform(-90, 90, n), -np.cos(angle), np.sin(angle), np.sin(angle), np.cos(angle)],
        axis=-1,
    )
    wcs[rng.random(n) < 0.1] = np.nan
    off = rng.random(n) > regressed
    mean[off], cov[off] = np.nan, np.nan
    columns = {
        "status": status,
        "flags": np.zeros(n, np.uint32),
        "present": rng.random((n, bands)) < 0.9,
        "fwhm": rng.uniform(0.8, 1.4, (n, bands)).astype(np.float32),
        "wcs": wcs,
        "sigma": rng.uniform(1, 2, (n, bands)).astype(np.float32),
        "snr": rng.uniform(5, 50, n).astype(np.float32),
        "logit": logit,
        "post_mean": mean,
        "post_cov": cov,
        "ood": np.full((n, networks), np.nan, np.float32),
    }
    if components:
        columns["post_weight"] = rng.dirichlet(np.ones(components), n).astype(np.float32)
    failed = status != Status.SCORED
    for name in ("logit", "post_mean", "post_cov", "sigma", "snr"):
        columns[name][failed] = np.nan
    return columns


def make_run(
    folder: Path,
    n: int,
    *,
    batch: int = 4,
    bands: Sequence[str] = ("g", "r", "i"),
    networks: int = 1,
    ids: Any = None,
    ra: Any = None,
    dec: Any = None,
    n_cut: int = 17,
    cards: Sequence[Card] | None = None,
    seed: int = 0,
    logit: Any = None,
    failures: float = 0.1,
    name: str = "OUT.h5",
    columns: dict[str, Any] | None = None,
    files: Sequence[str] | None = None,
    settings: dict[str, Any] | None = None,
    components: int | None = None,
) -> Run:
    """Make ``<folder>/OUT.h5.run`` with `n` selected rows of a catalog of ``n + n_cut``."""
    rng = np.random.default_rng(seed)
    run_dir = folder / f"{name}.run"
    (run_dir / "shards").mkdir(parents=True)
    writer = PlanWriter(run_dir / "plan.h5", batch=batch, shared_files=True)
    ids = np.arange(n, dtype=np.int64) * 3 + 5 if ids is None else np.asarray(ids)
    numbers = {
        "ra": rng.uniform(0, 360, n) if ra is None else np.asarray(ra, float),
        "dec": rng.uniform(-60, 60, n) if dec is None else np.asarray(dec, float),
        "px": np.full(n, np.nan),
        "py": np.full(n, np.nan),
        "offset": np.arange(n),
        "row": np.sort(rng.permutation(n + n_cut)[:n]),
        "status": np.zeros(n, np.uint8),
    }
    files = files or [f"packs/DES{i * 5 // max(n, 1):04d}_{{band}}.fits.fz" for i in range(n)]
    if n:
        writer.append(ids, numbers, files, columns or {})
    else:
        writer.append(ids[:0], numbers, [], {name: np.asarray(values) for name, values in (columns or {}).items()})
    steps = [SimpleNamespace(name="g - i", n_in=n + n_cut, n_kept=n + 3, n_nan=2, n_sentinel=1)]
    steps.append(SimpleNamespace(name="r", n_in=n + 3, n_kept=n, n_nan=0, n_sentinel=0))
    flow = SimpleNamespace(n_catalog=n + n_cut, steps=steps if n_cut else [])
    settings = settings or {"survey": "demo", "stamps": "packs:packs", "seed": seed}
    writer.finish(settings, flow, [["packs/a.fits", 10, 20]], tuple(bands))
    plan = Plan.open(run_dir / "plan.h5")
    status = plan.rows(0, n).status if n else np.zeros(0, np.uint8)
    shards = []
    for block, start, stop in plan.block_rows():
        twice = np.flatnonzero(status[start:stop] == Status.DUPLICATE_ID)
        shard = make_shard(rng, stop - start, len(bands), networks, failures, duplicated=twice, components=components)
        if logit is not None:
            fine = shard["status"] == Status.SCORED
            values = np.asarray(logit, np.float32).reshape(n, -1)[start:stop]
            shard["logit"] = np.where(fine[:, None], values, np.float32(np.nan))
        write_shard(run_dir, plan.plan_hash, block, start, stop, shard, {"device_key": "cpu avx512", "seconds": 0.5})
        shards.append(shard)
    cards = [make_card(f"net{k}" if k else "demo", bands) for k in range(networks)] if cards is None else list(cards)
    return Run(run_dir, plan, cards, shards)
