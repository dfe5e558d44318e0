"""Scores and posteriors whose calibration is known, in the shape that an evaluation takes."""

from __future__ import annotations

import numpy as np

from lensscan.evaluate.predict import Predictions, Scored
from lensscan.mocks.recipes import CLASSES
from lensscan.nets.card import Card
from lensscan.nets.latent import N_COV, PARAMETERS, TRIANGLE, from_latent
from lensscan.nets.mixture import Mixture

PRIOR = np.array([0.3, 0.15, 0.15, 0.1, 0.1, 0.3, 0.3])
NOISE = np.array([0.1, 0.08, 0.08, 0.05, 0.05, 0.2, 0.2])
BANDS = ("g", "r")


def card(name: str) -> Card:
    return Card(name, {"kind": "toy"}, BANDS, 32, 0.263, hash=f"{hash(name):x}", label="toy lenses")


def posteriors(n: int, rng, width: float = 1.0):
    """Return latent truth, and the exact Gaussian posterior (mean, packed cov), stated `width` times as wide."""
    latent = PRIOR * rng.normal(size=(n, 7))
    shrink = PRIOR**2 / (PRIOR**2 + NOISE**2)
    mean = shrink * (latent + NOISE * rng.normal(size=latent.shape))
    cov = np.zeros((n, N_COV))
    for i in range(7):
        cov[:, TRIANGLE.index((i, i))] = width**2 * shrink[i] * NOISE[i] ** 2
    return latent, mean, cov


def scored(n: int = 4000, seed: int = 1, widths: tuple[float, ...] = (1.0,), vague: float = 0.0) -> Scored:
    """Return n rows, half of them lenses: the logit is the exact log likelihood ratio of two unit Gaussians at +-1."""
    rng = np.random.default_rng(seed)
    lens = rng.random(n) < 0.5
    klass = np.where(lens, 0, rng.integers(2, len(CLASSES), n))
    if vague:
        klass[~lens & (rng.random(n) < vague)] = CLASSES.index("undetectable")
    latent, mean, cov = posteriors(n, rng)
    seen = lens | (klass == CLASSES.index("undetectable"))
    physical = from_latent(latent)
    truth = {name: np.where(seen, physical[:, k], np.nan) for k, name in enumerate(PARAMETERS)}
    truth |= {
        "is_lens": lens,
        "klass": klass,
        "snr_arc": np.where(seen, rng.uniform(8, 60, n), np.nan),
        "n_images": np.where(seen, rng.choice([2.0, 4.0], n), np.nan),
    }
    score = rng.normal(np.where(lens, 1.0, -1.0))
    features = np.column_stack([physical[:, 3:5] + 0.01 * rng.normal(size=(n, 2)), rng.normal(size=(n, 14))])
    models = []
    for number, width in enumerate(widths):
        blur = score + 0.5 * number * rng.normal(size=n)
        models.append(
            Predictions(
                card=card(f"toy{number}"),
                logit=2 * blur,
                posterior=Mixture.single(mean, cov * width**2),
                flags=np.zeros(n, np.uint32),
                fwhm=np.full((n, 2), 0.9, np.float32),
                views=1,
                raw=blur,
            )
        )
    return Scored(np.arange(n), 0, truth, features, models)
