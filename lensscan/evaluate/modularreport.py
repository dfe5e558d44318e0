"""What the comparison of modules with end to end says: the printed table, the JSON file, the images and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.evaluate.modular import (
    ACCURACY,
    GAIN,
    REGRESSED,
    REJECTED,
    SEED,
    Comparison,
    convergence,
    layers_of,
    stamps_of,
    verdict,
)
from lensscan.evaluate.written import header, write_all
from lensscan.files import replacing
from lensscan.hdf5 import new_hdf5
from lensscan.metrics.bootstrap import Estimate
from lensscan.metrics.selective import Misclassified
from lensscan.mocks.simulate import simulate
from lensscan.nets.intermediate import Inspector
from lensscan.nets.latent import PARAMETERS
from lensscan.render.modules import Chain, chain_sheet, latent_diagram, principal_plane

__all__ = ["lines", "report", "shown_rows", "write_modular"]

NAMES = ("modular", "end to end", "end to end, half the mocks")
MEASURES = {
    "spread": "spread of p over the bottleneck",
    "logit_spread": "spread of the logit",
    "few_nats": "few nats through the bottleneck",
    "ambiguity": "1 - |2p - 1|",
}
TRAINING = ("mocks", "steps", "best_step", "stages", "batch", "flops")
"""What the report repeats of a card."""
EACH = 2
CURVE = np.linspace(0.0, 0.5, 51)


def lines(found: Comparison) -> list[str]:
    """Return the printed table."""
    settings, pair = found.settings, found.paired
    text = [f"modules against end to end on {settings.recipe.name}: {len(found.rows.index):,} new mocks"]
    for name, model, (value, low, high) in zip(NAMES, settings.models, found.accuracy, strict=False):
        cost = f"  {_cost(model.card.training):.3g} operations" if _cost(model.card.training) else ""
        text.append(f"  accuracy, {name:<28} {value:.4f} [{low:.4f}, {high:.4f}]  {model.card.name}{cost}")
    text.append(
        f"  gain of the modules                    {pair.difference:+.4f} [{pair.low:+.4f}, {pair.high:+.4f}]  "
        f"right by one alone {pair.first_only} : {pair.second_only}, p = {pair.p_value:.2g} (McNemar)"
    )
    text += [f"  PSNR, {name:<32} {_worded(each, '.2f')} dB" for name, each in found.psnr.items()]
    if not found.regression:
        text.append("  no regression: a model has no posterior, or there are too few lenses")
    for name in PARAMETERS if found.regression else ():
        ratio, width = found.regression[f"{name}.ratio.rms"], found.regression[f"{name}.ratio.abs_68"]
        text.append(f"  error over end to end, {name:<8}        rms {_worded(ratio)}, 68 % {_worded(width)}")
    for name, figures in found.uncertainty.items():
        kept = "  ".join(f"{figures[f'accuracy.{share:g}'].value:.4f}" for share in REJECTED)
        text.append(f"  {MEASURES[name]:<33} AUROC of mistakes {_worded(figures['auroc'])}; accuracy {kept}")
    text.append(f"  (accuracy after rejecting the most uncertain {', '.join(f'{share:.0%}' for share in REJECTED)})")
    if found.anchor is not None and found.anchor.baseline is not None:
        first, last = found.anchor.baseline.values[ACCURACY], found.anchor.values[ACCURACY]
        text.append(
            f"  published: accuracy {first:.2f} ({found.anchor.baseline.model}) to {last:.2f}, regression "
            f"{found.anchor.values[GAIN]:.0%} better; {found.anchor.paper}, other mocks, other networks"
        )
        if found.regression:
            gain = _worded(found.regression["gain"], ".0%")
            text.append(f"  here: regression {gain} better (rms, mean of {', '.join(REGRESSED)})")
    return [*text, f"  {convergence(found)}", f"  {verdict(found)}"]


def _worded(each: Estimate, form: str = ".3f") -> str:
    return f"{each.value:{form}} [{each.low:{form}}, {each.high:{form}}]"


def _cost(training: Any) -> float:
    """Return the operations of a training, all stages together; 0 if the card does not state them."""
    return float(sum(training.get("flops", {}).values()))


def report(found: Comparison) -> dict[str, Any]:
    """Return the whole result as plain values."""
    settings, pair, anchor = found.settings, found.paired, found.anchor
    plain = {"value": True, "low": True, "high": True}

    def table(figures: dict[str, Estimate]) -> dict[str, dict[str, float]]:
        return {name: {key: getattr(each, key) for key in plain} for name, each in figures.items()}

    regression = table(found.regression)
    gain = {"regression_gain": regression.pop("gain")} if regression else {}
    return {
        **header("modular", len(found.rows.index), SEED, settings.replicates, settings.recipe),
        "n_lens": int(found.rows.is_lens.sum()),
        "models": [
            {
                "role": role,
                "name": model.card.name,
                "hash": model.card.hash,
                "training": {key: model.card.training.get(key) for key in TRAINING},
                "accuracy": dict(zip(plain, accuracy, strict=True)),
            }
            for role, model, accuracy in zip(NAMES, settings.models, found.accuracy, strict=False)
        ],
        "mcnemar": {key: getattr(pair, key) for key in pair.__slots__},
        "psnr": table(found.psnr),
        "regression": regression,
        "modular": gain,
        "uncertainty": {name: table(figures) for name, figures in found.uncertainty.items()},
        "published": None
        if anchor is None or anchor.baseline is None
        else {"paper": anchor.paper, "values": dict(anchor.values), "baseline": dict(anchor.baseline.values)},
        "convergence": convergence(found),
        "verdict": verdict(found),
    }


def shown_rows(found: Comparison) -> dict[str, NDArray[np.intp]]:
    """Return the rows of the picture of images: of every kind the most certain, so that mistakes are real ones."""
    rows = found.rows
    right, certain = rows.right(0), np.argsort(rows.uncertainty["ambiguity"], kind="stable")
    kinds = {
        "lens, called lens": rows.is_lens & right,
        "other, called other": ~rows.is_lens & right,
        "lens, called other": rows.is_lens & ~right,
        "other, called lens": ~rows.is_lens & ~right,
    }
    return {name: certain[chosen[certain]][:EACH] for name, chosen in kinds.items()}


def _chains(found: Comparison) -> list[Chain]:
    """Make the shown stamps once more, and every image that the modules make of them."""
    settings, inspector = found.settings, Inspector(found.settings.models[0])
    chains = []
    for kind, chosen in shown_rows(found).items():
        for row in chosen:
            start = int(found.rows.index[row])
            mocks = simulate(settings.recipe, seed=SEED, start=start, n=1, layers=True)
            made = inspector(*stamps_of(mocks, slice(0, 1)))
            blend, arcs = layers_of(mocks, slice(0, 1))
            images = {"input": mocks.images.numpy(), "denoised": made.flux(made.denoised), "true blend": blend}
            images |= {"deblended": made.flux(made.deblended), "true source": arcs}
            line = f"{kind}, {found.rows.logit[0][row]:+.1f}"
            chains.append(Chain({name: image[0] for name, image in images.items()}, made.sigma[0], line))
    return chains


def _write_images(path: Path, chains: list[Chain], bands: tuple[str, ...]) -> None:
    """Write the images of all chains to an HDF5 file: a dataset (n, C, S, S) for each, in nJy."""
    with replacing(path) as temporary, new_hdf5(temporary) as file:
        file.attrs["bands"] = list(bands)
        file["line"] = [chain.line for chain in chains]
        file["sigma"] = np.stack([chain.sigma for chain in chains])
        for name in chains[0].images:
            data = file.create_dataset(name.replace(" ", "_"), data=np.stack([chain.images[name] for chain in chains]))
            data.attrs["unit"] = "nJy"


def write_modular(found: Comparison, folder: Path, plots: bool = True) -> list[Path]:
    """Write the JSON file, the intermediate images and, with `plots`, the pictures; return their paths."""
    recipe = found.settings.recipe
    stem = folder / f"modular--{recipe.name}"
    chains, images = _chains(found), stem.with_name(stem.name + "-images.h5")
    _write_images(images, chains, recipe.bands)
    if not plots:
        return [*write_all(stem, report(found)), images]
    rows, wrong = found.rows, ~found.rows.right(0)
    curves = {}
    for name, values in rows.uncertainty.items():
        judge = Misclassified(values, wrong)
        curves[MEASURES[name]] = CURVE, np.array([judge.accuracy_after(float(share)) for share in CURVE])
    pictures = {
        "images": chain_sheet(chains, recipe.bands, f"{recipe.name}: what the modules make of a stamp"),
        "latent": latent_diagram(
            *principal_plane(rows.mean), rows.is_lens, wrong, rows.uncertainty["spread"], curves
        ),
    }  # fmt: skip
    return [*write_all(stem, report(found), pictures=pictures), images]
