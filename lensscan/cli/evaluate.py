"""Measure models on a test set: one HTML page and one JSON file per model.

Sealed sets are RECIPE:smoke (2,000 objects), :medium (10,000; for few recipes) and :full (100,000): the recipe at a
seed of its own, checked by hash; open them once per model that you report. RECIPE:tune[:N] has another seed, for
looking as often as you like. A folder made by lensscan simulate serves too. Several models are compared on the same
galaxies; with --trainings, which refuses any others than trainings of one file with other seeds, a summary gives mean
and standard deviation of every figure over them. --baseline hog trains histograms of gradients on mocks of the set's
recipe, as one more model and to calibrate published figures.

--realism gates a recipe: what simple probes tell apart, lens from non-lens and mock from real stamps, and what the
model makes of real stamps with and without painted arcs. --difficulty trains two published baselines on its mocks.
--transfer puts models on the mocks of other surveys; --effects observes the same lenses under other conditions;
--shifted asks what intervals hold where seeing, noise or galaxies are not the recipe's.
--modular compares a modular network, MODEL one, with the one trained end to end, MODEL two; a third, trained end to
end on half of the mocks, tells whether that has converged. --mock-survey ranks a million mocks in which lenses are
rare; run again, it goes on, and under mpiexec the ranks share the work.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lensscan.cli.arguments import add_assignments, at_least, named, need_gpu, refuse_others, seconds
from lensscan.cli.progress import ProgressLine
from lensscan.cli.ranks import among_ranks

if TYPE_CHECKING:
    from collections.abc import Callable

    from lensscan.evaluate.predict import OneModel
    from lensscan.mocks.recipes import Recipe
    from lensscan.mpi import World
    from lensscan.nets.model import Model

__all__ = ["EXAMPLE", "add_arguments", "run"]

Found = TypeVar("Found")
HOG_MOCKS = 20_000
EXAMPLE = "lensscan evaluate des-griz --testset des-griz:smoke -o reports"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="shipped name, path of a model file, or TOML of an ensemble"
    )
    parser.add_argument("--testset", metavar="T", help="RECIPE:smoke, :medium, :full, :tune[:N], or a folder of mocks")
    parser.add_argument("-o", "--output", type=named, metavar="DIR", default="reports", help="folder (default reports)")
    parser.add_argument(
        "--baseline",
        metavar="FILE.json|hog",
        help="report of a baseline re-run on the same set, or hog: train it now on mocks of the set's recipe (--hog N)",
    )
    parser.add_argument(
        "--bootstrap", type=at_least(2), default=1000, metavar="N", help="resamples behind the intervals (default 1000)"
    )
    parser.add_argument(
        "--trainings", action="store_true", help="MODELs are one file trained with other seeds: a summary over them too"
    )
    parser.add_argument("--views", type=int, choices=(1, 8), help="dihedral views to average (default: the card's)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default cpu")
    parser.add_argument("--batch", type=at_least(1), default=64, metavar="N", help="rows scored at once (default 64)")
    parser.add_argument("--threads", type=at_least(1), default=1, metavar="N", help="CPU threads (default 1)")
    parser.add_argument("--no-plots", action="store_true", help="figures only")
    parser.add_argument("--overwrite", action="store_true", help="make reports anew that stand")
    parser.add_argument("--seal", metavar="RECIPE", help="print the lines that seal the recipe's test sets, and leave")
    parser.add_argument(
        "-n",
        "--number",
        type=at_least(50),
        metavar="N",
        help="mocks to simulate (default: realism 4000, transfer 4000 of each recipe, effects 1000, shifted 4000 of "
        "each sky, difficulty 16000, modular 12000, mock survey 1000000)",
    )
    add_assignments(
        parser,
        "change a setting of the recipe of --realism, --effects, --shifted, --difficulty, --modular or --mock-survey",
    )
    add_other_measurements(parser)


def add_other_measurements(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of what is measured without a test set."""
    real = parser.add_argument_group("realism gate")
    real.add_argument("--realism", metavar="RECIPE", help="gate this recipe, and MODEL if one is given")
    real.add_argument("--catalog", metavar="FILE", help="catalog of real stamps, as for a scan")
    real.add_argument("--survey", metavar="S", help="its survey")
    real.add_argument("--stamps", metavar="SPEC", help="its stamps, as for a scan")
    other = parser.add_argument_group("transfer")
    other.add_argument(
        "--transfer", action="store_true", help="each MODEL on the mocks of each recipe that has its bands"
    )
    other.add_argument("--recipes", nargs="+", metavar="RECIPE", help="recipes (default: those of the five surveys)")
    seen = parser.add_argument_group("conditions")
    seen.add_argument(
        "--effects", metavar="RECIPE", help="errors of MODEL under this recipe's effects, on and off, masks, noise, PSF"
    )
    seen.add_argument(
        "--shifted", metavar="RECIPE", help="MODEL on this recipe in wider seeing, more noise, and with other galaxies"
    )
    hard = parser.add_argument_group("difficulty")
    hard.add_argument("--difficulty", metavar="RECIPE", help="train the published baselines on this recipe's mocks")
    hard.add_argument("--epochs", type=at_least(1), default=200, metavar="E", help="of the network (default 200)")
    hard.add_argument("--seeds", type=at_least(1), default=1, metavar="K", help="trainings (default 1)")
    hard.add_argument("--patience", type=at_least(1), metavar="E", help="stop after E epochs without progress")
    hard.add_argument(
        "--hog",
        type=at_least(50),
        default=HOG_MOCKS,
        metavar="N",
        help="mocks for HOG, also for --baseline hog (default 20000)",
    )
    hard.add_argument("--new", type=at_least(50), default=4000, metavar="N", help="new images (default 4000)")
    pipeline = parser.add_argument_group("modules against end to end")
    pipeline.add_argument(
        "--modular", metavar="RECIPE", help="compare MODULAR END_TO_END [HALF] on this recipe's mocks"
    )
    add_mock_survey(parser)


