"""lensscan: scores survey image stamps for galaxy-scale strong gravitational lenses.

The names below are loaded on first use (PEP 562), so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = {
    "load_model": ("lensscan.nets.model", "load_model"),
    "read_candidates": ("lensscan.candidates.file", "read_candidates"),
    "remove_lens_light": ("lensscan.lenslight.stage", "remove_lens_light"),
    "simulate": ("lensscan.mocks.simulate", "simulate_named"),
}
_SUBPACKAGES = (
    "lens",
    "render",
    "metrics",
    "lenslight",
    "survey",
    "mocks",
    "nets",
    "candidates",
    "train",
    "scan",
    "evaluate",
)

__all__ = ["__version__", "load_model", "read_candidates", "remove_lens_light", "simulate"]

if TYPE_CHECKING:
    from lensscan.candidates.file import read_candidates
    from lensscan.lenslight.stage import remove_lens_light
    from lensscan.mocks.simulate import simulate_named as simulate
    from lensscan.nets.model import load_model


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module, attribute = _LAZY[name]
        return getattr(importlib.import_module(module), attribute)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"lensscan.{name}")
    raise AttributeError(f"module 'lensscan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_SUBPACKAGES})
