"""Inputs that change between two runs of a command, and outputs that another plan is to replace."""

from __future__ import annotations

import errno
import os
import shutil
import threading

import fitsio
import h5py
import numpy as np
import pytest
from tiny_survey import Survey, content_hash, make_survey

from lensscan.candidates.file import read_header
from lensscan.cli.main import main
from lensscan.errors import ExitCode
from lensscan.scan import storage
from lensscan.scan.plan import Plan
from lensscan.scan.root import Root
from lensscan.scan.shards import shard_path
from lensscan.scan.storage import changed_files, contents, record_files

pytestmark = pytest.mark.usefixtures("quick_summaries")
LATER = 10**9


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Return a small survey with packs."""
    survey = make_survey(tmp_path_factory.mktemp("survey"), n=60)
    folder = survey.folder
    args = ["pack", f"{folder}/catalog.fits", "--stamps", f"stamps:{folder}/stamps/{{id}}.fits"]
    assert main([*args, "--survey", f"{folder}/tiny.toml", "-o", f"{folder}/packs"]) == ExitCode.OK
    return survey


@pytest.fixture
def survey(original, tmp_path):
    """Return a copy of the survey that a test may change."""
    shutil.copytree(original.folder, tmp_path / "survey")
    return Survey(tmp_path / "survey")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.h5"


def scan(survey, out, *more, stamps=None):
    return main(survey.args(out, *more, stamps=stamps or f"packs:{survey.folder}/packs"))


def drop_row(survey):
    """Remove a selected row of the catalog."""
    path = survey.folder / "catalog.fits"
    table = fitsio.read(str(path))
    victim = int(np.flatnonzero(table["mag_g"] - table["mag_i"] > 0.5)[3])
    fitsio.write(str(path), np.delete(table, victim), clobber=True)


def change_pixels(survey):
    """Change the pixels of the pack, not its size."""
    (pack,) = (survey.folder / "packs").glob("*.fits")
    with fitsio.FITS(str(pack), "rw") as fits:
        fits["STAMPS"].write_column("IMAGE", fits["STAMPS"].read_column("IMAGE") * -3)
    os.utime(pack, ns=(0, pack.stat().st_mtime_ns + LATER))
    return pack


def unfinish(out, keep=1):
    """Make a run that kept its shards one that died with `keep` blocks done; return the times of those shards."""
    out.unlink()
    plan = Plan.open(out.with_name("out.h5.run") / "plan.h5")
    paths = [shard_path(plan.path.parent, block) for block, _, _ in plan.block_rows()]
    for path in paths[keep:]:
        path.unlink()
    return {path: path.stat().st_ino for path in paths[:keep]}


@pytest.mark.parametrize("more", [[], ["--keep-shards"]])
def test_a_changed_catalog_is_no_finished_output(survey, out, capsys, more):
    """With the run folder standing, as kept or as a death right after the merge leaves it, and without."""
    assert scan(survey, out, *more) == ExitCode.OK
    old = content_hash(out)
    drop_row(survey)
    assert scan(survey, out, *more) == ExitCode.ERROR
    assert "was made from another state of the catalog" in capsys.readouterr().err
    assert content_hash(out) == old
    assert scan(survey, out, *more, "--overwrite") == ExitCode.OK
    assert content_hash(out) != old


def test_rows_that_the_cut_refuses_change_the_output_but_no_shard(survey, out, capsys):
    """The plan's hash knows only selected rows, the accounting law all."""
    path = survey.folder / "catalog.fits"
    assert scan(survey, out, "--keep-shards") == ExitCode.OK
    more = fitsio.read(str(path))[:1].copy()
    more["id"], more["mag_i"] = 7, more["mag_g"]
    fitsio.write(str(path), np.concatenate([fitsio.read(str(path)), more]), clobber=True)
    assert scan(survey, out, "--keep-shards") == ExitCode.ERROR
    assert "another state of the catalog" in capsys.readouterr().err
    shards = {each: each.stat().st_ino for each in out.parent.rglob("B*.h5")}
    assert scan(survey, out, "--keep-shards", "--overwrite") == ExitCode.OK
    assert read_header(out).n_catalog == 61
    assert shards == {each: each.stat().st_ino for each in out.parent.rglob("B*.h5")} != {}