def add_mock_survey(parser: argparse.ArgumentParser) -> None:
    """Add what a mock survey is asked for."""
    rare = parser.add_argument_group("mock survey")
    rare.add_argument("--mock-survey", metavar="RECIPE", help="rank N of this recipe's mocks, lenses being rare")
    rare.add_argument("--prevalence", type=float, metavar="PI", help="lenses per object (default: the recipe's cut's)")
    rare.add_argument(
        "--lenses", type=at_least(0), default=10_000, metavar="N", help="lenses scored besides (default 10000)"
    )
    rare.add_argument("--max-seconds", type=seconds, metavar="S", help="stop after so long and exit 75; run it again")


COMMON = {"output", "bootstrap", "device", "threads", "no_plots"}
TASKS = {
    "seal": {"seal"},
    "realism": COMMON | {"realism", "models", "number", "assignments", "catalog", "survey", "stamps", "batch"},
    "transfer": COMMON | {"transfer", "models", "recipes", "number", "views", "batch"},
    "effects": COMMON | {"effects", "models", "number", "assignments", "views", "batch"},
    "shifted": COMMON | {"shifted", "models", "number", "assignments", "views", "batch"},
    "difficulty": COMMON | {"difficulty", "number", "assignments", "epochs", "seeds", "patience", "hog", "new"},
    "modular": COMMON | {"modular", "models", "number", "assignments", "batch"},
    "mock_survey": COMMON
    | {"mock_survey", "models", "number", "assignments", "views", "batch", "prevalence", "lenses", "max_seconds"},
    "testset": COMMON | {"testset", "models", "baseline", "hog", "views", "batch", "overwrite", "trainings"},
}
"""What the command can be asked for, the last if nothing else is, and the arguments that mean something then."""


def run(args: argparse.Namespace) -> int:
    """Run what was asked for: seal, gate, transfer, conditions, skies, calibrate, survey, or evaluate."""
    task = next((name for name in TASKS if getattr(args, name)), "testset")
    refuse_others(args, add_arguments, TASKS[task], f"--{task.replace('_', '-')}")
    runs = {
        "seal": run_seal,
        "realism": run_realism,
        "transfer": run_transfer,
        "effects": run_effects,
        "shifted": run_shifted,
        "difficulty": run_difficulty,
        "modular": run_modular,
        "mock_survey": lambda args: among_ranks("evaluate", lambda world: run_mock_survey(args, world)),
        "testset": run_evaluation,
    }
    return runs[task](args)


def run_seal(args: argparse.Namespace) -> int:
    """Print the lines for ``catalogs/testsets.toml``."""
    from lensscan.evaluate.testsets import seal

    print(seal(args.seal), end="")
    return 0


