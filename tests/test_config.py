"""Configuration: strict about every key, and every message says where and what to do."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from lensscan.config import LATE, build, digest, find, late, load_cut, load_survey, override, read_toml, shipped
from lensscan.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    depth: int = 1


@dataclass(frozen=True)
class Outer:
    name: str
    size: float
    kind: Literal["a", "b", ""] = "a"
    many: tuple[float, ...] = ()
    inner: Inner = field(default_factory=Inner)


def test_values_are_converted_and_nested() -> None:
    built = build(Outer, {"name": "x", "size": 3, "many": [1, 2.5], "inner": {"depth": 4}}, "f.toml")
    assert built == Outer("x", 3.0, "a", (1.0, 2.5), Inner(4))
    assert isinstance(built.size, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nmae": "y"}, "f.toml: unknown key 'nmae'; did you mean 'name'?"),
        ({"inner": {"dept": 1}}, "f.toml: inner: unknown key 'dept'; did you mean 'depth'?"),
        ({"size": "big"}, "f.toml: size must be float, not 'big'"),
        ({"size": True}, "f.toml: size must be float, not True"),
        ({"kind": "c"}, "f.toml: kind must be one of a, b, '', not 'c'"),
        ({"many": 3}, "f.toml: many must be a list, not 3"),
        ({"many": [1, "x"]}, "f.toml: many[1] must be float, not 'x'"),
        ({"inner": 3}, "f.toml: inner must be a table, not 3"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(Outer, {"name": "x", "size": 1.0, **change}, "f.toml")
    assert str(error.value) == message


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^f.toml: missing key 'size'; add it$"):
        build(Outer, {"name": "x"}, "f.toml")


def test_a_file_by_a_bare_name_is_told_how_to_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("a = 1\n")
    with pytest.raises(ConfigError, match=r"for the file here write \./mine$"):
        find("surveys", "mine")
    assert find("surveys", "./mine").is_file()


def test_names_and_paths(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("a = 1\n")
    assert find("surveys", path) == path
    assert find("surveys", "des").name == "des.toml"
    with pytest.raises(ConfigError, match="did you mean 'des'"):
        find("surveys", "dess")
    with pytest.raises(ConfigError, match=r"no file .*none.toml; give a path that exists, or a shipped name: .*des"):
        find("surveys", tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="no file"):
        find("surveys", tmp_path)


def test_toml_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('a = "x\n')
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for name in ("bad.toml", "binary.toml", "none.toml", "."):
        with pytest.raises(ConfigError) as error:
            read_toml(tmp_path / name)
        assert "\n" not in str(error.value)
        assert str(tmp_path) in str(error.value)


def test_assignments_are_toml_and_reach_into_tables() -> None:
    start = {"a": {"b": 1}, "c": 2}
    changed = override(start, ["a.b=2.5", "c=word", 'd=["x", "y"]', "e.f=true"])
    assert changed == {"a": {"b": 2.5}, "c": "word", "d": ["x", "y"], "e": {"f": True}}
    assert start == {"a": {"b": 1}, "c": 2}
    for nonsense in ("a", "=3"):
        with pytest.raises(ConfigError, match="key=value"):
            override(start, [nonsense])
    with pytest.raises(ConfigError, match="c is not a table"):
        override(start, ["c.d=1"])


SURVEY = 'name = "s"\npixel_scale = {scale}\nstamp_size = {size}\n[bands.g]\nzero_point = {zero}\nfwhm = {fwhm}\n'
GOOD = {"scale": "0.2", "size": "50", "zero": "30.0", "fwhm": "0.8"}


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("scale", "-0.2", "pixel_scale must be positive"),
        ("scale", "nan", "pixel_scale must be positive"),
        ("size", "-3", "stamp_size must be positive"),
        ("zero", "nan", "bands.g.zero_point is no magnitude"),
        ("fwhm", "-1", "bands.g.fwhm must be positive"),
    ],
)
def test_impossible_surveys_are_refused(tmp_path: Path, key: str, value: str, word: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(SURVEY.format(**GOOD))
    assert load_survey(path).bands["g"].fwhm == 0.8
    path.write_text(SURVEY.format(**{**GOOD, key: value}))
    with pytest.raises(ConfigError, match=word):
        load_survey(path)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('value = "g"', "neither min nor max"),
        ('value = "g"\nmin = 5\nmax = 1', "keeps nothing"),
        ('value = "g"\nmni = 5', "did you mean 'min'"),
    ],
)
def test_impossible_cuts_are_refused(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f'name = "c"\n[[step]]\n{text}\n')
    with pytest.raises(ConfigError, match=word):
        load_cut(path)
    path.write_text('name = "c"\nprevalence = 3.0\n[[step]]\nvalue = "g"\nmin = 1\n')
    with pytest.raises(ConfigError, match="prevalence must lie between 0 and 1"):
        load_cut(path)


def test_everything_that_is_shipped_loads() -> None:
    assert {load_survey(name).name for name in shipped("surveys")} == set(shipped("surveys"))
    assert {load_cut(name).name for name in shipped("cuts")} == set(shipped("cuts"))


@dataclass(frozen=True)
class Part:
    old: float = 1.0
    new: float = late(2.0)


@dataclass(frozen=True)
class Whole:
    name: str
    part: Part = field(default_factory=Part)
    parts: dict = field(default_factory=dict)
    newer: Part = field(default_factory=Part, metadata=LATE)


def test_fields_that_came_later_count_only_where_they_are_used():
    """The digest of an old file must be what it was before the new field existed."""
    before = hashlib.sha256(b'{"name": "a", "part": {"old": 1.0}, "parts": {"g": {"old": 3.0}}}').hexdigest()
    old = Whole("a", parts={"g": Part(3.0)})
    assert digest(old) == before
    assert digest(dataclasses.replace(old, part=Part(new=2.0), newer=Part())) == before
    changed = [dataclasses.replace(old, part=Part(new=2.5)), dataclasses.replace(old, newer=Part(new=2.5))]
    changed += [dataclasses.replace(old, parts={"g": Part(3.0, 0.0)}), dataclasses.replace(old, name="b")]
    assert len({before, *(digest(each) for each in changed)}) == 5
    assert digest(old, without=("name",)) == digest(dataclasses.replace(old, name="b"), without=("name",)) != before
    assert digest(old, more=1) != before
