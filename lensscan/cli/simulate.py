"""Simulate a survey: stamps with truth, a pure function of recipe and seed; run again, it resumes.

Writes DIR/catalog.fits (what a survey would publish), DIR/truth.fits, the stamps as packs or, with --fits, as
one FITS file per object, and a contact sheet DIR/sheet.png.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lensscan.cli.arguments import add_assignments, at_least
from lensscan.cli.progress import ProgressLine

if TYPE_CHECKING:
    from lensscan.mocks.dataset import Dataset

EXAMPLE = "lensscan simulate des-griz -n 10000 --seed 1 -o mocks"
SHEET = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("recipe", metavar="RECIPE", help="shipped name or TOML file")
    parser.add_argument("-n", "--number", type=at_least(1), required=True, metavar="N", help="number of objects")
    parser.add_argument("--seed", type=at_least(0), default=1, metavar="S", help="seed of the universe (default: 1)")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to write or to complete")
    parser.add_argument("--fits", action="store_true", help="one FITS file per object instead of packs")
    add_assignments(parser, "change a setting of the recipe, e.g. --set classes.lens=0.1")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where images are made (default: cpu)")
    parser.add_argument("--threads", type=at_least(1), default=1, metavar="N", help="CPU threads (default: 1)")
    parser.add_argument("--no-sheet", action="store_true", help="no contact sheet")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from pathlib import Path

    from lensscan.config import find, override, read_toml
    from lensscan.errors import ConfigError
    from lensscan.process import tune_allocator

    tune_allocator()
    import torch

    from lensscan.mocks.dataset import Dataset
    from lensscan.mocks.recipes import make_recipe

    torch.set_num_threads(args.threads)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: no GPU that torch can use; leave the option out")
    path = find("recipes", args.recipe)
    recipe = make_recipe(override(read_toml(path), args.assignments), str(path))
    dataset = Dataset(recipe, args.seed, args.number, Path(args.output), args.fits, args.device)
    dataset.write(ProgressLine("objects").show)
    if not args.no_sheet:
        draw_sheet(dataset)
    kind = "stamps:" + str(dataset.folder / "{file}") if args.fits else "packs:" + str(dataset.folder / "packs")
    print(f"wrote {args.number} objects of {recipe.name}, seed {args.seed}: {dataset.folder}/catalog.fits, {kind}")
    return 0


def draw_sheet(dataset: Dataset) -> None:
    """Draw the first lenses and the first others on a page."""
    from lensscan.mocks.recipes import CLASSES
    from lensscan.mocks.simulate import draw_truth, simulate
    from lensscan.render.png import save_png
    from lensscan.render.rgb import asinh_rgb
    from lensscan.render.sheet import Cell, contact_sheet

    recipe = dataset.recipe
    truth = draw_truth(recipe, seed=dataset.seed, n=min(dataset.n, 4096))
    lens = truth["is_lens"]
    rows = [*lens.nonzero()[0][:SHEET], *(~lens).nonzero()[0][:SHEET]]
    cells = []
    for row in rows:
        mocks = simulate(recipe, seed=dataset.seed, start=int(row), n=1)
        picture = asinh_rgb(mocks.images[0].numpy(), recipe.bands, sigma=mocks.sigma[0].numpy())
        name = CLASSES[int(truth["klass"][row])]
        text = f'{name} {truth["theta_E"][row]:.2f}"' if lens[row] else name
        cells.append(Cell(picture, (text, f"S/N {truth['snr_arc'][row]:.0f}") if lens[row] else (text,)))
    title = f"{recipe.name}, seed {dataset.seed}: lenses with theta_E, then other objects"
    save_png(contact_sheet(cells, 8, title=title), dataset.folder / "sheet.png")
