"""Is a lens on a real galaxy found as often as a lens on a simulated one? Recall at equal theta_E and arc S/N."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensscan.metrics.bootstrap import Bootstrap, Counts, Estimate, resample

__all__ = ["Found", "Recall", "compare_recall"]

CELLS = 5
FEWEST = 5
Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Found:
    """Lenses and which of them were found.

    Attributes
    ----------
    passed : (n,) bool array
    theta_E : (n,) array
        Arcsec.
    snr : (n,) array
        Of the arcs.
    galaxy : (n,) int array
        Lenses on one galaxy share a number.
    """

    passed: NDArray[np.bool_]
    theta_E: Floats
    snr: Floats
    galaxy: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Recall:
    """Recall of painted lenses and of mocks like them.

    Attributes
    ----------
    painted, mock, difference : Estimate
        Painted minus mock; galaxies are resampled.
    share : float
        Share of the painted lenses that lie in a cell with enough mocks; the others are left out.
    effective : float
        Number of equally weighted mocks that would weigh as much (Kish 1965).
    means : tuple of float
        Mean theta_E and S/N of the painted lenses used, and of the weighted mocks.
    """

    painted: Estimate
    mock: Estimate
    difference: Estimate
    share: float
    effective: float
    means: tuple[float, float, float, float]


def compare_recall(painted: Found, mock: Found, replicates: int = 1000) -> Recall | None:
    """Compare recalls after weighting mocks to the painted lenses' distribution of theta_E and arc S/N.

    Cells are bounded by the painted lenses' quintiles of theta_E, and within each of these by quintiles of S/N, from
    the least to the largest; those with fewer than `FEWEST` mocks are left out on both sides.  None if no cell is
    left.

    Parameters
    ----------
    painted, mock : Found
    replicates : int
        Resamples of galaxies, the cells staying as they are.
    """
    bounds = _bounds(painted)
    cells = [_cell(each, bounds) for each in (painted, mock)]
    enough = np.bincount(cells[1][cells[1] >= 0], minlength=CELLS * CELLS) >= FEWEST
    used = [(cell >= 0) & enough[cell] for cell in cells]
    if not used[0].any():
        return None
    cell = np.concatenate([cells[0][used[0]], cells[1][used[1]]])
    passed = np.concatenate([painted.passed[used[0]], mock.passed[used[1]]])
    real = np.arange(len(cell)) < used[0].sum()
    apart = int(painted.galaxy.max(initial=0)) + 1
    galaxy = np.concatenate([painted.galaxy[used[0]], apart + np.unique(mock.galaxy[used[1]], return_inverse=True)[1]])

    def statistic(counts: Counts | None) -> dict[str, float]:
        once = np.ones(len(cell)) if counts is None else counts.astype(np.float64)
        totals = [np.bincount(cell[side], once[side], CELLS * CELLS) for side in (real, ~real)]
        hits = [np.bincount(cell[side], (once * passed)[side], CELLS * CELLS) for side in (real, ~real)]
        both = (totals[0] > 0) & (totals[1] > 0)
        if not both.any():
            return {}
        share = totals[0][both] / totals[0][both].sum()
        found = [float(share @ (hit[both] / total[both])) for hit, total in zip(hits, totals, strict=True)]
        return {"painted": found[0], "mock": found[1], "difference": found[0] - found[1]}

    figures = resample(statistic, Bootstrap(galaxy, replicates))
    weight = np.bincount(cell[real], minlength=CELLS * CELLS)[cell[~real]] / np.bincount(cell[~real])[cell[~real]]
    means = [float(np.mean(getattr(painted, name)[used[0]])) for name in ("theta_E", "snr")]
    means += [float(np.average(getattr(mock, name)[used[1]], weights=weight)) for name in ("theta_E", "snr")]
    return Recall(
        figures["painted"],
        figures["mock"],
        figures["difference"],
        float(used[0].mean()),
        float(weight.sum() ** 2 / (weight**2).sum()),
        (means[0], means[1], means[2], means[3]),
    )


def _bounds(painted: Found) -> tuple[Floats, list[Floats]]:
    """Return the bounds in theta_E and, for each interval between them, those in S/N."""
    shares = np.arange(CELLS + 1) / CELLS
    theta_E = np.quantile(painted.theta_E, shares)
    column = _interval(painted.theta_E, theta_E)
    snr = [
        np.quantile(painted.snr[column == k], shares) if (column == k).any() else np.full(CELLS + 1, np.inf)
        for k in range(CELLS)
    ]
    return theta_E, snr


def _interval(values: Floats, edges: Floats) -> NDArray[np.int64]:
    """Return the interval of each value; -1 outside of all, so that mocks unlike any painted lens do not count."""
    inside = (values >= edges[0]) & (values <= edges[-1])
    return np.where(inside, np.clip(np.searchsorted(edges, values, side="right") - 1, 0, CELLS - 1), -1)


def _cell(lenses: Found, bounds: tuple[Floats, list[Floats]]) -> NDArray[np.int64]:
    """Return the cell of each lens; -1 outside of all."""
    column = _interval(lenses.theta_E, bounds[0])
    row = np.full(len(column), -1)
    for k, edges in enumerate(bounds[1]):
        row[column == k] = _interval(lenses.snr[column == k], edges)
    return np.where((column >= 0) & (row >= 0), column * CELLS + row, -1)
