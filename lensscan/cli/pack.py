"""Turn loose stamps or coadd tiles into packs; the same command again goes on where it stopped."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lensscan.cli.arguments import at_least, named
from lensscan.cli.progress import ProgressLine
from lensscan.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from lensscan.survey.packing import PackReport

EXAMPLE = "lensscan pack selection.fits --stamps 'tiles:coadds/{tile}_{band}.fits.fz' --survey des -o packs/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("selection", metavar="SELECTION", help="catalog: of lensscan select, or any other")
    parser.add_argument(
        "--stamps", required=True, metavar="SPEC", help="stamps:TEMPLATE, tiles:TEMPLATE, tiles:INDEX.csv or packs:DIR"
    )
    parser.add_argument("--survey", required=True, metavar="S", help="survey: shipped name or TOML file")
    parser.add_argument("-o", "--output", type=named, required=True, metavar="DIR", help="folder of the packs")
    parser.add_argument("--bands", nargs="+", metavar="B", help="bands to pack (default: all of the survey)")
    parser.add_argument(
        "--size", type=at_least(1), metavar="PX", help="side of a stamp, pixels (default: the survey's)"
    )
    parser.add_argument(
        "--max-failed",
        type=float,
        default=0.01,
        metavar="F",
        help="fraction of rows that may fail before exit 3 (0.01)",
    )
    parser.add_argument("--rows", type=at_least(1), default=50_000, metavar="N", help="rows a pack (at most 50,000)")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from lensscan.config import load_survey
    from lensscan.survey.catalog import open_catalog
    from lensscan.survey.packfile import MAX_ROWS
    from lensscan.survey.packing import FAILURES, pack_catalog
    from lensscan.survey.stamps import Frame, open_source

    survey = load_survey(args.survey)
    bands = tuple(args.bands or survey.bands)
    unknown = [band for band in bands if band not in survey.bands]
    if unknown:
        raise ConfigError(f"--bands {unknown[0]}: survey {survey.name} has {', '.join(survey.bands)}")
    if args.rows > MAX_ROWS:
        raise ConfigError(f"--rows {args.rows}: a pack holds at most {MAX_ROWS} rows")
    size = survey.stamp_size if args.size is None else args.size
    frame = Frame(bands, size, survey.pixel_scale, 1)
    source = open_source(args.stamps, survey, frame)
    catalog = open_catalog(args.selection, survey, source.required_columns())
    line, total, new = ProgressLine("rows"), catalog.n_rows, 0

    def progress(report: PackReport, rows: int) -> None:
        nonlocal new
        new += rows
        line.show(report.rows + report.failed, total, new, f", {report.failed:,} failed")

    report = pack_catalog(
        catalog, source, args.stamps, survey, frame, args.output, rows_per_pack=args.rows, progress=progress
    )
    line.close()
    packs = "1 pack" if report.packs == 1 else f"{report.packs:,} packs"
    print(f"{report.rows:,} stamps in {packs} ({report.kept} stood already) in {args.output}")
    if report.failed:
        print(f"{report.failed:,} rows could not be read: see {args.output}/{FAILURES}")
    too_many = report.failed > args.max_failed * (report.rows + report.failed)
    return int(ExitCode.TOO_MANY_FAILED if too_many else ExitCode.OK)
