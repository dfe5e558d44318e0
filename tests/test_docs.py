"""The tables of docs/datamodel.md say what lensscan/schema.py says; ``python tests/test_docs.py`` rewrites them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lensscan.schema import COLUMNS, Flag, Status, status_name

PAGE = Path(__file__).resolve().parents[1] / "docs" / "datamodel.md"

STATUS_TEXT = {
    Status.PENDING: "not looked at yet (inside a run only)",
    Status.SCORED: "scored",
    Status.CUT: "dropped by the cut (counted, not written)",
    Status.MISSING_FILE: "no such file",
    Status.UNREADABLE: "not a readable FITS file: truncated, damaged, something else by that name",
    Status.WRONG_SHAPE: "an image of another shape or size than stated",
    Status.NOT_FINITE: "too many pixels are NaN or infinite",
    Status.BLANK: "no signal at all",
    Status.MASKED: "too many pixels are masked",
    Status.OUTPUT_NOT_FINITE: "the network returned NaN or infinity",
    Status.CRASHED: "reading or scoring it killed a process",
    Status.TIMEOUT: "reading it took too long",
    Status.DUPLICATE_ID: "its id stands for several stamps",
    Status.WRONG_BANDS: "bands are missing that the model needs",
    Status.NO_ZERO_POINT: "no zero point in header or survey file",
    Status.WRONG_SCALE: "another pixel scale than the model's",
    Status.OUTSIDE_IMAGE: "the position lies outside every tile",
    Status.NO_POSITION: "no position in the catalog, and the stamps need one",
    Status.WRONG_ID: "the file holds another object",
}
FLAG_TEXT = {
    Flag.THETA_E_UNRESOLVED: "theta_E is small against the best seeing",
    Flag.POSTERIOR_WIDE: "theta_E_err is large against theta_E",
    Flag.POSTERIOR_AT_PRIOR: "the interval of theta_E touches a bound of the model's prior",
    Flag.OFF_CENTRE: "the lens centre lies more than 1 arcsec from the stamp's origin",
    Flag.MEMBERS_DISAGREE: "the networks' logits differ much",
    Flag.OOD: "unlike anything in training",
    Flag.OUT_OF_RANGE: "noise, seeing or pixel scale outside what the model was trained for",
    Flag.EDGE: "the stamp reaches over the edge of its image",
    Flag.MASKED: "some pixels are missing",
    Flag.MISSING_BAND: "a band is missing",
    Flag.RESAMPLED: "resampled to the model's pixel scale",
    Flag.STALE_WCS: "a WCS that was not used, because it does not describe the stamp",
}


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def columns() -> str:
    rows = [(f"`{c.name}`", c.dtype or "as in the catalog", c.unit, c.ucd, c.description) for c in COLUMNS]
    return table(("column", "type", "unit", "UCD", "meaning"), rows)


def status() -> str:
    rows = [(str(int(s)), f"`{status_name(s)}`", STATUS_TEXT[s]) for s in Status if s is not Status.PENDING]
    return table(("code", "status", "meaning"), rows)


def flags() -> str:
    rows = [(str(flag.value), f"`{flag.name.lower()}`", FLAG_TEXT[flag]) for flag in Flag if flag.name]
    return table(("bit", "flag", "meaning"), rows)


TABLES: dict[str, Callable[[], str]] = {"columns": columns, "status": status, "flags": flags}


def pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name}: [^\n]*-->\n)(.*?)(<!-- end -->)", re.DOTALL)


@pytest.mark.parametrize("name", TABLES)
def test_table_of_the_data_model(name: str) -> None:
    match = pattern(name).search(PAGE.read_text(encoding="utf-8"))
    assert match is not None, f"the marks of the table {name} are gone"
    assert match[2] == TABLES[name](), "run python tests/test_docs.py"


def rewrite() -> None:
    """Bring the page up to date."""
    text = PAGE.read_text(encoding="utf-8")
    for name, make in TABLES.items():
        text = pattern(name).sub(lambda match, make=make: match[1] + make() + match[3], text)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    rewrite()