def test_a_resumed_scan_never_mixes_pixels_of_two_versions(survey, out, tmp_path, capsys):
    assert scan(survey, out, "--keep-shards") == ExitCode.OK
    unfinish(out)
    pack = change_pixels(survey)
    assert scan(survey, out) == ExitCode.ERROR
    said = capsys.readouterr().err
    assert f"{pack} changed since the plan in {out}.run was made" in said
    assert "--overwrite" in said
    assert not out.exists()
    assert scan(survey, out, "--overwrite") == ExitCode.OK
    assert scan(survey, tmp_path / "new.h5") == ExitCode.OK
    assert content_hash(out) == content_hash(tmp_path / "new.h5")


def test_a_finished_output_of_other_pixels_is_refused(survey, out, capsys):
    assert scan(survey, out) == ExitCode.OK
    old = content_hash(out)
    pack = change_pixels(survey)
    assert scan(survey, out) == ExitCode.ERROR
    assert f"{pack} changed since {out} was made" in capsys.readouterr().err
    assert scan(survey, out, "--overwrite") == ExitCode.OK
    assert content_hash(out) != old


def test_touched_packs_are_resumed_and_told(survey, out, capsys):
    """Copied data has new times; the bytes tell that it is the same."""
    assert scan(survey, out, "--keep-shards") == ExitCode.OK
    reference = content_hash(out)
    shards = unfinish(out)
    (pack,) = (survey.folder / "packs").glob("*.fits")
    os.utime(pack, ns=(0, pack.stat().st_mtime_ns + LATER))
    assert scan(survey, out, "--keep-shards") == ExitCode.OK
    assert "taken for the same" in capsys.readouterr().err
    assert shards == {path: path.stat().st_ino for path in shards}
    assert content_hash(out) == reference
    assert scan(survey, out, "--keep-shards") == ExitCode.OK
    said = capsys.readouterr().err
    assert "nothing to do" in said
    assert "taken for the same" in said, "what is remembered is what was scored, at whatever time others look"


def test_packs_that_change_during_the_scan_are_never_merged(survey, out, monkeypatch, capsys):
    score = Root.score

    def meanwhile(self, *what):
        scheduler = score(self, *what)
        change_pixels(survey)
        return scheduler

    with monkeypatch.context() as patch:
        patch.setattr(Root, "score", meanwhile)
        assert scan(survey, out) == ExitCode.ERROR
    said = capsys.readouterr().err
    assert "changed since the plan" in said
    assert "put the old file back" not in said, "nobody knows which rows are of which"
    assert not out.exists()
    assert scan(survey, out, "--overwrite") == ExitCode.OK


def write_tiles(folder):
    """Write one tile a band that holds every row."""
    rng = np.random.default_rng(1)
    header = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 0.5, "CRVAL2": 0.0, "CRPIX1": 60.0, "CRPIX2": 60.0,
        "CD1_1": -0.263 / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.263 / 3600, "MAGZERO": 30.0,
    }  # fmt: skip
    for band in "gi":
        fitsio.write(str(folder / f"A_{band}.fits"), rng.normal(0, 1, (120, 120)).astype("f4"), header=header)


