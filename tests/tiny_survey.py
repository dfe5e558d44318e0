"""A small survey with everything a run needs: catalog, loose stamps, survey, cut and model files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import fitsio
import numpy as np
import pytest
from launch import run

N = 420
SIZE = 16
SURVEY = """
name = "tiny"
pixel_scale = 0.263
stamp_size = 16
[catalog]
keep = ["mag_i"]
[bands.g]
zero_point = 30.0
mag = "mag_g"
[bands.i]
zero_point = 30.0
mag = "mag_i"
"""
CUT = """
name = "red"
prevalence = 1e-3
[[step]]
value = "g - i"
min = 0.5
"""


@dataclass(frozen=True)
class Survey:
    """Paths of the small survey."""

    folder: Path

    def args(self, out: Path, *more: str, stamps: str | None = None) -> list[str]:
        """Return the arguments of a scan of it; batches of 1 row, so that there are 17 blocks."""
        f = self.folder
        spec = stamps or f"stamps:{f}/stamps/{{id}}.fits"
        return [
            "scan", "--catalog", f"{f}/catalog.fits", "--survey", f"{f}/tiny.toml", "--cut", f"{f}/red.toml",
            "--stamps", spec, "--model", f"{f}/tiny.safetensors", "-o", str(out), "--set", "batch=1",
            "--set", "max_failed=1.0", "--set", "top=100", *more,
        ]  # fmt: skip


def write_stamp(path: Path, images: dict[str, np.ndarray]) -> None:
    """Write one multi-extension stamp, one band an extension."""
    path.unlink(missing_ok=True)
    with fitsio.FITS(str(path), "rw") as fits:
        for band, image in images.items():
            fits.write(image.astype("f4"), extname=band.upper(), header={"MAGZERO": 30.0})


def make_survey(folder: Path, seed: int = 5, n: int = N) -> Survey:
    """Write the survey of n rows; two thirds of them pass the cut."""
    from lensscan.nets.model import make_trivial

    rng = np.random.default_rng(seed)
    (folder / "stamps").mkdir()
    ids = rng.permutation(n) + 2**53 + 1
    g = rng.uniform(20, 22, n)
    table = {
        "id": ids, "ra": rng.uniform(0, 1, n), "dec": rng.uniform(-1, 1, n),
        "mag_g": g, "mag_i": g - rng.choice([0.2, 1.0, 2.0], n),
    }  # fmt: skip
    fitsio.write(str(folder / "catalog.fits"), table)
    for name in ids:
        images = {band: rng.normal(0, 1, (SIZE, SIZE)) for band in "gi"}
        write_stamp(folder / "stamps" / f"{name}.fits", images)
    (folder / "tiny.toml").write_text(SURVEY)
    (folder / "red.toml").write_text(CUT)
    make_trivial(("g", "i"), SIZE, 0.263).save(folder / "tiny.safetensors")
    return Survey(folder)


def content_hash(out: Path) -> str:
    """Return the content hash of an output after verifying it."""
    from lensscan.candidates.file import read_header
    from lensscan.candidates.verify import verify_output

    verify_output(out)
    return read_header(out).content_hash


def assert_ledger_is_valid(run_dir: Path) -> None:
    """Whatever stands under a final name verifies; plan and shards are complete or absent."""
    from lensscan.scan import shards
    from lensscan.scan.plan import Plan

    if not (run_dir / "plan.h5").exists():
        assert not list(run_dir.rglob("B*.h5"))
        return
    plan = Plan.open(run_dir / "plan.h5")
    for block, start, stop in plan.block_rows():
        path = shards.shard_path(run_dir, block)
        if path.exists():
            shards.read_shard(path, plan.plan_hash, block, start, stop)


@pytest.fixture(scope="session")
def survey(tmp_path_factory) -> Survey:
    """The small survey, made once."""
    return make_survey(tmp_path_factory.mktemp("survey"))


@pytest.fixture(scope="session")
def reference(survey, tmp_path_factory) -> str:
    """Content hash of the undisturbed run in one process."""
    out = tmp_path_factory.mktemp("reference") / "out.h5"
    result = run(survey.args(out))
    assert result.code == 0, result
    return content_hash(out)
