"""Rates at a threshold that stays as it is: completeness over theta_E and S/N, false positives by class."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.evaluate.testsets import Truth
from lensscan.metrics.detection import wilson
from lensscan.mocks.labels import UNDETECTABLE, ambiguous
from lensscan.mocks.recipes import CLASSES

__all__ = ["SNR_EDGES", "THETA_EDGES", "completeness_table", "false_positives", "rate", "span"]

THETA_EDGES = (0.0, 0.5, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0, np.inf)
SNR_EDGES = (0.0, 10.0, 20.0, 40.0, np.inf)
SEEING_EDGES = (0.0, 0.75, 1.0, 1.25, 1.5, 2.0, np.inf)


def span(low: float, high: float) -> str:
    """Return a bin in words."""
    return f"{low:g}-{high:g}" if np.isfinite(high) else f"> {low:g}"


def rate(hits: NDArray[np.bool_], galaxy: NDArray[Any] | None = None) -> dict[str, Any]:
    """Return a rate of rows with Wilson's 95 % interval, for as many trials as they have galaxies, and their number.

    Rows of one galaxy are counted as one trial however little they have in common: the interval is rather too wide.
    """
    n, trials = len(hits), len(hits) if galaxy is None else len(np.unique(galaxy))
    value = int(hits.sum()) / n if n else float("nan")
    low, high = wilson(value * trials, trials)
    return {"n": n, "value": value, "low": low, "high": high}


def completeness_table(
    found: NDArray[np.bool_], truth: Truth, fwhm: NDArray[np.floating], galaxy: NDArray[Any] | None = None
) -> dict[str, Any]:
    """Return the share of lensed systems above a threshold, in bins.

    Parameters
    ----------
    found : (n,) bool array
        Above the threshold.
    truth : dict
        With ``theta_E`` and ``snr_arc``; systems below the label rule are counted too.
    fwhm : (n, C) array
        Seeing, arcsec.
    galaxy : (n,) array, optional
        Cluster of each row.  Default: all differ.

    Returns
    -------
    dict
        ``cells`` [theta_E bin][S/N bin], ``by_seeing`` (theta_E over the median band's seeing), ``cmu`` (theta_E
        > 1.4 arcsec and S/N > 20, the cell of CMU DeepLens), each as `rate`; and the bins' edges, the last bin open.
    """
    lensed = np.asarray(truth["is_lens"], bool) | ambiguous(truth)
    theta_E, snr = (np.where(lensed, truth[name], np.nan) for name in ("theta_E", "snr_arc"))
    galaxy = np.arange(len(found)) if galaxy is None else galaxy

    def cell(rows: NDArray[np.bool_]) -> dict[str, Any]:
        return rate(found[rows], galaxy[rows])

    with np.errstate(invalid="ignore"):
        with_seeing = theta_E / _median_seeing(fwhm)
        cells = [
            [cell((theta_E >= a) & (theta_E < b) & (snr >= c) & (snr < d)) for c, d in pairwise(SNR_EDGES)]
            for a, b in pairwise(THETA_EDGES)
        ]
        by_seeing = [cell((with_seeing >= a) & (with_seeing < b)) for a, b in pairwise(SEEING_EDGES)]
        cmu = cell((theta_E > 1.4) & (snr > 20))
    return {
        "theta_E_edges": list(THETA_EDGES[:-1]),
        "snr_edges": list(SNR_EDGES[:-1]),
        "seeing_edges": list(SEEING_EDGES[:-1]),
        "cells": cells,
        "by_seeing": by_seeing,
        "cmu": cmu,
    }


def _median_seeing(fwhm: NDArray[np.floating]) -> NDArray[np.float64]:
    widths = np.where(fwhm > 0, fwhm, np.nan)
    known = np.isfinite(widths).any(axis=1)
    seeing = np.full(len(fwhm), np.nan)
    seeing[known] = np.nanmedian(widths[known], axis=1)
    return seeing


def false_positives(
    found: NDArray[np.bool_], truth: Truth, galaxy: NDArray[Any] | None = None
) -> dict[str, dict[str, Any]]:
    """Return, per class of non-lenses, the share above a threshold and, as ``share``, its share of all such rows.

    Both as `rate`; systems below the label rule are no false positives and have no share.
    """
    klass = truth.get("klass")
    if klass is None:
        return {}
    other = ~np.asarray(truth["is_lens"], bool)
    galaxy = np.arange(len(found)) if galaxy is None else galaxy
    wrong = found & other & ~ambiguous(truth)
    above = np.asarray(klass)[wrong]
    table = {}
    for number, name in enumerate(CLASSES):
        chosen = other & (np.asarray(klass) == number)
        if chosen.any():
            table[name] = rate(found[chosen], galaxy[chosen])
            if number != UNDETECTABLE:
                table[name]["share"] = rate(above == number, galaxy[wrong])
    return table
