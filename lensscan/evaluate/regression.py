"""The SIE posterior on a test set: errors in every published convention, coverage, sharpness, selective risk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lensscan.evaluate.intervals import too_few
from lensscan.evaluate.lightonly import linear_values
from lensscan.evaluate.posteriors import PARAMETERS, Posteriors
from lensscan.evaluate.rates import SNR_EDGES, THETA_EDGES, span
from lensscan.evaluate.testsets import Truth
from lensscan.lens.conventions import to_axis_ratio, to_hezaveh, to_holismokes
from lensscan.metrics.bootstrap import Bootstrap, Counts, Estimate, resample
from lensscan.metrics.detection import share_estimate
from lensscan.metrics.deviations import Deviations
from lensscan.metrics.sampled import Uniformity, central_coverage, expected_coverage

__all__ = ["CONVENTIONS", "FEWER", "KEPT", "LEVELS", "Regression", "convert", "groups_of", "regress"]

Floats = NDArray[np.float64]
LEVELS = (0.5, 0.68, 0.95, 0.997)
TARP_LEVELS = np.linspace(0.0, 1.0, 41)
KEPT = (0.95, 0.9, 0.8, 0.7, 0.5, 0.3)
"""Shares that are kept when the largest stated errors are rejected."""
SMALLEST_GROUP = 20
FLATTEST = 0.95
"""Largest (1-q)/(1+q) that a linear fit to the light is taken to state."""
SHARES = ("coverage.", "outliers.")
"""Figures that are shares of the lenses."""
GROUPED = ("coverage.0.68", "coverage.0.95", "outliers.", "sharpness.")
"""Means that are reported of every group, besides widths and the ranks' distance from uniform."""
FEWER = "fewer than 4 images"
"""Group of the lenses that are no quads: doubles, naked cusps of three images, and arcs about a single one."""
CONVENTIONS = {
    "hezaveh2017": ("theta_E", "ex", "ey"),
    "one_minus_q": ("ex", "ey"),
    "holismokes4": ("theta_E", "ex", "ey"),
}
"""Pairs (1-q)(cos t, sin t) with the sign taken from the truth, as in Hezaveh+2017's table; the same size as a
spin-2 pair, without that help; and HOLISMOKES IV's (1-q^2)/(1+q^2) with its theta_E."""


@dataclass(frozen=True, slots=True)
class Regression:
    """Regression by one model.

    Attributes
    ----------
    figures : dict of Estimate
        Keys such as ``errors.theta_E.bias``, ``coverage.0.68.x``, ``group.quad.coverage.0.95.joint_5``;
        ``selective.0.9.x``, the half-width of 68 % of the 90 % with the smallest sigma; and ``gain_over_light.x``,
        ``gain_over_light.hezaveh2017.ex``: 1 - half-width of 68 % over that of the light alone.
    counts : dict of int
        Lenses in each group.
    galaxies : dict of int
        Galaxies that they are on.
    curves : dict of (k,) arrays
        Expected coverage by TARP at `TARP_LEVELS`; half-width of 68 % against the fraction kept.
    """

    figures: dict[str, Estimate]
    counts: dict[str, int]
    galaxies: dict[str, int]
    curves: dict[str, Floats]


def convert(name: str, estimate: Floats, truth: Floats) -> tuple[Floats, Floats]:
    """Return estimate and truth (n, 2 or 3) in a convention of `CONVENTIONS`, from (n, 7) physical parameters.

    ``hezaveh2017``: the pair of the estimate gets the sign that is nearer to the truth.
    """
    columns = [(values[:, 0], values[:, 1], values[:, 2]) for values in (estimate, truth)]
    if name == "holismokes4":
        ours, true = (np.stack(to_holismokes(*each), axis=1) for each in columns)
    elif name == "hezaveh2017":
        ours, true = (np.stack(to_hezaveh(*each), axis=1) for each in columns)
        true[::2, 1:] *= -1  # their angle covers the full circle
        flip = (ours[:, 1:] * true[:, 1:]).sum(axis=1) < 0
        ours[flip, 1:] *= -1
    else:
        ours, true = (np.stack([(1 + to_axis_ratio(e1, e2)[0]) * e for e in (e1, e2)], axis=1) for _, e1, e2 in columns)
    return ours, true


