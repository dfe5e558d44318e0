from __future__ import annotations

from pathlib import Path

import fitsio
import numpy as np
import pytest
from survey import zoo

from lensscan.config import load_survey
from lensscan.schema import Status
from lensscan.survey.stamps import Batch, Frame, Rows, allocate, open_source

FRAME = Frame(("g", "r", "i", "z"), zoo.SIZE, zoo.SCALE, 4)
NJY = 10 ** (-0.4 * (zoo.ZERO_POINT - 31.4))


def rows_of(files: list[str]) -> Rows:
    n = len(files)
    nan = np.full(n, np.nan)
    zeros = np.zeros(n, np.int64)
    return Rows(np.arange(n), nan, nan, nan, nan, files, zeros, zeros.astype(np.uint8))


def read(folder: Path, files: list[str]) -> Batch:
    source = open_source(f"stamps:{folder}/{{file}}", load_survey("des"), FRAME)
    rows = rows_of([str(folder / file) for file in files])
    batch = allocate(len(files) + 3, FRAME)
    source.reader().read(rows, 0, len(files), batch)
    return batch


@pytest.fixture(scope="module")
def specimens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    return folder, zoo.build(folder)


def test_every_specimen_gets_its_reason(specimens):
    folder, all_of_them = specimens
    assert sum(specimen.status != Status.PENDING for specimen in all_of_them) >= 15
    batch = read(folder, [specimen.file for specimen in all_of_them])
    found = {s.name: Status(int(batch.status[row])) for row, s in enumerate(all_of_them)}
    assert found == {s.name: s.status for s in all_of_them}
    assert batch.n == len(all_of_them)


def test_readable_specimens_have_the_right_values(specimens):
    folder, all_of_them = specimens
    batch = read(folder, [specimen.file for specimen in all_of_them])
    expected = zoo.pixels() * np.float32(NJY)
    for row, specimen in enumerate(all_of_them):
        if specimen.status == Status.PENDING:
            np.testing.assert_allclose(batch.images[row], expected, rtol=2e-7, err_msg=specimen.name)
            assert batch.present[row].all()
            assert not batch.mask[row].any()
        else:
            assert not batch.images[row].any(), specimen.name
            assert not batch.present[row].any(), specimen.name


def test_other_rows_are_bitwise_unchanged(specimens):
    folder, all_of_them = specimens
    broken = [s.file for s in all_of_them if s.status != Status.PENDING]
    neighbours = []
    for seed in range(len(broken) + 1):
        path = folder / f"neighbour-{seed}.fits"
        path.write_bytes(zoo.stamp(zoo.pixels(seed + 100)))
        neighbours.append(path.name)
    clean = read(folder, neighbours)
    mixed_files = [name for pair in zip(neighbours, broken, strict=False) for name in pair] + neighbours[-1:]
    mixed = read(folder, mixed_files)
    for name in ("images", "status", "flags", "present", "fwhm", "sigma", "origin", "wcs"):
        mine = getattr(mixed, name)[: len(mixed_files) : 2]
        assert mine.tobytes() == getattr(clean, name)[: len(neighbours)].tobytes(), name


def test_plain_decoding_agrees_with_cfitsio(specimens):
    folder, _ = specimens
    batch = read(folder, ["good.fits", "int16-bscale.fits"])
    for row, name in enumerate(("good.fits", "int16-bscale.fits")):
        with fitsio.FITS(str(folder / name)) as file:
            theirs = np.stack([file[band].read() for band in zoo.BANDS])
        np.testing.assert_allclose(batch.images[row], theirs * NJY, rtol=2e-7)


def test_a_reused_batch_forgets_its_past(specimens):
    folder, _ = specimens
    source = open_source(f"stamps:{folder}/{{file}}", load_survey("des"), FRAME)
    reader = source.reader()
    batch = allocate(4, FRAME)
    some = rows_of([str(folder / name) for name in ("good.fits", "mostly-nan.fits", "good.fits", "gzip.fits")])
    reader.read(some, 0, 4, batch)
    batch.clear()
    reader.read(some, 0, 1, batch)
    fresh = allocate(4, FRAME)
    reader.read(some, 0, 1, fresh)
    assert batch.images.tobytes() == fresh.images.tobytes()
    assert batch.n == 1
    assert not batch.masked
    assert batch.present.tobytes() == fresh.present.tobytes()
