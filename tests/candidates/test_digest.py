"""The content hash."""

from itertools import pairwise

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensscan.candidates import digest
from lensscan.candidates.digest import ContentDigest, content_hash

TABLE = np.array(
    [(1, b"a", (1.0, 2.0)), (2, b"bc", (3.0, np.nan))], dtype=[("n", "i8"), ("t", "S3"), ("v", "f4", (2,))]
)


def write(path, chunks=None, scores=None):
    with h5py.File(path, "w") as h5:
        h5["candidates"] = TABLE
        h5["cutflow"] = TABLE[:0]
        h5.create_dataset("failures", data=TABLE, chunks=chunks, maxshape=(None,) if chunks else None)
        for name, values in (scores or {"a": np.arange(7.0), "b": np.array([b"x", b"yz"] * 3)}).items():
            h5.create_dataset(f"scores/{name}", data=values)
        h5["provenance/when"] = "now"
    return path


def hash_of(path):
    with h5py.File(path) as h5:
        return content_hash(h5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 7), max_size=6))
def test_chunks_do_not_matter(cuts):
    values = {"scores/b": np.arange(7.0), "scores/a": np.arange(14, dtype="i4").reshape(7, 2), "candidates": TABLE}
    whole, parts = ContentDigest(), ContentDigest()
    for name, array in values.items():
        whole.update(name, array)
    for name, array in reversed(values.items()):
        edges = [0, *sorted(min(c, len(array)) for c in cuts), len(array)]
        for a, b in pairwise(edges):
            parts.update(name, array[a:b])
    assert whole.hexdigest() == parts.hexdigest()


def test_layout_attributes_and_provenance_stay_outside(tmp_path, monkeypatch):
    first = hash_of(write(tmp_path / "a.h5"))
    path = write(tmp_path / "b.h5", chunks=(1,))
    with h5py.File(path, "r+") as h5:
        h5["scores/a"].attrs["unit"] = "arcsec"
        h5.attrs["x"] = 3
        h5["provenance/more"] = "text"
    monkeypatch.setattr(digest, "CHUNK_BYTES", 24)
    assert hash_of(path) == first


@pytest.mark.parametrize("change", ["value", "dtype", "name", "shape", "nan"])
def test_any_change_of_the_data_shows(tmp_path, change):
    base = {"a": np.zeros(4), "b": np.array([np.nan, 1.0])}
    other = {name: array.copy() for name, array in base.items()}
    if change == "value":
        other["a"][2] = np.nextafter(0, 1)
    elif change == "dtype":
        other["a"] = np.zeros(4, "i8")
    elif change == "name":
        other = {"a": base["a"], "c": base["b"]}
    elif change == "shape":
        other["a"] = np.zeros((2, 2))
    else:
        other["b"][0] = 0.0
    hashes = {hash_of(write(tmp_path / f"{k}.h5", scores=s)) for k, s in enumerate((base, other))}
    assert len(hashes) == 2
