"""Colour cuts: every step counted, missing and sentinel magnitudes apart; the cut flow is stored with the result."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.config import Cut, CutStep, Survey
from lensscan.errors import CatalogError, ConfigError, StampError
from lensscan.survey.catalog import Chunk
from lensscan.survey.fits import keep_bytes, open_fitsio

__all__ = ["CutFlow", "FlowStep", "Selector", "expression_bands", "flow_lines", "read_stored_flow"]

OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.USub, ast.UAdd)
FUNCTIONS = ("abs", "log10", "sqrt", "exp")


@dataclass(slots=True)
class FlowStep:
    """What one step of a cut did.

    Attributes
    ----------
    name : str
        The step as text, ``1.8 < g - i < 5``.
    n_in, n_kept : int
        Rows before and after.
    n_nan, n_sentinel : int
        Rows lost because a magnitude was missing, or a sentinel (counted apart from the missing).
    """

    name: str
    n_in: int = 0
    n_kept: int = 0
    n_nan: int = 0
    n_sentinel: int = 0


@dataclass(slots=True)
class CutFlow:
    """The count of every step of a cut over a whole catalog.

    Attributes
    ----------
    name : str
        Of the cut.
    steps : list of FlowStep
    n_catalog, n_selected : int
        Rows of the catalog, and those that passed every step.
    magnitudes : str
        Which magnitudes were cut.
    prevalence : float or None
        Lenses per selected row, as the cut states it.
    """

    name: str
    steps: list[FlowStep] = field(default_factory=list)
    n_catalog: int = 0
    n_selected: int = 0
    magnitudes: str = ""
    prevalence: float | None = None

    def table(self) -> str:
        """Return the cut flow as text, one line per step."""
        lines = [f"cut {self.name}"]
        lines += [f"magnitudes: {self.magnitudes}"] if self.magnitudes else []
        lines += flow_lines([(s.name, s.n_in, s.n_kept, s.n_nan, s.n_sentinel) for s in self.steps])
        share = 100 * self.n_selected / self.n_catalog if self.n_catalog else 0.0
        lines.append(f"selected {self.n_selected:,} of {self.n_catalog:,} ({share:.3g} %)")
        return "\n".join(lines)

    def rows(self) -> NDArray[Any]:
        """Return the steps as a structured array: name, n_in, n_kept, n_nan, n_sentinel."""
        width = max([len(step.name.encode()) for step in self.steps] or [1])
        kind = [("name", f"S{width}"), ("n_in", "i8"), ("n_kept", "i8"), ("n_nan", "i8"), ("n_sentinel", "i8")]
        values = [(s.name.encode(), s.n_in, s.n_kept, s.n_nan, s.n_sentinel) for s in self.steps]
        return np.array(values, dtype=kind)


def flow_lines(steps: Iterable[tuple[str, int, int, int, int]]) -> list[str]:
    """Return the table of a cut flow, a line for each step ``(name, n_in, n_kept, n_nan, n_sentinel)``."""
    steps = list(steps)
    width = max([len(step[0]) for step in steps] or [4])
    lines = [f"{'step':<{width}}  {'in':>13}  {'kept':>13}  {'share kept':>10}  {'NaN':>11}  {'sentinel':>11}"]
    for name, n_in, n_kept, n_nan, n_sentinel in steps:
        share = f"{100 * n_kept / max(n_in, 1):.2f} %"
        lines.append(f"{name:<{width}}  {n_in:>13,}  {n_kept:>13,}  {share:>10}  {n_nan:>11,}  {n_sentinel:>11,}")
    return lines


def expression_bands(text: str) -> tuple[str, ...]:
    """Return the band names of an expression after checking that it is nothing but arithmetic.

    Raises
    ------
    ConfigError
        For anything but names, numbers, ``+ - * / **``, parentheses and ``abs log10 sqrt exp``.
    """
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"cut: cannot read {text!r} ({error}); write arithmetic such as 'g - i'") from None
    names: dict[str, None] = {}
    _walk(tree.body, text, names)
    if not names:
        raise ConfigError(f"cut: {text!r} names no band")
    return tuple(names)


def _walk(node: ast.expr, text: str, names: dict[str, None]) -> None:
    if isinstance(node, ast.BinOp) and isinstance(node.op, OPERATORS):
        _walk(node.left, text, names)
        _walk(node.right, text, names)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, OPERATORS):
        _walk(node.operand, text, names)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        if node.keywords or len(node.args) != 1:
            raise ConfigError(f"cut: {text!r}: {node.func.id} takes one argument")
        for argument in node.args:
            _walk(argument, text, names)
    elif isinstance(node, ast.Name):
        names[node.id] = None
    elif not (isinstance(node, ast.Constant) and type(node.value) in (int, float)):
        raise ConfigError(f"cut: {text!r} is not plain arithmetic in band names; write for example 'g - i'")


def _describe(step: CutStep) -> str:
    low = "" if step.min is None else f"{step.min:g} < "
    high = "" if step.max is None else f" < {step.max:g}"
    return f"{low}{step.value}{high}"


class Selector:
    """Applies a cut chunk by chunk and counts.

    Parameters
    ----------
    survey : Survey
    cut : Cut or None
        None keeps every row.

    Raises
    ------
    ConfigError
        If a step is not arithmetic, or names a band that the survey has no magnitude of.
    """

    def __init__(self, survey: Survey, cut: Cut | None) -> None:
        self.survey, self.cut = survey, cut
        steps = cut.step if cut else ()
        self._bands = [expression_bands(step.value) for step in steps]
        for step, names in zip(steps, self._bands, strict=True):
            for name in names:
                known = survey.bands.get(name)
                if known is None or not (known.mag or known.flux):
                    have = ", ".join(b for b, band in survey.bands.items() if band.mag or band.flux) or "none"
                    raise ConfigError(
                        f"cut step {step.value!r}: survey {survey.name} has no magnitude {name!r} (it has {have}); "
                        f"set bands.{name}.mag in the survey file"
                    )
        defined = f"cut defined for {cut.magnitudes}" if cut and cut.magnitudes else ""
        given = f"catalog has {survey.catalog.magnitudes}" if survey.catalog.magnitudes else ""
        statement = "; ".join(text for text in (defined, given) if text)
        self.flow = CutFlow(
            cut.name if cut else "none",
            [FlowStep(_describe(s)) for s in steps],
            magnitudes=statement,
            prevalence=cut.prevalence if cut else None,
        )

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands that the cut needs; see `Catalog.require`."""
        return tuple(dict.fromkeys(name for names in self._bands for name in names))

    def apply(self, chunk: Chunk) -> NDArray[np.bool_]:
        """Return which rows of a chunk are kept, and count them."""
        import numexpr

        keep = np.ones(chunk.n, np.bool_)
        self.flow.n_catalog += chunk.n
        steps = self.cut.step if self.cut else ()
        for step, names, count in zip(steps, self._bands, self.flow.steps, strict=True):
            missing = [name for name in names if name not in chunk.mags]
            if missing:
                key = f"bands.{missing[0]}.mag"
                raise CatalogError(f"the catalog has no magnitude {missing[0]!r}; set {key} in the survey file")
            magnitudes = {name: chunk.mags[name] for name in names}
            try:
                value = numexpr.evaluate(step.value, magnitudes, {}, truediv=True, casting="same_kind")
            except (ArithmeticError, ValueError, TypeError) as error:
                raise ConfigError(f"cut step {step.value!r} cannot be evaluated ({error}); correct it") from None
            value = np.broadcast_to(value, keep.shape)
            sentinel = _any(chunk.sentinel, names, chunk.n)
            unknown = ~np.isfinite(value) & ~sentinel
            with np.errstate(invalid="ignore"):
                inside = np.isfinite(value) & ~sentinel
                if step.min is not None:
                    inside &= value > step.min
                if step.max is not None:
                    inside &= value < step.max
            count.n_in += int(keep.sum())
            count.n_nan += int((keep & unknown).sum())
            count.n_sentinel += int((keep & sentinel).sum())
            keep &= inside
            count.n_kept += int(keep.sum())
        self.flow.n_selected += int(keep.sum())
        return keep


