"""Another prior of theta_E for the posteriors of a ranked table, by importance weights on samples.

A stored posterior stands under the prior p of the network's training.  Under a prior p' its samples have the
weights p'(theta_E) / p(theta_E) (importance sampling, as in Hogg, Myers & Bovy 2010, arXiv:1008.4146).  Only theta_E is
re-weighted; everything else keeps the training's distribution at given theta_E.  Both densities are those of lenses
that fulfil the training's label.  Where training had no lenses nothing is known: such samples weigh nothing.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from lensscan.candidates.sampling import Posteriors, Summaries
from lensscan.config import read_toml
from lensscan.errors import ConfigError, OutputError
from lensscan.metrics.quasirandom import cube_points
from lensscan.nets.card import ThetaPrior
from lensscan.nets.flags import merge_flags
from lensscan.nets.latent import N_LATENT, TRIANGLE, from_latent
from lensscan.schema import ENDPOINTS, PARAMETERS, Flag

if TYPE_CHECKING:
    from astropy.table import QTable

__all__ = ["LEAST", "SAMPLES", "NewPrior", "Reweighted", "check_prior", "new_prior", "reweight", "weighted_columns"]

Array = NDArray[np.float64]
SAMPLES = 2048
"""Samples of each candidate."""
LEAST = 100
"""Least effective number of samples; below, the new posterior is refused."""
ROWS = 64
NAMED = ("natural", "uniform")
LEVELS = {"_q025": 0.025, "_q16": 0.16, "": 0.5, "_q84": 0.84, "_q975": 0.975}
DEPENDENT = Flag.THETA_E_UNRESOLVED | Flag.POSTERIOR_WIDE | Flag.POSTERIOR_AT_PRIOR | Flag.OFF_CENTRE
"""Flags that follow from the posterior."""


@dataclass(frozen=True, slots=True)
class NewPrior:
    """A prior that replaces the training's.

    Attributes
    ----------
    name : str
        ``natural``, ``uniform`` or the file.
    low, high : float
        Arcsec; beyond, samples weigh nothing.
    grid, old, new : ndarray, shape (k,)
        ln theta_E, and both densities per unit of it.
    outside : float
        Share of the new prior beyond the training's range, which no posterior can show.
    """

    name: str
    low: float
    high: float
    grid: Array
    old: Array
    new: Array
    outside: float = 0.0

    def weight(self, log_theta_E: Array) -> Array:
        """Return p' / p at ln theta_E, of any shape; zero beyond the range."""
        old, new = (np.interp(log_theta_E, self.grid, values) for values in (self.old, self.new))
        inside = (log_theta_E >= np.log(self.low)) & (log_theta_E <= np.log(self.high)) & (old > 0)
        return np.where(inside, new / np.where(old > 0, old, 1.0), 0.0)


@dataclass(frozen=True, slots=True)
class Reweighted:
    """What `reweight` did to a table.

    Attributes
    ----------
    prior : NewPrior
    posteriors : int
        Candidates that had a posterior.
    refused : int
        Those of them with an effective number of samples below `LEAST`.
    """

    prior: NewPrior
    posteriors: int
    refused: int

    def lines(self) -> list[str]:
        """Return what a user must know."""
        prior, kept = self.prior, self.posteriors - self.refused
        limits = f"{prior.low:.3g} to {prior.high:.3g} arcsec"
        lines = [f"prior {prior.name} of theta_E, {limits}: {kept:,} posteriors re-weighted"]
        if prior.outside > 1e-3:
            lines.append(f"{100 * prior.outside:.1f} % of this prior lie where training had no lenses: left out")
        if self.refused:
            few = f"fewer than {LEAST} effective samples of {SAMPLES}"
            lines.append(f"{self.refused:,} posteriors refused (NaN): {few}, see the column ess")
        return lines


