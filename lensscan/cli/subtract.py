"""Take the lens's light off stamps: planes LENS and ARCS of every band as FITS, and a picture of each stamp.

With two bands or more lens and arcs are told apart by colour (ICA), all bands at the PSF of the worst; with one
band, or where ICA cannot be had, the lens is modelled as a smooth galaxy. --method all draws both. --method module
takes the modules of a trained network, --model: stamps denoised and deblended, in the bands and pixels of the model.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lensscan.cli.arguments import at_least, named
from lensscan.errors import ConfigError, ExitCode, OutputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    import numpy as np
    from numpy.typing import NDArray

    from lensscan.config import Survey
    from lensscan.lenslight.stage import LensLight
    from lensscan.survey.stamps import Batch, Frame, Rows

    Method: TypeAlias = Callable[[Batch, NDArray[np.bool_]], LensLight]

__all__ = ["EXAMPLE", "METHODS", "add_arguments", "run"]

MODULE = "module"
EXAMPLE = "lensscan subtract stamps/des_dls_001.fits stamps/des_dls_002.fits --survey des --bands g,r,i,z -o arcs"
METHODS = ("auto", "ica", "isophotes", "all", MODULE)
BATCH = 32
RADIUS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("stamps", nargs="+", metavar="STAMP.fits", help="stamps; {band} for one file per band")
    parser.add_argument("--survey", required=True, metavar="S", help="shipped name or TOML file")
    parser.add_argument(
        "-o", "--output", type=named, required=True, metavar="DIR", help="folder of NAME-light.fits and NAME.png"
    )
    parser.add_argument("--method", choices=METHODS, default="auto", help="how (default: auto)")
    parser.add_argument("--model", metavar="M", help="of --method module: shipped name or path of a modular model")
    parser.add_argument("--bands", metavar="B,B", help="bands to use, by comma (default: all of the survey)")
    parser.add_argument("--radius", type=float, metavar="R", help=f"radius of the fit, arcsec (default: {RADIUS:g})")
    parser.add_argument("--size", type=at_least(16), metavar="PX", help="side of the stamps (default: the survey's)")
    parser.add_argument("--resample", action="store_true", help="resample stamps of another pixel scale")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from lensscan.config import load_survey
    from lensscan.survey.loose import LooseReader
    from lensscan.survey.stamps import allocate

    survey = load_survey(args.survey)
    frame, methods = _by_module(args, survey) if args.method == MODULE else _by_shape_or_colour(args, survey)
    names = _names(args.stamps)
    reader = LooseReader(survey, frame, args.resample)
    batch = allocate(min(BATCH, len(names)), frame)
    done = 0
    try:
        for low in range(0, len(names), BATCH):
            files = args.stamps[low : low + BATCH]
            batch.clear()
            reader.read(_rows(files), 0, len(files), batch)
            done += _take_apart(args, files, names[low : low + BATCH], batch, frame, methods)
    finally:
        reader.close()
    if not done:
        raise OutputError(f"none of {len(names)} stamps could be taken apart; the reasons stand above")
    return int(ExitCode.OK if done == len(names) else ExitCode.TOO_MANY_FAILED)


def _by_shape_or_colour(args: argparse.Namespace, survey: Survey) -> tuple[Frame, list[Method]]:
    """Return what stamps are to look like, and what is done to them."""
    from functools import partial

    from lensscan.survey.stamps import Frame

    if args.model is not None:
        raise ConfigError(f"--model is for --method {MODULE}; leave it out")
    radius = RADIUS if args.radius is None else args.radius
    if not radius > 0:
        raise ConfigError(f"--radius {radius:g} must be positive (arcsec)")
    if radius < survey.pixel_scale:
        raise ConfigError(f"--radius {radius:g} is below one pixel, {survey.pixel_scale:g} arcsec; give a larger one")
    frame = Frame(_bands(args.bands, survey), args.size or survey.stamp_size, survey.pixel_scale, 1)
    methods = ("ica", "isophotes") if args.method == "all" else (args.method,)
    return frame, [partial(_remove, frame.pixel_scale, method, radius) for method in methods]


def _by_module(args: argparse.Namespace, survey: Survey) -> tuple[Frame, list[Method]]:
    """Return the frame of a modular model, and its modules, if the survey's stamps fit it as in a scan."""
    if args.model is None:
        raise ConfigError(f"--method {MODULE} needs --model M, a model of kind modular")
    given = next((name for name in ("bands", "size", "radius") if getattr(args, name) is not None), None)
    if given is not None:
        raise ConfigError(f"--method {MODULE} does not look at --{given}: the model has bands and size of its own")
    from lensscan.nets.deblended import Deblending
    from lensscan.nets.model import Model
    from lensscan.survey.stamps import check_bands, check_scale

    model = Model.load(args.model)
    deblending, frame = Deblending(model), model.frame()
    check_bands(survey, frame, model.card.name)
    check_scale(survey.pixel_scale, frame, args.resample, f"survey {survey.name}")
    return frame, [deblending]


