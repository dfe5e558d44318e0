"""Frozen configuration objects read from TOML, strict about every key.

Shipped files live in ``lensscan/catalogs`` and are picked by name; anything with a path separator or a
``.toml`` ending is taken as a path.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib.resources
import json
import math
import operator
import tomllib
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from lensscan.errors import ConfigError

__all__ = [
    "LATE",
    "Band",
    "CatalogColumns",
    "Cut",
    "CutStep",
    "Range",
    "Survey",
    "build",
    "check_keys",
    "check_ranges",
    "content",
    "digest",
    "find",
    "late",
    "load_cut",
    "load_survey",
    "override",
    "read_toml",
    "shipped",
    "toml_text",
]

T = TypeVar("T")
SUFFIX = {"models": ".safetensors"}
LATE: Mapping[str, bool] = {"late": True}
"""Metadata of a `late` field that needs a default factory."""


@dataclass(frozen=True, slots=True)
class Band:
    """One band of a survey.

    Attributes
    ----------
    zero_point : float or None
        AB magnitude of one image count, used where the image's header states none.
    fwhm : float or None
        Typical seeing, arcsec; used where neither header nor planes state it.
    extension : str or None
        Name of the band's image extension; default: the band's name in either case.
    mag, flux : str or None
        Catalog column of the magnitude (``"MODEL_MAG[1]"`` for one element of a vector column), or of the
        flux, whose zero point is `flux_zero_point`.
    extinction : str or None
        Catalog column of the Galactic extinction in magnitudes, subtracted before a cut.
    """

    zero_point: float | None = None
    fwhm: float | None = None
    extension: str | None = None
    mag: str | None = None
    flux: str | None = None
    flux_zero_point: float = 31.4
    extinction: str | None = None


@dataclass(frozen=True, slots=True)
class CatalogColumns:
    """Names of the catalog's columns.

    Attributes
    ----------
    id, ra, dec : str
        Identifier; position in degrees (may be absent where stamps are files).
    x, y : str or None
        0-based pixel position in the survey's tiles, where no WCS is to be trusted.
    keep : tuple of str
        Columns carried into the output as ``cat_<name>``.
    sentinels : tuple of float
        Magnitudes that mean "not measured".
    magnitudes : str
        Which magnitudes these are (e.g. "MAG_AUTO, not dereddened"); goes into the provenance.
    """

    id: str = "id"
    ra: str = "ra"
    dec: str = "dec"
    x: str | None = None
    y: str | None = None
    keep: tuple[str, ...] = ()
    sentinels: tuple[float, ...] = (99.0, -99.0)
    magnitudes: str = ""


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of a survey's images and catalog; one file in ``catalogs/surveys``."""

    name: str
    pixel_scale: float
    bands: Mapping[str, Band]
    title: str = ""
    stamp_size: int = 91
    catalog: CatalogColumns = field(default_factory=CatalogColumns)
    zero_point_keywords: tuple[str, ...] = ("MAGZERO", "MAGZPT", "MZP_AB", "MAGZP", "PHOTZP", "ZP")
    fwhm_keywords: tuple[str, ...] = ("PSF_FWHM", "FWHM", "SEEING")
    mask_value: float | None = None
    trust_wcs: bool = True


@dataclass(frozen=True, slots=True)
class CutStep:
    """One step of a cut: keep rows with ``min < value < max``; `value` is an expression in band names."""

    value: str
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """A named colour-magnitude selection with its prevalence; one file in ``catalogs/cuts``."""

    name: str
    step: tuple[CutStep, ...]
    title: str = ""
    prevalence: float | None = None
    prevalence_source: str = ""
    magnitudes: str = ""
    reference: str = ""


def shipped(kind: str) -> list[str]:
    """Return the names of the shipped files of one kind (``surveys``, ``cuts``, ``models`` ...)."""
    suffix = SUFFIX.get(kind, ".toml")
    folder = importlib.resources.files("lensscan") / "catalogs" / kind
    if not folder.is_dir():
        return []
    return sorted(item.name.removesuffix(suffix) for item in folder.iterdir() if item.name.endswith(suffix))


