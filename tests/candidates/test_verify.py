"""Verification finds every kind of broken promise."""

import h5py
import numpy as np
import pytest
from synthetic_run import make_run

from lensscan.candidates import verify
from lensscan.candidates.digest import content_hash
from lensscan.candidates.verify import verify_output
from lensscan.errors import VerificationError
from lensscan.scan.merge import MergeSettings, merge
from lensscan.schema import Status


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("run"), 300)
    merge(run.plan, run.folder, run.out, MergeSettings(top=40), run.cards, {})
    return run.out


def change(dataset, index, value, field=None):
    record = dataset[index]
    if field is None:
        dataset[index] = value
    else:
        record[field] = value
        dataset[index] = record


def swap(h5):
    table = h5["candidates"][()]
    table[[3, 4]] = table[[4, 3]]
    table["rank"] = np.arange(1, len(table) + 1)
    h5["candidates"][...] = table


def drop_best(h5):
    """Replace the ranked table by one that misses its best row, ranks renewed."""
    table = h5["candidates"][1:]
    table["rank"] = np.arange(1, len(table) + 1)
    del h5["candidates"]
    h5["candidates"] = table
    h5.attrs["n_candidates"] = len(table)
    h5.attrs["merge_settings"] = f'{{"top": {len(table)}, "min_logit": null}}'


BREAKS = {
    "n_catalog = 318 but 317": lambda h5: h5.attrs.__setitem__("n_catalog", 318),
    "are accounted for": lambda h5: h5.attrs.__setitem__("n_scored", int(h5.attrs["n_scored"]) - 1),
    "cut step": lambda h5: change(h5["cutflow"], 1, 302, "n_in"),
    "the cut left": lambda h5: change(h5["cutflow"], 1, 299, "n_kept"),
    "occurs twice": lambda h5: change(h5["scores/row"], 5, h5["scores/row"][4]),
    "does not exist": lambda h5: change(h5["scores/row"], 5, 317),
    "no logit": lambda h5: change(h5["scores/logit"], int(h5["candidates"]["plan_row"][9]), np.nan),
    "/failures": lambda h5: change(h5["failures"], 2, 77, "plan_row"),
    "/failures does not list": lambda h5: change(h5["failures"], 2, Status.TIMEOUT, "status"),
    "neither scored nor failed": lambda h5: (
        change(h5["scores/status"], int(h5["failures"]["plan_row"][0]), 0),
        change(h5["failures"], 0, 0, "status"),
    ),
    "rank order": swap,
    "ranks are not": lambda h5: change(h5["candidates"], 7, 1, "rank"),
    "disagree": lambda h5: change(h5["scores/id"], int(h5["candidates"]["plan_row"][9]), -1),
    "ranks higher": drop_best,
    "has 40 rows, 41 belong": lambda h5: h5.attrs.__setitem__("merge_settings", '{"top": 41, "min_logit": null}'),
}


@pytest.mark.parametrize("promise", BREAKS)
def test_each_broken_promise(whole, tmp_path, promise):
    path = tmp_path / "x.h5"
    path.write_bytes(whole.read_bytes())
    with h5py.File(path, "r+") as h5:
        BREAKS[promise](h5)
        h5.attrs["content_hash"] = content_hash(h5)
    with pytest.raises(VerificationError, match=promise) as caught:
        verify_output(path)
    assert "\n" not in str(caught.value)


def test_flipped_bit_shows_in_the_hash(whole, tmp_path):
    path = tmp_path / "x.h5"
    path.write_bytes(whole.read_bytes())
    with h5py.File(path, "r+") as h5:
        h5["scores/snr"][11] = np.nextafter(h5["scores/snr"][11], np.float32(99))
    with pytest.raises(VerificationError, match="content hash"):
        verify_output(path)


def test_whole_file_holds_for_any_chunk(whole, monkeypatch):
    laws = set()
    for chunk in (1, 7, 64, 300, 10_000):
        monkeypatch.setattr(verify, "CHUNK", chunk)
        laws.add(verify_output(whole).law())
    assert len(laws) == 1
    assert laws.pop().startswith("n_catalog = 317 = 17 cut + ")


def test_another_hash_than_expected(whole):
    with pytest.raises(VerificationError, match="content hash"):
        verify_output(whole, "0" * 64)
