"""Benchmarks, as ratios within one run on one machine.

NAME is one of: scan (end to end against its ceilings and against what one would write instead),
scheduler (block messages a second), memory (peak memory against the number of rows), solver (image
positions of lenses a second, beside lenstronomy's), simulate (simulated images a second, beside caustics
and lenstronomy), train (training on one and two ranks, with and without Horovod, and milliseconds a stamp).
"""

from __future__ import annotations

import argparse

from lensscan.cli.arguments import add_assignments, at_least, named, need_gpu, refuse_others

EXAMPLE = "lensscan bench scan --rounds 5 -o bench.json"
LOOKED_AT = {
    "scan": {"rounds", "model", "folder"},
    "scheduler": {"rounds"},
    "memory": {"rows", "folder"},
    "solver": {"rounds"},
    "simulate": {"rounds"},
    "train": {"rounds", "train", "model", "device", "assignments"},
}
"""The benchmarks, and the arguments that mean something to each, besides the output."""
INTERRUPTED = "a benchmark keeps nothing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("name", choices=tuple(LOOKED_AT), metavar="NAME", help=", ".join(LOOKED_AT))
    parser.add_argument("--rounds", type=at_least(1), default=3, metavar="N", help="measured rounds (default 3)")
    parser.add_argument(
        "--rows", type=at_least(1), nargs="+", metavar="N", help="catalog lengths of the memory benchmark"
    )
    parser.add_argument("--model", default="des-griz", help="network of scan and train (default des-griz)")
    parser.add_argument("--train", default="des-griz", metavar="TRAIN.toml", help="of train (default des-griz)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of train (default cpu)")
    add_assignments(parser, "change a setting of the training of train, such as stream.split=true")
    parser.add_argument("--folder", help="where to put the test data (default: a temporary folder)")
    parser.add_argument("-o", "--output", type=named, metavar="FILE.json", help="also write the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Run one benchmark and print its figures."""
    from lensscan.files import check_file

    known = LOOKED_AT[args.name] | {"name", "output"}
    refuse_others(args, add_arguments, known, f"lensscan bench {args.name}", required=[args.name])
    if args.output:
        check_file(args.output)
    if args.name == "scheduler":
        from lensscan.site.bench.scheduler import bench_scheduler

        report = bench_scheduler(args.rounds)
    elif args.name == "solver":
        from lensscan.site.bench.solver import bench_solver

        report = bench_solver(args.rounds)
    elif args.name == "simulate":
        from lensscan.site.bench.simulate import bench_simulate

        report = bench_simulate(args.rounds)
    elif args.name == "train":
        from lensscan.site.bench.training import bench_train

        need_gpu(args.device)
        report = bench_train(args.train, args.model, args.rounds, args.device, assignments=args.assignments)
    elif args.name == "memory":
        from lensscan.site.bench.memory import ROWS, bench_memory

        report = bench_memory(args.rows or ROWS, args.folder)
    else:
        from lensscan.site.bench.endtoend import bench_scan

        report = bench_scan(args.model, args.rounds, args.folder)
    print(report.text())
    if args.output:
        report.save(args.output)
    return 0