def run_evaluation(args: argparse.Namespace) -> int:
    """Evaluate the models."""
    import sys
    from functools import partial

    from lensscan.errors import ConfigError

    if not args.models or not args.testset:
        raise ConfigError("give at least one MODEL and --testset T, such as --testset des-griz:smoke")
    if args.baseline != "hog" and args.hog != HOG_MOCKS:
        raise ConfigError("--testset looks at --hog only with --baseline hog; leave it out, or give both")
    start_torch(args)
    from lensscan.evaluate.run import Evaluation, evaluate
    from lensscan.evaluate.trainings import trained_seeds
    from lensscan.evaluate.trainingsreport import summarise

    settings = Evaluation(
        models=args.models,
        testset=args.testset,
        folder=Path(args.output),
        baseline=args.baseline,
        hog=args.hog,
        **scoring(args),
        plots=not args.no_plots,
        overwrite=args.overwrite,
    )
    say = partial(print, file=sys.stderr)
    seeds = trained_seeds(args.models, args.views) if args.trainings else []
    pages = evaluate(settings, Stages(), say)
    if seeds:
        baseline = str(pages[-1].with_suffix(".json")) if args.baseline == "hog" else args.baseline
        pages.append(summarise(pages[: len(seeds)], seeds, baseline, say))
    for page in pages:
        print(page)
    return 0


def start_torch(args: argparse.Namespace) -> None:
    """Tune the allocator, which must precede torch, and set its threads; without the GPU asked for, refuse."""
    from lensscan.process import tune_allocator

    tune_allocator()
    import torch

    torch.set_num_threads(args.threads)
    need_gpu(args.device)


def prepare(args: argparse.Namespace) -> None:
    """Prepare torch, pictures and output."""
    from lensscan.evaluate.plots import require_matplotlib
    from lensscan.files import check_folder

    start_torch(args)
    if not args.no_plots:
        require_matplotlib()
    check_folder(args.output)


def prepared_recipe(args: argparse.Namespace, name: str, canvas: tuple[str, ...] = ()) -> Recipe:
    """Prepare, and return a recipe with the command line's changes."""
    from lensscan.config import find, override, read_toml

    prepare(args)
    from lensscan.mocks.recipes import make_recipe

    path = find("recipes", name)
    mapping = override(read_toml(path), args.assignments)
    given = {key: getattr(args, key) for key in canvas if getattr(args, key)}
    if given:
        mapping["canvas"] = {**mapping.get("canvas", {}), **given}
    return make_recipe(mapping, str(path))


def load_models(args: argparse.Namespace) -> list[Model]:
    """Return the models of the command line."""
    from lensscan.nets.model import Model

    return [Model.load(name) for name in args.models]


