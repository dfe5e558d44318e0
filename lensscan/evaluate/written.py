"""Reports as files: plain values, names, and what one measurement says written together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from lensscan import __version__
from lensscan.errors import ConfigError, read_reason
from lensscan.files import replacing
from lensscan.metrics.bootstrap import Estimate
from lensscan.mocks.recipes import Recipe

__all__ = ["FORMAT", "file_stem", "header", "plain", "read_report", "write_all", "write_json"]

FORMAT = 1


def plain(value: Estimate) -> dict[str, float | None]:
    """Return an estimate as plain values, five digits, None for what is not finite."""
    return {name: _number(getattr(value, name)) for name in ("value", "low", "high")}


def _number(value: float) -> float | None:
    return float(f"{value:.5g}") if np.isfinite(value) else None


def _finite(value: Any) -> Any:
    """Return values that JSON can hold: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return _number(float(value))
    return value.item() if isinstance(value, np.generic) else value


def file_stem(model: str, testset: str) -> str:
    """Return the name of a report's files, without folder and ending."""
    return f"{model}--{testset.strip('/').replace('/', '_').replace(':', '-')}"


def write_json(report: Mapping[str, Any], path: Path) -> None:
    """Write a report as JSON, whole or not at all."""
    with replacing(path) as name:
        name.write_text(json.dumps(_finite(report), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_report(path: str | Path) -> dict[str, Any]:
    """Read a report.

    Raises
    ------
    ConfigError
        If the file is no report of this format.
    """
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
        stated = report["format"], report["model"]["name"], report["testset"]["name"]
    except OSError as error:
        raise ConfigError(f"{path}: {read_reason(error)}; give the JSON file of lensscan evaluate") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path} is no report of lensscan evaluate; give its JSON file") from None
    if stated[0] != FORMAT:
        raise ConfigError(f"{path}: report of format {stated[0]}, this lensscan reads {FORMAT}; evaluate again")
    return dict(report)


def header(kind: str, n: int, seed: int, replicates: int, recipe: Recipe | None = None) -> dict[str, Any]:
    """Return what a measurement on n mocks of its own begins with: their recipe if it is one, and the resamples."""
    return {
        "kind": kind,
        "lensscan": __version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        **({} if recipe is None else {"recipe": {"name": recipe.name, "digest": recipe.digest}}),
        "n": n,
        "seed": seed,
        "bootstrap": {"resamples": replicates, "level": 0.95},
    }


def write_all(
    stem: Path, values: Mapping[str, Any], page: str | None = None, pictures: Mapping[str, bytes] | None = None
) -> list[Path]:
    """Write all files of a measurement, each whole or not at all; return their paths, those that people read first.

    Pages of test sets are made from the JSON file as it reads back, and so are not written here.

    Parameters
    ----------
    stem : Path
        Folder and beginning of the names.
    values : mapping
        Of ``STEM.json``.
    page : str, optional
        Of ``STEM.html``.
    pictures : mapping of bytes, optional
        By name, of ``STEM-NAME.png``; that without a name is ``STEM.png``.
    """
    paths = [] if page is None else [stem.with_name(stem.name + ".html")]
    if page is not None:
        with replacing(paths[0]) as name:
            name.write_text(page, encoding="utf-8")
    paths.append(stem.with_name(stem.name + ".json"))
    write_json(values, paths[-1])
    for key, content in (pictures or {}).items():
        paths.append(stem.with_name(f"{stem.name}-{key}.png" if key else f"{stem.name}.png"))
        with replacing(paths[-1]) as name:
            name.write_bytes(content)
    return paths
