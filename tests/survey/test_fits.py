from __future__ import annotations

import gzip
import os

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from survey import zoo

from lensscan.errors import StampError
from lensscan.schema import Status
from lensscan.survey.fits import (
    create_fitsio,
    decode,
    open_fitsio,
    open_regular,
    read_all,
    reentrant,
    scan,
    scan_descriptor,
)
from lensscan.survey.header import parse_header

GOOD = zoo.stamp(zoo.pixels())


def test_headers_agree_with_astropy(tmp_path):
    header = fits.Header()
    header["TEXT"] = ("it's a 'quote'", "with / slash")
    header["LONG"] = "x" * 150 + "end"
    header["NUMBER"], header["EXP"], header["YES"] = 42, -1.5e-12, True
    header["HIERARCH WORST_PSF"] = 1.25
    header["EMPTY"] = ""
    raw = header.tostring(padding=True).encode()
    parsed = parse_header(raw)
    for key in ("TEXT", "NUMBER", "EXP", "YES", "WORST_PSF", "EMPTY", "LONG"):
        assert parsed.get(key) == header[key], key
    assert parsed.card("TEXT")[1] == "with / slash"
    assert parsed.get("ABSENT", 7) == 7
    assert parsed.number("TEXT") is None
    assert parsed.number("YES") is None
    assert parse_header(bytes(bytearray(raw))) is parsed


def test_fortran_exponents_and_missing_values():
    parsed = parse_header(zoo.blocks(b"A       =           1.5D-3 / d".ljust(80), b"B       = / nothing".ljust(80)))
    assert parsed.number("A") == 0.0015
    assert parsed.get("B") is None


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "i8", "f4", "f8"])
def test_pixels_agree_with_astropy(tmp_path, dtype):
    image = (np.arange(30).reshape(5, 6) * 3 + 1).astype(dtype)
    fits.PrimaryHDU(image).writeto(tmp_path / "a.fits")
    data = (tmp_path / "a.fits").read_bytes()
    (hdu,) = scan(data)
    assert hdu.shape == (5, 6)
    np.testing.assert_array_equal(decode(data, hdu), image)


def test_scaled_and_blanked_integers():
    counts = np.array([[1, -32768], [3, 4]], np.int16)
    data = zoo.primary() + zoo.extension("X", counts, zoo.card("BSCALE", 0.5), zoo.card("BLANK", -32768))
    values = decode(data, scan(data)[1])
    np.testing.assert_array_equal(values, [[0.5, np.nan], [1.5, 2.0]])


def test_scanning_memory_and_descriptor_agree(tmp_path):
    (tmp_path / "a.fits").write_bytes(GOOD)
    descriptor = open_regular(str(tmp_path / "a.fits"))
    found = scan_descriptor(descriptor)
    os.close(descriptor)
    assert [(h.index, h.kind, h.shape, h.start, h.size) for h in found] == [
        (h.index, h.kind, h.shape, h.start, h.size) for h in scan(GOOD)
    ]
    assert [h.header.name for h in found] == ["", *zoo.BANDS]


def test_special_files_are_never_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path, status in (
        (tmp_path / "fifo", Status.UNREADABLE),
        (tmp_path, Status.UNREADABLE),
        (tmp_path / "none", Status.MISSING_FILE),
        (tmp_path / "none" / "deeper", Status.MISSING_FILE),
        ("a\0b", Status.UNREADABLE),
        ("/dev/null", Status.UNREADABLE),
    ):
        with pytest.raises(StampError) as error:
            open_regular(str(path))
        assert error.value.status == status


@pytest.mark.parametrize("name", ["a [1].fits", "a(b)+1.fits", "~a.fits", "!a.fits", "stdin.fits", "-.fits"])
def test_cfitsio_reads_the_file_of_that_name_whatever_it_means_to_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(np.array([(7,)], [("a", "i4")]))]).writeto(f"./{name}")
    for path in (name, str(tmp_path / name)):
        with open_fitsio(path) as file:
            assert file[1]["a"][:].tolist() == [7]


@pytest.mark.parametrize("name", ["~a.fits", "!a.fits", "stdin.fits", "a b.fits"])
def test_cfitsio_writes_the_file_of_that_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with create_fitsio(name) as file:
        file.write(np.array([(7,)], [("a", "i4")]))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a [1].fits", "a (b).fits"])
def test_a_name_that_cfitsio_cannot_write_is_refused(tmp_path, name):
    with pytest.raises(OSError, match="give another name"):
        create_fitsio(str(tmp_path / name))
    assert not list(tmp_path.iterdir())


def test_sizes_are_bounded(tmp_path):
    (tmp_path / "a.fits").write_bytes(GOOD)
    with pytest.raises(StampError) as error:
        read_all(str(tmp_path / "a.fits"), limit=1000)
    assert error.value.status == Status.WRONG_SHAPE
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(10_000_000)))
    with pytest.raises(StampError) as error:
        read_all(str(tmp_path / "bomb.gz"), limit=100_000)
    assert error.value.status == Status.WRONG_SHAPE


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_damage_to_a_file_raises_anything_but_stamp_error(data):
    raw = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, 6 * zoo.BLOCK))
        raw[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(raw), 80, 2880, 5000, 40_000]))
    damaged = bytes(raw[:cut])
    try:
        hdus = scan(damaged)
    except StampError:
        return
    for hdu in hdus:
        assert hdu.start + hdu.size <= len(damaged)
        if hdu.kind == "image" and hdu.size:
            try:
                decode(damaged, hdu)
            except StampError:
                continue


def test_cfitsio_may_be_used_by_threads():
    assert reentrant()