def groups_of(
    truth: Truth, lens: NDArray[np.bool_], selected: Mapping[str, NDArray[np.bool_]]
) -> dict[str, NDArray[np.bool_]]:
    """Return the groups (n_lens,) over which regression is reported: theta_E, S/N, images, what the score selects.

    Parameters
    ----------
    truth : dict of (n,) arrays
    lens : (n,) bool array
        The rows that are regressed.
    selected : dict of (n,) bool arrays
        What the score selects, by name; empty without a score.
    """
    theta_E = np.asarray(truth["theta_E"], np.float64)[lens]
    groups = {f"theta_E {span(a, b)}": (theta_E >= a) & (theta_E < b) for a, b in pairwise(THETA_EDGES)}
    groups["theta_E > 0.8"] = theta_E > 0.8
    if "snr_arc" in truth:
        snr = np.asarray(truth["snr_arc"], np.float64)[lens]
        for a, b in pairwise(SNR_EDGES):
            groups[f"S/N {span(a, b)}"] = (snr >= a) & (snr < b)
    if "n_images" in truth:
        images = np.asarray(truth["n_images"], np.float64)[lens]
        groups |= {"quad": images >= 4, FEWER: images < 4}
    groups |= {name: rows[lens] for name, rows in selected.items()}
    return {name: rows for name, rows in groups.items() if rows.sum() >= SMALLEST_GROUP}


