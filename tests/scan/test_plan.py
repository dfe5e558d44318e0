"""The plan: order, blocks, duplicates, hash."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensscan.errors import LensscanError
from lensscan.scan import plan as plan_module
from lensscan.scan.plan import Plan, PlanWriter, hash_ids, repeated
from lensscan.schema import Status
from lensscan.survey.select import CutFlow


def numbers(n: int, offset=None, row=None) -> dict[str, np.ndarray]:
    return {
        "ra": np.linspace(0, 1, n), "dec": np.zeros(n), "px": np.full(n, np.nan), "py": np.full(n, np.nan),
        "offset": np.zeros(n, "i8") if offset is None else np.asarray(offset),
        "row": np.arange(n) if row is None else np.asarray(row), "status": np.zeros(n, "u1"),
    }  # fmt: skip


def make(path, chunks, batch=2, shared=True) -> Plan:
    writer = PlanWriter(path, batch, shared)
    total = 0
    for ids, files, offsets in chunks:
        ids = np.asarray(ids)
        rows = total + np.arange(len(ids))
        writer.append(ids, numbers(len(ids), offsets, rows), files, {"mag_i": np.arange(len(ids), dtype="f4")})
        total += len(ids)
    writer.finish({"batch": batch}, CutFlow("none", n_catalog=total, n_selected=total), [], ("g", "i"))
    return Plan.open(path)


def test_rows_are_sorted_by_file_and_offset_within_a_chunk(tmp_path):
    plan = make(tmp_path / "plan.h5", [([1, 2, 3, 4], ["b", "a", "b", "a"], [9, 5, 3, 1])])
    rows = plan.rows(0, 4)
    assert rows.id.tolist() == [3, 1, 4, 2]
    assert rows.file == ["b", "b", "a", "a"]
    assert rows.offset.tolist() == [3, 9, 1, 5]


def test_blocks_stay_within_a_chunk_and_hold_16_batches(tmp_path):
    n = 70
    plan = make(
        tmp_path / "plan.h5", [(range(n), ["f"] * n, range(n)), (range(100, 105), ["f"] * 5, range(5))], batch=2
    )
    assert [(int(b["start"]), int(b["stop"])) for b in plan.blocks] == [(0, 32), (32, 64), (64, 70), (70, 75)]


def test_the_first_of_each_id_stays(tmp_path):
    chunks = [([5, 7, 5], ["a", "b", "a"], [2, 0, 1]), ([7, 8, 5], ["c", "c", "c"], [0, 1, 2])]
    plan = make(tmp_path / "plan.h5", chunks)
    rows = plan.rows(0, 6)
    failed = [(int(i), int(o)) for i, o, s in zip(rows.id, rows.offset, rows.status, strict=True) if s]
    assert sorted(failed) == [(5, 1), (5, 2), (7, 0)]
    assert set(rows.status[rows.status != 0].tolist()) == {Status.DUPLICATE_ID}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=60), st.integers(1, 7))
def test_repeated_finds_exactly_the_twins(ids, pieces):
    array = np.array(ids, dtype=np.int64)
    hashes = hash_ids(array)
    twins = {i for i in ids if ids.count(i) > 1}
    assert set(repeated(np.array_split(hashes, pieces)).tolist()) == set(
        hash_ids(np.array(sorted(twins), np.int64)).tolist()
    )


@settings(deadline=None)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=30, unique=True))
def test_string_hashes_do_not_depend_on_the_width_of_the_chunk(names):
    names = [name.replace("\0", "0") for name in names]
    together = hash_ids(np.array([*names, "x" * 40]))[:-1]
    alone = [int(hash_ids(np.array([name]))[0]) for name in names]
    assert together.tolist() == alone


@pytest.mark.parametrize(
    "other",
    [
        [([1, 2, 4], ["a", "a", "b"], [0, 1, 0])],
        [([1, 2, 3], ["a", "a", "c"], [0, 1, 0])],
        [([1, 2, 3], ["a", "a", "b"], [0, 2, 0])],
        [([2, 1, 3], ["a", "a", "b"], [0, 1, 0])],
    ],
)
def test_the_hash_sees_ids_files_offsets_and_order(tmp_path, other):
    first = make(tmp_path / "a.h5", [([1, 2, 3], ["a", "a", "b"], [0, 1, 0])])
    again = make(tmp_path / "b.h5", [([1, 2, 3], ["a", "a", "b"], [0, 1, 0])])
    assert first.plan_hash == again.plan_hash
    assert make(tmp_path / "c.h5", other).plan_hash != first.plan_hash


def test_windows_give_the_same_rows(tmp_path, monkeypatch):
    n = 40
    plan = make(
        tmp_path / "plan.h5", [([f"id{i}" for i in range(n)], [f"f{i}" for i in range(n)], [0] * n)], shared=False
    )
    whole = plan.rows(0, n)
    monkeypatch.setattr(plan_module, "WINDOW_ROWS", 7)
    again = Plan.open(plan.path)
    for start in (0, 5, 12, 33):
        piece = again.rows(start, min(start + 6, n))
        assert piece.id.tolist() == whole.id[start : start + 6].tolist()
        assert piece.file == whole.file[start : start + 6]


def test_a_change_of_id_type_between_files_is_refused(tmp_path):
    with pytest.raises(LensscanError, match="one id type"):
        make(tmp_path / "plan.h5", [([1], ["a"], [0]), (["x"], ["a"], [0])])


def test_thousands_of_input_files_fit_into_the_plan(tmp_path):
    writer = PlanWriter(tmp_path / "plan.h5", 2, True)
    fingerprint = [[f"/a/long/folder/name/catalog-{i:06d}.fits", 10**9, 10**18] for i in range(5000)]
    writer.finish({}, CutFlow("none"), fingerprint, ("g",))
    assert Plan.open(tmp_path / "plan.h5").fingerprint == fingerprint


TEXT = ("a1", "b\u00e9", "c333")


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_chunk_of_which_the_cut_selects_nothing_changes_nothing(tmp_path, at):
    """Text ids too, and ids of a table without rows, whose type says nothing."""
    whole = [([name], ["f"], [k]) for k, name in enumerate(TEXT)][:2]
    for k, none in enumerate((np.zeros(0, "U3"), np.zeros(0, "i8"))):
        chunks = [*whole[:at], (none, [], []), *whole[at:]]
        plan = make(tmp_path / f"{k}.h5", chunks)
        assert plan.rows(0, 2).id.tolist() == list(TEXT[:2])
        assert plan.plan_hash == make(tmp_path / f"whole{k}.h5", whole).plan_hash


@pytest.mark.parametrize("chunks", [[], [(np.zeros(0, "U3"), [], [])], [(np.zeros(0, "i8"), [], [])] * 2])
def test_a_plan_may_hold_no_row(tmp_path, chunks):
    plan = make(tmp_path / "plan.h5", chunks)
    assert (plan.n_rows, len(plan.blocks), len(plan.rows(0, 0).id)) == (0, 0, 0)
    assert plan.id_kind == ("str" if chunks and chunks[0][0].dtype.kind == "U" else "int")