def new_prior(prior: ThetaPrior, wanted: str) -> NewPrior:
    """Return the prior that a user asked for.

    Parameters
    ----------
    prior : ThetaPrior
        Of the model.
    wanted : str
        ``natural``: theta_E as the population of the training's recipe has it; ``uniform``: even in theta_E over the
        training's range; else a file: CSV with the columns ``theta_E`` (arcsec, ascending) and ``density`` (per
        arcsec, any normalisation, linear between, zero beyond), or TOML with two lists of these names.

    Raises
    ------
    ConfigError
        If the recipe has no natural population, or the file cannot be used.
    """
    coarse = np.linspace(np.log(prior.low), np.log(prior.high), len(prior.training))
    old = np.asarray(prior.training, np.float64)
    if wanted == "natural":
        if not prior.natural:
            raise ConfigError("--prior natural: the model's recipe has no physical population; give a FILE")
        return NewPrior(wanted, prior.low, prior.high, coarse, old, np.asarray(prior.natural, np.float64))
    grid = np.linspace(coarse[0], coarse[-1], 16 * (len(coarse) - 1) + 1)
    old = np.interp(grid, coarse, old)
    if wanted == "uniform":
        return NewPrior(wanted, prior.low, prior.high, grid, old, np.exp(grid))
    theta, values = _read_density(Path(wanted))
    new = np.interp(np.exp(grid), theta, values, left=0.0, right=0.0) * np.exp(grid)
    if not new.max() > 0:
        raise ConfigError(
            f"--prior {wanted}: zero between {prior.low:g} and {prior.high:g} arcsec, the training's range"
        )
    fine = np.linspace(theta[0], theta[-1], 10_001)
    on_fine = np.interp(fine, theta, values)
    beyond = (fine < prior.low) | (fine > prior.high)
    low, high = max(prior.low, float(theta[0])), min(prior.high, float(theta[-1]))
    return NewPrior(Path(wanted).name, low, high, grid, old, new, float(on_fine[beyond].sum() / on_fine.sum()))


def check_prior(wanted: str) -> None:
    """Raise what `new_prior` would for a file that cannot be used: for a look before long work."""
    if wanted not in NAMED:
        _read_density(Path(wanted))


def _read_density(path: Path) -> tuple[Array, Array]:
    """Read theta_E and density from TOML or CSV."""
    names = ("theta_E", "density")
    wanted = "a CSV or TOML file with the columns theta_E and density"
    if not path.is_file():
        raise ConfigError(f"--prior {path}: no such file; write natural, uniform, or {wanted}")
    try:
        if path.suffix == ".toml":
            columns = [read_toml(path)[name] for name in names]
        else:
            with open(path, newline="", encoding="utf-8") as stream:
                lines = csv.DictReader(line for line in stream if line.strip() and not line.startswith("#"))
                columns = list(zip(*[[line[name] for name in names] for line in lines], strict=True))
        theta, values = (np.asarray(column, np.float64) for column in columns)
    except KeyError as error:
        raise ConfigError(f"--prior {path}: no column {error.args[0]}; give {wanted}") from None
    except (OSError, TypeError, ValueError):
        raise ConfigError(f"--prior {path}: cannot be read as numbers; give {wanted}") from None
    fine = theta.ndim == 1 and theta.shape == values.shape and len(theta) > 1
    if not (fine and np.isfinite([theta, values]).all() and (np.diff(theta) > 0).all() and theta[0] >= 0):
        raise ConfigError(f"--prior {path}: theta_E must ascend from 0 or more, with a finite density at each")
    if (values < 0).any() or not values.max() > 0:
        raise ConfigError(f"--prior {path}: densities must not be negative, and not all zero")
    return theta, values


def reweight(table: QTable, prior: NewPrior) -> Reweighted:
    """Put another prior under the posteriors of a ranked table, in place.

    Medians, errors, quantiles, covariance and the flags that follow from them change; the column ``ess`` is added.
    A candidate with an effective number of samples below `LEAST` is refused: its posterior becomes NaN.  ``ra_lens
    dec_lens pa`` stay the scan's, because the table holds no WCS.

    Parameters
    ----------
    table : QTable
        As `read_candidates` gives it.
    prior : NewPrior

    Returns
    -------
    Reweighted
        Its lines also stand in the table's ``meta``, as ``posterior_prior_notes``.

    Raises
    ------
    OutputError
        If there are posteriors, but all are refused.
    """
    ids = [str(value) for value in np.asarray(table["id"]).tolist()]
    said = Summaries.of(table)
    columns = weighted_columns(said, ids, prior)
    had = np.isfinite(said.median).all(axis=1)
    refused = had & ~(columns["ess"] >= LEAST)
    done = Reweighted(prior, int(had.sum()), int(refused.sum()))
    if done.refused and done.refused == done.posteriors:
        raise OutputError(
            f"--prior {prior.name}: all {done.refused} posteriors have fewer than {LEAST} effective samples of "
            f"{SAMPLES}: this prior lies where they do not"
        )
    ess = columns.pop("ess").astype(np.float32)
    for name, values in columns.items():
        unit = getattr(table[name], "unit", None)
        table[name][:] = values if unit is None else values * unit
    table.add_column(ess, name="ess", index=table.colnames.index("cov") + 1)
    _set_flags(table, prior)
    table.meta["posterior_prior"] = prior.name
    table.meta["posterior_prior_notes"] = "; ".join(done.lines())
    return done


def _plain(column: Any) -> Array:
    return np.asarray(getattr(column, "value", column), dtype=np.float64)


