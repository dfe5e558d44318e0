"""Calibration of logits: strictly increasing maps, their fit, probabilities, and reliability."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, xlogy

from lensscan.config import late

__all__ = [
    "KINDS",
    "Calibration",
    "Kind",
    "Reliability",
    "binned",
    "brier",
    "class_weights",
    "expected_calibration_error",
    "fit",
    "isotonic",
    "log_loss",
    "reliability",
]

Kind = Literal["none", "temperature", "platt", "beta", "bent"]
KINDS: tuple[str, ...] = get_args(Kind)
RARE = (0.5, 1e-2, 1e-3)
"""Prevalences at which ``bent`` is fitted: where most rows are told apart, and where surveys look for lenses."""
KNEES = (0.0, 2.0, 4.0)
KNEE_BOUNDS = (-4.0, 10.0)
SLOPE_BOUNDS = (-3.0, 3.0)
DROP_BOUNDS = (0.0, 6.0)
RULE_OF_THREE = 3.0
Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Strictly increasing map from a raw logit to a log likelihood ratio, and the most that it was seen to be worth.

    Attributes
    ----------
    kind : str
        ``none``; ``temperature``, a x, which keeps the log odds of the training's mix in the logit, so only for
        networks trained on as many lenses as others; ``platt``, a x + b; ``beta`` and ``bent``, a line that bends
        smoothly at the knee k, upper softplus(x - k) - a softplus(k - x) + b: its slope is a below and `upper` above.
    a, b : float
        Slope (positive) and offset.
    upper, knee : float
        Of ``beta``, whose knee is 0, and ``bent``; the slope is positive, and a fit of ``bent`` gives none above `a`.
    cap : float or None
        Largest log likelihood ratio that enters a probability: log(N / 3) of the N non-lenses it was fitted on.  Even
        a score that none of them reached may be reached by one in N / 3 (95 %); None = no such limit.

    References
    ----------
    Platt 1999; Guo et al. 2017, arXiv:1706.04599, section 4.2; Kull, Silva Filho & Flach 2017, equation 7; Hanley &
    Lippman-Hand 1983 for the three.
    """

    kind: str = "none"
    a: float = 1.0
    b: float = 0.0
    upper: float = late(1.0)
    cap: float | None = late(None)
    knee: float = late(0.0)

    @property
    def sound(self) -> bool:
        """Whether the map is known, strictly increasing and finite."""
        slopes = all(0 < slope < np.inf for slope in (self.a, self.upper))
        finite = bool(np.isfinite(self.b) and np.isfinite(self.knee))
        return self.kind in KINDS and slopes and finite and not np.isnan(self.cap or 0.0)

    def __call__(self, logit: ArrayLike) -> NDArray[np.float64]:
        """Return calibrated logits in float64, not capped: they rank as the raw ones do."""
        values = np.asarray(logit, np.float64)
        if self.kind == "none":
            return values.copy()
        if self.kind == "temperature":
            return self.a * values
        if self.kind == "platt":
            return self.a * values + self.b
        with np.errstate(invalid="ignore"):  # NaN stays NaN
            above, below = np.logaddexp(0.0, values - self.knee), np.logaddexp(0.0, self.knee - values)
        return np.asarray(self.upper * above - self.a * below + self.b)

    def capped(self, logit: ArrayLike) -> NDArray[np.float64]:
        """Return calibrated logits (what `__call__` gave) as they enter a probability: at most `cap`."""
        values = np.asarray(logit, np.float64)
        return values.copy() if self.cap is None else np.minimum(values, self.cap)

    def p_lens(self, logit: ArrayLike, prevalence: float | None) -> NDArray[np.float64]:
        """Return sigmoid(capped logit + log(pi / (1 - pi))) of calibrated logits; NaN without a prevalence.

        Raises
        ------
        ValueError
            If the prevalence does not lie between 0 and 1.
        """
        values = self.capped(logit)
        if prevalence is None:
            return np.full(values.shape, np.nan)
        if not 0 < prevalence < 1:
            raise ValueError(f"prevalence {prevalence} does not lie between 0 and 1")
        with np.errstate(over="ignore"):
            return np.asarray(1.0 / (1.0 + np.exp(-values) * ((1.0 - prevalence) / prevalence)))


def fit(kind: str, logit: Floats, is_lens: NDArray[np.bool_], prior: float | None = None) -> Calibration:
    """Fit a calibration by maximum likelihood on a split of its own.

    Both classes are as heavy as they are there, but for ``bent``: it minimises the mean log loss of several
    prevalences, each over its entropy, so that the few non-lenses among the highest scores count as they will in a
    survey.  Every such mean is a proper score: the true likelihood ratio, and nothing else, minimises it.  Its line
    may only flatten: beyond the last non-lens a steeper one is always likelier, and promises what nothing has shown.

    Parameters
    ----------
    kind : str
        A kind of `Calibration`.
    logit : (n,) array
        Raw logits.
    is_lens : (n,) bool array
    prior : float, optional
        Lens fraction of the split; default: its own.  It is divided out, so that the result is a log
        likelihood ratio.  Of no meaning to ``bent``.

    Returns
    -------
    Calibration
        Capped; numbers rounded to six digits.

    Raises
    ------
    ValueError
        If the kind is unknown or only one class is there.
    """
    if kind not in KINDS:
        raise ValueError(f"calibration {kind!r}; known are: {', '.join(KINDS)}")
    is_lens = np.asarray(is_lens, bool)
    if is_lens.all() or not is_lens.any():
        raise ValueError("calibration needs lenses and non-lenses")
    cap = round(float(np.log(max((~is_lens).sum() / RULE_OF_THREE, 1.0))), 6)
    if kind == "none":
        return Calibration(cap=cap)
    fraction = is_lens.mean() if prior is None else prior
    if kind == "bent":
        weights = [class_weights(is_lens, pi) / -(xlogy(pi, pi) + xlogy(1 - pi, 1 - pi)) for pi in RARE]
        loss = _Loss(np.asarray(logit, np.float64), is_lens, weights, RARE)
    else:
        loss = _Loss(np.asarray(logit, np.float64), is_lens, [np.full(len(is_lens), 1 / len(is_lens))], (fraction,))
    from scipy.optimize import minimize  # here, because every rank of a scan imports this module

    ends: list[NDArray[np.float64]] = []
    losses: list[float] = []
    for knee in KNEES if kind == "bent" else (0.0,):
        found = minimize(partial(loss, kind), _start(kind, knee), jac=True, method="L-BFGS-B", bounds=_bounds(kind))
        ends.append(found.x)
        losses.append(float(found.fun))
    return dataclasses.replace(_calibration(kind, np.round(ends[int(np.argmin(losses))], 9)), cap=cap)


