"""HDF5 on a disk that fills up."""

import errno
import os
import resource
import subprocess
import sys

import h5py
import numpy as np
import pytest

from lensscan.hdf5 import DiskSink, new_hdf5


def fill(sink):
    with h5py.File(sink, "w") as h5:
        for k in range(20):
            h5.create_dataset(f"a/{k}", data=np.full(1000, float(k)))
        h5.create_dataset("grows", (0,), dtype="f4", maxshape=(None,), chunks=(100,))
        h5["grows"].resize((950,))
        h5["grows"][:] = 3
        assert h5["a/3"][7] == 3


def test_a_whole_file_reads_as_any_other(tmp_path):
    sink = DiskSink(tmp_path / "x.h5")
    fill(sink)
    sink.sync()
    sink.close()
    sink.close()
    assert sink.error is None
    with h5py.File(tmp_path / "x.h5") as h5:
        assert h5["a/19"][999] == 19
        assert h5["grows"].shape == (950,)


@pytest.mark.parametrize("limit", [100, 3000, 40_000, 100_000])
def test_full_disk_is_remembered_and_hdf5_closes(tmp_path, limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        sink = DiskSink(tmp_path / "x.h5")
        try:
            fill(sink)
        except AssertionError:
            assert sink.error is not None
        sink.sync()
        sink.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sink.error is not None
    assert sink.error.errno == errno.EFBIG
    assert os.path.getsize(tmp_path / "x.h5") <= limit


def test_existing_file_is_not_overwritten(tmp_path):
    (tmp_path / "x.h5").write_text("mine")
    with pytest.raises(FileExistsError):
        DiskSink(tmp_path / "x.h5")


def test_process_ends_in_order_after_a_full_disk(tmp_path):
    code = """
import resource, sys, h5py, numpy as np
from pathlib import Path
from lensscan.hdf5 import DiskSink
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sink = DiskSink(Path(sys.argv[1]))
with h5py.File(sink, "w") as h5:
    for k in range(20):
        h5.create_dataset(f"a{k}", data=np.zeros(1000))
sys.exit(74 if sink.error else 1)
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.h5")]).returncode == 74


def test_a_new_file_is_whole_or_the_disk_is_to_blame(tmp_path):
    with new_hdf5(tmp_path / "x.h5") as file:
        file["a"] = np.arange(1000.0)
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["a"][999] == 999
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(OSError) as failed, new_hdf5(tmp_path / "y.h5") as file:
            file["a"] = np.arange(1000.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert failed.value.errno == errno.EFBIG