@pytest.mark.parametrize("change", ["pixels", "gone"])
def test_tiles_of_a_template_over_columns_are_watched(survey, out, capsys, change):
    """Which they are shows row by row, so that no look before planning finds them."""
    folder = survey.folder
    write_tiles(folder)
    table = fitsio.read(str(folder / "catalog.fits"))
    table["ra"], table["dec"] = 0.5, 0.0
    columns = {name: table[name] for name in table.dtype.names} | {"tile": np.full(len(table), "A")}
    fitsio.write(str(folder / "catalog.fits"), columns, clobber=True)
    spec = f"tiles:{folder}/{{tile}}_{{band}}.fits"
    assert scan(survey, out, "--keep-shards", stamps=spec) == ExitCode.OK
    assert read_header(out).n_scored > 20
    finished = out.read_bytes()
    unfinish(out)
    tile = folder / "A_i.fits"
    if change == "gone":
        tile.unlink()
    else:
        with fitsio.FITS(str(tile), "rw") as fits:
            fits[0].write(fits[0].read() * 2)
        os.utime(tile, ns=(0, tile.stat().st_mtime_ns + LATER))
    assert scan(survey, out, stamps=spec) == ExitCode.ERROR
    assert f"{tile} changed since the plan" in capsys.readouterr().err
    out.write_bytes(finished)
    shutil.rmtree(f"{out}.run")
    done = scan(survey, out, stamps=spec)
    assert done == (ExitCode.OK if change == "gone" else ExitCode.ERROR), "a finished output needs no stamps"


def test_overwrite_leaves_a_finished_output_of_the_same_plan(survey, out, capsys):
    assert scan(survey, out, "--overwrite") == ExitCode.OK
    inode = out.stat().st_ino
    assert scan(survey, out, "--overwrite") == ExitCode.OK
    assert "nothing to do" in capsys.readouterr().err
    assert out.stat().st_ino == inode
    assert scan(survey, out, "--overwrite", "--set", "top=3") == ExitCode.OK
    assert read_header(out).n_candidates == 3


def test_overwrite_resumes_its_own_run_and_removes_that_of_another_plan(survey, out, capsys):
    assert scan(survey, out, "--keep-shards") == ExitCode.OK
    shards = unfinish(out)
    assert scan(survey, out, "--keep-shards", "--overwrite") == ExitCode.OK
    assert "resuming: 1 of" in capsys.readouterr().err
    assert shards == {path: path.stat().st_ino for path in shards}
    unfinish(out, keep=2)
    assert scan(survey, out, "--overwrite", "--set", "batch=4") == ExitCode.OK
    said = capsys.readouterr().err
    assert "overwriting: " in said
    assert "batch changed\n" in said
    assert "shards of another plan or other stamps removed: 2\n" in said
    assert "damaged" not in said


def test_a_stray_shard_of_another_plan_is_called_so(survey, out, capsys):
    assert scan(survey, out, "--keep-shards") == ExitCode.OK
    reference = content_hash(out)
    (path,) = unfinish(out)
    with h5py.File(path, "r+") as h5:
        h5.attrs["about"] = h5.attrs["about"].replace(Plan.open(path.parents[2] / "plan.h5").plan_hash, "f" * 64)
    assert scan(survey, out) == ExitCode.OK
    said = capsys.readouterr().err
    assert f"shard of another plan removed, its block is scored again: {path}" in said
    assert "damaged" not in said
    assert content_hash(out) == reference


@pytest.mark.parametrize("change", ["plan", "pixels"])
def test_verify_and_scan_know_of_a_run_that_is_to_replace_the_output(survey, out, capsys, change):
    assert scan(survey, out, "--keep-shards") == ExitCode.OK
    assert main(["verify", str(out)]) == ExitCode.OK, "kept shards of the output itself"
    shutil.rmtree(f"{out}.run")
    finished = out.read_bytes()
    if change == "pixels":
        change_pixels(survey)
    more = ["--set", "batch=2"] if change == "plan" else []
    assert scan(survey, out, "--overwrite", "--keep-shards", *more) == ExitCode.OK
    unfinish(out)
    out.write_bytes(finished)
    capsys.readouterr()
    assert main(["verify", str(out)]) == ExitCode.INCOMPLETE
    said = capsys.readouterr()
    assert f"{out}.run is of another plan, an unfinished run that is to replace it" in said.err
    assert "complete:" not in said.out
    if change == "plan":
        assert scan(survey, out) == ExitCode.ERROR
        assert f"{out}.run is an unfinished run of another plan" in capsys.readouterr().err
        assert scan(survey, out, "--overwrite") == ExitCode.OK
        assert out.read_bytes() == finished
    else:
        assert scan(survey, out, "--overwrite") == ExitCode.OK
        assert out.read_bytes() != finished
    assert not out.with_name("out.h5.run").exists()
    assert main(["verify", str(out)]) == ExitCode.OK


