"""Reading outputs back: with our reader and with plain astropy."""

import astropy.units as u
import h5py
import numpy as np
import pytest
from astropy.table import QTable
from synthetic_run import make_run

import lensscan
from lensscan.candidates.file import (
    FORMAT_VERSION,
    read_candidates,
    read_cutflow,
    read_failures,
    read_files,
    read_header,
    read_provenance,
)
from lensscan.errors import OutputError
from lensscan.scan.merge import MergeSettings, merge
from lensscan.schema import COLUMNS, find_column


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    columns = {"mag": np.linspace(18, 22, 200), "name": np.array([f"galaxy {k}" for k in range(200)])}
    run = make_run(tmp_path_factory.mktemp("run"), 200, networks=2, columns=columns)
    merge(run.plan, run.folder, run.out, MergeSettings(top=30, prevalence=1e-3), run.cards, {"command": "test"})
    return run


def test_plain_astropy_reads_units_and_descriptions(run):
    table = QTable.read(run.out, path="candidates")
    assert table["theta_E"].unit == u.arcsec
    assert table["ra"].unit == u.deg
    assert table["sigma_g"].unit == u.nJy
    assert table["theta_E"].info.description == find_column("theta_E").description
    assert table["tile"][0].startswith("DES000")
    assert table["cat_name"][0].startswith("galaxy ")
    assert table["rank"].tolist() == list(range(1, 31))
    assert table["cov"].shape == (30, 28)


def test_every_column_is_described(run):
    names = read_candidates(run.out).colnames
    assert all(find_column(name).description for name in names)
    fixed = {column.name for column in COLUMNS if "{" not in column.name}
    assert fixed - set(names) == {"px", "py", "ess"}
    with h5py.File(run.out) as h5:
        assert h5["scores/theta_E"].attrs["unit"] == "arcsec"
        assert h5["scores/theta_E"].attrs["ucd"] == "phys.angSize"
        assert h5["scores/theta_E"].chunks is None


def test_lazy_name_and_meta(run):
    table = lensscan.read_candidates(run.out)
    assert table.meta["models"] == ["demo", "net1"]
    assert table.meta["content_hash"] == read_header(run.out).content_hash


def test_header_counts_and_settings(run):
    header = read_header(run.out)
    assert header.n_catalog == header.n_cut + header.n_scored + header.n_failed == 217
    assert header.merge_settings == {"top": 30, "min_logit": None, "prevalence": 1e-3}
    assert header.plan_settings["survey"] == "demo"
    assert header.fingerprint == [["packs/a.fits", 10, 20]]
    assert header.bands == ("g", "r", "i")


def test_cutflow_failures_files_provenance(run):
    assert [step["name"] for step in read_cutflow(run.out)] == ["g - i", "r"]
    failures = read_failures(run.out)
    assert {failure["reason"] for failure in failures} == {"blank", "unreadable"}
    assert len(read_failures(run.out, 1, 3)) == 2
    table = read_candidates(run.out)
    paths = read_files(run.out, np.asarray(table["file"]))
    assert all(tile in path for tile, path in zip(table["tile"], paths, strict=True))
    provenance = read_provenance(run.out)
    assert provenance["command"] == "test"
    assert provenance["merge"]["networks"] == ["demo", "net1"]
    assert provenance["blocks"]["device_keys"] == {"cpu avx512": 4}


def test_refusals_are_one_line(run, tmp_path):
    newer = tmp_path / "newer.h5"
    newer.write_bytes(run.out.read_bytes())
    with h5py.File(newer, "r+") as h5:
        h5.attrs["format_version"] = FORMAT_VERSION + 1
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as h5:
        h5["data"] = 1
    garbage = tmp_path / "garbage.h5"
    garbage.write_text("<html>404</html>")
    truncated = tmp_path / "truncated.h5"
    truncated.write_bytes(run.out.read_bytes()[:5000])
    cases = {newer: "newer", foreign: "not an output", garbage: "cannot read", truncated: "cannot read"}
    for path, text in {**cases, tmp_path / "missing.h5": "no file"}.items():
        with pytest.raises(OutputError, match=text) as caught:
            read_candidates(path)
        assert "\n" not in str(caught.value)
