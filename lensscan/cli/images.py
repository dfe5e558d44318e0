"""Predict the images of the candidates: positions, magnifications, parities and time delays, with 68 % intervals.

Three modes are reported apart: from the posterior alone; with the first image known (--first-image); with the
source known (--true-source). Columns are those of --table (joined by id), else catalog columns kept by the scan;
positions in arcsec about the candidates' x, y origin, or degrees with --sky. With --truth, a table of true lenses,
the later images are compared with the true ones. Redshifts that are not in a column are assumed, and recorded.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lensscan.cli.arguments import named
from lensscan.errors import ConfigError, ExitCode

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "lensscan images candidates.h5 -n 200 --z-lens photoz 0.5 --z-source 2.0 -o images.ecsv"
FORMATS = ("ecsv", "fits", "hdf5")
ENDINGS = {".ecsv": "ecsv", ".fits": "fits", ".fit": "fits", ".h5": "hdf5", ".hdf5": "hdf5"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("output", metavar="OUT.h5", help="output of lensscan scan")
    parser.add_argument(
        "-o", "--file", type=named, metavar="FILE", help="table to write (default: OUT-images.ecsv beside OUT.h5)"
    )
    parser.add_argument("--to", choices=FORMATS, help="its format (default: by the ending of FILE)")
    parser.add_argument("-n", type=int, default=100, metavar="N", help="candidates, best first (default 100)")
    parser.add_argument("--clean", action="store_true", help="leave out candidates with a warning flag")
    parser.add_argument("--table", metavar="FILE", help="table with id and the columns named below")
    columns = ("COL_X", "COL_Y")
    parser.add_argument("--first-image", nargs=2, metavar=columns, help="columns of the first image's position")
    parser.add_argument("--true-source", nargs=2, metavar=columns, help="columns of the source's position")
    parser.add_argument("--sky", action="store_true", help="these columns are RA and Dec in degrees")
    parser.add_argument("--truth", metavar="FILE", help="table of true lenses, as lensscan simulate writes it")
    redshift = "column, value or both: the value holds where the column has none (default {})"
    parser.add_argument("--z-lens", nargs="+", default=["0.5"], metavar="Z", help=redshift.format(0.5))
    parser.add_argument("--z-source", nargs="+", default=["2.0"], metavar="Z", help=redshift.format("2.0"))
    parser.add_argument("--cosmology", default="Planck18", metavar="NAME", help="one of astropy's (default Planck18)")
    parser.add_argument("--samples", type=int, default=500, help="posterior samples of a candidate (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the samples, together with the id (default 0)")
    parser.add_argument(
        "--page", type=named, metavar="FILE.png", help="page to draw (default: the table's name with .png)"
    )
    parser.add_argument(
        "--top", type=int, default=12, metavar="N", help="candidates on the page; 0: no page (default 12)"
    )


def run(args: argparse.Namespace) -> int:
    """Predict, write, draw and print."""
    from lensscan.candidates.images import ImageRequest, predict_images
    from lensscan.candidates.imagetable import write_table
    from lensscan.files import check_folder, keep_inputs
    from lensscan.view.images import check_page, draw_pages

    for name, least in (("n", 1), ("samples", 10), ("top", 0)):
        if getattr(args, name) < least:
            raise ConfigError(f"{'-n' if name == 'n' else '--' + name} {getattr(args, name)}: must be at least {least}")
    source = Path(args.output)
    path = Path(args.file) if args.file else source.with_name(f"{source.stem}-images.ecsv")
    to = args.to or ENDINGS.get(path.suffix.lower())
    if to is None:
        raise ConfigError(f"-o {path}: cannot tell the format from this ending; say --to {', '.join(FORMATS)}")
    keep_inputs(path, source, args.table, args.truth)
    request = ImageRequest(
        n=args.n,
        clean=args.clean,
        samples=args.samples,
        seed=args.seed,
        z_lens=tuple(args.z_lens),
        z_source=tuple(args.z_source),
        cosmology=args.cosmology,
        table=args.table,
        first_image=tuple(args.first_image) if args.first_image else None,
        true_source=tuple(args.true_source) if args.true_source else None,
        sky=args.sky,
        truth=args.truth,
    )
    page = Path(args.page) if args.page else path.with_suffix(".png")
    check_folder(path.parent)
    if args.top:
        check_page(page)
    report = predict_images(args.output, request)
    write_table(report.table, path, to)
    print("\n".join(report.lines()))
    print(f"\n{path}: {len(report.table):,} rows, one per candidate, mode and image")
    if args.top:
        print("\n".join(str(name) for name in draw_pages(args.output, report, page, args.top)))
    return int(ExitCode.OK)
