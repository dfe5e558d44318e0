"""Posteriors of the lenses of a test set, reduced to per-lens numbers: ranks, CRPS, likelihood, distances.

Everything comes from samples of the latent posterior, the same that a user would draw, except likelihoods (exact, with
the Jacobian to physical units) and the joint regions of a single component (ellipsoids in latent space).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensscan.evaluate.testsets import Truth
from lensscan.lens.conventions import to_axis_ratio, to_holismokes
from lensscan.metrics.bootstrap import Counts
from lensscan.metrics.posterior import credibility, draw_mixture, log_density
from lensscan.metrics.sampled import crps, rank, tarp_fraction
from lensscan.nets.latent import FLOOR, PARAMETERS, ellipticity_stretch, from_latent, to_latent
from lensscan.nets.mixture import Mixture

__all__ = [
    "LEVELS",
    "PARAMETERS",
    "REGIONS",
    "Posteriors",
    "coverage_shares",
    "likelihoods",
    "log_jacobian",
    "reduce_posteriors",
    "truth_table",
]

Floats = NDArray[np.float64]
ROWS = 500
JOINT = {"joint_5": 5, "joint_7": 7}
REGIONS = (*PARAMETERS, "joint_7")
LEVELS = (0.68, 0.95)
"""Of coverage, where conditions and skies are compared."""


@dataclass(frozen=True, slots=True)
class Posteriors:
    """Per-lens numbers, n lenses.

    Attributes
    ----------
    median, sigma : (n, 7)
        Of the samples, physical: theta_E e1 e2 x y sx sy.
    ranks : dict of (n,)
        Randomised rank of the truth, per parameter and, as ``holismokes_theta_E`` ..., in other conventions.
    crps : (n, 7)
        Arcsec; e1, e2 dimensionless.
    credibility : dict of (n,)
        Content of the smallest region in latent space that holds the truth, of the first five parameters (published)
        and of all seven.
    tarp : dict of (n,)
        Share of samples nearer to a random reference than the truth, for five and for seven parameters.
    nll : dict of (n,)
        Negative log likelihood (nats) of the truth, per parameter, of e1 and e2 jointly, and jointly for five
        and seven, in physical units.
    """

    median: Floats
    sigma: Floats
    ranks: dict[str, Floats]
    crps: Floats
    credibility: dict[str, Floats]
    tarp: dict[str, Floats]
    nll: dict[str, Floats]

    def contents(self) -> Floats:
        """Return the content of the smallest interval (central) or region that holds the truth, (n, 8): `REGIONS`."""
        central = [2 * np.abs(self.ranks[name] - 0.5) for name in PARAMETERS]
        return np.stack([*central, self.credibility["joint_7"]], axis=1)


def coverage_shares(contents: Floats, counts: Counts | None = None) -> dict[str, float]:
    """Return the shares of contents (n, 8) up to each of `LEVELS`, with keys such as ``0.95.joint_7``."""
    found: dict[str, float] = {}
    for level in LEVELS:
        shares = np.average(contents <= level, axis=0, weights=counts)
        found |= {f"{level:g}.{name}": float(share) for name, share in zip(REGIONS, shares, strict=True)}
    return found


def truth_table(truth: Truth, rows: NDArray[np.bool_]) -> Floats:
    """Return the true parameters (n, 7) of some rows."""
    return np.stack([np.asarray(truth[name], np.float64)[rows] for name in PARAMETERS], axis=1)


def log_jacobian(physical: Floats) -> tuple[Floats, Floats]:
    """Return log |d log theta_E / d theta_E| and log |d(u1, u2) / d(e1, e2)| at physical parameters (n, 7).

    With e = |(e1, e2)| and u = atanh e: the radial factor is 1 / (1 - e^2), the tangential one u / e.
    """
    size = np.minimum(np.hypot(physical[:, 1], physical[:, 2]), 1 - FLOOR)
    return -np.log(physical[:, 0]), np.log(ellipticity_stretch(size)) - np.log1p(-(size**2))


def reduce_posteriors(found: Mixture, truth: Floats, seed: int = 0) -> Posteriors:
    """Reduce latent posteriors of n lenses.

    Parameters
    ----------
    found : Mixture
    truth : (n, 7) array
        Physical parameters.
    seed : int
        Of the samples and of TARP's reference points.
    """
    rng = np.random.default_rng(seed)
    mean, cov, weight = found.mean.astype(np.float64), found.matrices, found.weight
    scale = np.maximum(truth.std(axis=0), 1e-12)
    low, high = np.quantile(truth, [0.01, 0.99], axis=0)
    parts: dict[str, list[Floats]] = {}
    for start in range(0, len(truth), ROWS):
        rows = slice(start, start + ROWS)
        samples = from_latent(draw_mixture(mean[rows], cov[rows], weight[rows], found.tail, rng))
        for key, values in _reduce(samples, truth[rows], scale, (low, high), rng).items():
            parts.setdefault(key, []).append(values)
    joined = {key: np.concatenate(values) for key, values in parts.items()}
    latent = to_latent(truth)
    return Posteriors(
        median=joined["median"],
        sigma=joined["sigma"],
        ranks={key.removeprefix("rank."): value for key, value in joined.items() if key.startswith("rank.")},
        crps=joined["crps"],
        credibility={
            name: credibility(latent[:, :k], mean[..., :k], cov[..., :k, :k], weight, found.tail, rng)
            for name, k in JOINT.items()
        },
        tarp={key.removeprefix("tarp."): value for key, value in joined.items() if key.startswith("tarp.")},
        nll=likelihoods(latent, truth, found),
    )


def _reduce(
    samples: Floats, truth: Floats, scale: Floats, box: tuple[Floats, Floats], rng: np.random.Generator
) -> dict[str, Floats]:
    """Return what one chunk of samples says, by name."""
    found = {"median": np.median(samples, axis=1), "sigma": samples.std(axis=1), "crps": crps(samples, truth)}
    ranks = rank(samples, truth, rng)
    found |= {f"rank.{name}": ranks[:, k] for k, name in enumerate(PARAMETERS)}
    for name, values, true in zip(OTHERS, other_conventions(samples), other_conventions(truth), strict=True):
        found[f"rank.{name}"] = rank(values, true, rng)
    reference = rng.uniform(box[0], box[1], truth.shape)
    for name, k in JOINT.items():
        found[f"tarp.{name}"] = tarp_fraction(
            samples[..., :k] / scale[:k], truth[:, :k] / scale[:k], reference[:, :k] / scale[:k], rng
        )
    return found


OTHERS = ("holismokes_theta_E", "holismokes_ex", "holismokes_ey", "one_minus_q_ex", "one_minus_q_ey")


def other_conventions(physical: Floats) -> tuple[Floats, ...]:
    """Return the columns `OTHERS` of physical parameters (..., 7)."""
    theta_E, e1, e2 = physical[..., 0], physical[..., 1], physical[..., 2]
    ratio, _ = to_axis_ratio(e1, e2)
    stretch = 1 + ratio  # (1-q) over (1-q)/(1+q)
    return (*to_holismokes(theta_E, e1, e2), stretch * e1, stretch * e2)


def likelihoods(latent: Floats, truth: Floats, found: Mixture) -> dict[str, Floats]:
    """Return negative log likelihoods (nats) under latent posteriors, as densities in physical units.

    Parameters
    ----------
    latent, truth : (n, 7) arrays
        The truth in latent space and in physical units.
    found : Mixture
    """
    theta, shape = log_jacobian(truth)
    jacobian = {"theta_E": theta, "e1_e2": shape, "joint_5": theta + shape, "joint_7": theta + shape}
    chosen = {"theta_E": [0], "e1_e2": [1, 2], **{name: list(range(k)) for name, k in JOINT.items()}}
    chosen |= {name: [k] for k, name in enumerate(PARAMETERS) if k > 2}
    mean, cov = found.mean.astype(np.float64), found.matrices
    result = {}
    for name, which in chosen.items():
        part = cov[..., which, :][..., which]
        density = log_density(latent[:, None, which], mean[..., which], part, found.weight, found.tail)[:, 0]
        result[name] = -density - jacobian.get(name, 0.0)
    return result
