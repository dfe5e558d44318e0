"""The layers of the package, walked through every import, also those inside functions."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "lensscan"
MODULES = sorted(
    path for path in PACKAGE.rglob("*.py") if not {"catalogs", "jobs"} & set(path.relative_to(PACKAGE).parts)
)

# a unit imports only from the rows above its own; units of one row do not know each other, but for FRIENDS
ROWS = (
    ("errors", "schema", "config", "faults"),
    ("process", "files", "hdf5"),
    ("mpi",),
    ("lens",),
    ("render",),
    ("metrics",),
    ("lenslight",),
    ("survey",),
    ("mocks",),
    ("nets",),
    ("candidates",),
    ("train", "scan", "evaluate"),
    ("view", "site"),
    ("cli",),
)
LEVEL = {unit: level for level, row in enumerate(ROWS) for unit in row}
FRIENDS = {(a, b) for a in ROWS[0] for b in ROWS[0]} | {("evaluate", "scan")}
ENTRY = {"__init__.py", "__main__.py"}  # lazy names and ``python -m lensscan``: above all layers

SOLE_IMPORTERS = {
    "mpi4py": {"mpi.py"},
    "fitsio": {"survey/fits.py"},
    "horovod": {"train/distributed.py"},
    "zuko": {"nets/flow.py"},
    "optuna": {"train/sweep/journal.py", "train/sweep/logfile.py", "train/sweep/space.py"},
}
HEAVY = ("torch", "mpi4py", "h5py", "astropy")
LONGEST_MODULE = 450
LONGEST_FUNCTION = 60


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything that a module imports anywhere in it."""
    folder = ("lensscan", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            parts = folder[: len(folder) - node.level + 1] if node.level else ()
            base = ".".join([*parts, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from ((node.lineno, str(arg.value)) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def unit(dotted: str) -> str | None:
    """Return the unit of the layer list that a dotted name of this package belongs to."""
    parts = dotted.split(".")
    if parts[0] != "lensscan" or len(parts) == 1 or parts[1].startswith("__"):
        return None
    return parts[1]


def layer_faults(path: Path) -> list[str]:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    found = []
    for line, dotted in imports(path):
        other = unit(dotted)
        if other is None or other == own or (own, other) in FRIENDS:
            continue
        if other not in LEVEL:
            found.append(f"{name(path)}:{line} imports lensscan.{other}, which is in no layer")
        elif LEVEL[other] >= LEVEL[own]:
            found.append(f"{name(path)}:{line} ({own}) imports {dotted} ({other} is not above it)")
    return found


def test_every_module_has_a_layer() -> None:
    units = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES if name(path) not in ENTRY}
    assert units <= set(LEVEL), f"not in the list of layers: {sorted(units - set(LEVEL))}"


@pytest.mark.parametrize("path", [path for path in MODULES if name(path) not in ENTRY], ids=name)
def test_imports_only_from_layers_above(path: Path) -> None:
    assert layer_faults(path) == []


def test_the_walk_sees_imports_inside_functions_and_relative_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "lensscan"
    (package / "lens").mkdir(parents=True)
    module = package / "lens" / "sie.py"
    module.write_text("def f():\n    from ..scan import run\n    import lensscan.cli.main\n    from . import light\n")
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", package)
    assert [line.split(" ")[0] for line in layer_faults(module)] == ["lens/sie.py:2", "lens/sie.py:3"]


@pytest.mark.parametrize("library", SOLE_IMPORTERS)
def test_sole_importers(library: str) -> None:
    importers = {name(path) for path in MODULES for _, dotted in imports(path) if dotted.split(".")[0] == library}
    assert importers <= SOLE_IMPORTERS[library]


@pytest.mark.parametrize("module", ["lensscan.scan.scheduler", "lensscan.scan.protocol"])
def test_scheduler_and_protocol_know_neither_mpi_nor_torch(module: str) -> None:
    assert loaded_by(f"import {module}", "torch", "mpi4py", "lensscan.mpi") == []


@pytest.mark.parametrize(
    "statement",
    [
        "import lensscan",
        "import lensscan.cli.main as m\ntry:\n    m.main(['--help'])\nexcept SystemExit:\n    pass",
    ],
    ids=["import lensscan", "lensscan --help"],
)
def test_start_is_light(statement: str) -> None:
    assert loaded_by(statement, *HEAVY) == []


def loaded_by(statement: str, *modules: str) -> list[str]:
    """Return which of `modules` a fresh interpreter has loaded after `statement`."""
    code = f"{statement}\nimport sys\nprint('loaded:', *[m for m in {modules!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return result.stdout.rpartition("loaded:")[2].split()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_house_rules(path: Path) -> None:
    tree, where = parse(path), name(path)
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_MODULE, f"{where} has {lines} lines: split it by noun"
    assert ast.get_docstring(tree), f"{where} has no docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{where}:{node.lineno} catches everything with a bare except"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called != "print" or where.startswith("cli/"), f"{where}:{node.lineno} prints; only cli does"
            assert not called.endswith("Abort") or where == "mpi.py", (
                f"{where}:{node.lineno} calls Abort; use lensscan.mpi"
            )
            assert not leaves_encoding_to_the_locale(node), f"{where}:{node.lineno} states no encoding"
        if isinstance(node, ast.FunctionDef):
            length = body_length(node)
            assert length <= LONGEST_FUNCTION, f"{where}:{node.lineno} {node.name} has {length} lines: split it"


def leaves_encoding_to_the_locale(call: ast.Call) -> bool:
    """Whether a call opens a file as text without saying how: another locale would read and write other bytes."""
    called = ast.unparse(call.func)
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    if called in ("open", "gzip.open", "os.fdopen"):
        given = [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
        return not any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in given)
    return called.endswith((".read_text", ".write_text"))


@pytest.mark.parametrize(
    ("text", "left"),
    [("open(p)", True), ("open(p, 'rb')", False), ("open(p, encoding='utf-8')", False), ("p.write_text(t)", True)],
)
def test_the_walk_sees_text_without_an_encoding(text: str, left: bool) -> None:
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    assert leaves_encoding_to_the_locale(call) == left


def body_length(node: ast.FunctionDef) -> int:
    """Return the lines of a function without its signature and docstring."""
    first = node.body[1] if ast.get_docstring(node) is not None and len(node.body) > 1 else node.body[0]
    return (node.end_lineno or first.lineno) - first.lineno + 1


def test_abort_always_carries_a_code() -> None:
    """mpi4py's ``Abort()`` means error code 0, and mpiexec then reports success."""
    calls = [
        node
        for node in ast.walk(parse(PACKAGE / "mpi.py"))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "Abort"
    ]
    assert calls, "mpi.py no longer aborts: is the guard gone?"
    for call in calls:
        assert call.args or call.keywords, f"mpi.py:{call.lineno} aborts without a code"


@pytest.mark.parametrize("path", [path for path in MODULES if path.name not in ENTRY], ids=name)
def test_all_lists_what_exists(path: Path) -> None:
    tree = parse(path)
    listed: list[str] = []
    defined: set[str] = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            defined.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {target.id for target in targets if isinstance(target, ast.Name)}
            defined |= names
            if "__all__" in names:
                listed = ast.literal_eval(node.value)  # type: ignore[arg-type]
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            defined |= {alias.asname or alias.name for alias in node.names}
    if not name(path).startswith("cli/"):
        assert listed, f"{name(path)} has no __all__"
    assert set(listed) <= defined, f"{name(path)}: __all__ names what is not there: {sorted(set(listed) - defined)}"