class _Statistic:
    """Every resampled figure of regression, with all sorting done once."""

    def __init__(
        self,
        posteriors: Posteriors,
        truth: Floats,
        groups: dict[str, NDArray[np.bool_]],
        pixel_scale: float,
        light: Floats,
    ) -> None:
        self._p = posteriors
        estimate = posteriors.median
        self._errors = {f"errors.{name}": Deviations(estimate[:, k], truth[:, k]) for k, name in enumerate(PARAMETERS)}
        everyone = np.ones(len(truth), bool)
        self._widths: dict[str, tuple[Deviations, NDArray[np.bool_]]] = {}
        possible = _possible(light)
        for convention, pair in CONVENTIONS.items():
            ours, true = convert(convention, estimate, truth)
            plain, _ = convert(convention, possible, truth)
            for k, name in enumerate(pair):
                self._errors[f"{convention}.{name}"] = Deviations(ours[:, k], true[:, k])
                self._widths[f"light.{convention}.{name}"] = (Deviations(plain[:, k], true[:, k]), everyone)
        middle = np.median(truth, axis=0)
        for k, name in enumerate(PARAMETERS):
            self._widths[f"prior.{name}"] = (Deviations(np.full(len(truth), middle[k]), truth[:, k]), everyone)
            self._widths[f"light.{name}"] = (Deviations(light[:, k], truth[:, k]), everyone)
            for group, rows in groups.items():
                errors = Deviations(estimate[rows, k], truth[rows, k])
                self._widths[f"group.{group}.errors.{name}"] = (errors, rows)
        means, names = _indicators(posteriors, truth, pixel_scale)
        told = [k for k, name in enumerate(names) if name.startswith(GROUPED)]
        self._means: list[tuple[NDArray[np.float32], list[str], NDArray[np.bool_]]] = [(means, names, everyone)]
        for group, rows in groups.items():
            columns = [f"group.{group}.{names[k]}" for k in told]
            self._means.append((means[rows][:, told], columns, rows))
        table = np.stack(list(posteriors.ranks.values()))
        self._ranks = [(Uniformity(table), [f"pit_ks.{name}" for name in posteriors.ranks], everyone)]
        own = np.stack([posteriors.ranks[name] for name in PARAMETERS])
        for group, rows in groups.items():
            columns = [f"group.{group}.pit_ks.{name}" for name in PARAMETERS]
            self._ranks.append((Uniformity(own[:, rows]), columns, rows))
        self._selective = {}
        for share in KEPT:
            for k, name in enumerate(PARAMETERS):
                rows = _surest(posteriors.sigma[:, k], share)
                self._selective[f"selective.{share:g}.{name}"] = Deviations(estimate[rows, k], truth[rows, k]), rows

    def __call__(self, counts: Counts | None) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, errors in self._errors.items():
            found |= {f"{name}.{key}": value for key, value in errors.figures(counts).items()}
        for means, names, rows in self._means:
            weight = np.ones(len(means), np.float32) if counts is None else counts[rows].astype(np.float32)
            shares = weight @ means / (float(weight.sum()) or np.nan)  # nothing drawn of a group: nothing is known
            found |= dict(zip(names, shares.tolist(), strict=True))
        for name, (errors, rows) in self._widths.items():
            widths = errors.widths(None if counts is None else counts[rows])
            found |= {f"{name}.{key}": value for key, value in widths.items()}
        for name in self._errors:
            what = name.removeprefix("errors.")
            light = found[f"light.{what}.half_width_68"]
            found[f"gain_over_light.{what}"] = 1 - found[f"{name}.half_width_68"] / (light or np.nan)
        for name, (errors, rows) in self._selective.items():
            found[name] = errors.widths(None if counts is None else counts[rows])["half_width_68"]
        for ranks, names, rows in self._ranks:
            distances = ranks.distances(None if counts is None else counts[rows])
            found |= dict(zip(names, distances.tolist(), strict=True))
        for name, fraction in self._p.tarp.items():
            expected = expected_coverage(fraction, TARP_LEVELS, counts)
            found[f"tarp.{name}.largest"] = float(np.abs(expected - TARP_LEVELS).max())
            found[f"tarp.{name}.mean"] = float((expected - TARP_LEVELS).mean())
        return found

    def groups(self) -> Iterator[tuple[list[str], NDArray[np.bool_]]]:
        """Yield names of figures, and the lenses (n,) behind all of them."""
        yield from ((names, rows) for _, names, rows in (*self._means, *self._ranks))
        for name, (errors, rows) in self._widths.items():
            yield [f"{name}.{key}" for key in errors.widths()], rows
        yield from (([name], rows) for name, (_, rows) in self._selective.items())

    def shares(self) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Yield the figures that are shares, and the lenses (n,) behind each."""
        for _, names, rows in self._means:
            yield from ((name, rows) for name in names if any(kind in name for kind in SHARES))


def _possible(values: Floats) -> Floats:
    """Return parameters (n, 7) whose ellipticity, which a linear fit does not bound, is one of an ellipse."""
    size = np.hypot(values[:, 1], values[:, 2])
    result = values.copy()
    result[:, 1:3] *= np.minimum(1.0, FLATTEST / np.maximum(size, 1e-12))[:, None]
    return result


def _indicators(posteriors: Posteriors, truth: Floats, pixel_scale: float) -> tuple[NDArray[np.float32], list[str]]:
    """Return everything whose mean is a figure, (n, k), and the names: coverage, outliers, CRPS, NLL, sharpness."""
    columns: dict[str, NDArray[np.generic]] = {}
    for level in LEVELS:
        for name, ranks in posteriors.ranks.items():
            columns[f"coverage.{level:g}.{name}"] = central_coverage(ranks, level)
        for name, content in posteriors.credibility.items():
            columns[f"coverage.{level:g}.{name}"] = content <= level
    difference = np.abs(posteriors.median - truth)
    columns["outliers.theta_E"] = difference[:, 0] > 0.15 * truth[:, 0]
    for k, name in enumerate(PARAMETERS[1:5], start=1):
        columns[f"outliers.{name}"] = difference[:, k] > (0.2 if name in ("e1", "e2") else pixel_scale)
    for k, name in enumerate(PARAMETERS):
        columns[f"sharpness.{name}"] = posteriors.sigma[:, k]
        columns[f"crps.{name}"] = posteriors.crps[:, k]
    columns |= {f"nll.{name}": values for name, values in posteriors.nll.items()}
    return np.stack([np.asarray(column, np.float32) for column in columns.values()], axis=1), list(columns)


def regress(
    posteriors: Posteriors,
    truth: Floats,
    groups: dict[str, NDArray[np.bool_]],
    pixel_scale: float,
    features: Floats,
    bootstrap: Bootstrap,
) -> Regression:
    """Return the figures of regression on n lenses.

    Parameters
    ----------
    posteriors : Posteriors
    truth : (n, 7) array
    groups : dict of (n,) bool arrays
        See `groups_of`.
    pixel_scale : float
        Arcsec; an error of x or y above one pixel is an outlier.
    features : (n, k) array
        Light-only measurements, for the linear prediction that stands beside.
    bootstrap : Bootstrap
        Over the same lenses.
    """
    statistic = _Statistic(posteriors, truth, groups, pixel_scale, linear_values(features, truth, bootstrap.cluster))
    figures = resample(statistic, bootstrap)
    if too_few(bootstrap.cluster):
        figures = {name: each.bare() for name, each in figures.items()}
    for names, rows in statistic.groups():
        if too_few(bootstrap.cluster[rows]):
            figures |= {name: figures[name].bare() for name in names}
    figures |= {name: share_estimate(figures[name], bootstrap.cluster[rows]) for name, rows in statistic.shares()}
    curves = {"level": TARP_LEVELS}
    curves |= {f"tarp.{name}": expected_coverage(values, TARP_LEVELS) for name, values in posteriors.tarp.items()}
    curves["kept"] = np.array([1.0, *KEPT])
    for name in PARAMETERS:
        points = [f"errors.{name}.half_width_68", *(f"selective.{share:g}.{name}" for share in KEPT)]
        curves[f"selective.{name}"] = np.array([figures[point].value for point in points])
    counts = {"all": len(truth)} | {name: int(rows.sum()) for name, rows in groups.items()}
    behind = {"all": bootstrap.cluster} | {name: bootstrap.cluster[rows] for name, rows in groups.items()}
    return Regression(figures, counts, {name: len(np.unique(each)) for name, each in behind.items()}, curves)


def _surest(sigma: Floats, share: float) -> NDArray[np.bool_]:
    """Return which rows (n,) are the given share with the smallest sigma, at least one."""
    rows = np.zeros(len(sigma), bool)
    rows[np.argsort(sigma, kind="stable")[: max(int(share * len(sigma)), 1)]] = True
    return rows
