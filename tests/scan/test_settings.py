"""The settings of a scan: what cannot work is refused before any file is opened."""

from __future__ import annotations

from typing import Any

import pytest

from lensscan.cli.main import main
from lensscan.errors import ConfigError
from lensscan.scan.settings import ScanSettings, canonical, digest

GOOD: dict[str, Any] = {"catalog": "c.fits", "survey": "des", "stamps": "packs:p", "model": "m", "output": "o.h5"}


def test_one_model_may_be_a_word_and_the_run_folder_stands_beside_the_output() -> None:
    settings = ScanSettings.from_mapping(GOOD, "RUN.toml")
    assert settings.model == ("m",)
    assert str(settings.run_dir) == "o.h5.run"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", []),
        ("views", 3),
        ("batch", -1),
        ("readers", -1),
        ("threads", -1),
        ("top", -1),
        ("min_logit", float("nan")),
        ("regress_above", float("nan")),
        ("prevalence", 0.0),
        ("prevalence", 1.0),
        ("max_failed", 1.5),
        ("max_failed", float("nan")),
        ("max_seconds", -1.0),
        ("stall_seconds", 0.0),
        ("output", "o.fits"),
        ("precision", "fp64"),
        ("device", "tpu"),
    ],
)
def test_impossible_values_are_named(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as error:
        ScanSettings.from_mapping({**GOOD, key: value}, "RUN.toml")
    assert str(error.value).startswith("RUN.toml: ")
    assert key in str(error.value)


def test_a_misspelt_key_is_named_before_what_it_leaves_missing(tmp_path, capsys) -> None:
    run = tmp_path / "RUN.toml"
    run.write_text('catalogue = "c.fits"\n')
    assert main(["scan", str(run)]) == 2
    assert capsys.readouterr().err.strip().endswith("unknown key 'catalogue'; did you mean 'catalog'?")
    run.write_text('catalog = "c.fits"\n')
    assert main(["scan", str(run)]) == 2
    assert "survey is not given; add it to the file or give --survey" in capsys.readouterr().err


def test_canonical_json_does_not_depend_on_order_and_keeps_every_digit() -> None:
    assert canonical({"b": 0.1 + 0.2, "a": (1, 2)}) == '{"a":[1,2],"b":0.30000000000000004}'
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})


def test_there_is_no_size_of_cut_outs_to_set() -> None:
    """The models say it; a setting beside them did nothing but change the plan."""
    with pytest.raises(ConfigError, match="unknown key 'stamp_size'"):
        ScanSettings.from_mapping({**GOOD, "stamp_size": 20}, "RUN.toml")