def _any(masks: Mapping[str, NDArray[np.bool_]], names: Iterable[str], n: int) -> NDArray[np.bool_]:
    result = np.zeros(n, np.bool_)
    for name in names:
        if name in masks:
            result |= masks[name]
    return result


def read_stored_flow(path: str | Path) -> CutFlow | None:
    """Return the cut flow stored in a selection file by `lensscan select`, None if there is none."""
    if not str(path).endswith((".fits", ".fit")):
        return None
    try:
        with open_fitsio(str(path)) as file:
            names = [hdu.get_extname() for hdu in file]
            if "CUTFLOW" not in names:
                return None
            table = keep_bytes(file["CUTFLOW"])
            header, rows = table.read_header(), table.read()
    except (StampError, OSError):
        return None
    names = [name.decode("utf-8", "replace").strip() for name in rows["name"].tolist()]
    steps = [
        FlowStep(name, *(int(row[key]) for key in ("n_in", "n_kept", "n_nan", "n_sentinel")))
        for name, row in zip(names, rows, strict=True)
        if name
    ]
    return CutFlow(
        str(header.get("CUT", "")).strip(),
        steps,
        int(header.get("N_CAT", 0)),
        int(header.get("N_SEL", 0)),
        str(header.get("MAGS", "") or "").strip(),
        float(header["PREVALEN"]) if "PREVALEN" in header else None,
    )
