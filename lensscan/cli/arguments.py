"""What several commands' arguments share: numbers checked where they are read, and ``--set``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence

from lensscan.errors import ConfigError

__all__ = ["add_assignments", "at_least", "named", "need_gpu", "refuse_others", "seconds"]


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


def named(text: str) -> str:
    """Read a path; an empty one, which an unset variable of a script leaves, must not be taken for the default."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; give a path")
    return text


def seconds(text: str) -> float:
    """Read a time, 0 included."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of seconds, not negative")
    return value


def refuse_others(
    args: argparse.Namespace,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    looked_at: Collection[str],
    what: str,
    required: Sequence[str] = (),
) -> None:
    """Raise a `ConfigError` if an argument was given that is not looked at.

    Parameters
    ----------
    args : argparse.Namespace
    add_arguments : callable
        Of the command: what is not its default was given.
    looked_at : collection of str
        Names of the arguments that mean something.
    what : str
        Does not look at the others.
    required : sequence of str
        Words without which the command is not complete.
    """
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for name, default in vars(parser.parse_args(list(required))).items():
        value = getattr(args, name)
        if name not in looked_at and value != default:
            given = {"models": value, "assignments": ["--set"]}.get(name, [f"--{name.replace('_', '-')}"])
            raise ConfigError(f"{what} does not look at {given[0]}; leave it out")


def need_gpu(device: str) -> None:
    """Raise a one-line `ConfigError` if `device` is ``cuda`` and there is none."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: no GPU that torch can use; leave the option out")
