"""Each export, read back by the tools that will read it."""

import json

import h5py
import numpy as np
import pyarrow.parquet
import pytest
from astropy.io import fits
from astropy.io.votable import parse_single_table
from astropy.table import QTable, Table
from synthetic_run import make_card, make_run

from lensscan.candidates.export import FORMATS, export
from lensscan.candidates.file import read_candidates
from lensscan.candidates.summary import summary
from lensscan.candidates.verify import verify_output
from lensscan.cli.export import FORMATS as CLI_FORMATS
from lensscan.errors import ConfigError, OutputError
from lensscan.metrics.calibration import Calibration
from lensscan.scan.merge import MergeSettings, merge
from lensscan.schema import find_column


def make_output(folder, ids=None, n=120, **options):
    run = make_run(folder, n, ids=ids, columns={"mag": np.arange(float(n)), "x": np.arange(n)}, **options)
    merge(run.plan, run.folder, run.out, MergeSettings(top=50, prevalence=1e-3), run.cards, {})
    return run.out


@pytest.fixture(scope="module", params=["int", "above 2^53", "uint64", "text"])
def output(request, tmp_path_factory):
    ids = {
        "int": None,
        "above 2^53": 2**53 + np.arange(120),
        "uint64": np.uint64(2**63) + np.arange(120, dtype=np.uint64),
        "text": np.array([f"J{k}+00.{k}" for k in range(120)]),
    }[request.param]
    return make_output(tmp_path_factory.mktemp("out"), ids)


def same(table, found, exact=True):
    assert [str(v) for v in found["id"]] == [str(v) for v in table["id"]]
    for name in ("logit", "p_lens", "theta_E", "ra", "dec", "flags", "row", "cat_mag", "cat_x", "rank"):
        values = np.asarray(getattr(table[name], "value", table[name]), dtype=float)
        got = np.ma.filled(np.ma.asarray(getattr(found[name], "value", found[name])).astype(float), np.nan)
        np.testing.assert_allclose(got, values, rtol=0 if exact else 1e-6)
    assert list(found["tile"]) == list(table["tile"])


def test_fits(output, tmp_path):
    table = read_candidates(output)
    assert export(output, "fits", tmp_path / "x.fits") == 50
    found = Table.read(tmp_path / "x.fits", character_as_bytes=False)
    same(table, found)
    header = fits.getheader(tmp_path / "x.fits", "CANDIDATES")
    number = table.colnames.index("theta_E") + 1
    assert header[f"TTYPE{number}"] == "theta_E"
    assert header[f"TUNIT{number}"] == "arcsec"
    assert header[f"TUCD{number}"] == "phys.angSize"
    assert header[f"TCOMM{number}"].startswith("Einstein radius")
    np.testing.assert_array_equal(found["cov"], table["cov"])


def test_votable(output, tmp_path):
    table = read_candidates(output)
    export(output, "votable", tmp_path / "x.vot")
    document = parse_single_table(tmp_path / "x.vot")
    fields = {field.name: field for field in document.fields}
    assert fields["theta_E"].ucd == "phys.angSize"
    assert fields["ra"].ucd == "pos.eq.ra;meta.main"
    assert str(fields["sigma_g"].unit) == "nJy"
    assert " ".join(fields["e1"].description.split()) == find_column("e1").description
    same(table, document.to_table())


def test_parquet(output, tmp_path):
    table = read_candidates(output)
    export(output, "parquet", tmp_path / "x.parquet")
    found = pyarrow.parquet.read_table(tmp_path / "x.parquet")
    assert found.schema.field("theta_E").metadata[b"unit"] == b"arcsec"
    assert found.schema.field("theta_E").metadata[b"ucd"] == b"phys.angSize"
    assert json.loads(found.schema.metadata[b"n_catalog"]) == 137
    same(table, {name: found[name].to_numpy() for name in found.column_names if name != "cov"})
    np.testing.assert_array_equal(np.array(found["cov"].to_pylist(), np.float32), table["cov"])


def test_csv(output, tmp_path):
    table = read_candidates(output)
    export(output, "csv", tmp_path / "x.csv")
    found = Table.read(tmp_path / "x.csv", format="ascii.csv", fill_values=[("nan", "0")])
    same(table, found, exact=False)
    np.testing.assert_allclose(np.ma.filled(found["cov_theta_E_theta_E"], np.nan), table["cov"][:, 0], rtol=1e-6)


def test_ecsv(output, tmp_path):
    table = read_candidates(output)
    export(output, "ecsv", tmp_path / "x.ecsv")
    found = QTable.read(tmp_path / "x.ecsv", format="ascii.ecsv")
    same(table, found)
    assert found["theta_E"].unit == table["theta_E"].unit
    assert found["logit"].info.meta == {"ucd": "stat.likelihood"}
    np.testing.assert_array_equal(found["cov"], table["cov"])


def test_ds9(output, tmp_path):
    table = read_candidates(output)
    n = export(output, "ds9", tmp_path / "x.reg")
    lines = (tmp_path / "x.reg").read_text(encoding="utf-8").splitlines()
    assert lines[2] == "fk5"
    assert n == len(lines) - 3 == 50
    k = int(np.flatnonzero(np.isfinite(table["pa"].value))[0])
    numbers = lines[3 + k].partition("(")[2].partition(")")[0].replace('"', "").split(",")
    ra, _, a, b, angle = map(float, numbers)
    assert ra == pytest.approx(table["ra_lens"][k].value, abs=1e-6)
    assert np.sqrt(a * b) == pytest.approx(table["theta_E"][k].value, abs=2e-3)
    assert (a - b) / (a + b) == pytest.approx(np.hypot(table["e1"][k], table["e2"][k]), abs=5e-3)
    assert angle == pytest.approx(table["pa"][k].value + 90, abs=0.01)
    assert all(line.startswith(("ellipse", "circle")) for line in lines[3:])