def _remove(scale: float, method: str, radius: float, batch: Batch, missing: NDArray[np.bool_]) -> LensLight:
    """Take the stamps of a batch apart by colour or shape."""
    from lensscan.lenslight.stage import remove_lens_light

    n = len(missing)
    return remove_lens_light(
        batch.images[:n],
        pixel_scale=scale,
        fwhm=batch.fwhm[:n],
        sigma=batch.sigma[:n],
        mask=missing,
        method=method,
        radius=radius,
    )


def _bands(given: str | None, survey: Survey) -> tuple[str, ...]:
    if given is None:
        return tuple(survey.bands)
    bands = tuple(dict.fromkeys(word.strip() for word in given.split(",") if word.strip()))
    unknown = [band for band in bands if band not in survey.bands]
    if unknown or not bands:
        what = f"no band {unknown[0]!r}" if unknown else "an empty list"
        raise ConfigError(f"--bands {given}: {what}; survey {survey.name} has {', '.join(survey.bands)}")
    return bands


def _names(files: Sequence[str]) -> list[str]:
    """Return the names of the outputs; two stamps of one name would overwrite each other."""
    names = [Path(file.replace("{band}", "band")).name.split(".fits")[0] for file in files]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise ConfigError(f"two stamps are named {twice}; give them in two calls with another -o")
    return names


def _rows(files: Sequence[str]) -> Rows:
    import numpy as np

    from lensscan.survey.stamps import Rows

    n = len(files)
    nothing = np.full(n, np.nan)
    zeros = np.zeros(n, np.int64)
    return Rows(zeros, nothing, nothing, nothing, nothing, list(files), zeros, np.zeros(n, np.uint8))


def _take_apart(
    args: argparse.Namespace,
    files: Sequence[str],
    names: Sequence[str],
    batch: Batch,
    frame: Frame,
    methods: Sequence[Method],
) -> int:
    """Take one batch apart and write it; return how many stamps were."""
    import numpy as np

    from lensscan.lenslight.stage import REASONS
    from lensscan.schema import STATUS_TEXT, Status

    n, radius = len(files), args.radius or RADIUS
    missing = np.broadcast_to(~batch.present[:n, :, None, None], batch.images[:n].shape).copy()
    if batch.masked:
        missing |= batch.mask[:n]
    lights = [method(batch, missing) for method in methods]
    done = 0
    for row, file in enumerate(files):
        best = next((light for light in lights if light.ok[row]), None)
        if batch.status[row] == Status.WRONG_BANDS and args.method != MODULE:
            _say(file, f"bands are missing, {', '.join(frame.bands)} are looked for; name those it has by --bands")
        elif batch.status[row] != Status.PENDING:
            _say(file, STATUS_TEXT[Status(int(batch.status[row]))])
        elif args.method != MODULE and (widest := _widest(batch, row)) > radius:
            _say(file, f"--radius {radius:g} is below the PSF's FWHM of {widest:.3g} arcsec; give a larger one")
        elif best is None:
            _say(file, "; ".join(dict.fromkeys(REASONS[str(light.reason[row])] for light in lights)))
        else:
            _write(args.output, file, names[row], batch, row, missing, lights, best, frame)
            print(f"{names[row]}: {_how(lights, best, row)}")
            done += 1
    return done


def _widest(batch: Batch, row: int) -> float:
    """Return the FWHM of a stamp's broadest band, 0 if none is known."""
    return float(batch.fwhm[row][batch.fwhm[row] > 0].max(initial=0.0))


def _how(lights: Sequence[LensLight], best: LensLight, row: int) -> str:
    """Return the method of a stamp, why not ICA where this was tried, and whether a network knows such stamps."""
    tried = [light.reason[row] for light in lights if light is not best]
    tried += [] if best.passed_over is None else [best.passed_over[row]]
    reason = next((str(each) for each in tried if each not in ("", "one_band")), "")
    outside = best.diagnostics.get("out_of_range")
    return (
        str(best.method[row])
        + (f" (ICA: {reason})" if reason and best.method[row] == "isophotes" else "")
        + (", out_of_range" if outside is not None and outside[row] else "")
    )


def _write(
    folder: str,
    file: str,
    name: str,
    batch: Batch,
    row: int,
    missing: object,
    lights: Sequence[LensLight],
    best: LensLight,
    frame: Frame,
) -> None:
    import numpy as np

    from lensscan.lenslight.picture import draw_removal
    from lensscan.lenslight.planes import write_planes
    from lensscan.render.png import save_png

    write_planes(
        Path(folder) / f"{name}-light.fits",
        frame.bands,
        best,
        row,
        pixel_scale=frame.pixel_scale,
        wcs=batch.wcs[row],
        origin=batch.origin[row],
        source=file,
    )
    pixels = np.where(np.asarray(missing)[row], np.nan, batch.images[row])
    page = draw_removal(pixels, frame.bands, lights, row, sigma=batch.sigma[row], title=name)
    save_png(page, Path(folder) / f"{name}.png")


def _say(file: str, reason: str) -> None:
    print(f"lensscan subtract: {file}: {reason}", file=sys.stderr)
