"""Say what is in an output: counts, cut flow, failures by reason, the top of the ranking, provenance."""

from __future__ import annotations

import argparse
import json

from lensscan.cli.arguments import at_least
from lensscan.errors import ExitCode

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "lensscan show candidates.h5 -n 50 --clean"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("output", metavar="OUT.h5", help="output of lensscan scan")
    parser.add_argument("-n", type=at_least(0), default=20, metavar="N", help="candidates to list (default 20)")
    parser.add_argument("--clean", action="store_true", help="leave out candidates with a warning flag")
    parser.add_argument("--provenance", action="store_true", help="print the whole provenance as JSON instead")


def run(args: argparse.Namespace) -> int:
    """Print the summary."""
    from lensscan.candidates.file import read_provenance
    from lensscan.candidates.summary import summary

    if args.provenance:
        print(json.dumps(read_provenance(args.output), indent=1))
    else:
        print("\n".join(summary(args.output, args.n, args.clean)))
    return int(ExitCode.OK)
