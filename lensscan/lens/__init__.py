"""The physics of lensing by isothermal and power-law ellipsoids: pure functions of arrays, no input or output."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lensscan.lens.sie import SIE

__all__ = ["SIE"]

_HOMES = {"SIE": "lensscan.lens.sie"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
