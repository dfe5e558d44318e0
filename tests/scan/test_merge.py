"""The merge: counts, ranking, determinism, odd inputs, crashes and full disks."""

import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_run import make_card, make_run, make_shard

from lensscan import faults
from lensscan.candidates.ensemble import Ensemble
from lensscan.candidates.file import read_candidates, read_header, read_provenance
from lensscan.candidates.verify import verify_output
from lensscan.errors import DiskError, ShardInvalid, VerificationError
from lensscan.metrics.calibration import Calibration
from lensscan.metrics.scalemixture import GAUSSIAN, ScaleMixture
from lensscan.nets.card import ThetaPrior
from lensscan.nets.posterior import posterior_columns
from lensscan.scan import merge as merge_module
from lensscan.scan.columns import row_bytes, tile_name
from lensscan.scan.merge import MergeSettings, merge
from lensscan.scan.shards import as_table, shard_path, write_shard
from lensscan.schema import Flag, Status

SETTINGS = MergeSettings(top=25, prevalence=1e-3)
POINTS = ("begin", "scores_chunk", "before_close", "before_verify", "before_rename", "after_rename")


def do_merge(run, settings=SETTINGS):
    return merge(run.plan, run.folder, run.out, settings, run.cards, {})


def scores(run):
    with h5py.File(run.out) as h5:
        return {name: dataset[()] for name, dataset in h5["scores"].items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("run"), 500, networks=2)
    do_merge(run)
    return run


def test_blocks_of_several_kinds_of_device_are_noted(tmp_path):
    """The merge completes, counts the blocks of each kind and says so; the content is that of the shards."""
    run = make_run(tmp_path, 300)
    alike = do_merge(run)
    assert alike.device_keys == {"cpu avx512": len(run.shards)}
    assert not any("kinds of device" in note for note in alike.notes)
    block, start, stop = next(iter(run.plan.block_rows()))
    notes = {"device_key": "NVIDIA H200; torch 2.9", "seconds": 0.5}
    write_shard(run.folder, run.plan.plan_hash, block, start, stop, run.shards[0], notes)
    mixed = do_merge(run)
    assert mixed.device_keys == {"cpu avx512": len(run.shards) - 1, "NVIDIA H200; torch 2.9": 1}
    (note,) = [note for note in mixed.notes if "kinds of device" in note]
    assert "2 kinds of device (NVIDIA H200; torch 2.9; cpu avx512): last bits may differ" in note
    assert f"note: {note}" in mixed.lines()
    stored = read_provenance(run.out)
    assert stored["blocks"]["device_keys"] == mixed.device_keys
    assert note in stored["merge"]["notes"]
    assert mixed.content_hash == alike.content_hash


def test_counts_and_columns_agree_with_the_shards(run):
    found = scores(run)
    shard = {name: np.concatenate([s[name] for s in run.shards]) for name in run.shards[0]}
    np.testing.assert_array_equal(found["status"], shard["status"])
    mean = shard["logit"].astype(float).mean(axis=1)
    np.testing.assert_array_equal(found["logit"], mean)
    np.testing.assert_array_equal(found["logit_net1"], shard["logit"][:, 1])
    expected = posterior_columns(shard["post_mean"], shard["post_cov"])
    for name in ("theta_E", "e2", "sy_err", "theta_E_q975"):
        np.testing.assert_array_equal(found[name], expected[name])
    np.testing.assert_array_equal(found["n_bands"], shard["present"].sum(axis=1))
    np.testing.assert_array_equal(found["sigma_r"], shard["sigma"][:, 1])
    assert np.isnan(found["p_survey"]).all()
    failed = found["status"] != Status.SCORED
    assert np.isnan(found["p_lens"][failed]).all()
    assert np.isnan(found["p_lens"]).all(), "two networks, and no calibration of both"
    assert any("lensscan ensemble" in note for note in read_provenance(run.out)["merge"]["notes"])
    assert (found["flags"] & Flag.MEMBERS_DISAGREE).any()


