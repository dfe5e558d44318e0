"""Measure models on a test set: one HTML page and one JSON file per model.

Sealed sets are RECIPE:smoke (2,000 objects) and RECIPE:full (100,000): the recipe at a seed of its own, checked by
hash; open them once per model that you report. RECIPE:tune[:N] has another seed, for looking as often as you
like. A folder made by lensscan simulate serves too. Several models are compared on the same galaxies.
"""

from __future__ import annotations

import argparse

from lensscan.cli.arguments import at_least
from lensscan.cli.progress import ProgressLine

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "lensscan evaluate des-griz --testset des-griz:smoke -o reports"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("models", nargs="*", metavar="MODEL", help="shipped name or path of a model file")
    parser.add_argument("--testset", metavar="T", help="RECIPE:smoke, :full, :tune[:N], or a folder of mocks")
    parser.add_argument("-o", "--output", metavar="DIR", default="reports", help="folder (default reports)")
    parser.add_argument("--baseline", metavar="FILE.json", help="report of a baseline re-run on the same set")
    parser.add_argument(
        "--bootstrap", type=at_least(2), default=1000, metavar="N", help="resamples behind the intervals (default 1000)"
    )
    parser.add_argument("--views", type=int, choices=(1, 8), help="dihedral views to average (default: the card's)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default cpu")
    parser.add_argument("--batch", type=at_least(1), default=64, metavar="N", help="rows scored at once (default 64)")
    parser.add_argument("--threads", type=at_least(1), default=1, metavar="N", help="CPU threads (default 1)")
    parser.add_argument("--no-plots", action="store_true", help="figures only")
    parser.add_argument("--overwrite", action="store_true", help="make reports anew that stand")
    parser.add_argument("--seal", metavar="RECIPE", help="print the lines that seal the recipe's test sets, and leave")


def run(args: argparse.Namespace) -> int:
    """Run what was asked for: seal, or evaluate."""
    if args.seal:
        return run_seal(args)
    return run_evaluation(args)


def run_seal(args: argparse.Namespace) -> int:
    """Print the lines for ``catalogs/testsets.toml``."""
    from lensscan.evaluate.testsets import seal

    print(seal(args.seal), end="")
    return 0


def run_evaluation(args: argparse.Namespace) -> int:
    """Evaluate the models."""
    import sys
    from pathlib import Path

    from lensscan.errors import ConfigError
    from lensscan.process import tune_allocator

    if not args.models or not args.testset:
        raise ConfigError("give at least one MODEL and --testset T, such as --testset des-griz:smoke")
    tune_allocator()
    import torch

    from lensscan.evaluate.run import Evaluation, evaluate

    torch.set_num_threads(args.threads)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: no GPU that torch can use; leave the option out")
    settings = Evaluation(
        models=args.models,
        testset=args.testset,
        folder=Path(args.output),
        baseline=args.baseline,
        replicates=args.bootstrap,
        views=args.views,
        device=args.device,
        batch=args.batch,
        plots=not args.no_plots,
        overwrite=args.overwrite,
    )
    pages = evaluate(settings, ProgressLine("stamps").show, lambda line: print(line, file=sys.stderr))
    for page in pages:
        print(page)
    return 0
