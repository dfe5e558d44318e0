"""Draw PNG pages of the ranked candidates: colour stamps with rank, logit, p_lens and Einstein radius.

A star behind the rank marks a candidate with warning flags. Relative stamp paths hold from the folder in
which the scan ran.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lensscan.cli.arguments import at_least, named
from lensscan.errors import ConfigError, ExitCode

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "lensscan mosaic candidates.h5 -n 96 --ring -o pages/candidates"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("output", metavar="OUT.h5", help="output of lensscan scan")
    parser.add_argument(
        "-o", "--pages", type=named, metavar="NAME", help="pages are NAME-01.png ... (default: beside OUT.h5)"
    )
    parser.add_argument("-n", type=at_least(1), default=48, metavar="N", help="candidates to draw (default 48)")
    parser.add_argument("--columns", type=at_least(1), default=8, metavar="N", help="stamps in a row (default 8)")
    parser.add_argument("--rows", type=at_least(1), default=6, metavar="N", help="rows of a page (default 6)")
    parser.add_argument(
        "--stamp", type=at_least(32), default=150, metavar="PX", help="side of a drawn stamp (default 150)"
    )
    parser.add_argument("--ring", action="store_true", help="draw the Einstein ring of the posterior's median")
    parser.add_argument("--clean", action="store_true", help="leave out candidates with a warning flag")
    parser.add_argument("--truth", metavar="FILE", help="table with id and is_lens: true lenses get a green frame")


def run(args: argparse.Namespace) -> int:
    """Draw the pages."""
    from lensscan.render.png import save_png
    from lensscan.view.mosaic import Layout, mosaic, read_truth

    stem = args.pages.removesuffix(".png") if args.pages else str(Path(args.output).with_suffix(""))
    if os.path.basename(stem) in ("", ".", ".."):
        raise ConfigError(f"-o {args.pages} is a folder; say how the pages are called in it, such as pages/candidates")
    layout = Layout(args.columns, args.rows, args.stamp, args.ring)
    truth = read_truth(args.truth) if args.truth else None
    pages = mosaic(args.output, args.n, layout=layout, clean=args.clean, truth=truth)
    for number, page in enumerate(pages, start=1):
        print(save_png(page, f"{stem}-{number:02d}.png"))
    return int(ExitCode.OK)
