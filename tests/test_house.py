"""The package as a user gets it: wheel, sdist and editable install, each with catalogs and jobs."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import lensscan

ROOT = Path(__file__).resolve().parents[1]
CODE = """
import importlib.resources, lensscan
files = importlib.resources.files("lensscan")
for kind in ("catalogs", "jobs"):
    for item in sorted(p for p in (files / kind).rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        print(kind, item.relative_to(files / kind))
print("from", lensscan.__file__)
"""
SHIPPED = {".toml", ".safetensors"}


def run(*command: str | Path, **env: str) -> str:
    """Run a command away from the checkout, so that nothing is found by accident; return what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | env
    words = [str(word) for word in command]
    result = subprocess.run(words, capture_output=True, text=True, cwd="/", env=environment, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def in_checkout() -> set[str]:
    """Return ``kind path`` of every file that must be found in an installed package."""
    catalogs = {
        f"catalogs {path.relative_to(ROOT / 'catalogs')}"
        for path in (ROOT / "catalogs").rglob("*")
        if path.suffix in SHIPPED
    }
    return catalogs | {f"jobs {path.name}" for path in (ROOT / "jobs").iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with an sdist and the wheel made from it, built without the network from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("built")
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-coz", "--exclude-standard"], capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("the checkout is not a git repository")
    copy = folder / "checkout"
    for name in filter(None, listed.stdout.split("\0")):
        source, target = ROOT / name, copy / name
        if not (source.is_symlink() or source.is_file()):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(os.readlink(source))
        else:
            target.write_bytes(source.read_bytes())
    code = "import sys; from setuptools import build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, "build_sdist", folder], cwd=copy, check=True, capture_output=True)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    subprocess.run([sys.executable, "-c", code, "build_wheel", folder], cwd=source, check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_wheel_made_from_the_sdist_holds_catalogs_and_jobs(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", tmp_path, wheel)
    printed = run(sys.executable, "-c", CODE, PYTHONPATH=str(tmp_path)).splitlines()
    assert printed[-1] == f"from {tmp_path}/lensscan/__init__.py"
    assert in_checkout() <= set(printed[:-1])


@pytest.mark.slow
def test_editable_install_finds_catalogs_and_jobs(built: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    install = (sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index")
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    host = run(
        sys.executable,
        "-c",
        "import setuptools, pathlib; print(pathlib.Path(setuptools.__file__).parents[1])",
    ).strip()
    run(*install, "--no-build-isolation", "-e", built / "checkout", PYTHONPATH=host)
    printed = run(python, "-c", CODE).splitlines()
    assert printed[-1] == f"from {built}/checkout/lensscan/__init__.py"
    assert in_checkout() <= set(printed[:-1])
    assert (tmp_path / "venv" / "bin" / "lensscan").exists()
    assert not (site / "lensscan").exists(), "the package was copied: not an editable install"


@pytest.mark.slow
def test_archives_hold_nothing_that_was_not_meant(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.startswith(("tests", "demo", "docs")) or ".pyc" in name]
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "lensscan/py.typed" in names


def test_links_to_catalogs_and_jobs_are_relative() -> None:
    for name in ("catalogs", "jobs"):
        assert os.readlink(ROOT / "lensscan" / name) == f"../{name}"


def test_metadata_stands_in_setup_cfg_alone() -> None:
    with open(ROOT / "pyproject.toml", "rb") as stream:
        assert set(tomllib.load(stream)) == {"build-system"}
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["metadata"]["version"] == "attr: lensscan.__version__"
    assert {"mpi", "train", "view", "test"} <= set(config["options.extras_require"])


def test_every_requirement_is_pinned_once_in_the_constraints() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lists = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    wanted = {
        re.split(r"[<>=!~\[ ]", line)[0] for text in lists for line in text.splitlines() if line and line[0] != "#"
    }
    pinned = [
        line.split("==")[0]
        for line in (ROOT / "jobs/constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    ]
    canonical = [re.sub(r"[-_.]+", "-", name).lower() for name in pinned]
    assert len(canonical) == len(set(canonical))
    assert {re.sub(r"[-_.]+", "-", name).lower() for name in wanted} <= set(canonical)


def test_version_is_the_same_everywhere() -> None:
    assert f"version: {lensscan.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(
        rf"^## \[{re.escape(lensscan.__version__)}\]|^## \[Unreleased\]",
        (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        re.M,
    )


def test_readme_names_the_licence_of_fitsio() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "GPL-2.0-or-later" in readme
    assert "fitsio" in readme


@pytest.mark.parametrize(
    "page", sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]), ids=lambda path: path.name
)
def test_links_of_the_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_ci_runs_the_test_script() -> None:
    lines = [
        line
        for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert lines == ["bash jobs/test.sh"]
