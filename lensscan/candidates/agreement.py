"""How well predicted images agree with true ones: offsets, fractional delays, and the wrong image numbers beside.

Images are matched by order of arrival.  A system whose predicted number of images is wrong has no matched
images; it is counted beside every figure, because a statistic of the matched ones alone would flatter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensscan.candidates.positions import Prediction, TrueImages

__all__ = ["HEAD", "Agreement", "Spread", "compare"]

HEAD = ("mode", "theta_E", "systems", "wrong number", "images", "dx", "dy", "delay: (pred - true) / true", "in 68 %")
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and the distances up and down to the 84 % and 16 % quantiles."""

    median: float
    up: float
    down: float

    @classmethod
    def of(cls, values: Array) -> Spread:
        """Return the spread of finite values; NaN if there is none."""
        values = values[np.isfinite(values)]
        if not len(values):
            return cls(np.nan, np.nan, np.nan)
        low, middle, high = np.quantile(values, (0.16, 0.5, 0.84))
        return cls(float(middle), float(high - middle), float(middle - low))

    def __str__(self) -> str:
        return f"{self.median:+.3f} +{self.up:.3f} -{self.down:.3f}" if np.isfinite(self.median) else "-"


@dataclass(frozen=True, slots=True)
class Agreement:
    """Figures of one mode and one selection of systems with two true images or more.

    Attributes
    ----------
    mode : str
    selection : str
        Which true Einstein radii.
    n_systems : int
        True systems with a prediction or without.
    n_wrong : int
        Of these, how many have a wrong number of images, or none predicted.
    n_images : int
        Later images (second and on) of the others: what the figures below are made of.
    dx, dy : Spread
        Predicted minus true position, arcsec.
    delay : Spread
        (predicted - true) / true.
    inside : float
        Fraction of the true delays inside the predicted 68 % interval.
    """

    mode: str
    selection: str
    n_systems: int
    n_wrong: int
    n_images: int
    dx: Spread
    dy: Spread
    delay: Spread
    inside: float

    def cells(self) -> tuple[str, ...]:
        """Return the line of a table headed `HEAD`."""
        share = f" ({100 * self.n_wrong / self.n_systems:.0f} %)" if self.n_systems else ""
        inside = f"{self.inside:.2f}" if np.isfinite(self.inside) else "-"
        wrong = f"{self.n_wrong}{share}"
        numbers = (str(self.n_systems), wrong, str(self.n_images))
        return (self.mode, self.selection, *numbers, str(self.dx), str(self.dy), str(self.delay), inside)


def compare(prediction: Prediction, truth: TrueImages, theta_E: Array, above: float = 0.0) -> Agreement:
    """Compare the later images of the systems whose true Einstein radius exceeds `above` (arcsec)."""
    systems = (truth.count >= 2) & (np.nan_to_num(theta_E) > above)
    right = systems & (prediction.n_images == truth.count)
    later = right[:, None] & np.isfinite(truth.x)
    later[:, 0] = False
    values = prediction.values
    with np.errstate(divide="ignore", invalid="ignore"):
        fraction = (values["delay"][:, 0] - truth.delay) / truth.delay
    low, high = values["delay"][:, 1][later], values["delay"][:, 2][later]
    known = np.isfinite(truth.delay[later])
    inside = ((truth.delay[later] >= low) & (truth.delay[later] <= high))[known]
    return Agreement(
        mode=prediction.mode,
        selection=f"> {above:g}" if above else "all",
        n_systems=int(systems.sum()),
        n_wrong=int((systems & ~right).sum()),
        n_images=int(later.sum()),
        dx=Spread.of((values["x"][:, 0] - truth.x)[later]),
        dy=Spread.of((values["y"][:, 0] - truth.y)[later]),
        delay=Spread.of(fraction[later]),
        inside=float(inside.mean()) if len(inside) else np.nan,
    )
