"""Write the ranked candidates as FITS, VOTable, Parquet, CSV, ECSV, ds9 regions or lenstronomy JSON."""

from __future__ import annotations

import argparse

from lensscan.cli.arguments import named
from lensscan.errors import ExitCode

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "lensscan export candidates.h5 --to votable -o candidates.vot --prevalence 2e-4"
FORMATS = ("fits", "votable", "parquet", "csv", "ecsv", "ds9", "lenstronomy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("output", metavar="OUT.h5", help="output of lensscan scan")
    parser.add_argument("--to", required=True, choices=FORMATS, help="format")
    parser.add_argument("-o", "--file", type=named, required=True, metavar="FILE", help="file to write")
    parser.add_argument("--prevalence", type=float, metavar="PI", help="recompute p_lens for this fraction of lenses")
    parser.add_argument(
        "--prior",
        metavar="natural|uniform|FILE",
        help="re-weight the posteriors from the training's prior of theta_E to this one (FILE: theta_E, density)",
    )


def run(args: argparse.Namespace) -> int:
    """Export."""
    from lensscan.candidates.export import export

    rows = export(args.output, args.to, args.file, args.prevalence, args.prior, print)
    print(f"{args.file}: {rows:,} candidates")
    return int(ExitCode.OK)
