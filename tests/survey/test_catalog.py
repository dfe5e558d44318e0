from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.table import Table

from lensscan.config import Band, CatalogColumns, Survey, load_survey
from lensscan.errors import CatalogError
from lensscan.survey.catalog import Catalog, open_catalog
from lensscan.survey.template import Template

SURVEY = Survey(
    "test", 0.263, {"g": Band(mag="mag_g"), "r": Band(mag="MAGS[1]")}, catalog=CatalogColumns(keep=("flag",))
)
BARE = Survey("bare", 0.263, {})
PLAIN = dataclasses.replace(SURVEY, bands={"g": Band(mag="mag_g")})
IDS = {
    "int64": np.array([2**53 + 1, -5, 2**62 + 3, 7], np.int64),
    "uint64": np.array([2**63 + 5, 0, 2**64 - 1, 7], np.uint64),
    "int32": np.array([1, 2, 3, 4], np.int32),
    "text": np.array(["J1", "a-long-name", "007", "x y"]),
}
FORMATS = ("fits", "h5", "h5-group", "parquet", "csv", "csv.gz", "ecsv")


def table(ids: np.ndarray, vector: bool = True) -> Table:
    n = len(ids)
    result = Table()
    result["id"] = ids
    result["ra"] = np.linspace(359.5, 360.0, n, endpoint=False)
    result["dec"] = np.linspace(-80, 10, n)
    result["mag_g"] = np.array([20.5, 99.0, np.nan, -99.0] * (n // 4 + 1), np.float32)[:n]
    result["flag"] = np.arange(n, dtype=np.int16)
    if vector:
        result["MAGS"] = np.arange(2.0 * n).reshape(n, 2)
    return result


def write(data: Table, folder, kind: str, name: str = "cat") -> str:
    path = str(folder / f"{name}.{kind.removesuffix('-group')}")
    if kind == "h5":
        data.write(path, path="table", serialize_meta=True)
    elif kind == "h5-group":
        with h5py.File(path, "w") as file:
            for column in data.colnames:
                values = np.asarray(data[column])
                file[f"photometry/{column}"] = values.astype("S") if values.dtype.kind == "U" else values
    elif kind == "csv.gz":
        data.write(str(folder / "plain.csv"))
        with open(folder / "plain.csv", "rb") as source, gzip.open(path, "wb") as target:
            target.write(source.read())
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {}
        for column in data.colnames:
            values = np.asarray(data[column])
            columns[column] = pa.array(values.tolist(), pa.list_(pa.float64())) if values.ndim > 1 else pa.array(values)
        pq.write_table(pa.table(columns), path)
    else:
        data.write(path)
    return path


def read(catalog: Catalog, rows: int = 1_000_000):
    return list(catalog.chunks(rows))


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path, kind, ids):
    vector = not kind.endswith(("csv", "csv.gz"))
    data = table(IDS[ids], vector)
    path = write(data, tmp_path, kind)
    (chunk,) = read(open_catalog(path, SURVEY if vector else PLAIN))
    assert chunk.id.tolist() == IDS[ids].tolist()
    expected = {"int64": "i", "uint64": "u", "int32": "i", "text": "U"}[ids]
    assert chunk.id.dtype.kind == expected
    assert chunk.id.dtype.isnative
    np.testing.assert_allclose(chunk.ra, data["ra"])
    np.testing.assert_allclose(chunk.dec, data["dec"])
    np.testing.assert_allclose(chunk.mags["g"], [20.5, np.nan, np.nan, np.nan])
    assert chunk.sentinel["g"].tolist() == [False, True, False, True]
    if vector:
        np.testing.assert_allclose(chunk.mags["r"], [1, 3, 5, 7])
    assert np.asarray(chunk.columns["flag"]).tolist() == [0, 1, 2, 3]
    assert np.isnan(chunk.px).all()


@pytest.mark.parametrize("kind", ["fits", "h5", "parquet", "csv"])
def test_a_glob_streams_in_chunks_of_exact_size(tmp_path, kind):
    for number in range(3):
        write(table(np.arange(number * 10, number * 10 + 10), False), tmp_path, kind, f"part-{number}")
    catalog = open_catalog(f"{tmp_path}/part-*.{kind}", PLAIN)
    chunks = read(catalog, 7)
    assert [chunk.n for chunk in chunks] == [7, 7, 7, 7, 2]
    assert [chunk.start for chunk in chunks] == [0, 7, 14, 21, 28]
    assert np.concatenate([chunk.id for chunk in chunks]).tolist() == list(range(30))
    assert catalog.n_rows == (None if kind == "csv" else 30)
    assert len(catalog.fingerprint()) == 3


def test_columns_that_are_missing_are_named(tmp_path):
    path = write(table(IDS["int64"]), tmp_path, "fits")
    wrong = dataclasses.replace(SURVEY, catalog=CatalogColumns(id="idd"))
    with pytest.raises(CatalogError, match=r"no column 'idd' \(nearest is 'id'\); set catalog.id"):
        open_catalog(path, wrong)
    with pytest.raises(CatalogError, match=r"no column 'tile'"):
        open_catalog(path, SURVEY, ("tile",))
    catalog = open_catalog(path, dataclasses.replace(SURVEY, bands={"g": Band(mag="MAG_G")}))
    with pytest.raises(CatalogError, match=r"'MAG_G' \(nearest is 'mag_g'\); set bands.g.mag"):
        catalog.require(("g",))
    with pytest.raises(CatalogError, match="no element 7"):
        read(open_catalog(path, dataclasses.replace(SURVEY, bands={"g": Band(mag="MAGS[7]")})))


def test_positions_are_optional_and_kinds_of_id_must_agree(tmp_path):
    data = table(IDS["int64"])
    data.remove_columns(["ra", "dec"])
    (chunk,) = read(open_catalog(write(data, tmp_path, "fits"), SURVEY))
    assert np.isnan(chunk.ra).all()
    write(table(IDS["text"]), tmp_path, "fits", "cat2")
    with pytest.raises(CatalogError, match="is text, before it was signed integers"):
        read(open_catalog(f"{tmp_path}/cat*.fits", SURVEY))


def test_fluxes_and_extinction(tmp_path):
    data = Table({"id": [1, 2, 3], "f": [1e4, 0.0, -3.0], "a": [0.1, 0.1, 0.1]})
    path = str(tmp_path / "f.fits")
    data.write(path)
    survey = Survey("f", 0.2, {"g": Band(flux="f", flux_zero_point=31.4, extinction="a")})
    (chunk,) = read(open_catalog(path, survey))
    np.testing.assert_allclose(chunk.mags["g"], [31.4 - 10 - 0.1, np.nan, np.nan])


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", b""), ("a.fits", b"<html>"), ("a.h5", b"x"), ("a.parquet", b"x"), ("a.doc", b"")]
)
def test_files_that_are_no_tables(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CatalogError, match=name) as error:
        open_catalog(str(tmp_path / name), SURVEY)
    assert "\n" not in str(error.value)