def test_tails_of_the_cards_reach_the_columns(run, tmp_path):
    """The shards hold Gaussians: a card with a tail changes the columns of the same shards."""
    heavy = ScaleMixture((0.7, 0.3), (0.5, 2.1667))
    cards = [replace(run.cards[0], posterior_tail=heavy), run.cards[1]]
    tailed = make_run(tmp_path, 500, networks=2, cards=cards)
    do_merge(tailed)
    shard = {name: np.concatenate([s[name] for s in tailed.shards]) for name in tailed.shards[0]}
    np.testing.assert_array_equal(shard["post_mean"], np.concatenate([s["post_mean"] for s in run.shards]))
    expected = posterior_columns(shard["post_mean"], shard["post_cov"], None, (heavy, GAUSSIAN))
    found = scores(tailed)
    for name in ("theta_E", "e2", "sy_err", "theta_E_q975"):
        np.testing.assert_array_equal(found[name], expected[name])
    assert (found["theta_E_q975"] != scores(run)["theta_E_q975"]).any()


def test_a_network_without_a_posterior_takes_none_away(tmp_path):
    """A scan by a regressing network and a classifier, whose component is NaN: the posteriors of the first stay."""
    cards = [
        replace(make_card("res"), architecture={"kind": "resnet"}, theta_E_prior=ThetaPrior(0.9, 1.1, (1.0, 1.0))),
        replace(make_card("jac"), architecture={"kind": "argonne"}),
    ]
    run = make_run(tmp_path, 200, networks=2, cards=cards)
    for (block, start, stop), shard in zip(run.plan.block_rows(), run.shards, strict=True):
        shard["post_mean"][:, 1] = shard["post_cov"][:, 1] = np.nan
        write_shard(run.folder, run.plan.plan_hash, block, start, stop, shard, {})
    report = do_merge(run)
    assert "posteriors are those of res; without a posterior: jac" in report.notes
    shard = {name: np.concatenate([s[name] for s in run.shards]) for name in run.shards[0]}
    expected = posterior_columns(shard["post_mean"][:, :1], shard["post_cov"][:, :1])
    found = scores(run)
    assert np.isfinite(found["theta_E"]).sum() > 80
    for name in ("theta_E", "e2", "sy_err", "theta_E_q975"):
        np.testing.assert_array_equal(found[name], expected[name])
    assert (found["flags"] & Flag.POSTERIOR_AT_PRIOR).any()


def test_mixture_heads_are_merged_with_their_weights(tmp_path):
    card = replace(make_card(), architecture={"kind": "trivial", "components": 3})
    run = make_run(tmp_path, 200, cards=[card], components=3)
    do_merge(run)
    shard = {name: np.concatenate([s[name] for s in run.shards]) for name in run.shards[0]}
    expected = posterior_columns(shard["post_mean"], shard["post_cov"], shard["post_weight"])
    found = scores(run)
    for name in ("theta_E", "e2", "sy_err", "theta_E_q975"):
        np.testing.assert_array_equal(found[name], expected[name])
    assert np.isfinite(found["theta_E"]).sum() > 80
    plain = make_run(tmp_path, 20, cards=[card], name="PLAIN.h5")
    with pytest.raises(ShardInvalid, match="post_mean is missing or not of shape"):
        do_merge(plain)


def test_candidates_are_the_best_rows(run):
    found, table = scores(run), read_candidates(run.out)
    order = np.lexsort((np.arange(500), found["id"], -found["logit"]))[:25]
    assert table["plan_row"].tolist() == order.tolist()
    np.testing.assert_array_equal(table["theta_E"].value, found["theta_E"][order])
    assert verify_output(run.out).failed == {
        "blank": np.sum(found["status"] == 14),
        "unreadable": np.sum(found["status"] == 11),
    }
    assert not list(run.out.parent.glob(".*.tmp"))


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 700))
def test_chunk_size_changes_nothing(run, chunk):
    before = read_header(run.out).content_hash
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge_module, "CHUNK_ROWS", chunk)
        assert do_merge(run).content_hash == before


def test_settings_of_the_merge_act_without_a_new_scan(run, tmp_path):
    plain = scores(run)
    out = tmp_path / "other.h5"
    settings = MergeSettings(top=0, min_logit=0.5, prevalence=0.2, ensemble=Ensemble(Calibration()))
    report = merge(run.plan, run.folder, out, settings, run.cards, {})
    table = read_candidates(out)
    assert len(table) == report.n_candidates == np.sum(plain["logit"] > 0.5)
    np.testing.assert_allclose(table["p_lens"], 1 / (1 + 4 * np.exp(-np.asarray(table["logit"]))))
    assert report.content_hash != read_header(run.out).content_hash
    assert (
        merge(run.plan, run.folder, out, SETTINGS, run.cards, {"other": 1}).content_hash
        == read_header(run.out).content_hash
    )