def test_what_is_said_of_files(tmp_path):
    """Small files are read in full, of large ones pieces from the first byte to the last."""
    small, large, absent = (tmp_path / name for name in ("small", "large", "absent"))
    small.write_bytes(b"abc")
    size = storage.PIECE * (storage.PIECES + 40) + 7
    large.write_bytes(bytes(size))
    said = record_files(map(str, (small, large, absent)))
    assert changed_files(said) == ([], [])
    for path in (small, large):
        os.utime(path, ns=(0, path.stat().st_mtime_ns + LATER))
    assert changed_files(said) == ([], [str(large), str(small)])
    assert contents(record_files(map(str, (small, large, absent)))) == contents(said)
    for place in (0, size - 1):
        with large.open("r+b") as stream:
            stream.seek(place)
            stream.write(b"x")
        assert changed_files(said) == ([str(large)], [str(small)])
        large.write_bytes(bytes(size))
    small.unlink()
    large.write_bytes(bytes(size - 1))
    absent.write_bytes(b"")
    assert changed_files(said)[0] == [str(absent), str(large), str(small)]
    assert changed_files(said, gone=False)[0] == [str(absent), str(large)]


def test_stamps_of_their_own_that_were_made_anew_are_not_mixed_with_old_ones(survey, out, capsys):
    folder = survey.folder / "stamps"
    spec = f"stamps:{folder}/{{id}}.fits"
    assert scan(survey, out, "--keep-shards", stamps=spec) == ExitCode.OK
    finished, hashed = out.read_bytes(), content_hash(out)
    shards = unfinish(out)
    watched = [each[0] for each in Plan.open(out.with_name("out.h5.run") / "plan.h5").storage]
    assert watched == sorted(watched)
    assert len(watched) > 20, "all that there are, being few"
    for path in folder.iterdir():
        shutil.copy(path, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)
    assert scan(survey, out, "--keep-shards", stamps=spec) == ExitCode.OK, "copied, but the same"
    assert "taken for the same" in capsys.readouterr().err
    assert shards == {path: path.stat().st_ino for path in shards}, "not scored again"
    assert content_hash(out) == hashed
    unfinish(out)
    with fitsio.FITS(watched[3], "rw") as fits:
        hdu = next(each for each in fits if each.has_data())
        hdu.write(hdu.read() * 2)
    os.utime(watched[3], ns=(0, LATER))
    assert scan(survey, out, stamps=spec) == ExitCode.ERROR
    assert f"{watched[3]} changed since the plan" in capsys.readouterr().err
    out.write_bytes(finished)
    assert scan(survey, out, stamps=spec) == ExitCode.ERROR
    assert f"{watched[3]} changed since {out} was made" in capsys.readouterr().err
    assert scan(survey, out, "--overwrite", stamps=spec) == ExitCode.OK


def test_overwrite_takes_nothing_away_before_there_can_be_another_plan(survey, out, capsys):
    """A folder that is not mounted just now, under a job script that says --overwrite."""
    assert scan(survey, out, "--keep-shards") == ExitCode.OK
    reference, shards = content_hash(out), unfinish(out)
    assert scan(survey, out, "--overwrite", stamps=f"stamps:{survey.folder}/away/{{id}}.fits") != ExitCode.OK
    assert "none of the files" in capsys.readouterr().err
    assert {path: path.stat().st_ino for path in shards} == shards
    assert scan(survey, out) == ExitCode.OK
    assert content_hash(out) == reference