def test_a_folder_is_no_catalog(tmp_path):
    with pytest.raises(CatalogError, match="is a folder; give a file, or a quoted glob"):
        open_catalog(str(tmp_path), PLAIN)


@pytest.mark.parametrize(
    ("line", "words"), [("1,banana,0", "column 'mag_g' holds text ('banana')"), (",20.5,0", "id column 'id' is empty")]
)
def test_values_that_cannot_be_used_are_named_with_the_file(tmp_path, line, words):
    path = tmp_path / "c.csv"
    path.write_text(f"id,mag_g,flag\n7,21.0,1\n{line}\n")
    with pytest.raises(CatalogError) as error:
        list(open_catalog(str(path), PLAIN).chunks())
    assert str(path) in str(error.value)
    assert words in str(error.value)


LINES = ["id,ra,mag_g,flag", "7,10.5,21.5,1", "8,11.5,22.5,0"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mark.csv", "\ufeff" + "\n".join(LINES)),
        ("aligned.txt", "\n".join("  " + line.replace(",", "    ") for line in LINES)),
        ("bars.txt", "\n".join("| " + line.replace(",", " | ") + " |" for line in LINES)),
        ("comma.csv", "\n".join([LINES[0] + ',"a, b"', *(line + ",0" for line in LINES[1:])])),
    ],
)
def test_text_tables_as_spreadsheets_and_editors_write_them(tmp_path, name, text):
    (tmp_path / name).write_text(text + "\n")
    (chunk,) = read(open_catalog(str(tmp_path / name), PLAIN, everything=True))
    assert chunk.id.tolist() == [7, 8]
    assert chunk.ra.tolist() == [10.5, 11.5]
    assert chunk.mags["g"].tolist() == [21.5, 22.5]
    assert "" not in chunk.columns


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "c.csv").write_text("id,mag_g,flag,mag_g\n7,21,1,5\n")
    with pytest.raises(CatalogError, match="2 columns are named 'mag_g'; rename"):
        open_catalog(str(tmp_path / "c.csv"), PLAIN).require(("g",))


