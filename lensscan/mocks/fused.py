"""Functions of tensors with a compiled twin: one pass through memory instead of one an operation.

The compiler (``torch.compile``) needs a C++ compiler on a CPU and Triton on a GPU, and takes seconds at the first
call, so it is used on demand only.  Where it fails, the plain function does the work, and the log says so once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Fusable"]

log = logging.getLogger(__name__)

OPTIONS = {
    # One kernel: values that are used often are otherwise written to memory in between.
    "realize_opcount_threshold": 1 << 20,
    "realize_reads_threshold": 1 << 20,
    "realize_acc_reads_threshold": 1 << 20,
}


class Fusable:
    """A function of tensors that can be compiled; its shapes may change from call to call.

    Parameters
    ----------
    function : callable
        Takes tensors, returns a tensor; no side effects.

    Examples
    --------
    >>> double = Fusable(lambda x: x + x)
    >>> float(double(torch.tensor(1.5)))
    3.0
    """

    works = True  # of all functions: a machine has a compiler or has none

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.twin: Callable[..., Tensor] | None = None

    def __call__(self, *arguments: Tensor, compiled: bool = False) -> Tensor:
        """Call the function, or its compiled twin."""
        if not (compiled and Fusable.works):
            return self.function(*arguments)
        try:
            if self.twin is None:
                self.twin = torch.compile(self.function, dynamic=True, options=_known(OPTIONS))
            return self.twin(*arguments)
        except Exception as error:  # the compiler's many ways to fail; a fault of the function itself comes again below
            result = self.function(*arguments)
            Fusable.works = False
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            log.warning("no compiled simulation on this machine, the plain one is used: %s", reason)
            return result


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that this version of PyTorch has."""
    from torch._inductor import config

    return {name: value for name, value in options.items() if name in config.get_config_copy()}
