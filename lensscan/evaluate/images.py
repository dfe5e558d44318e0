"""Images and time delays that predicted lenses give, against those of the true ones, in three modes.

The modes, the matching by order of arrival and the count of wrong image numbers are those of ``lensscan images``
(`lensscan.candidates.positions`).  Delays are compared as fractions, so that redshifts and cosmology cancel.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensscan.candidates.positions import MODES, Prediction, TrueImages, predict, true_images
from lensscan.evaluate.testsets import Truth
from lensscan.metrics.bootstrap import Bootstrap, Counts, Estimate, resample, trusted
from lensscan.metrics.detection import share_estimate
from lensscan.metrics.posterior import draw_mixture
from lensscan.nets.latent import PARAMETERS, from_latent
from lensscan.nets.mixture import Mixture

__all__ = ["ABOVE", "Images", "measure_images"]

LENSES, SAMPLES, TOGETHER = 500, 60, 100
ABOVE = {"all": 0.0, "above_0.8": 0.8}
"""True Einstein radii, arcsec, above which systems count; 0.8 is that of HOLISMOKES IV."""
MIDDLE = (0.16, 0.5, 0.84)
SHARES = ("right_number", "delay.inside_68")
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Images:
    """What was measured.

    Attributes
    ----------
    figures : dict of Estimate
        ``MODE.SELECTION.right_number``: share of the multiply imaged systems whose most probable number of images is
        the true one.  Of the later images of these: ``dx.bias``, ``dx.half_width_68``, ``dy.*`` (arcsec) and, as a
        fraction of the true delay, ``delay.bias``, ``delay.half_width_68``; ``delay.inside_68``: share of the true
        delays in the stated interval.
    systems : dict of int
        Multiply imaged systems by selection.
    isothermal : bool
        Whether all true masses are; else the true images are those of isothermal lenses of the same radius.
    """

    figures: dict[str, Estimate]
    systems: dict[str, int]
    isothermal: bool


def measure_images(
    posterior: Mixture, truth: Truth, rows: NDArray[np.bool_], cluster: NDArray[np.int64], replicates: int, seed: int
) -> Images | None:
    """Predict images of the first lenses of a test set, and compare them with the true ones.

    Parameters
    ----------
    posterior : Mixture
        Of all scored rows.
    truth : dict of (n,) arrays
    rows : (n,) bool array
        Lenses with a posterior; the first `LENSES` of them are used.
    cluster : (n,) array
        What the bootstrap draws together.
    replicates, seed : int

    Returns
    -------
    Images or None
        None if no system has two true images.
    """
    chosen = np.flatnonzero(rows)[:LENSES]
    names = (*PARAMETERS, *(name for name in ("gamma1", "gamma2") if name in truth))
    table = {name: np.asarray(truth[name], np.float64)[chosen] for name in names}
    scale = np.ones(len(chosen))
    true = true_images(table, scale)
    systems = {name: int(((true.count >= 2) & (table["theta_E"] > above)).sum()) for name, above in ABOVE.items()}
    if not systems["all"]:
        return None
    part = posterior[chosen]
    rng = np.random.default_rng(seed)
    drawn = draw_mixture(part.mean.astype(np.float64), part.matrices, part.weight, part.tail, rng, SAMPLES)
    samples = from_latent(drawn)
    known = {
        "posterior": None,
        "first_image": np.stack([true.x[:, 0], true.y[:, 0]], axis=1),
        "true_source": np.stack([table["sx"], table["sy"]], axis=1),
    }
    errors = {mode: _Errors.of(predict(samples, scale, mode, known[mode], TOGETHER), true) for mode in MODES}

    def figures(counts: Counts | None) -> dict[str, float]:
        return {
            f"{mode}.{name}.{key}": value
            for mode, found in errors.items()
            for name, above in ABOVE.items()
            if systems[name]
            for key, value in found.figures(table["theta_E"] > above, counts)
        }

    slope = np.asarray(truth.get("slope", np.full(len(rows), 2.0)), np.float64)[chosen]
    found = resample(figures, Bootstrap(cluster[chosen], replicates, seed))
    for mode, name in itertools.product(errors, (name for name in ABOVE if systems[name])):
        own = [key for key in found if key.startswith(f"{mode}.{name}.")]
        for key in own:
            figure = key.removeprefix(f"{mode}.{name}.")
            galaxies = cluster[chosen][errors[mode].behind(table["theta_E"] > ABOVE[name], figure)]
            found[key] = trusted(found[key], galaxies)
            if figure in SHARES:
                found[key] = share_estimate(found[key], galaxies)
    return Images(found, systems, bool((np.abs(slope - 2) < 1e-9).all()))


@dataclass(frozen=True, slots=True)
class _Errors:
    """Per-system errors of one mode: (n,) whether multiply imaged and of the right number; (n, 8) of later images."""

    multiple: NDArray[np.bool_]
    right: NDArray[np.bool_]
    dx: Floats
    dy: Floats
    delay: Floats
    inside: Floats

    @classmethod
    def of(cls, found: Prediction, true: TrueImages) -> _Errors:
        multiple = true.count >= 2
        right = multiple & (found.n_images == true.count)
        later = right[:, None] & np.isfinite(true.x)
        later[:, 0] = False
        middle, low, high = np.moveaxis(found.values["delay"], 1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = (
                found.values["x"][:, 0] - true.x,
                found.values["y"][:, 0] - true.y,
                (middle - true.delay) / true.delay,
                ((true.delay >= low) & (true.delay <= high)).astype(np.float64),
            )
        return cls(multiple, right, *(np.where(later, part, np.nan) for part in parts))

    def figures(self, chosen: NDArray[np.bool_], counts: Counts | None) -> Iterator[tuple[str, float]]:
        """Yield name and value, systems counted `counts` times."""
        rows = np.flatnonzero(chosen & self.multiple)
        rows = rows if counts is None else np.repeat(rows, counts[rows])
        yield "right_number", float(self.right[rows].mean()) if len(rows) else np.nan
        for name in ("dx", "dy", "delay"):
            values = getattr(self, name)[rows]
            values = values[np.isfinite(values)]
            low, middle, high = np.quantile(values, MIDDLE) if len(values) else (np.nan,) * 3
            yield f"{name}.bias", float(middle)
            yield f"{name}.half_width_68", float((high - low) / 2)
        inside = self.inside[rows]
        inside = inside[np.isfinite(inside)]
        yield "delay.inside_68", float(inside.mean()) if len(inside) else np.nan

    def behind(self, chosen: NDArray[np.bool_], key: str) -> NDArray[np.bool_]:
        """Return which systems (n,) are behind a figure."""
        systems = chosen & self.multiple
        return systems if key == "right_number" else systems & np.isfinite(self.inside).any(axis=1)
