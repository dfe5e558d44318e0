"""lensscan simulate under mpiexec: the ranks share the blocks, and the folder is the same."""

import numpy as np
import pytest
from astropy.table import Table
from launch import run

h5py = pytest.importorskip("h5py")
BASE = ["simulate", "demo-survey", "-n", "1600", "--hdf5", "--no-sheet", "--set", "size=16"]


@pytest.mark.slow
def test_ranks_share_the_work_and_agree_with_one_process(tmp_path):
    for ranks, name in ((0, "one"), (3, "three")):
        done = run([*BASE, "-o", str(tmp_path / name)], ranks)
        assert done.code == 0, done
        assert done.out.count("wrote 1600 objects") == 1
    with h5py.File(tmp_path / "one/mocks.h5") as one, h5py.File(tmp_path / "three/mocks.h5") as three:
        assert set(one) == set(three)
        for key in one:
            if key == "images":
                np.testing.assert_allclose(one[key][:], three[key][:], rtol=1e-5, atol=1e-2)
            else:
                np.testing.assert_array_equal(one[key][:], three[key][:])
    tables = [Table.read(tmp_path / name / "catalog.fits") for name in ("one", "three")]
    assert (tables[0]["mag_i"] == tables[1]["mag_i"]).all()


@pytest.mark.slow
def test_a_foreign_folder_is_refused_once_by_all_ranks(tmp_path):
    small = [*BASE, "-n", "10", "-o", str(tmp_path / "set")]
    assert run([*small, "--seed", "1"]).code == 0
    done = run([*small, "--seed", "2"], 2)
    assert done.code != 0
    assert "another seed" in done.err
    assert "Traceback" not in done.err