def scoring(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of `lensscan.evaluate.predict.Scoring`."""
    return {"replicates": args.bootstrap, "views": args.views, "device": args.device, "batch": args.batch}


def publish(
    args: argparse.Namespace,
    found: Found,
    lines: Callable[[Found], list[str]],
    write: Callable[[Found, Path, bool], list[Path]],
) -> int:
    """Print what was found as `lines`, `write` it into files, and print their paths."""
    print("\n".join(lines(found)))
    for path in write(found, Path(args.output), not args.no_plots):
        print(path)
    return 0


def run_realism(args: argparse.Namespace) -> int:
    """Gate a recipe, and a model if one is given."""
    from lensscan.errors import ConfigError

    if len(args.models) > 1:
        raise ConfigError("--realism takes one MODEL at most; gate them one by one")
    recipe = prepared_recipe(args, args.realism, ("catalog", "survey", "stamps"))
    from lensscan.evaluate.gatereport import lines, write_realism
    from lensscan.evaluate.realism import RealismSettings, measure_realism

    settings = RealismSettings(
        recipe=recipe,
        model=next(iter(load_models(args)), None),
        n=args.number or 4000,
        device=args.device,
        batch=args.batch,
        replicates=args.bootstrap,
    )
    return publish(args, measure_realism(settings, Stages()), lines, write_realism)


def run_transfer(args: argparse.Namespace) -> int:
    """Put every model on the mocks of every recipe."""
    from lensscan.errors import ConfigError

    if not args.models:
        raise ConfigError("--transfer needs at least one MODEL, such as lensscan evaluate des-griz --transfer")
    prepare(args)
    from lensscan.evaluate.transfer import SURVEYS, TransferSettings, measure_transfer
    from lensscan.evaluate.transferreport import lines, write_transfer

    settings = TransferSettings(
        models=load_models(args),
        recipes=args.recipes or SURVEYS,
        n=args.number or 4000,
        **scoring(args),
    )
    return publish(args, measure_transfer(settings, Stages()), lines, write_transfer)


def one_model(args: argparse.Namespace, task: str, n: int) -> OneModel:
    """Return what a task measures that takes one model and a recipe; n mocks unless others are asked for."""
    from lensscan.errors import ConfigError

    if len(args.models) != 1:
        raise ConfigError(f"--{task} takes one MODEL, such as lensscan evaluate des-griz --{task} des-griz")
    recipe = prepared_recipe(args, getattr(args, task))
    from lensscan.evaluate.predict import OneModel

    return OneModel(model=load_models(args)[0], recipe=recipe, n=args.number or n, **scoring(args))


def run_effects(args: argparse.Namespace) -> int:
    """Measure a model's errors under other conditions."""
    settings = one_model(args, "effects", 1000)
    from lensscan.evaluate.effects import measure_effects
    from lensscan.evaluate.effectsreport import lines, write_effects

    return publish(args, measure_effects(settings, Stages()), lines, write_effects)


def run_shifted(args: argparse.Namespace) -> int:
    """Measure a model under other skies."""
    settings = one_model(args, "shifted", 4000)
    from lensscan.evaluate.shifted import measure_shifted
    from lensscan.evaluate.shiftedreport import lines, write_shifted

    return publish(args, measure_shifted(settings, Stages()), lines, write_shifted)


def run_difficulty(args: argparse.Namespace) -> int:
    """Train the published baselines on a recipe's mocks."""
    recipe = prepared_recipe(args, args.difficulty)
    from lensscan.evaluate.difficulty import DifficultySettings, measure_difficulty
    from lensscan.evaluate.difficultyreport import lines, write_difficulty
    from lensscan.train.calibrator import CalibratorTraining

    settings = DifficultySettings(
        recipe=recipe,
        n=args.number or 16000,
        hog=args.hog,
        new=args.new,
        epochs=args.epochs,
        seeds=args.seeds,
        patience=args.patience,
        device=args.device,
        replicates=args.bootstrap,
    )
    train = CalibratorTraining(recipe, args.epochs, args.device, Path(args.output))
    found = measure_difficulty(settings, train, Stages())
    code = publish(args, found, lines, write_difficulty)
    print("\n".join(str(path) for path in train.written))
    shutil.rmtree(train.run, ignore_errors=True)
    return code


def run_modular(args: argparse.Namespace) -> int:
    """Compare a modular network with one trained end to end."""
    recipe = prepared_recipe(args, args.modular)
    from lensscan.evaluate.modular import ModularSettings, measure_modular
    from lensscan.evaluate.modularreport import lines, write_modular

    settings = ModularSettings(
        recipe=recipe,
        models=load_models(args),
        n=args.number or 12_000,
        device=args.device,
        batch=args.batch,
        replicates=args.bootstrap,
    )
    return publish(args, measure_modular(settings, Stages()), lines, write_modular)


def run_mock_survey(args: argparse.Namespace, world: World) -> int:
    """Rank the objects of a mock survey by every model."""
    import sys
    from functools import partial

    from lensscan.errors import ConfigError, ExitCode
    from lensscan.scan.signals import StopRequest

    if not args.models:
        raise ConfigError("--mock-survey needs a MODEL, such as lensscan evaluate des-griz --mock-survey des-griz")
    recipe = prepared_recipe(args, args.mock_survey)
    from lensscan.evaluate.members import line_up
    from lensscan.evaluate.mocksurvey import SurveySettings, run_survey, stated_prevalence
    from lensscan.evaluate.mocksurveyreport import lines, write_survey
    from lensscan.evaluate.toplists import measure_lists

    settings = SurveySettings(
        lineup=line_up(args.models, args.views),
        recipe=recipe,
        prevalence=stated_prevalence(recipe, args.prevalence),
        n=args.number or 1_000_000,
        lenses=args.lenses,
        **scoring(args),
    )
    stop, folder = StopRequest(args.max_seconds), Path(args.output)
    with stop.installed():
        progress = ProgressLine("objects").show
        objects = run_survey(settings, folder / f"mock-survey--{recipe.name}.run", world, stop.check, progress)
    if isinstance(objects, ExitCode):
        print("lensscan evaluate: stopped; run the same command again to go on", file=sys.stderr)
        return int(objects)
    if objects is None:
        return 0
    found = measure_lists(settings, objects, Stages())
    return publish(args, found, partial(lines, settings, objects), partial(write_survey, settings, objects))


class Stages:
    """A progress line for each stage of a long command."""

    def __init__(self) -> None:
        self._what = ""
        self._line = ProgressLine("")

    def __call__(self, what: str, done: int, total: int, new: int | None = None) -> None:
        """Show that `done` of `total` are done, `new` of them by this very run; another `what` begins a new line."""
        if what != self._what:
            self._line.close()
            self._what, self._line = what, ProgressLine(what)
        self._line.show(done, total, new)
