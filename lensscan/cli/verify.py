"""Read an output in full and re-check what it promises.

The accounting law, that no catalog row occurs twice, the rank order, and the content hash. Exit codes:
0 the output holds, 75 beside it stands an unfinished run that is to make or replace it (run the scan again), 1 else.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lensscan.errors import ExitCode

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "lensscan verify candidates.h5"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("output", metavar="OUT.h5", help="output of lensscan scan")


def run(args: argparse.Namespace) -> int:
    """Verify; returns the exit code."""
    from lensscan.candidates.verify import verify_output
    from lensscan.scan.finished import replaced_by

    if not Path(args.output).exists() and Path(f"{args.output}.run").is_dir():
        print(
            f"lensscan verify: incomplete: {args.output}.run is an unfinished run; run its scan again", file=sys.stderr
        )
        return int(ExitCode.INCOMPLETE)
    if Path(args.output).exists() and (folder := replaced_by(Path(args.output))):
        print(
            f"lensscan verify: incomplete: {args.output} stands, but {folder} is of another plan, an unfinished run "
            "that is to replace it; run its scan again, or remove that folder",
            file=sys.stderr,
        )
        return int(ExitCode.INCOMPLETE)
    result = verify_output(args.output)
    print(f"complete: {result.law()}")
    print(f"candidates: {result.header.n_candidates:,} in rank order")
    print(f"content hash: {result.header.content_hash}")
    return int(ExitCode.OK)
