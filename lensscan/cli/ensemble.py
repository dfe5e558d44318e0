"""Calibrate several models together: a deep ensemble, or a committee of models trained on different recipes.

Scores fresh mocks of the recipes that the models were trained on, in equal numbers, with all models, and fits the
mean logit and the pooled posterior. The TOML file is what a scan takes as ensemble = FILE.toml, with these very
models, and what lensscan evaluate takes in place of a model. --mc-dropout N takes one model that was trained with
drop-out, and makes N of it (Monte Carlo drop-out), written beside the card.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lensscan.cli.arguments import at_least, named

if TYPE_CHECKING:
    from lensscan.nets.model import Model

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "lensscan ensemble a.safetensors b.safetensors c.safetensors -o trio.toml"

KINDS = ("temperature", "platt", "beta", "bent")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help="shipped names or paths of model files")
    parser.add_argument("-o", "--output", type=named, metavar="FILE.toml", required=True, help="the ensemble's card")
    parser.add_argument(
        "--recipe", action="append", metavar="R", help="recipe of the mocks, may be repeated (default: the models')"
    )
    parser.add_argument("-n", "--number", type=at_least(100), default=20000, metavar="N", help="mocks (default 20000)")
    parser.add_argument(
        "--others",
        type=at_least(0),
        default=0,
        metavar="N",
        help="non-lenses besides, for the top of lists (default 0)",
    )
    parser.add_argument("--seed", type=at_least(0), metavar="S", help="of the mocks (default: one no training takes)")
    parser.add_argument("--kind", choices=KINDS, default="bent", help="of the logit (default bent)")
    parser.add_argument("--mc-dropout", type=at_least(2), metavar="N", help="passes of one model under drop-out")
    parser.add_argument("--views", type=int, choices=(1, 8), help="dihedral views to average (default: the cards')")
    parser.add_argument("--threads", type=at_least(1), default=1, metavar="N", help="CPU threads (default 1)")


def run(args: argparse.Namespace) -> int:
    """Score, fit and write."""
    import dataclasses

    from lensscan.errors import ConfigError
    from lensscan.files import check_file, keep_inputs
    from lensscan.process import tune_allocator

    tune_allocator()
    import torch

    from lensscan.mocks.recipes import load_recipe
    from lensscan.nets.model import Model
    from lensscan.train.ensemble import SEED, fit_ensemble, recipes_of, write_ensemble

    torch.set_num_threads(args.threads)
    output, names = Path(args.output), list(args.models)
    if output.suffix != ".toml":
        raise ConfigError(f"output {output} must end in .toml, by which an ensemble's card is known")
    passes = [output.with_name(f"{output.stem}-{k}.safetensors") for k in range(1, 1 + (args.mc_dropout or 0))]
    for path in passes:
        keep_inputs(path, *names)
    models = _passes(names, args.mc_dropout) if args.mc_dropout else [Model.load(name) for name in names]
    if output.stem in [model.card.name for model in models]:
        raise ConfigError(f"output {output} would have the name of its model {output.stem}; give it another")
    recipes = [load_recipe(name) for name in args.recipe or ()] or recipes_of([model.card for model in models])
    check_file(output)
    seed = SEED if args.seed is None else args.seed
    ensemble = fit_ensemble(
        models,
        recipes,
        args.number,
        seed,
        args.kind,
        args.views,
        report=lambda line: print(line, file=sys.stderr),
        others=args.others,
    )
    if args.mc_dropout:  # not before all else went well
        hashes = tuple(model.save(path) for model, path in zip(models, passes, strict=True))
        names, ensemble = [str(path) for path in passes], dataclasses.replace(ensemble, hashes=hashes)
    write_ensemble(dataclasses.replace(ensemble, name=output.stem, models=tuple(names)), output)
    print(output)
    return 0


def _passes(names: list[str], number: int) -> list[Model]:
    """Return the passes of one model under drop-out, which have no files yet."""
    from lensscan.errors import ConfigError
    from lensscan.nets.model import Model
    from lensscan.nets.thinning import thinned

    if len(names) != 1:
        raise ConfigError(f"--mc-dropout takes one model, not {len(names)}")
    return thinned(Model.load(names[0]), number)
