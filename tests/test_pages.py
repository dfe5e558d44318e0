"""What the pages show works: commands parse, TOML files load, settings are all listed, Python runs."""

from __future__ import annotations

import dataclasses
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from synthetic_run import make_run

from lensscan.cli.main import COMMANDS, build_parser
from lensscan.config import Cut, Survey, build
from lensscan.mocks.recipes import make_recipe
from lensscan.scan.settings import ScanSettings
from lensscan.train.settings import TrainSettings
from lensscan.train.sweep.settings import Sweep

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BUILDERS = {
    "base": lambda values: make_recipe(values, "page"),
    "pixel_scale": lambda values: build(Survey, values, "page"),
    "step": lambda values: build(Cut, values, "page"),
    "stamps": lambda values: ScanSettings.from_mapping(values, "page"),
    "recipe": lambda values: TrainSettings.from_mapping(values, "page"),
    "parameters": lambda values: Sweep.from_mapping(values, "page"),
}


def blocks(page: Path) -> list[str]:
    """Return the indented blocks of a page."""
    found: list[list[str]] = [[]]
    fenced = False
    for line in page.read_text(encoding="utf-8").splitlines():
        fenced ^= line.startswith("```")
        if line.startswith("    ") and not fenced:
            found[-1].append(line.strip() if page.name == "README.md" else line[4:])
        elif not line.strip() and found[-1]:
            found[-1].append("")
        elif found[-1]:
            found.append([])
    return ["\n".join(block).strip() for block in found if block]


def commands() -> list[tuple[str, str]]:
    """Return (page, command line) of every lensscan command that the pages show."""
    result = []
    for page in PAGES:
        text = " ".join(page.read_text(encoding="utf-8").split())
        result += [(page.name, span) for span in re.findall(r"`(lensscan \w+ [^-`][^`]* -[^`]*)`", text)]
        for block in blocks(page):
            for line in block.replace("\\\n", " ").splitlines():
                words = line.split("#")[0].strip()
                if re.match(r"(mpiexec -n \d+ |srun -n \d+ )?lensscan ", words):
                    result.append((page.name, words))
    return result


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_parses(page: str, line: str) -> None:
    words = shlex.split(line.split(">")[0])
    words = words[words.index("lensscan") + 1 :]
    args = build_parser(words[0]).parse_args(words)
    assert args.command in COMMANDS, page


def test_the_pages_show_commands() -> None:
    shown = {line.split("lensscan ")[1].split()[0] for _, line in commands()}
    assert {"scan", "verify", "show", "select", "pack", "mosaic", "export", "train", "simulate", "doctor"} <= shown


def toml_blocks() -> list[tuple[str, str]]:
    return [(p.name, b) for p in PAGES for b in blocks(p) if re.match(r"(name|base|catalog) = ", b)]


@pytest.mark.parametrize(("page", "text"), toml_blocks())
def test_every_toml_file_loads(page: str, text: str) -> None:
    values = tomllib.loads(text)
    kind = next(key for key in BUILDERS if key in values)
    assert BUILDERS[kind](values), page


def test_every_kind_of_file_is_shown() -> None:
    shown = [tomllib.loads(text) for _, text in toml_blocks()]
    assert all(any(key in values for values in shown) for key in BUILDERS)


def test_every_setting_of_a_scan_is_listed() -> None:
    text = (ROOT / "docs" / "scan.md").read_text(encoding="utf-8")
    missing = [
        f.name for f in dataclasses.fields(ScanSettings) if not re.search(rf"`{f.name}`|^    {f.name} =", text, re.M)
    ]
    assert not missing


def test_every_key_of_a_survey_is_named() -> None:
    from lensscan.config import Band, CatalogColumns, CutStep

    text = (ROOT / "docs" / "survey.md").read_text(encoding="utf-8")
    for cls in (Survey, Band, CatalogColumns, Cut, CutStep):
        missing = [f.name for f in dataclasses.fields(cls) if not re.search(rf"\b{f.name}\b", text)]
        assert not missing, cls


def test_the_python_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np

    from lensscan.scan.merge import MergeSettings, merge

    run = make_run(tmp_path, 60, bands=("g", "r", "i", "z"))
    merge(run.plan, run.folder, tmp_path / "candidates.h5", MergeSettings(prevalence=1e-3), run.cards, {})
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks(ROOT / "docs" / "python.md")).replace("n=100", "n=8")
    names: dict[str, object] = {"images": np.random.default_rng(1).normal(0, 10, (2, 4, 64, 64)).astype(np.float32)}
    exec(compile(code, "docs/python.md", "exec"), names)
    assert "ranking key" in capsys.readouterr().out
    assert len(names["table"]) == 2  # type: ignore[arg-type]
    assert len(names["scores"]) == 8  # type: ignore[arg-type]
    assert int(names["found"].count) in (2, 4)  # type: ignore[attr-defined]