def masked(what: str) -> Table:
    data = Table(table(IDS["int64"], False), masked=True)
    data[what].mask = [False, False, True, False]
    data["mag_g"].data.data[:] = 21.0
    return data


def write_masked(data: Table, path, kind: str) -> str:
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {name: pa.array(data[name].tolist()) for name in data.colnames}
        pq.write_table(pa.table(columns), path)
    else:
        data.write(path, **({"path": "table", "serialize_meta": True} if kind == "h5" else {}))
    return str(path)


@pytest.mark.parametrize("kind", ["fits", "h5", "ecsv", "csv", "parquet"])
def test_masked_values_are_missing(tmp_path, kind):
    (chunk,) = read(open_catalog(write_masked(masked("mag_g"), tmp_path / f"c.{kind}", kind), PLAIN))
    np.testing.assert_array_equal(chunk.mags["g"], [21.0, 21.0, np.nan, 21.0])
    assert chunk.id.tolist() == IDS["int64"].tolist()
    with pytest.raises(CatalogError, match=r"empty in some rows; give|has missing integers"):
        read(open_catalog(write_masked(masked("id"), tmp_path / f"id.{kind}", kind), PLAIN))


@pytest.mark.parametrize("kind", ["fits", "h5", "ecsv"])
def test_positions_in_radians_are_refused(tmp_path, kind):
    data = table(IDS["int64"], False)
    data["ra"].unit = "deg"
    (chunk,) = read(open_catalog(write_masked(data, tmp_path / f"deg.{kind}", kind), PLAIN))
    assert chunk.ra.tolist() == data["ra"].tolist()
    data["dec"].unit = "rad"
    with pytest.raises(CatalogError, match=r"column 'dec' is in rad, .* as catalog.dec in the survey file"):
        open_catalog(write_masked(data, tmp_path / f"rad.{kind}", kind), PLAIN)


def test_parquet_columns_of_any_kind_are_read_or_become_text(tmp_path):
    import datetime

    import pyarrow as pa
    import pyarrow.parquet as pq

    day = datetime.datetime(2020, 1, 2)
    columns = {"id": [1, 2], "flag": [0, 1], "when": [day, None], "lists": [[1.0], [1.0, 2.0]], "words": [["a"], None]}
    pq.write_table(pa.table(columns), tmp_path / "c.parquet")
    (chunk,) = read(open_catalog(str(tmp_path / "c.parquet"), PLAIN, everything=True))
    assert chunk.columns["when"][0].startswith("2020-01-02T00:00")
    assert chunk.columns["lists"].tolist() == ["[1.0]", "[1.0, 2.0]"]
    assert chunk.columns["words"].tolist() == ["['a']", ""]


