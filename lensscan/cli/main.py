"""The ``lensscan`` command: picks the command's module, turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from lensscan import __version__
from lensscan.cli.streams import steady_streams
from lensscan.errors import ExitCode, LensscanError, file_error

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "select": "colour cut of a survey catalog, with the cut flow",
    "pack": "stamps or coadd tiles into packs",
    "scan": "score a survey's stamps: THE main job, plain or under mpiexec",
    "verify": "re-check the accounting law and the content hash of an output",
    "show": "summary, provenance, timings and failures of an output",
    "export": "candidates as FITS, VOTable, Parquet, CSV, ECSV, ds9 regions or lenstronomy JSON",
    "images": "image positions, magnifications and time delays of the candidates, with uncertainties",
    "subtract": "take the lens's light off stamps: ICA of several bands, isophotes of one",
    "mosaic": "PNG pages of the ranked candidates",
    "simulate": "mock stamps with truth, from a recipe and a seed",
    "train": "train a network, plain or under mpiexec",
    "ensemble": "calibrate several models together, for a scan or an evaluation",
    "sweep": "search for good settings of a training, plain or under mpiexec",
    "evaluate": "measure models on a sealed test set: metrics, plots, the published figures beside",
    "doctor": "check the environment",
    "bench": "benchmarks, as ratios within one run",
    "jobscript": "a ready job script for a site",
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2."""
        self.exit(int(ExitCode.USAGE), f"{self.prog}: error: {message}; see {self.prog} --help\n")


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """Return the parser; only the module of `command` is imported."""
    parser = Parser(
        prog="lensscan", description="Score survey image stamps for galaxy-scale strong gravitational lenses."
    )
    parser.add_argument("-V", "--version", action="version", version=f"lensscan {__version__}")
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
    parser = build_parser(command)
    if not arguments:
        parser.print_help(sys.stderr)
        return int(ExitCode.USAGE)
    with steady_streams():
        try:
            args, unknown = parser.parse_known_args(arguments)
            if unknown:
                parser.prog = f"{parser.prog} {args.command}"  # its help has what there is
                parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        except SystemExit as leave:  # --help, --version, or an error that has been reported
            return int(leave.code or 0)
        return run_command(args)


def run_command(args: argparse.Namespace) -> int:
    """Run the command of parsed arguments; errors become one line and an exit code."""
    try:
        code = int(command_module(args.command).run(args))
        sys.stdout.flush()  # a full disk shows here
        return code
    except KeyboardInterrupt:
        remedy = getattr(command_module(args.command), "INTERRUPTED", "run the same command again")
        say(args, f"interrupted; {remedy}")
        return int(ExitCode.INTERRUPTED)
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        known = error if isinstance(error, LensscanError) else file_error(error)
        if known is not None:
            say(args, f"error: {known}")
            return int(known.exit_code)
        say(args, f"internal error: {type(error).__name__}: {error}; run again with --debug and report it")
        return int(ExitCode.ERROR)


def say(args: argparse.Namespace, text: str) -> None:
    """Print one line on stderr, whatever line breaks a library put into its message."""
    print(f"lensscan {args.command}: {' '.join(text.split())}", file=sys.stderr)