def test_a_stamp_that_goes_or_comes_makes_its_row_fail_or_not(survey, out):
    """Neither mixes two versions of anything."""
    spec = f"stamps:{survey.folder}/stamps/{{id}}.fits"
    assert scan(survey, out, "--keep-shards", stamps=spec) == ExitCode.OK
    before = read_header(out)
    plan = Plan.open(out.with_name("out.h5.run") / "plan.h5")
    watched = {each[0] for each in plan.storage}
    block, start, stop = list(plan.block_rows())[-1]
    assert block > 0, "the last block is scored again"
    stamp = next(path for path in plan.rows(start, stop).file if path in watched)
    unfinish(out)
    shutil.move(stamp, survey.folder / "away.fits")
    assert scan(survey, out, "--keep-shards", stamps=spec) == ExitCode.OK
    assert read_header(out).n_scored == before.n_scored - 1
    unfinish(out)
    shutil.move(survey.folder / "away.fits", stamp)
    assert scan(survey, out, "--keep-shards", stamps=spec) == ExitCode.OK
    assert read_header(out).n_scored == before.n_scored


def test_a_file_that_cannot_be_looked_at_is_left_to_its_reader(tmp_path, monkeypatch):
    """Neither absent nor changed: a server that hiccups must not void what was scored."""
    path = tmp_path / "a"
    path.write_bytes(b"a")
    stored = record_files([str(path)])

    def fail(path, size):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(storage, "_sample", fail)
    os.utime(path, ns=(0, LATER))
    assert record_files([str(path), "with a \0"]) == []
    assert changed_files(stored) == ([], [])


def test_the_rows_looked_at_are_few_and_the_same_however_they_come():
    names = [f"{k}.fits" if k % 7 else "" for k in range(5000)]
    whole, parts = storage.SomeRows(), storage.SomeRows()
    whole.add(np.arange(5000), names)
    for start in range(0, 5000, 130):
        parts.add(np.arange(start, min(start + 130, 5000)), names[start : start + 130])
    assert sorted(whole.names) == sorted(parts.names)
    assert len(set(whole.names)) == storage.ROWS
    numbers = np.array([int(name.removesuffix(".fits")) for name in whole.names])
    assert (numbers % 7 > 0).all()
    assert np.histogram(numbers, 10, (0, 5000))[0].min() > 10, "from the whole catalog"
    few = storage.SomeRows()
    few.add(np.arange(3), ["a", "", "b"])
    assert sorted(few.names) == ["a", "b"]


def test_what_hangs_is_left_behind_and_a_pipe_is_no_file(tmp_path, monkeypatch):
    """One stamp that never answers must not keep the plan; in a scan it fails its row."""
    good, bad, pipe = tmp_path / "good.fits", tmp_path / "bad.fits", tmp_path / "pipe.fits"
    good.write_bytes(b"good")
    bad.write_bytes(b"bad")
    os.mkfifo(pipe)
    assert [each[1] for each in record_files([str(good), str(pipe)])] == [4, storage.ABSENT]
    stored = record_files([str(good), str(bad)])
    real, release = storage._sample, threading.Event()
    monkeypatch.setattr(
        storage, "_sample", lambda path, size: release.wait(20) if path == str(bad) else real(path, size)
    )
    assert record_files([str(good), str(bad)], 0.5) == [stored[1]]
    for path in (good, bad):
        os.utime(path, ns=(0, LATER))
    assert changed_files(stored, seconds=0.5) == ([], [str(good)])
    release.set()


def test_an_error_of_a_look_is_the_callers(tmp_path, monkeypatch):
    def fail(path, size):
        raise RuntimeError("broken")

    (tmp_path / "a").write_bytes(b"a")
    monkeypatch.setattr(storage, "_sample", fail)
    with pytest.raises(RuntimeError, match="broken"):
        record_files([str(tmp_path / "a")])
