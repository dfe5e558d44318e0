"""A survey with a zoo of broken stamps: each gets its reason, all other rows stay the same to the bit."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import pytest
from launch import run
from survey import zoo
from tiny_survey import content_hash

from lensscan.nets.model import make_trivial
from lensscan.schema import Status, status_name

HEALTHY = 40
SURVEY = """
name = "zoo"
pixel_scale = 0.263
[bands.g]
[bands.r]
[bands.i]
[bands.z]
"""


def healthy_stamp(path, seed: int) -> None:
    """Write a good stamp with pixels of its own."""
    path.write_bytes(zoo.stamp(zoo.pixels(seed)))


def arguments(folder, catalog: str, out) -> list[str]:
    """Return the arguments of a scan of one of the two catalogs."""
    return [
        "scan", "--catalog", f"{folder}/{catalog}", "--survey", f"{folder}/survey.toml", "--stamps",
        f"stamps:{folder}/{{file}}", "--model", f"{folder}/trivial.safetensors", "-o", str(out),
        "--set", "batch=4", "--set", "max_failed=1.0",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def menagerie(tmp_path_factory):
    """Folder with healthy stamps, the zoo between them, and a catalog of each."""
    folder = tmp_path_factory.mktemp("menagerie")
    specimens = zoo.build(folder)
    rows = []
    for k in range(HEALTHY):
        healthy_stamp(folder / f"healthy{k}.fits", 100 + k)
        rows.append((1000 + k, f"healthy{k}.fits"))
        if k < len(specimens):
            rows.append((k, specimens[k].file))
    assert len(specimens) <= HEALTHY
    (folder / "all.csv").write_text("id,file\n" + "\n".join(f"{i},{file}" for i, file in rows) + "\n")
    good = [(i, file) for i, file in rows if i >= 1000]
    (folder / "good.csv").write_text("id,file\n" + "\n".join(f"{i},{file}" for i, file in good) + "\n")
    (folder / "survey.toml").write_text(SURVEY)
    model = make_trivial(("g", "r", "i", "z"), zoo.SIZE, zoo.SCALE)
    model = dataclasses.replace(model, card=dataclasses.replace(model.card, min_bands=3))
    model.save(folder / "trivial.safetensors")
    return folder, specimens


@pytest.mark.mpi
def test_each_specimen_gets_its_reason_and_the_others_do_not_notice(menagerie, tmp_path):
    folder, specimens = menagerie
    assert sum(s.status != Status.PENDING for s in specimens) >= 15
    assert run(arguments(folder, "good.csv", tmp_path / "good.h5")).code == 0
    result = run(arguments(folder, "all.csv", tmp_path / "all.h5"), 3)
    assert result.code == 0, result
    content_hash(tmp_path / "all.h5")
    with h5py.File(tmp_path / "all.h5") as mixed, h5py.File(tmp_path / "good.h5") as good:
        found = dict(zip(mixed["scores/id"][()].tolist(), mixed["scores/status"][()].tolist(), strict=True))
        for number, specimen in enumerate(specimens):
            wanted = Status.SCORED if specimen.status == Status.PENDING else specimen.status
            assert found[number] == wanted, f"{specimen.name}: {status_name(found[number])}, not {wanted.name}"
        healthy = mixed["scores/id"][()] >= 1000
        np.testing.assert_array_equal(mixed["scores/id"][()][healthy], good["scores/id"][()])
        for column in ("logit", "status", "flags", "sigma_g", "fwhm_i"):
            mine = mixed[f"scores/{column}"][()][healthy]
            assert mine.tobytes() == good[f"scores/{column}"][()].tobytes(), column
