"""What several commands' arguments share: numbers checked where they are read, and ``--set``."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from lensscan.errors import ConfigError

__all__ = ["add_assignments", "at_least", "need_gpu", "seconds"]


def add_assignments(parser: argparse._ActionsContainer, text: str) -> None:
    """Add ``--set KEY=VALUE``, which may be given several times; see `lensscan.config.override`."""
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE", help=text)


def at_least(lowest: int) -> Callable[[str], int]:
    """Return what argparse needs to read a whole number that is not below `lowest`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if value < lowest:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, at least {lowest}")
        return value

    return read


def seconds(text: str) -> float:
    """Read a time, 0 included."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of seconds, not negative")
    return value


def need_gpu(device: str) -> None:
    """Raise a one-line `ConfigError` if `device` is ``cuda`` and there is none."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: no GPU that torch can use; leave the option out")
