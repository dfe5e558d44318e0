"""The demo of the README, as a new user runs it, in a copy of the checkout and with the tests' own environment."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def demo(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["env", f"LENSSCAN_VENV={sys.prefix}", "bash", str(folder / "jobs" / "demo.sh"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=1500)


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.timeout(1600)
def test_the_demo_ends_with_a_ranking_led_by_lenses_and_its_pictures(tmp_path: Path) -> None:
    if not (Path(sys.prefix) / "bin" / "mpiexec").exists():
        pytest.skip("no mpiexec in this environment")
    for name in ("jobs", "catalogs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    result = demo(tmp_path, "--no-setup")
    assert result.returncode == 0, result.stdout + result.stderr
    rows = re.findall(r"^ +(\d+) +\d+ .* (lens, theta_E|no lens)", result.stdout, re.MULTILINE)
    assert [int(rank) for rank, _ in rows] == list(range(1, 21))
    assert sum(kind != "no lens" for _, kind in rows) >= 18, result.stdout
    with h5py.File(tmp_path / "demo" / "candidates.h5") as h5:
        assert h5.attrs["n_failed"] == 0
        assert len(h5["candidates"]) > 20
    pictures = sorted((tmp_path / "demo").glob("mosaic*.png"))
    assert pictures
    with Image.open(pictures[0]) as picture:
        assert min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(2**24)) > 1000, "stamps have many colours, an empty page has few"


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    result = demo(tmp_path, "--fast")
    assert result.returncode == 1
    assert "unknown option --fast" in result.stderr
    assert not (tmp_path / "demo").exists()