def _set_flags(table: QTable, prior: NewPrior) -> None:
    seeing = [name for name in table.colnames if name.startswith("fwhm_")]
    fwhm = np.stack([_plain(table[name]) for name in seeing], axis=1) if seeing else np.zeros((len(table), 0))
    wanted = (*PARAMETERS, "theta_E_err", *ENDPOINTS, "logit_std", "ood")
    columns: Mapping[str, NDArray[Any]] = {name: _plain(table[name]) for name in wanted if name in table.colnames}
    if len(table):
        anew = merge_flags(columns, fwhm.astype(np.float32), (prior.low, prior.high)) & np.uint32(DEPENDENT)
        table["flags"][:] = (np.asarray(table["flags"]) & ~np.uint32(DEPENDENT)) | anew


def weighted_columns(said: Summaries, ids: list[str], prior: NewPrior) -> dict[str, Array]:
    """Return the posterior columns of candidates under another prior.

    Parameters
    ----------
    said : Summaries
        Of the ranked table.
    ids : list of str
        They choose the samples: a candidate has the same whatever stands beside it.
    prior : NewPrior

    Returns
    -------
    dict of ndarray
        Medians, ``_err``, the quantiles of theta_E, each (n,), ``cov`` (n, 28), and ``ess`` (n,), the effective number
        of samples (sum w)^2 / sum w^2 (Kish 1965); all but ``ess`` NaN where it is below `LEAST`.
    """
    n = len(said)
    names = (*PARAMETERS, *(f"{name}_err" for name in PARAMETERS), *ENDPOINTS, "ess")
    result = {name: np.full(n, np.nan) for name in names}
    result["cov"] = np.full((n, len(TRIANGLE)), np.nan)
    for rows, latent in _samples(Posteriors.of(said), ids):
        weight = prior.weight(latent[..., 0])
        total = weight.sum(axis=1)
        squares = (weight * weight).sum(axis=1)
        ess = np.where(squares > 0, total * total / np.where(squares > 0, squares, 1.0), 0.0)
        result["ess"][rows] = ess
        fine = ess >= LEAST
        if fine.any():
            _summarise(result, rows[fine], from_latent(latent[fine]), weight[fine] / total[fine, None])
    return result


@cache
def _points() -> Array:
    """Return the points that all rows share, (`SAMPLES`, 7)."""
    return cube_points(SAMPLES, N_LATENT)


def _samples(posteriors: Posteriors, ids: list[str]) -> Iterator[tuple[Any, Array]]:
    """Yield rows and their latent samples (m, SAMPLES, 7): the Sobol points, shifted by a hash of the row's id."""
    known = posteriors.known
    for start in range(0, len(known), ROWS):
        rows = known[start : start + ROWS]
        keys = [hashlib.blake2b(ids[k].encode(), digest_size=4 * N_LATENT, person=b"prior").digest() for k in rows]
        shift = np.frombuffer(b"".join(keys), "<u4").reshape(-1, 1, N_LATENT) * 2.0**-32
        cube = (_points() + shift + 2.0**-33) % 1.0
        normal = ndtri(np.clip(cube, 1e-12, 1 - 1e-12))
        yield rows, posteriors.latent(rows, normal)


def _summarise(result: dict[str, Array], rows: NDArray[np.intp], samples: Array, weight: Array) -> None:
    """Fill rows from samples (m, S, 7) and weights (m, S) that add up to 1."""
    for k, name in enumerate(PARAMETERS):
        order = np.argsort(samples[..., k], axis=1, kind="stable")
        value = np.take_along_axis(samples[..., k], order, axis=1)
        share = np.take_along_axis(weight, order, axis=1)
        middle = np.cumsum(share, axis=1) - 0.5 * share
        found = {suffix: _quantile(value, middle, level) for suffix, level in LEVELS.items()}
        result[name][rows] = found[""]
        result[f"{name}_err"][rows] = 0.5 * (found["_q84"] - found["_q16"])
        if name == "theta_E":
            for suffix in ("_q025", "_q16", "_q84", "_q975"):
                result[f"theta_E{suffix}"][rows] = found[suffix]
    offset = samples - (weight[..., None] * samples).sum(axis=1, keepdims=True)
    for index, (i, j) in enumerate(TRIANGLE):
        result["cov"][rows, index] = (weight * offset[..., i] * offset[..., j]).sum(axis=1)


def _quantile(value: Array, middle: Array, level: float) -> Array:
    """Return the quantile of sorted values whose cumulative weight, each to its middle, is given; linear between."""
    above = np.clip((middle < level).sum(axis=1), 1, value.shape[1] - 1)[:, None]
    low, high = (np.take_along_axis(middle, above - back, axis=1)[:, 0] for back in (1, 0))
    first, second = (np.take_along_axis(value, above - back, axis=1)[:, 0] for back in (1, 0))
    part = np.clip((level - low) / np.where(high > low, high - low, 1.0), 0.0, 1.0)
    return np.asarray(first + part * (second - first))
