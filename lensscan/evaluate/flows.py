"""A normalising flow's own posterior on a test set: coverage by its samples, its exact likelihood.

The catalog has Gaussians that stand for the flow, recalibrated, and the report's other figures are theirs.  These here
are the flow's, as trained: how far they lie apart is what the Gaussians cost.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lensscan.evaluate.posteriors import PARAMETERS, Posteriors, log_jacobian
from lensscan.metrics.bootstrap import Bootstrap, Counts, Estimate, resample, trusted
from lensscan.metrics.detection import share_estimate
from lensscan.metrics.sampled import central_coverage, rank
from lensscan.nets.flowposterior import FlowPosteriors
from lensscan.nets.latent import from_latent, to_latent

__all__ = ["LEVELS", "flow_figures"]

Floats = NDArray[np.float64]
LEVELS = (0.68, 0.95)
SAMPLES = 400
ROWS = 64


def flow_figures(
    found: FlowPosteriors, published: Posteriors, truth: Floats, bootstrap: Bootstrap
) -> dict[str, Estimate]:
    """Return the figures of a flow on n lenses.

    Parameters
    ----------
    found : FlowPosteriors
    published : Posteriors
        Of the Gaussians that stand for it, on the same lenses.
    truth : (n, 7) array
        Physical parameters.
    bootstrap : Bootstrap
        Over the same lenses.

    Returns
    -------
    dict of Estimate
        ``coverage.<level>.<parameter>`` of central intervals, ``coverage.<level>.joint_7`` of the smallest regions,
        both by the rank of the truth among samples; ``nll.joint_7``, the negative log likelihood (nats) in physical
        units; ``gained.joint_7``, by how much it is below that of the Gaussians.
    """
    rng = np.random.default_rng(bootstrap.seed)
    parts = []
    for start in range(0, len(truth), ROWS):
        rows = slice(start, start + ROWS)
        parts.append(_reduce(found[rows], truth[rows], rng))
    columns: dict[str, Floats] = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    columns["gained.joint_7"] = published.nll["joint_7"] - columns["nll.joint_7"]

    def means(counts: Counts | None) -> dict[str, float]:
        return {name: float(np.average(values, weights=counts)) for name, values in columns.items()}

    figures = {name: trusted(each, bootstrap.cluster) for name, each in resample(means, bootstrap).items()}
    return {
        name: share_estimate(found, bootstrap.cluster) if name.startswith("coverage.") else found
        for name, found in figures.items()
    }


def _reduce(found: FlowPosteriors, truth: Floats, rng: np.random.Generator) -> dict[str, Floats]:
    """Return everything whose mean is a figure, of one chunk of lenses."""
    latent, samples = to_latent(truth), found.draw(rng, SAMPLES)
    true, drawn = found.log_density(latent[:, None])[:, 0], found.log_density(samples)
    content = 1.0 - rank(drawn, true, rng)
    ranks = rank(from_latent(samples), truth, rng)
    columns: dict[str, Floats] = {}
    for level in LEVELS:
        inside = central_coverage(ranks, level)
        columns |= {f"coverage.{level:g}.{name}": inside[:, k].astype(float) for k, name in enumerate(PARAMETERS)}
        columns[f"coverage.{level:g}.joint_7"] = (content <= level).astype(float)
    columns["nll.joint_7"] = -true - sum(log_jacobian(truth))
    return columns