def _start(kind: str, knee: float) -> list[float]:
    """Return the first parameters of a fit: logarithms of slopes, offset, knee, as far as the kind has them.

    Of ``bent`` the second is the logarithm of `a` over `upper`.
    """
    return {"temperature": [0.0], "platt": [0.0, 0.0], "beta": [0.0] * 3, "bent": [0.0, 0.0, knee, knee]}[kind]


def _bounds(kind: str) -> list[tuple[float | None, float | None]] | None:
    """Return the bounds of the parameters: those of ``bent`` can run away where no row is."""
    return [SLOPE_BOUNDS, DROP_BOUNDS, (None, None), KNEE_BOUNDS] if kind == "bent" else None


def _calibration(kind: str, parameters: NDArray[np.float64]) -> Calibration:
    """Return the calibration that the parameters of a fit stand for."""
    values = [float(value) for value in parameters]
    if kind in ("temperature", "platt"):
        return Calibration(kind, round(float(np.exp(values[0])), 6), round(values[1], 6) if kind == "platt" else 0.0)
    slopes = [round(value, 6) for value in _slopes(kind, parameters).tolist()]
    knee = round(values[3], 6) if kind == "bent" else 0.0
    return Calibration(kind, slopes[0], round(values[2], 6), slopes[1], knee=knee)


def _slopes(kind: str, parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the slopes that the first parameters of a fit stand for: below and above the knee."""
    if kind in ("temperature", "platt"):
        return np.exp(parameters[:1])
    first, second = parameters[:2]
    return np.exp([first, first - second] if kind == "bent" else [first, second])


class _Loss:
    """Weighted log loss of a calibration on a split, and its gradient by the parameters of `_start`."""

    def __init__(
        self, logit: Floats, is_lens: NDArray[np.bool_], weights: Sequence[Floats], prevalences: Sequence[float]
    ) -> None:
        self.x = np.asarray(logit, np.float64)
        self.sign = np.where(is_lens, -1.0, 1.0)
        self.parts = [(weight, np.log(pi) - np.log1p(-pi)) for weight, pi in zip(weights, prevalences, strict=True)]

    def __call__(self, kind: str, parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        x, slopes = self.x, _slopes(kind, parameters)
        if len(slopes) == 1:
            by = [slopes[0] * x, np.ones_like(x)][: len(parameters)]
            value = by[0] + (parameters[1] if kind == "platt" else 0.0)
        else:
            knee = parameters[3] if kind == "bent" else 0.0
            low, high = -slopes[0] * np.logaddexp(0.0, knee - x), slopes[1] * np.logaddexp(0.0, x - knee)
            value = low + high + parameters[2]
            bend = -slopes[0] * expit(knee - x) - slopes[1] * expit(x - knee)
            by = [low + high, -high, np.ones_like(x), bend] if kind == "bent" else [low, high, np.ones_like(x)]
        total, pull = 0.0, np.zeros_like(x)
        for weight, shift in self.parts:
            argument = self.sign * (value + shift)
            total += float((weight * np.logaddexp(0.0, argument)).sum())
            pull += weight * self.sign * expit(argument)
        return total, np.array([float((pull * part).sum()) for part in by])


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

    def largest(self) -> float:
        """Return the largest distance of observed from predicted, NaN if the diagram is empty."""
        return float(np.abs(self.predicted - self.observed).max()) if len(self.count) else float("nan")


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


def isotonic(p: Floats, y: Floats, mass: Floats) -> Reliability:
    """Return the rising lens fraction nearest to the labels, without bins: isotonic regression.

    A look at a calibration, never one: see Zadrozny & Elkan 2002; Dimitriadis, Gneiting & Jordan 2021 (CORP).

    Parameters
    ----------
    p, y, mass : (n,) arrays
        Rows sorted by probability, labels in {0, 1} and mass; rows of mass 0 do not count.

    Returns
    -------
    Reliability
        A point for each distinct probability.
    """
    from scipy.optimize import isotonic_regression

    used = mass > 0
    p, y, mass = p[used], y[used], mass[used]
    if not len(p):
        return Reliability(np.empty(0), np.empty(0), np.empty(0))
    first = np.flatnonzero(np.append(True, np.diff(p) > 0))
    weight = np.add.reduceat(mass, first)
    level = np.add.reduceat(mass * y, first) / weight
    return Reliability(
        np.asarray(p[first], np.float64), np.asarray(isotonic_regression(level, weights=weight).x), weight
    )


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
