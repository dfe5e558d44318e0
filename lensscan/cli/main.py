"""The ``lensscan`` command: picks the command's module, turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from lensscan import __version__
from lensscan.errors import ExitCode, LensscanError

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "select": "colour cut of a survey catalog, with the cut flow",
    "pack": "stamps or coadd tiles into packs",
    "scan": "score a survey's stamps: THE main job, plain or under mpiexec",
    "verify": "re-check the accounting law and the content hash of an output",
    "show": "summary, provenance, timings and failures of an output",
    "export": "candidates as FITS, VOTable, Parquet, CSV, ECSV or ds9 regions",
    "mosaic": "PNG pages of the ranked candidates",
    "simulate": "mock stamps with truth, from a recipe and a seed",
    "train": "train a network, plain or under mpiexec",
    "doctor": "check the environment",
    "bench": "benchmarks, as ratios within one run",
    "jobscript": "a ready job script for a site",
}


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """Return the parser; only the module of `command` is imported."""
    parser = argparse.ArgumentParser(prog="lensscan", description="Score survey image stamps for galaxy-scale strong gravitational lenses.")
    parser.add_argument("--version", action="version", version=f"lensscan {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        if name != command:
            subparsers.add_parser(name, help=text)
            continue
        module = command_module(name)
        sub = subparsers.add_parser(
            name,
            help=text,
            description=(module.__doc__ or text).strip(),
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(sub)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def command_module(name: str) -> ModuleType:
    """Import the module of one command."""
    return importlib.import_module(f"lensscan.cli.{name}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never lets a traceback reach the user by itself."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in arguments if word in COMMANDS), None)
    args = build_parser(command).parse_args(arguments)
    try:
        return int(command_module(args.command).run(args))
    except LensscanError as error:
        if args.debug:
            traceback.print_exc()
        print(f"lensscan {args.command}: error: {error}", file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        print(f"lensscan {args.command}: interrupted", file=sys.stderr)
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.ERROR)
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        name = type(error).__name__
        print(f"lensscan {args.command}: internal error: {name}: {error}; run again with --debug and report it", file=sys.stderr)
        return int(ExitCode.ERROR)
