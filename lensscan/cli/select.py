"""Apply a colour cut to a survey catalog, print the cut flow and write the selected rows."""

from __future__ import annotations

import argparse

import numpy as np

from lensscan.cli.arguments import named
from lensscan.errors import CatalogError, OutputError

EXAMPLE = "lensscan select 'catalog/*.fits' --survey des --cut des-jacobs2019a -o selection.fits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("catalog", metavar="CATALOG", help="file or quoted glob: FITS, HDF5, Parquet, CSV, ECSV")
    parser.add_argument("--survey", required=True, metavar="S", help="survey: shipped name or TOML file")
    parser.add_argument("--cut", required=True, metavar="C", help="colour cut: shipped name or TOML file")
    parser.add_argument(
        "-o", "--output", type=named, required=True, metavar="FILE.fits", help="selected rows and cut flow"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from pathlib import Path

    from lensscan.config import load_cut, load_survey
    from lensscan.files import keep_inputs
    from lensscan.survey.catalog import open_catalog
    from lensscan.survey.select import Selector
    from lensscan.survey.selection import SelectionWriter

    if Path(args.output).exists() and not args.overwrite:
        raise OutputError(f"{args.output} exists; give --overwrite or another name")
    survey = load_survey(args.survey)
    selector = Selector(survey, load_cut(args.cut))
    catalog = open_catalog(args.catalog, survey, everything=True)
    catalog.require(selector.bands)
    keep_inputs(args.output, *catalog.paths)
    empty: dict[str, np.ndarray] = {}
    with SelectionWriter(args.output) as writer:
        for chunk in catalog.chunks():
            keep = selector.apply(chunk)
            empty = {name: values[:0] for name, values in chunk.columns.items()}
            writer.add({name: values[keep] for name, values in chunk.columns.items()})
        if not empty:
            raise CatalogError(f"{args.catalog}: has no rows")
        writer.finish(selector.flow, empty)
    print(selector.flow.table())
    print(f"wrote {args.output}")
    return 0