@pytest.mark.parametrize("name", ["c.parquet", "c.csv.gz"])
def test_a_file_damaged_inside_is_named(tmp_path, name):
    data = table(np.arange(5000), False)
    path = write(data, tmp_path, name.partition(".")[2])
    content = Path(path).read_bytes()
    damaged = content[:4] + b"\xff" * 400 + content[404:] if name == "c.parquet" else content[: len(content) // 2]
    Path(path).write_bytes(damaged)
    with pytest.raises(CatalogError, match=rf"{path}: .*(get the file again|correct the file)") as error:
        read(open_catalog(path, PLAIN))
    assert "\n" not in str(error.value)


def test_a_column_keeps_the_kind_of_its_first_chunk(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("id,flag,mag_g\n1,1.5,20\n2,2,20\n3,3,20\n")
    assert [chunk.columns["flag"].tolist() for chunk in read(open_catalog(str(path), PLAIN), 2)] == [[1.5, 2.0], [3.0]]
    path.write_text("id,flag,mag_g\n1,1,20\n2,2,20\n")
    parts = [str(path), str(tmp_path / "d.csv")]
    (tmp_path / "d.csv").write_text("id,flag,mag_g\n3,3.5,20\n")
    catalog = open_catalog(f"{tmp_path}/?.csv", PLAIN)
    assert catalog.paths == parts
    with pytest.raises(CatalogError, match="'flag' is signed integers before row 2 and fractions after it"):
        read(catalog, 2)


def test_nothing_there():
    with pytest.raises(CatalogError, match="no catalog"):
        open_catalog("/nowhere/*.fits", SURVEY)


def test_real_catalogs(shared_data):
    sdss = load_survey("sdss")
    (chunk,) = read(open_catalog(str(shared_data / "sdss_dr8_catalog/test_dr8_gals_with_zred.fit"), sdss))
    assert chunk.n == 4830
    assert set(chunk.mags) == set("ugriz")
    des = load_survey("des")
    tables = [
        read(open_catalog(str(shared_data / f"des_stamps/catalog.{k}"), des, ("file",)))[0] for k in ("csv", "fits")
    ]
    assert tables[0].id.tolist() == tables[1].id.tolist()
    np.testing.assert_allclose(tables[0].mags["g"], tables[1].mags["g"])
    assert tables[0].columns["file"].tolist() == tables[1].columns["file"].tolist()


@pytest.mark.parametrize("name", ["c.csv", "c.csv.gz"])
def test_a_table_of_a_spreadsheet_is_utf8_with_a_mark_in_front(tmp_path, name):
    """Whatever the locale: names of columns are read by us, values by pyarrow."""
    survey = dataclasses.replace(PLAIN, catalog=CatalogColumns(keep=("größe",)))
    text = "\ufeffid,ra,dec,mag_g,größe\nJ1,1,2,20,klein\nJ2,1,2,20,groß\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    (chunk,) = open_catalog(str(tmp_path / name), survey).chunks()
    assert chunk.id.tolist() == ["J1", "J2"]
    assert chunk.columns["größe"].tolist() == ["klein", "groß"]


def test_a_parquet_file_with_damaged_pages_is_named(tmp_path):
    path = Path(write(table(IDS["int64"], vector=False), tmp_path, "parquet"))
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(196) + data[200:])
    with pytest.raises(CatalogError, match=r"cat\.parquet: damaged"):
        read(open_catalog(str(path), PLAIN))


TILES = {"file": ["0012", "0100", ""], "tile": ["12", "", "7"], "long": ["9007199254740993", "5", ""]}


def tiles_of(tmp_path, kind: str) -> str:
    """Write a catalog whose columns name tiles: text with leading zeros, and integers with gaps."""
    if kind == "csv":
        rows = enumerate(zip(*TILES.values(), strict=True))
        lines = ["id,file,tile,long", *(",".join((f"J{number}", *row)) for number, row in rows)]
        (tmp_path / "c.csv").write_text("\n".join(lines) + "\n")
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {"id": pa.array(["J0", "J1", "J2"]), "file": pa.array(TILES["file"])}
        for name, type in (("tile", pa.int32()), ("long", pa.int64())):
            columns[name] = pa.array([int(word) if word else None for word in TILES[name]], type)
        pq.write_table(pa.table(columns), tmp_path / "c.parquet")
    else:
        data = Table({"id": ["J0", "J1", "J2"], "file": TILES["file"]}, masked=True)
        for name in ("tile", "long"):
            data[name] = np.array([int(word or 0) for word in TILES[name]], np.int64)
            data[name].mask = [not word for word in TILES[name]]
        data.write(tmp_path / f"c.{kind}", **({"path": "t", "serialize_meta": True} if kind == "h5" else {}))
    return str(tmp_path / f"c.{kind}")


@pytest.mark.parametrize("kind", ["csv", "parquet", "fits", "h5", "ecsv"])
def test_integers_in_a_path_stay_integers(tmp_path, kind):
    """A leading zero is kept, and a missing value costs only its own row."""
    (chunk,) = read(open_catalog(tiles_of(tmp_path, kind), BARE, tuple(TILES)))
    paths = {
        text: Template(text).expand(chunk.named(Template(text).columns), chunk.n)
        for text in ("{file}/{id}", "{tile}/{id}", "{tile:04d}", "{long}")
    }
    assert paths == {
        "{file}/{id}": ["0012/J0", "0100/J1", ""],
        "{tile}/{id}": ["12/J0", "", "7/J2"],
        "{tile:04d}": ["0012", "", "0007"],
        "{long}": ["9007199254740993", "5", ""],
    }


def test_columns_with_leading_zeros_are_kept_as_text_and_read_as_numbers(tmp_path):
    survey = dataclasses.replace(PLAIN, catalog=CatalogColumns(keep=("tile", "flag")))
    (tmp_path / "c.csv").write_text("id,ra,dec,mag_g,tile,flag\n1,005,-05,021,0012,1\n2,,02,,,\n")
    (chunk,) = read(open_catalog(str(tmp_path / "c.csv"), survey))
    assert chunk.columns["tile"].tolist() == ["0012", ""]
    np.testing.assert_array_equal(chunk.columns["flag"], [1.0, np.nan])
    np.testing.assert_array_equal(chunk.ra, [5.0, np.nan])
    np.testing.assert_array_equal(chunk.dec, [-5.0, 2.0])
    np.testing.assert_array_equal(chunk.mags["g"], [21.0, np.nan])


def test_the_kind_of_a_column_in_a_path_may_change_from_file_to_file(tmp_path):
    template = Template("{tile}.fits")
    for number, tiles in enumerate((("1234", "1235"), ("0012", "1236"), ("1237", ""))):
        lines = [f"{2 * number + row},{tile}" for row, tile in enumerate(tiles)]
        (tmp_path / f"{number}.csv").write_text("\n".join(["id,tile", *lines]) + "\n")
    for rows in (2, 3, 6):
        catalog = open_catalog(f"{tmp_path}/*.csv", BARE, ("tile",))
        paths = [path for chunk in catalog.chunks(rows) for path in template.expand(chunk.named(("tile",)), chunk.n)]
        assert paths == [f"{tile}.fits" for tile in ("1234", "1235", "0012", "1236", "1237")] + [""], rows


def test_positions_that_are_none_on_the_sky_are_unknown_and_counted(tmp_path, caplog):
    path = tmp_path / "c.csv"
    path.write_text("id,ra,dec\n1,400,5\n2,10,95\n3,-999,-999\n4,-180,-90\n5,360,90\n6,,\n")
    chunks = read(open_catalog(str(path), BARE), 2)
    positions = [place for chunk in chunks for place in zip(chunk.ra.tolist(), chunk.dec.tolist(), strict=True)]
    np.testing.assert_array_equal(positions[:3], np.full((3, 2), np.nan))
    assert positions[3:5] == [(-180.0, -90.0), (360.0, 90.0)]
    messages = [record.getMessage().partition(" (")[0] for record in caplog.records]
    assert messages == [f"{path}: 3 positions are impossible"]
    caplog.clear()
    path.write_text("id,ra,dec\n1,40,5\n2,nan,nan\n")
    read(open_catalog(str(path), BARE))
    assert not caplog.records, "a missing position is no impossible one"


@pytest.mark.parametrize("kind", ["h5", "h5-group", "parquet", "fits", "csv"])
def test_a_table_without_rows_is_a_table(tmp_path, kind):
    catalog = open_catalog(write(table(IDS["int64"], False)[:0], tmp_path, kind), PLAIN)
    assert read(catalog) == []
    assert catalog.n_rows in (0, None)
