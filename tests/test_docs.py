"""The tables of docs/datamodel.md say what lensscan/schema.py says; ``python tests/test_docs.py`` rewrites them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lensscan.schema import COLUMNS, FLAG_TEXT, STATUS_TEXT, Flag, Status, flag_names, status_name

PAGE = Path(__file__).resolve().parents[1] / "docs" / "datamodel.md"


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
    rows = [(str(flag.value), f"`{flag_names(flag)[0]}`", FLAG_TEXT[flag]) for flag in Flag]
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