@pytest.mark.parametrize("n", [0, 1])
def test_tiny_runs(tmp_path, n):
    run = make_run(tmp_path, n, failures=0.0, columns={"mag": np.zeros(n)})
    report = do_merge(run)
    assert (report.n_rows, report.n_scored, report.n_candidates) == (n, n, n)
    assert len(read_candidates(run.out)) == n
    assert verify_output(run.out).header.n_catalog == 17 + n


def test_all_failed(tmp_path):
    run = make_run(tmp_path, 90, failures=1.0)
    report = do_merge(run)
    assert report.n_scored == report.n_candidates == 0
    assert report.n_failed == 90
    assert len(read_candidates(run.out)) == 0


def test_no_cut(tmp_path):
    run = make_run(tmp_path, 40, n_cut=0)
    assert do_merge(run).n_cut == 0
    verify_output(run.out)


@pytest.mark.parametrize(
    "ids",
    [
        np.array([2**53 + k for k in range(70)]),
        np.array([2**63 + k for k in range(70)], dtype=np.uint64),
        np.array([f"J{k:03d}+é{'x' * (k % 9)}" for k in range(70)]),
        -np.arange(70),
    ],
    ids=["above 2^53", "uint64", "text", "negative"],
)
def test_ids_come_back_as_they_are(tmp_path, ids):
    run = make_run(tmp_path, 70, ids=ids, failures=0.0, logit=np.zeros(70))
    do_merge(run, MergeSettings(top=70))
    table = read_candidates(run.out)
    assert table["id"].tolist() == sorted(ids.tolist())
    assert len(set(table["id"].tolist())) == 70


def test_duplicate_ids_are_counted_once(tmp_path):
    ids = np.arange(60)
    ids[40] = ids[3]
    report = do_merge(make_run(tmp_path, 60, ids=ids, failures=0.0))
    assert report.failed == {"duplicate_id": 1}
    assert report.n_scored == 59


def test_groups_count_once(tmp_path):
    ra = np.array([10.0, 10.0002, 200.0, 359.9999, 0.0001])
    run = make_run(tmp_path, 5, ra=ra, dec=np.zeros(5), failures=0.0, logit=np.array([1.0, 5, 2, 4, 3]))
    do_merge(run)
    table = read_candidates(run.out)
    assert table["group"].tolist() == [1, 2, 2, 3, 1]
    assert table["group_rank"].tolist() == [1, 1, 2, 1, 2]


def test_missing_damaged_or_pending_shards_are_refused(tmp_path):
    run = make_run(tmp_path, 300)
    path = shard_path(run.folder, 2)
    path.rename(tmp_path / "aside")
    with pytest.raises(ShardInvalid):
        do_merge(run)
    data = bytearray((tmp_path / "aside").read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ShardInvalid):
        do_merge(run)
    shard = {name: array.copy() for name, array in run.shards[2].items()}
    shard["status"][5] = Status.PENDING
    write_shard(run.folder, run.plan.plan_hash, 2, 128, 192, shard)
    with pytest.raises(VerificationError, match="pending"):
        do_merge(run)
    del shard["ood"]
    write_shard(run.folder, run.plan.plan_hash, 2, 128, 192, shard)
    with pytest.raises(ShardInvalid, match="column ood"):
        do_merge(run)
    assert not run.out.exists()
    assert not list(run.out.parent.glob(".*.tmp"))


def test_what_was_written_is_read_back(tmp_path, monkeypatch):
    run = make_run(tmp_path, 100)

    def spoil(point):
        if point == "merge:before_verify":
            (temp,) = run.out.parent.glob(".OUT.h5.*.tmp")
            with h5py.File(temp, "r+") as h5:
                h5["scores/theta_E"][7] += 1

    monkeypatch.setattr(faults, "reach", spoil)
    with pytest.raises(VerificationError, match="content hash"):
        do_merge(run)
    assert not run.out.exists()
    assert not list(run.out.parent.glob(".*.tmp"))


