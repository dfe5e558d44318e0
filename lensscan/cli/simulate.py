"""Simulate a survey: stamps with truth, a pure function of recipe and seed; run again, it resumes.

Writes DIR/catalog.fits (what a survey would publish), DIR/truth.fits, the stamps as packs, as one FITS file per
object (--fits) or as HDF5 (--hdf5), a contact sheet DIR/sheet.png and the priors DIR/priors.png.  Under mpiexec the
ranks share the work.  With --propose-cut it draws lenses over the colours of a survey's catalog instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lensscan.cli.arguments import add_assignments, at_least, named, need_gpu
from lensscan.cli.progress import ProgressLine
from lensscan.cli.ranks import among_ranks
from lensscan.errors import ConfigError

if TYPE_CHECKING:
    from lensscan.mocks.recipes import Recipe
    from lensscan.mpi import World

EXAMPLE = "lensscan simulate des-griz -n 10000 --seed 1 -o mocks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("recipe", metavar="RECIPE", help="shipped name or TOML file")
    parser.add_argument("-n", "--number", type=at_least(1), required=True, metavar="N", help="number of objects")
    parser.add_argument("--seed", type=at_least(0), default=1, metavar="S", help="seed of the universe (default: 1)")
    parser.add_argument(
        "-o", "--output", type=named, required=True, metavar="DIR", help="folder to write or to complete"
    )
    layout = parser.add_mutually_exclusive_group()
    layout.add_argument("--fits", action="store_true", help="one FITS file per object instead of packs")
    layout.add_argument(
        "--hdf5", action="store_true", help="HDF5 with images and truth (DIR/mocks.h5) instead of packs"
    )
    add_assignments(parser, "change a setting of the recipe, e.g. --set classes.lens=0.1")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where images are made (default: cpu)")
    parser.add_argument("--threads", type=at_least(1), default=1, metavar="N", help="CPU threads (default: 1)")
    parser.add_argument("--no-sheet", action="store_true", help="no pictures")
    cut = parser.add_argument_group("cut proposal")
    cut.add_argument("--propose-cut", metavar="CATALOG", help="judge colour cuts on this catalog with N mocks")
    cut.add_argument("--survey", metavar="S", help="its survey: shipped name or TOML file")


def run(args: argparse.Namespace) -> int:
    """Run the command, alone or as one of several ranks."""
    return among_ranks("simulate", lambda world: work(args, world))


def work(args: argparse.Namespace, world: World) -> int:
    """Write the folder, or propose cuts."""
    if args.survey and not args.propose_cut:
        raise ConfigError("--survey: only a cut proposal needs a survey; add --propose-cut or leave it out")
    recipe = read_recipe(args)
    if not args.propose_cut:
        simulate(args, recipe, world)
    elif world.rank == 0:
        propose_cut(args, recipe)
    return 0


def read_recipe(args: argparse.Namespace) -> Recipe:
    """Return the recipe with the command line's changes, and prepare torch."""
    from lensscan.config import find, override, read_toml
    from lensscan.process import tune_allocator

    tune_allocator()
    import torch

    from lensscan.mocks.recipes import make_recipe

    torch.set_num_threads(args.threads)
    need_gpu(args.device)
    path = find("recipes", args.recipe)
    return make_recipe(override(read_toml(path), args.assignments), str(path))


def simulate(args: argparse.Namespace, recipe: Recipe, world: World) -> None:
    """Write the folder."""
    from lensscan.mocks.dataset import Dataset
    from lensscan.mocks.summary import draw_priors, draw_sheet

    layout = "fits" if args.fits else "hdf5" if args.hdf5 else "packs"
    dataset = Dataset(recipe, args.seed, args.number, Path(args.output), layout, args.device)
    if not dataset.write(ProgressLine("objects").show, world):
        return
    if not args.no_sheet:
        draw_sheet(recipe, args.seed, args.number, dataset.folder / "sheet.png")
        draw_priors(recipe, args.seed, args.number, dataset.folder / "priors.png")
    written = f"{dataset.folder}/catalog.fits, {dataset.files.spec}"
    print(f"wrote {args.number} objects of {recipe.name}, seed {args.seed}: {written}")


def propose_cut(args: argparse.Namespace, recipe: Recipe) -> None:
    """Print the completeness and cost of candidate cuts; write the proposed ones and a picture."""
    from lensscan.config import load_survey
    from lensscan.mocks.proposal import draw_proposal, propose, write_cut
    from lensscan.survey.catalog import open_catalog

    if not args.survey:
        raise ConfigError("--propose-cut: the catalog's columns need a survey; give --survey")
    survey = load_survey(args.survey)
    proposal = propose(recipe, args.seed, args.number, open_catalog(args.propose_cut, survey), survey)
    print(proposal.table())
    folder = Path(args.output)
    for box in proposal.boxes:
        if box.cut.name.startswith("proposed-"):
            write_cut(box, recipe, folder / f"{box.cut.name}.toml")
    draw_proposal(proposal, folder / "cuts.png")
    print(f"wrote {folder}/cuts.png and the proposed cuts beside it")