def find(kind: str, name: str | Path) -> Path:
    """Return the file that `name` means: a path, or the name of a shipped file of this kind.

    Raises
    ------
    ConfigError
        If neither exists; the message lists the shipped names.
    """
    suffix = SUFFIX.get(kind, ".toml")
    text = str(name)
    if text.endswith(suffix) or "/" in text:
        if Path(text).is_file():
            return Path(text)
        known = ", ".join(shipped(kind)) or "none"
        raise ConfigError(f"{kind}: no file {text}; give a path that exists, or a shipped name: {known}")
    file = importlib.resources.files("lensscan") / "catalogs" / kind / f"{text}{suffix}"
    path = Path(str(file))
    if not path.is_file():
        close = difflib.get_close_matches(text, shipped(kind), 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        way = f"for the file here write ./{text}" if Path(text).is_file() else "or give a path"
        raise ConfigError(
            f"{kind}: no shipped {text!r}{hint}; shipped are: {', '.join(shipped(kind)) or 'none'}; {way}"
        )
    return path


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file; a missing or malformed file is a one-line `ConfigError`."""
    try:
        with open(path, "rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}; correct the file") from None


def override(mapping: dict[str, Any], assignments: typing.Iterable[str]) -> dict[str, Any]:
    """Return `mapping` with ``key.sub=value`` assignments applied; values are TOML, bare words are strings."""
    result = dict(mapping)
    for assignment in assignments:
        key, sep, text = assignment.partition("=")
        if not sep or not key.strip():
            raise ConfigError(f"--set {assignment}: not of the form key=value")
        try:
            value = tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            value = text
        *parents, last = key.strip().split(".")
        target = result
        for parent in parents:
            child = target.get(parent, {})
            if not isinstance(child, dict):
                raise ConfigError(f"--set {assignment}: {parent} is not a table")
            target[parent] = dict(child)
            target = target[parent]
        target[last] = value
    return result


def build(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `cls` from a TOML mapping.

    Unknown and missing keys, and values of the wrong type, raise a `ConfigError` that names the key, the
    file (`where`) and the nearest known key.
    """
    check_keys(cls, mapping, where)
    hints = typing.get_type_hints(cls)
    values = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in mapping.items()}
    missing = [
        f.name
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if f.init
        and f.name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: missing key {missing[0]!r}; add it")
    return cls(**values)


def check_keys(cls: type, mapping: Mapping[str, Any], where: str) -> None:
    """Raise a `ConfigError` for a key that is no field of the dataclass `cls`, naming the nearest."""
    known = [f.name for f in dataclasses.fields(cls) if f.init]
    for key in mapping:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known)}"
            raise ConfigError(f"{where}: unknown key {key!r}; {hint}")


@dataclass(frozen=True, slots=True)
class Range:
    """What a number may be: from `low` to `high`, an end itself where its bracket is square."""

    low: float = 0.0
    high: float = math.inf
    brackets: Literal["[]", "[)", "(]", "()"] = "[)"

    def __contains__(self, value: float) -> bool:
        """Whether the number lies within; NaN never does."""
        above = value >= self.low if self.brackets[0] == "[" else value > self.low
        below = value <= self.high if self.brackets[1] == "]" else value < self.high
        return above and below

    def __str__(self) -> str:
        """Say in words what the number must do."""
        if self.high < math.inf:
            return f"lie in {self.brackets[0]}{self.low:g}, {self.high:g}{self.brackets[1]}"
        if self.low == 0:
            return "not be negative" if self.brackets[0] == "[" else "be positive"
        return f"be at least {self.low:g}"


def check_ranges(table: Any, ranges: Mapping[str, Range], where: str) -> None:
    """Raise a `ConfigError` for a number of a configuration, or one in a tuple of numbers, that is out of its range.

    Parameters
    ----------
    table : dataclass
    ranges : mapping of Range
        By field; a dot leads into a table within.
    where : str
        The file, named in the message.
    """
    for name, allowed in ranges.items():
        found = operator.attrgetter(name)(table)
        for value in found if isinstance(found, tuple) else (found,):
            if value not in allowed:
                raise ConfigError(f"{where}: {name} must {allowed}, not {value}")


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _convert(next(a for a in args if a is not type(None)), value, where)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a table, not {value!r}")
        return build(typing.cast(type, kind), value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} must be a list, not {value!r}")
        inner = args if len(args) == len(value) and args[-1] is not Ellipsis else (args[0],) * len(value)
        return tuple(_convert(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(inner, value, strict=True)))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a table, not {value!r}")
        return {key: _convert(args[1], item, f"{where}.{key}") for key, item in value.items()}
    return _scalar(kind, value, where)


