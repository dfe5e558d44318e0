"""Search for good settings of a training: many trials, plain or under mpiexec.

Every rank takes the next trial from a journal and trains it by itself in a folder of its own. Trials are drawn at
random; with halving all are trained a little, the best of them further. The same command again resumes, also with
another number of ranks; SIGUSR1 or --max-seconds stop in order with exit code 75.

Writes trials.csv, parallel.png and best.toml, a training file for lensscan train. Needs the extra "sweep".
"""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from lensscan.cli.arguments import add_assignments, at_least, named, seconds
from lensscan.cli.ranks import leave_to_root
from lensscan.cli.train import choose_device
from lensscan.errors import ExitCode, LensscanError, file_error
from lensscan.scan.signals import StopRequest

if TYPE_CHECKING:
    from lensscan.mpi import World

EXAMPLE = "mpiexec -n 8 lensscan sweep argonne2017 -o sweep-argonne      (or without mpiexec)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("sweep", metavar="SWEEP.toml", help="sweep: shipped name or TOML file")
    parser.add_argument("-o", "--output", type=named, metavar="DIR", help="folder (default: <name>.sweep)")
    parser.add_argument("--trials", type=at_least(1), metavar="N", help="number of trials (default: the file's)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default auto")
    parser.add_argument(
        "--threads", type=at_least(1), default=1, metavar="N", help="threads of each rank's network (default 1)"
    )
    parser.add_argument("--retry-failed", action="store_true", help="try trials again that have failed by now")
    parser.add_argument("--max-seconds", type=seconds, metavar="S", help="checkpoint and exit 75 after so long")
    add_assignments(parser, "override a setting, such as seed=2 or fixed.steps=500")


def run(args: argparse.Namespace) -> int:
    """Run the sweep; under several ranks an error on one ends the job, and the same command goes on."""
    from lensscan import mpi

    stop = StopRequest(args.max_seconds)
    stop.install()
    world = mpi.start()
    try:
        code = sweep(args, stop, world)
    except Exception as error:
        if world.size == 1:
            raise
        known = error if isinstance(error, LensscanError) else file_error(error)
        leave_to_root(known or error, world.rank)
        if args.debug or known is None:
            traceback.print_exc()
        mpi.abort(world, int(known.exit_code if known else ExitCode.ERROR), f"lensscan sweep: error: {known or error}")
        raise
    world.finalize()
    if code in (ExitCode.INCOMPLETE, ExitCode.INTERRUPTED) and world.rank == 0:
        print("lensscan sweep: stopped, checkpoints written; run the same command again to go on", file=sys.stderr)
    return int(code)


def sweep(args: argparse.Namespace, stop: StopRequest, world: World) -> ExitCode:
    """Read the settings, do the trials, print the best."""
    from lensscan.config import find, override, read_toml
    from lensscan.process import tune_allocator

    tune_allocator()
    import torch

    from lensscan.train.sweep.run import SweepRun
    from lensscan.train.sweep.settings import Sweep
    from lensscan.train.sweep.table import text

    path = find("sweeps", args.sweep)
    trials = [] if args.trials is None else [f"trials={args.trials}"]
    settings = Sweep.from_mapping(override(read_toml(path), [*args.assignments, *trials]), str(path))
    torch.set_num_threads(args.threads)
    device = choose_device(args.device, settings.training.get("precision", "fp32"))
    folder = Path(args.output or f"{settings.name}.sweep")
    report = lambda line: print(line, file=sys.stderr, flush=True)
    code, table = SweepRun(settings, folder, device, world, stop.check, report, args.retry_failed).run()
    if code == ExitCode.OK and table:
        print(text(settings, table))
        print(f"wrote {folder}/trials.csv, {folder}/parallel.png and {folder}/best.toml")
    return code
