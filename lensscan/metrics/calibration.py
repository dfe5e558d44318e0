"""Calibration of logits: strictly monotone maps, their fit, prevalence, and reliability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

__all__ = [
    "KINDS",
    "Reliability",
    "apply",
    "binned",
    "brier",
    "class_weights",
    "expected_calibration_error",
    "fit",
    "log_loss",
    "prevalence_shift",
    "reliability",
]

KINDS = ("none", "temperature", "platt")
Floats = NDArray[np.floating]


def apply(kind: str, a: float, b: float, logit: Floats) -> NDArray[np.float64]:
    """Return calibrated logits in float64: ``logit``, ``a * logit`` or ``a * logit + b``.

    Parameters
    ----------
    kind : str
        ``none``, ``temperature`` or ``platt``.
    a, b : float
        Slope (positive) and offset.
    logit : array
        Raw logits; for an ensemble the mean over its members.

    Raises
    ------
    ValueError
        If the kind is unknown or the slope is not positive.
    """
    if kind not in KINDS:
        raise ValueError(f"calibration {kind!r}; known are: {', '.join(KINDS)}")
    if not a > 0:
        raise ValueError(f"calibration slope {a} is not positive")
    values = np.asarray(logit, np.float64)
    if kind == "none":
        return values.copy()
    return a * values + (b if kind == "platt" else 0.0)


def fit(kind: str, logit: Floats, is_lens: NDArray[np.bool_], prior: float | None = None) -> tuple[float, float]:
    """Fit slope and offset by maximum likelihood on a split of its own.

    Parameters
    ----------
    kind : str
        ``none``, ``temperature`` or ``platt``.
    logit : (n,) array
        Raw logits.
    is_lens : (n,) bool array
    prior : float, optional
        Lens fraction of the split; default: its own.  It is divided out, so that the result is a log
        likelihood ratio.

    Returns
    -------
    a, b : float

    Raises
    ------
    ValueError
        If only one class is there.
    """
    if kind not in KINDS:
        raise ValueError(f"calibration {kind!r}; known are: {', '.join(KINDS)}")
    is_lens = np.asarray(is_lens, bool)
    if is_lens.all() or not is_lens.any():
        raise ValueError("calibration needs lenses and non-lenses")
    if kind == "none":
        return 1.0, 0.0
    fraction = is_lens.mean() if prior is None else prior
    shift = np.log(fraction) - np.log1p(-fraction)
    values = np.asarray(logit, np.float64)
    sign = np.where(is_lens, -1.0, 1.0)

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        slope = np.exp(parameters[0])
        offset = parameters[1] if kind == "platt" else 0.0
        argument = sign * (slope * values + offset + shift)
        weight = sign * expit(argument) / len(values)
        gradient = [float((weight * values).sum() * slope), float(weight.sum())]
        return float(np.logaddexp(0.0, argument).mean()), np.array(gradient[: len(parameters)])

    found = minimize(loss, np.zeros(2 if kind == "platt" else 1), jac=True, method="L-BFGS-B")
    return float(np.exp(found.x[0])), float(found.x[1]) if kind == "platt" else 0.0


def prevalence_shift(logit: Floats, prevalence: float) -> NDArray[np.float64]:
    """Return p_lens = sigmoid(logit + log(pi / (1 - pi))).

    Raises
    ------
    ValueError
        If the prevalence does not lie between 0 and 1.
    """
    if not 0 < prevalence < 1:
        raise ValueError(f"prevalence {prevalence} does not lie between 0 and 1")
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-np.asarray(logit, np.float64)) * ((1.0 - prevalence) / prevalence))


def log_loss(logit: Floats, is_lens: NDArray[np.bool_], weight: Floats | None = None) -> float:
    """Return the mean negative log likelihood (nats) of labels under logits that include the prior."""
    sign = np.where(np.asarray(is_lens, bool), -1.0, 1.0)
    return float(np.average(np.logaddexp(0.0, sign * np.asarray(logit, np.float64)), weights=weight))


@dataclass(frozen=True, slots=True)
class Reliability:
    """A reliability diagram.

    Attributes
    ----------
    predicted, observed : (k,) arrays
        Mean probability and lens fraction of each bin.
    count : (k,) array
        Mass of each bin: rows, unless they were weighted.
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    count: NDArray[np.floating]

    def error(self) -> float:
        """Return the expected calibration error, NaN if the diagram is empty."""
        if not len(self.count):
            return float("nan")
        return float(np.average(np.abs(self.predicted - self.observed), weights=self.count))


def reliability(
    probability: Floats, is_lens: NDArray[np.bool_], bins: int = 15, weight: Floats | None = None
) -> Reliability:
    """Return the reliability diagram in bins of equal mass.

    Parameters
    ----------
    probability : (n,) array
    is_lens : (n,) bool array
    bins : int
    weight : (n,) array, optional
        Mass of each row, such as its share in a population of another prevalence; rows of mass 0 do not count.
    """
    order = np.argsort(probability, kind="stable")
    return binned(
        np.asarray(probability, np.float64)[order],
        np.asarray(is_lens, np.float64)[order],
        np.ones(len(order)) if weight is None else np.asarray(weight, np.float64)[order],
        bins,
    )


def binned(p: Floats, y: Floats, mass: Floats, bins: int, borders: Floats | None = None) -> Reliability:
    """Return the diagram of rows sorted by probability: `p`, labels `y` in {0, 1} and `mass`, all (n,).

    The bins hold equal shares of `borders` (n,), by default of the mass itself.
    """
    part = mass if borders is None else borders
    total = np.cumsum(part)
    if not len(total) or not total[-1] > 0:
        return Reliability(np.empty(0), np.empty(0), np.empty(0))
    place = np.minimum(((total - 0.5 * part) / total[-1] * bins).astype(np.int64), bins - 1)
    share = np.bincount(place, mass, bins)
    used = share > 0
    predicted, observed = np.bincount(place, mass * p, bins)[used], np.bincount(place, mass * y, bins)[used]
    return Reliability(predicted / share[used], observed / share[used], np.asarray(share[used], np.float64))


def expected_calibration_error(
    probability: Floats, is_lens: NDArray[np.bool_], bins: int = 15, weight: Floats | None = None
) -> float:
    """Return the expected calibration error over bins of equal mass."""
    return reliability(probability, is_lens, bins, weight).error()


def brier(probability: Floats, is_lens: NDArray[np.bool_], weight: Floats | None = None) -> float:
    """Return the mean square difference of probability and label (Brier 1950)."""
    square = (np.asarray(probability, np.float64) - np.asarray(is_lens, np.float64)) ** 2
    return float(np.average(square, weights=weight))


def class_weights(is_lens: NDArray[np.bool_], prevalence: float, counts: NDArray[Any] | None = None) -> Floats:
    """Return the mass (n,) of each row when lenses make up `prevalence` of the whole, which sums to 1.

    Parameters
    ----------
    is_lens : (n,) bool array
    prevalence : float
    counts : (n,) array, optional
        How often each row counts within its class.
    """
    base = np.ones(len(is_lens)) if counts is None else np.asarray(counts, np.float64)
    lenses, others = base[is_lens].sum(), base[~is_lens].sum()
    return np.asarray(
        base * np.where(is_lens, prevalence / max(lenses, 1e-300), (1 - prevalence) / max(others, 1e-300))
    )