def _scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind in (str, bool) and isinstance(value, kind):
        return value
    if typing.get_origin(kind) is typing.Literal:
        options = typing.get_args(kind)
        if value in options:
            return value
        known = ", ".join(str(option) or "''" for option in options)
        raise ConfigError(f"{where} must be one of {known}, not {value!r}")
    raise ConfigError(f"{where} must be {getattr(kind, '__name__', kind)}, not {value!r}")


def load_survey(name: str | Path) -> Survey:
    """Load a survey by shipped name or path."""
    path = find("surveys", name)
    survey = build(Survey, read_toml(path), str(path))
    if not 0 < survey.pixel_scale < math.inf:
        raise ConfigError(f"{path}: pixel_scale must be positive (arcsec per pixel)")
    if survey.stamp_size < 1:
        raise ConfigError(f"{path}: stamp_size must be positive (pixels)")
    if not survey.bands:
        raise ConfigError(f"{path}: no bands; add tables [bands.<name>]")
    for name, band in survey.bands.items():
        if band.zero_point is not None and not math.isfinite(band.zero_point):
            raise ConfigError(f"{path}: bands.{name}.zero_point is no magnitude; correct it or leave it out")
        if band.fwhm is not None and not 0 < band.fwhm < math.inf:
            raise ConfigError(f"{path}: bands.{name}.fwhm must be positive (arcsec); correct it or leave it out")
    return survey


def load_cut(name: str | Path) -> Cut:
    """Load a cut by shipped name or path."""
    path = find("cuts", name)
    cut = build(Cut, read_toml(path), str(path))
    for step in cut.step:
        if step.min is None and step.max is None:
            raise ConfigError(f"{path}: step {step.value!r} has neither min nor max; add one")
        if step.min is not None and step.max is not None and not step.min < step.max:
            raise ConfigError(
                f"{path}: step {step.value!r} keeps nothing: min {step.min:g} is not below max {step.max:g}"
            )
    if cut.prevalence is not None and not 0 < cut.prevalence < 1:
        raise ConfigError(f"{path}: prevalence must lie between 0 and 1")
    return cut


def late(default: Any) -> Any:
    """Return a dataclass field that came later: it enters `content` only where it differs from its default."""
    return field(default=default, metadata=LATE)


def digest(table: Any, without: Collection[str] = (), **more: Any) -> str:
    """Return the SHA-256 of a configuration's numbers and names, those of its parts included.

    Fields that came after the first release are marked `late` and left out while they keep their default, so that a
    new feature leaves the digests of older files as they were.

    Parameters
    ----------
    table : dataclass
    without : collection of str
        Its fields that do not count.
    **more
        Counts besides, by name.
    """
    counted = {key: value for key, value in content(table).items() if key not in without} | more
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()


def content(table: Any) -> dict[str, Any]:
    """Return a dataclass as nested dictionaries, without `late` fields that have their default."""
    found = {}
    for item in dataclasses.fields(table):
        value = getattr(table, item.name)
        if item.metadata.get("late"):
            default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
            if value == default:
                continue
        if isinstance(value, Mapping):
            value = {key: content(v) if dataclasses.is_dataclass(v) else v for key, v in value.items()}
        if isinstance(value, tuple):
            value = tuple(content(v) if dataclasses.is_dataclass(v) else v for v in value)
        found[item.name] = content(value) if dataclasses.is_dataclass(value) else value
    return found


def toml_text(mapping: Mapping[str, Any], path: tuple[str, ...] = ()) -> str:
    """Return a nested mapping of numbers, text, and lists of them as TOML: values first, then the tables."""
    plain = [f"{key} = {_literal(value)}\n" for key, value in mapping.items() if not isinstance(value, Mapping)]
    head = f"\n[{'.'.join(path)}]\n" if path and plain else ""
    tables = [toml_text(value, (*path, key)) for key, value in mapping.items() if isinstance(value, Mapping)]
    return head + "".join(plain) + "".join(tables)


def _literal(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_literal(item) for item in value)}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (str, bool)) else repr(value)