def test_lenstronomy(output, tmp_path):
    table = read_candidates(output)
    n = export(output, "lenstronomy", tmp_path / "x.json")
    document = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert document["lens_model_list"] == ["SIE"]
    assert n == len(document["candidates"]) == np.isfinite(table["theta_E"].value).sum()
    first = document["candidates"][0]
    k = first["rank"] - 1
    assert first["id"] == table["id"][k]
    assert first["kwargs_lens"][0] == pytest.approx(
        {
            "theta_E": table["theta_E"][k].value,
            "e1": table["e1"][k],
            "e2": table["e2"][k],
            "center_x": table["x"][k].value,
            "center_y": table["y"][k].value,
        },
        rel=1e-6,
    )


def test_lenstronomy_accepts_the_keywords(output, tmp_path):
    lens_model = pytest.importorskip("lenstronomy.LensModel.lens_model")
    export(output, "lenstronomy", tmp_path / "x.json")
    kwargs = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["candidates"][0]["kwargs_lens"]
    alpha = lens_model.LensModel(["SIE"]).alpha(1.0, 0.5, kwargs)
    assert np.isfinite(alpha).all()


def test_prevalence_recomputes_p_lens(output, tmp_path):
    table = read_candidates(output)
    export(output, "fits", tmp_path / "x.fits", prevalence=0.3)
    found = Table.read(tmp_path / "x.fits")
    expected = 1 / (1 + np.exp(-np.asarray(table["logit"])) * 0.7 / 0.3)
    np.testing.assert_allclose(found["p_lens"], expected)
    assert found.meta["PREVALEN"] == 0.3
    assert found.meta["NCATALOG"] == 137
    with pytest.raises(ConfigError, match="prevalence"):
        export(output, "fits", tmp_path / "x.fits", prevalence=1.0)


def test_prevalence_keeps_the_cap_and_states_nothing_that_is_not_calibrated(tmp_path):
    settings = MergeSettings(top=20, prevalence=1e-3)
    capped = make_card(calibration=Calibration("platt", 1.0, 0.0, cap=-3.0))
    one = make_run(tmp_path, 60, cards=[capped], name="one.h5")
    two = make_run(tmp_path, 60, networks=2, name="two.h5")
    for run in (one, two):
        merge(run.plan, run.folder, run.out, settings, run.cards, {})
        export(run.out, "fits", tmp_path / "x.fits", prevalence=0.5)
        found = Table.read(tmp_path / "x.fits")
        if run is one:
            assert (found["logit"] > -3).any()
            assert np.asarray(found["p_lens"]).max() == pytest.approx(1 / (1 + np.exp(3.0)))
        else:
            assert np.isnan(np.asarray(found["p_lens"], float)).all()
            assert np.isfinite(found["logit"]).all()
    lines = "\n".join(summary(two.out))
    assert "lensscan ensemble" in lines
    assert "lenses expected" not in lines
    verify_output(two.out)


def test_names_of_the_command_line():
    assert tuple(FORMATS) == CLI_FORMATS


def test_text_beyond_ascii(tmp_path):
    output = make_output(tmp_path, np.array([f"Gal\u00e1xia {k}" for k in range(30)]), n=30)
    for to in FORMATS:
        export(output, to, tmp_path / f"x.{to}")
    assert "\u00e1" in QTable.read(tmp_path / "x.ecsv", format="ascii.ecsv")["id"][0]
    assert "\\xe1" in Table.read(tmp_path / "x.fits", character_as_bytes=False)["id"][0]


@pytest.mark.parametrize("to", FORMATS)
def test_empty_table(tmp_path, to):
    output = make_output(tmp_path, n=0)
    assert export(output, to, tmp_path / "x") == 0
    assert (tmp_path / "x").stat().st_size > 0


def test_no_positions_no_regions(tmp_path):
    nothing = np.full(20, np.nan)
    output = make_output(tmp_path, n=20, ra=nothing, dec=nothing, seed=1)
    known = int(np.isfinite(read_candidates(output)["ra_lens"].value).sum())
    assert 0 < known < 20
    assert export(output, "ds9", tmp_path / "x.reg") == known
    with h5py.File(output, "r+") as h5:
        rows = h5["candidates"][...]
        rows["ra_lens"] = np.nan
        h5["candidates"][...] = rows
    with pytest.raises(OutputError, match="no ds9 regions"):
        export(output, "ds9", tmp_path / "x.reg")


def test_unknown_format_and_unwritable_folder(output, tmp_path):
    with pytest.raises(ConfigError, match="known formats are fits, votable"):
        export(output, "xls", tmp_path / "x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        export(output, "csv", tmp_path / "file" / "x.csv")


@pytest.mark.parametrize("to", FORMATS)
def test_an_export_never_replaces_what_it_is_made_from(tmp_path, to):
    source = make_output(tmp_path, n=20)
    before = source.read_bytes()
    (tmp_path / "link").symlink_to(source)
    for name in (source, tmp_path / "link"):
        with pytest.raises(OutputError, match="would be lost; give another output"):
            export(source, to, name)
    assert source.read_bytes() == before