MERGE = """
import pickle, sys
from lensscan.scan.merge import MergeSettings, merge
import lensscan.scan.merge as module
module.CHUNK_ROWS = 100
run = pickle.load(open(sys.argv[1], "rb"))
merge(run.plan, run.folder, run.out, MergeSettings(top=25, prevalence=1e-3), run.cards, {})
"""


def merge_in_subprocess(run, tmp_path, fault):
    import pickle

    (tmp_path / "run.pickle").write_bytes(pickle.dumps(run))
    paths = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "LENSSCAN_FAULT": fault, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", MERGE, str(tmp_path / "run.pickle")], env=env, capture_output=True)


@pytest.mark.slow
def test_killed_at_every_point(tmp_path):
    run = make_run(tmp_path, 300)
    expected = do_merge(run).content_hash
    run.out.unlink()
    for number in range(1, 20):
        result = merge_in_subprocess(run, tmp_path, f"point=merge#{number},do=SIGKILL")
        if result.returncode == 0:
            break
        assert result.returncode == -signal.SIGKILL, result.stderr.decode()
        if run.out.exists():
            assert verify_output(run.out).header.content_hash == expected
            run.out.unlink()
    assert number > len(POINTS)
    assert verify_output(run.out).header.content_hash == expected
    assert not list(run.out.parent.glob(".*.tmp"))


@pytest.mark.parametrize("point", POINTS)
def test_disk_full_at_every_point(tmp_path, monkeypatch, point):
    run = make_run(tmp_path, 60)
    monkeypatch.setenv("LENSSCAN_FAULT", f"point=merge:{point},do=enospc")
    monkeypatch.setattr(faults, "_faults", None)
    monkeypatch.setattr(faults, "_hits", type(faults._hits)())
    with pytest.raises(DiskError, match="free disk space"):
        do_merge(run)
    assert not list(run.out.parent.glob(".*.tmp"))
    assert run.out.exists() == (point == "after_rename")
    monkeypatch.delenv("LENSSCAN_FAULT")
    monkeypatch.setattr(faults, "_faults", None)
    do_merge(run)
    verify_output(run.out)


@pytest.mark.parametrize("limit", [2_000, 30_000, 60_000])
def test_disk_really_full(tmp_path, limit):
    run = make_run(tmp_path, 400)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(DiskError):
            do_merge(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not run.out.exists()
    assert not list(run.out.parent.glob(".*.tmp"))
    do_merge(run)


def test_an_older_output_survives_a_failed_merge(tmp_path, monkeypatch):
    run = make_run(tmp_path, 60)
    before = do_merge(run).content_hash
    monkeypatch.setattr(merge_module, "verify_output", lambda *_: (_ for _ in ()).throw(VerificationError("no")))
    with pytest.raises(VerificationError):
        do_merge(run, MergeSettings(top=3))
    assert verify_output(run.out).header.content_hash == before


def test_temporary_files_of_dead_attempts_are_swept(tmp_path):
    run = make_run(tmp_path, 30)
    dead, alive = (tmp_path / f".OUT.h5.{os.uname().nodename}-{pid}-abcdef01.tmp" for pid in (999999999, 1))
    for path in (dead, alive):
        path.write_text("x")
    do_merge(run)
    assert not dead.exists()
    assert alive.exists()


@pytest.mark.parametrize("networks,components", [(1, None), (3, 5)])
def test_the_bytes_of_a_row_are_those_of_shards_and_scores(tmp_path, networks, components):
    columns = make_shard(np.random.default_rng(0), 5, networks=networks, components=components)
    run = make_run(tmp_path, 40)
    do_merge(run)
    with h5py.File(run.out) as h5:
        scores = sum(data.dtype.itemsize for name, data in h5["scores"].items() if not name.startswith("cat_"))
    found = as_table(columns).dtype.itemsize + scores + 4 * (networks - 1)
    assert row_bytes(3, networks, components or networks) == pytest.approx(found, rel=0.05)


def test_tile_names():
    assert tile_name("a/b/DES0000_{band}.fits.fz") == "DES0000"
    assert tile_name("cuts/17.fits") == "17"
    assert tile_name("{band}/tile.7.fits.gz") == "tile.7"
