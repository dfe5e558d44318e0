"""Score a survey's stamps and write a ranked candidate catalog.

Runs as one process, or under mpiexec / srun with any number of ranks; the result has the same content
hash. The same command again resumes. Exit codes: 0 complete and accounted for, 1 error, 2 usage, 3 more
failed rows than max_failed, 74 disk, 75 incomplete (run the same command again), 130 interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

from lensscan.cli.arguments import add_assignments, named, seconds
from lensscan.config import check_keys, override, read_toml
from lensscan.errors import ConfigError, ExitCode
from lensscan.scan.settings import ScanSettings

EXAMPLE = (
    "mpiexec -n 4 lensscan scan --catalog catalog.fits --survey des --cut des-jacobs2019a \\\n"
    "      --stamps 'stamps:cuts/{tile}/{id}.fits' --model des-griz -o candidates.h5"
)
DIRECT = ("catalog", "survey", "cut", "stamps", "output")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", nargs="?", metavar="RUN.toml", help="settings; without it give them as options")
    inputs = parser.add_argument_group("what to scan")
    inputs.add_argument(
        "--catalog", metavar="F", help="survey catalog: file or quoted glob (FITS, HDF5, Parquet, CSV, ECSV)"
    )
    inputs.add_argument("--survey", metavar="S", help="survey: shipped name or TOML file")
    inputs.add_argument("--cut", metavar="C", help="colour cut: shipped name or TOML file; default: every row")
    inputs.add_argument(
        "--stamps", metavar="SPEC", help="packs:DIR, stamps:TEMPLATE, tiles:TEMPLATE or tiles:INDEX.csv"
    )
    inputs.add_argument("--model", nargs="+", metavar="M", help="model(s): shipped name or file")
    inputs.add_argument(
        "--regressor", metavar="M", help="separate model for the posteriors of rows above regress_above (default: 0)"
    )
    inputs.add_argument("-o", "--output", type=named, metavar="OUT.h5", help="output")
    how = parser.add_argument_group("how")
    how.add_argument("--resample", action="store_true", help="resample stamps to the model's pixel scale")
    how.add_argument("--prevalence", type=float, metavar="PI", help="lenses per selected row (default: the cut's)")
    how.add_argument("--max-seconds", type=seconds, metavar="S", help="stop in order after so long (exit 75)")
    how.add_argument(
        "--max-failed", type=float, metavar="F", help="fraction of rows that may fail before exit 3 (0.01)"
    )
    how.add_argument("--keep-shards", action="store_true", help="keep the run folder after the merge")
    how.add_argument(
        "--overwrite", action="store_true", help="replace an output, or drop a run, of another plan or other stamps"
    )
    add_assignments(how, "any other setting (batch, views, top, min_logit, device, threads ...: see the page The scan)")
    how.add_argument(
        "--dry-run",
        action="store_true",
        help="plan only: rows, blocks, bytes, expected output; nothing is kept",
    )


def read_settings(args: argparse.Namespace) -> ScanSettings:
    """Join RUN.toml, the options and ``--set`` (later wins)."""
    mapping: dict[str, Any] = read_toml(args.run) if args.run else {}
    for name in (*DIRECT, "model", "regressor", "prevalence", "max_seconds", "max_failed"):
        value = getattr(args, name)
        if value is not None:
            mapping[name] = value
    for name in ("resample", "keep_shards", "overwrite"):
        if getattr(args, name):
            mapping[name] = True
    mapping = override(mapping, args.assignments)
    where = args.run or "command line"
    check_keys(ScanSettings, mapping, where)  # first: a misspelt key looks like a missing one
    for field in dataclasses.fields(ScanSettings):
        if field.default is dataclasses.MISSING and field.name not in mapping:
            option = "-o" if field.name == "output" else f"--{field.name}"
            raise ConfigError(f"{where}: {field.name} is not given; add it to the file or give {option}")
    return ScanSettings.from_mapping(mapping, where)


def run(args: argparse.Namespace) -> int:
    """Run the scan."""
    from lensscan import mpi

    world = mpi.start()
    try:
        settings = read_settings(args)
    except ConfigError:
        world.finalize()
        if world.rank != 0:  # every rank reads the same settings; root alone says what is wrong
            return int(ExitCode.USAGE)
        raise
    if args.dry_run:
        try:
            return dry_run(settings, world.rank)
        finally:
            world.finalize()
    from lensscan.scan.run import run_scan

    return run_scan(settings, world, sys.argv)


def dry_run(settings: ScanSettings, rank: int) -> int:
    """Plan into a temporary folder and print what a scan would do."""
    if rank != 0:
        return 0
    import tempfile
    from pathlib import Path

    from lensscan.scan.plan import BATCHES_PER_BLOCK
    from lensscan.scan.planning import Planner
    from lensscan.survey.select import flow_lines

    planner = Planner(settings)
    with tempfile.TemporaryDirectory() as folder:
        plan = planner.make(Path(folder) / "plan.h5")
        if len(plan.cutflow):
            print("\n".join(flow_lines((step["name"].decode(), *map(int, list(step)[1:])) for step in plan.cutflow)))
        size, bands = planner.frame.size, planner.frame.bands
        print(f"{plan.n_rows:,} of {plan.n_catalog:,} catalog rows selected")
        print(f"{len(plan.blocks):,} blocks of at most {BATCHES_PER_BLOCK * plan.batch} rows")
        if planner.regressor:
            print(f"regressor {planner.regressor.name}: rows with a raw logit above {settings.threshold:g}")
        gigabytes = plan.n_rows * len(bands) * size**2 * 4 / 1e9
        print(f"stamps: {' '.join(bands)}, {size}x{size} px, {gigabytes:.3g} GB to read")
        needed = planner.disk_bytes(plan.n_rows) / 1e6
        print(f"shards and output: about {needed:.3g} MB; plan hash {plan.plan_hash}")
    return 0
