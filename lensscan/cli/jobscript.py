"""Print a job script for a supercomputer, ready to submit; submit it again (or let it requeue itself) to resume."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lensscan.cli.arguments import named
from lensscan.errors import ConfigError, ExitCode
from lensscan.site.jobscript import Job, folder, render, sites

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "lensscan jobscript --site perlmutter --nodes 4 --time 02:00:00 --account m1234 --run RUN.toml > scan.sbatch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--site", metavar="NAME", help=f"one of: {', '.join(sites())}")
    parser.add_argument("--nodes", type=int, help="number of nodes")
    parser.add_argument("--time", metavar="HH:MM:SS", help="wall time")
    parser.add_argument("--run", type=Path, metavar="RUN.toml", help="the scan; its output is what the script verifies")
    parser.add_argument("--train", metavar="TRAIN.toml", help="instead of --run a training: shipped name or TOML file")
    parser.add_argument(
        "-o", "--output", type=named, metavar="FILE", help="its model file (default: <name>.safetensors)"
    )
    parser.add_argument("--account", help="project to charge")
    parser.add_argument("--queue", help="queue, quality of service or partition")
    parser.add_argument("--folder", action="store_true", help="print the folder of the shipped scripts and stop")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    if args.folder:
        print(folder())
        return int(ExitCode.OK)
    if args.site is None:
        raise ConfigError(f"--site is missing; give one of: {', '.join(sites())}")
    text = render(args.site, Job(args.nodes, args.time, args.run, args.account, args.queue, args.train, args.output))
    print(text, end="")
    if "ACCOUNT\n" in text:
        print(
            f"lensscan jobscript: note: replace ACCOUNT, or give --account: {args.site} charges a project",
            file=sys.stderr,
        )
    return int(ExitCode.OK)
