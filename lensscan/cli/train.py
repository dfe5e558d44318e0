"""Train a network on mocks made on the fly, plain or under mpiexec.

Writes the model file, and beside it a folder with checkpoint and curves. The same command again resumes; so
does one with another number of ranks. SIGUSR1 or --max-seconds write a checkpoint and leave with exit code
75. --finish MODEL trains nothing: it calibrates and evaluates a model of this training anew. --seeds K trains K
models that differ by their seed alone, one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lensscan.cli.arguments import add_assignments, at_least, named, need_gpu, seconds
from lensscan.cli.ranks import leave_to_root
from lensscan.errors import ConfigError, ExitCode, LensscanError, file_error
from lensscan.scan.lock import RunLock
from lensscan.scan.signals import StopRequest

if TYPE_CHECKING:
    import torch

    from lensscan.train.run import TrainRun

EXAMPLE = "mpiexec -n 4 lensscan train des-griz -o my-des-griz.safetensors      (or without mpiexec)"
BACKENDS = ("auto", "none", "torch", "horovod")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("train", metavar="TRAIN.toml", help="training: shipped name or TOML file")
    parser.add_argument("-o", "--output", type=named, metavar="FILE", help="model file (default: <name>.safetensors)")
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="what joins the ranks (default auto)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default auto")
    parser.add_argument(
        "--threads", type=at_least(1), default=1, metavar="N", help="threads of the network (default 1)"
    )
    parser.add_argument(
        "--finish", metavar="MODEL", help="keep the weights of this model of the same training; calibrate it anew"
    )
    parser.add_argument(
        "--seeds", type=at_least(2), metavar="K", help="K trainings, from the file's seed on: <FILE>-seed-S.safetensors"
    )
    parser.add_argument("--max-seconds", type=seconds, metavar="S", help="checkpoint and exit 75 after so long")
    add_assignments(parser, "override a setting, such as optimiser.lr=1e-3")


def run(args: argparse.Namespace) -> int:
    """Run the training; under several ranks an error on one ends the job instead of hanging it."""
    from lensscan import mpi

    size = mpi.launched_size() or 1
    stop = StopRequest(args.max_seconds)
    stop.install()
    mpi.pin_device()
    try:
        code = train(args, stop)
        if mpi.launched_rank() > 0:
            # Rank 0 says what is to do: it may still write, and mpiexec ends it at another's first code that is not 0.
            return int(ExitCode.OK)
        if code in (ExitCode.INCOMPLETE, ExitCode.INTERRUPTED):
            print("lensscan train: stopped, all is kept; run the same command again to go on", file=sys.stderr)
        return int(code)
    except Exception as error:
        if size == 1:
            raise
        known = error if isinstance(error, LensscanError) else file_error(error)
        leave_to_root(known or error, mpi.launched_rank())
        if args.debug or known is None:
            traceback.print_exc()
        sys.stderr.write(f"lensscan train: error: {known or error}\n")
        sys.stderr.flush()
        mpi.abort(mpi.World(), int(known.exit_code if known else ExitCode.ERROR))
        raise


def train(args: argparse.Namespace, stop: StopRequest) -> ExitCode:
    """Read the settings and train."""
    from lensscan.config import find, override, read_toml
    from lensscan.process import tune_allocator

    tune_allocator()
    import torch

    from lensscan import mpi
    from lensscan.nets.model import Model
    from lensscan.train.run import TrainRun
    from lensscan.train.settings import TrainSettings

    path = find("training", args.train)
    settings = TrainSettings.from_mapping(override(read_toml(path), args.assignments), str(path))
    torch.set_num_threads(args.threads)
    device = choose_device(args.device, settings.precision)
    output = Path(args.output or f"{settings.name}.safetensors")
    if output.suffix != ".safetensors":
        raise ConfigError(f"output {output} must end in .safetensors, by which a model file is known")
    report = Reporter(sys.stderr.isatty(), quiet=mpi.launched_rank() > 0)
    work = TrainRun(settings, output, device, args.backend, stop.check, report, functools.partial(hold, report=report))
    if args.finish is None:
        return train_each(trainings(work, args.seeds), report) if args.seeds else work.run()
    if args.seeds:
        raise ConfigError("--finish is of one model; give its seed by --set seed=S in place of --seeds")
    if mpi.launched_size() not in (None, 1):
        raise ConfigError("--finish is work for one process; run it without mpiexec")
    return work.finish(Model.load(args.finish))


@contextlib.contextmanager
def hold(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Lock the folder of a training against other jobs; the ranks of one have it through the first."""
    from lensscan import mpi

    if mpi.launched_rank() > 0:
        yield
        return
    with RunLock(folder / "lock", "training").kept() as note:
        if note:
            report(note)
        yield


def trainings(work: TrainRun, number: int) -> list[TrainRun]:
    """Return so many trainings of one file, from its seed on, each with a name and an output of its own."""
    first, output = work.settings.seed, work.output
    return [
        dataclasses.replace(
            work,
            settings=work.settings.with_seed(seed),
            output=output.with_name(f"{output.stem}-seed-{seed}{output.suffix}"),
        )
        for seed in range(first, first + number)
    ]


def train_each(works: Sequence[TrainRun], report: Callable[[str], None]) -> ExitCode:
    """Train one after the other; several ranks, or Horovod, which cannot be joined twice, do one of them in a call."""
    from lensscan import mpi

    alone = mpi.launched_size() in (None, 1) and works[0].backend != "horovod"
    for number, work in enumerate(works, start=1):
        stood = work.output.exists()
        if not stood:
            report(f"training {number} of {len(works)}: seed {work.settings.seed}")
        code = work.run()
        if code != ExitCode.OK:
            return code
        if not (alone or stood or number == len(works)):
            return ExitCode.INCOMPLETE
    return ExitCode.OK


def choose_device(name: str, precision: str) -> torch.device:
    """Return the device that ``--device`` means, and let it round as the training's precision allows.

    Raises
    ------
    ConfigError
        If it is not there.
    """
    import torch

    from lensscan.train.run import set_precision

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    need_gpu(name)
    device = torch.device(name)
    set_precision(device, precision)
    return device


class Reporter:
    """Prints progress lines: all on a terminal, else one in ten seconds, and whatever is no mere step; or none."""

    def __init__(self, terminal: bool, quiet: bool = False) -> None:
        self.terminal, self.quiet = terminal, quiet
        self.last = 0.0

    def __call__(self, line: str) -> None:
        """Print the line, or keep quiet."""
        now = time.monotonic()
        if self.quiet or (line.startswith("step ") and not self.terminal and now - self.last < 10):
            return
        self.last = now
        print(line, file=sys.stderr, flush=True)
