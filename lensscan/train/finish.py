"""Finishing a training: calibration, posterior scale, ranges and a short evaluation, all into the card.

Each part uses mocks of a seed of its own, scored by the scan's own scorer.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lensscan.metrics import calibration
from lensscan.metrics.bootstrap import Bootstrap, Counts, resample
from lensscan.metrics.calibration import Calibration
from lensscan.metrics.posterior import credibility, marginal_coverage, residuals
from lensscan.metrics.ranking import Ranking, supported
from lensscan.metrics.scalemixture import GAUSSIAN, ScaleMixture, fit_scale_mixture
from lensscan.mocks.batches import fill_batch
from lensscan.mocks.labels import ambiguous, galaxies
from lensscan.mocks.recipes import CLASSES, Recipe
from lensscan.mocks.simulate import simulate
from lensscan.nets.card import Card, LensDensity, ThetaPrior
from lensscan.nets.latent import PARAMETERS, to_latent
from lensscan.nets.mixture import Mixture, Pooling
from lensscan.nets.model import Model
from lensscan.nets.prior import natural_rows
from lensscan.nets.scorer import Scorer
from lensscan.survey.stamps import Batch, allocate
from lensscan.train.kept import Kept
from lensscan.train.settings import Augmentation, Finish

__all__ = [
    "CLASSIFIES",
    "Scored",
    "calibrate",
    "calibrate_logit",
    "evaluate",
    "fitted_on",
    "headline",
    "lens_density",
    "recalibrate",
    "score_mocks",
]

BATCH = 64
CHUNK = 2048
GROUPS = ((0,), (1, 2), (3, 4), (5, 6))
LOGIT_EDGES = np.arange(-20.0, 20.5, 0.5)
"""Raw logits, of the bins of f_lens; a bend squeezes their calibrated values, and bins even in those would lump the
best candidates together."""
TRUTH = "truth "
"""What the names of truths in a chunk begin with."""
LEAST_LENSES = 10
"""In the outermost bins of f_lens."""
LEAST_NATURAL = 1000
"""Lenses of nature's theta_E that a calibration can stand on."""
CLASSIFIES = "none: this network only classifies, its posterior columns are NaN"
RANGE_QUANTILES = (0.001, 0.999)
FPRS = (1e-2, 1e-3)
"""False positive rates of a card's evaluation."""
RESAMPLES = 300
Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Scored:
    """Mocks with their scores.

    Attributes
    ----------
    logit : (n,) raw
    posterior : Mixture, with the card's scale and tail
    sigma, fwhm : (n, C) nJy and arcsec
    truth : dict of (n,) arrays
    """

    logit: Floats
    posterior: Mixture
    sigma: Floats
    fwhm: Floats
    truth: dict[str, NDArray[Any]]

    @property
    def is_lens(self) -> NDArray[np.bool_]:
        """Labels (n,)."""
        return np.asarray(self.truth["is_lens"], bool)

    @property
    def clear(self) -> Scored:
        """Those rows that are lenses or no lenses, without what is lensed but below the label rule."""
        kept = ~ambiguous(self.truth)
        return self if kept.all() else self._rows(kept)

    def natural(self, prior: ThetaPrior) -> Scored:
        """Return all non-lenses, and those lenses whose theta_E are distributed as nature's; see `natural_rows`.

        All rows if the prior knows no natural population, or if fewer than `LEAST_NATURAL` lenses would be left.
        """
        if not prior.natural:
            return self
        lens = self.is_lens
        chosen = natural_rows(prior, np.asarray(self.truth["theta_E"], np.float64)[lens])
        if chosen.sum() < LEAST_NATURAL:
            return self
        kept = ~lens
        kept[lens] = chosen
        return self._rows(kept)

    def _rows(self, kept: NDArray[np.bool_]) -> Scored:
        truth = {name: values[kept] for name, values in self.truth.items()}
        return Scored(self.logit[kept], self.posterior[kept], self.sigma[kept], self.fwhm[kept], truth)

    @property
    def regressed(self) -> bool:
        """Whether the network has a posterior head."""
        return not np.isnan(self.posterior.mean).all()

    @property
    def detected(self) -> bool:
        """Whether the network tells lenses from others, and there are both."""
        lens = self.clear.is_lens
        return not np.isnan(self.logit).all() and bool(lens.any()) and not lens.all()


def score_mocks(
    models: Sequence[Model],
    recipe: Recipe,
    seed: int,
    n: int,
    report: Callable[[str], None] = lambda line: None,
    views: int | None = None,
    device: torch.device | str = "cpu",
    kept: Kept | None = None,
) -> Scored:
    """Simulate n mocks and score them as a scan would: of several models, mean logit and pooled posterior.

    Of several models the tails are left out, which keeps their covariances.

    Parameters
    ----------
    models : sequence of Model
    recipe, seed, n
        Of the mocks.
    report : callable
        Takes progress lines.
    views : int, optional
        Dihedral views; default: each card's own.
    device : torch.device or str
        Where mocks are made and scored.
    kept : Kept, optional
        Holds what an earlier call scored; default: nothing.
    """
    model = models[0]
    scorer = Scorer(models, device, BATCH, views=views)
    slot = allocate(BATCH, scorer.frame, pinned=scorer.device.type == "cuda")
    kept = kept or Kept()
    key = (kept.fingerprint(models, recipe, device), "scores", views, seed)
    parts = []
    for start in range(0, n, CHUNK):
        count = min(CHUNK, n - start)
        make = functools.partial(_score_chunk, scorer, slot, recipe, seed, start, count)
        parts.append(kept((*key, start, count), make))
        report(f"seed {seed}: {start + count} of {n} mocks scored")
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    truth = {name.removeprefix(TRUTH): values for name, values in columns.items() if name.startswith(TRUTH)}
    tail, weight, logit = model.card.tail_of(views or model.card.views), columns["post_weight"], columns["logit"][:, 0]
    mean, cov = columns["post_mean"], columns["post_cov"]
    if len(models) > 1:
        tail, logit = GAUSSIAN, columns["logit"].mean(axis=1, dtype=np.float64)
        pooling = Pooling.of([model.card for model in models], views or 0)
        heard = pooling.heard
        mean, cov, weight = mean[:, heard], cov[:, heard], weight[:, heard] / pooling.voices
    posterior = Mixture(mean, cov, weight, tail)
    return Scored(logit, posterior, columns["sigma"], columns["fwhm"], truth)


def _score_chunk(
    scorer: Scorer, slot: Batch, recipe: Recipe, seed: int, start: int, count: int
) -> dict[str, NDArray[Any]]:
    """Return scores and truths of the mocks [start, start + count)."""
    mocks = simulate(recipe, seed=seed, start=start, n=count, device=scorer.device)
    scores: dict[str, list[NDArray[Any]]] = {}
    for low in range(0, count, BATCH):
        rows = slice(low, min(low + BATCH, count))
        used = rows.stop - low
        fill_batch(slot, scorer.frame, recipe, [mocks], rows)
        result = scorer.submit(slot).result()
        result["fwhm"] = slot.fwhm.copy()
        result.setdefault("post_weight", np.ones(result["post_mean"].shape[:2], np.float32))
        for key in ("logit", "post_mean", "post_cov", "post_weight", "sigma", "fwhm"):
            scores.setdefault(key, []).append(result[key][:used])
    truths = {TRUTH + key: value.cpu().numpy() for key, value in mocks.truth.items()}
    return {key: np.concatenate(parts) for key, parts in scores.items()} | truths


def latent_truth(scored: Scored) -> NDArray[np.float64]:
    """Return the latent truth (n_lens, 7) of the lenses."""
    lens = scored.is_lens
    table = np.stack([np.asarray(scored.truth[name], np.float64)[lens] for name in PARAMETERS], axis=1)
    return to_latent(table, largest=1 - 1e-6)


def recalibrate(scored: Scored, prior: ThetaPrior) -> tuple[tuple[float, ...], ScaleMixture]:
    """Return the factors on the posterior's standard deviations, and the tail, that make it cover nature's lenses.

    One factor for theta_E, one for the ellipticity, one for the position and one for the source position: the same
    for both components, so that the dihedral rules hold.  See `lensscan.metrics.scalemixture.fit_scale_mixture`.

    Parameters
    ----------
    scored : Scored
        Without scale and tail.
    prior : ThetaPrior
        Of the scored mocks, see `Scored.natural`.
    """
    natural = scored.natural(prior)
    found = natural.posterior[natural.is_lens]
    residual = latent_truth(natural)[:, None] - found.mean
    scale, tail = fit_scale_mixture(residual, found.matrices, found.weight, GROUPS)
    return tuple(float(s) for s in np.round(scale, 4)), tail


def calibrate(
    model: Model,
    scored: Scored,
    finish: Finish,
    augmentation: Augmentation,
    views: Scored | None = None,
    logits: Scored | None = None,
    others: Scored | None = None,
) -> Model:
    """Return the model with calibration, f_lens and ranges in its card; if it regresses, also scale, tail and prior.

    The card must already state its densities of theta_E: probabilities and posteriors are for nature's lenses.
    `scored` are mocks scored with one view, without posterior scale and tail, `views` the same with eight views;
    `logits` those that the logit is calibrated on, if the card averages more than one view; `others` non-lenses
    besides, for the logit alone.
    """
    natural = model.card.theta_E_prior
    way, density = calibrate_logit(scored if logits is None else logits, finish.kind, natural, others)
    bands = model.card.bands
    posterior: dict[str, Any] = {}
    if scored.regressed:
        scale, tail = recalibrate(scored, natural)
        posterior = {"posterior_scale": scale, "posterior_tail": tail, "prior": _prior(scored)}
        scale, tail = ((), GAUSSIAN) if views is None else recalibrate(views, natural)
        posterior |= {"posterior_scale_views": scale, "posterior_tail_views": tail}
    card = dataclasses.replace(
        model.card,
        calibration=way,
        f_lens=density,
        sigma_range=_ranges(bands, scored.sigma, augmentation.gain + augmentation.sigma),
        fwhm_range=_ranges(bands, scored.fwhm, augmentation.fwhm),
        **posterior,
    )
    return Model(card, model.module, model.novelty)


def calibrate_logit(
    scored: Scored, kind: str, prior: ThetaPrior, others: Scored | None = None
) -> tuple[Calibration, LensDensity]:
    """Return calibration and f_lens of scored mocks, and of non-lenses besides; empty ones if there is but one kind.

    Of nature's lenses: the highest scores are those of large rings, of which a training has more than the sky.
    """
    if not scored.detected:
        return Calibration(), LensDensity()
    clear = scored.clear.natural(prior)
    logit, lens = clear.logit, clear.is_lens
    if others is not None:
        logit, lens = np.append(logit, others.logit), np.append(lens, np.zeros(len(others.logit), bool))
    way = calibration.fit(kind, logit, lens)
    return way, lens_density(way, clear.logit[clear.is_lens])


def fitted_on(scored: Scored, prior: ThetaPrior) -> str:
    """Say which lenses a calibration stands on, for the card."""
    natural = scored.natural(prior)
    kind = "of the training's theta_E" if natural is scored else "of nature's theta_E"
    return f"{natural.is_lens.sum()} lenses {kind}"


def lens_density(way: Calibration, logit: Floats) -> LensDensity:
    """Return the density of the calibrated logits of lenses; those beyond its bins count in the outermost ones.

    Parameters
    ----------
    way : Calibration
    logit : (n,) array
        Raw.
    """
    low, high = np.sort(logit)[[min(LEAST_LENSES, len(logit)) - 1, -min(LEAST_LENSES, len(logit))]]
    first = np.searchsorted(LOGIT_EDGES[1:-1], low, side="right")
    last = np.searchsorted(LOGIT_EDGES, high, side="right")
    grid = LOGIT_EDGES[first : max(last, first + 1) + 1]
    edges = np.round(way(grid), 6)
    counts, _ = np.histogram(np.clip(logit, grid[0], grid[-1]), grid)
    density = counts / (len(logit) * np.diff(edges))
    return LensDensity(tuple(edges.tolist()), tuple(np.round(density, 6).tolist()))


def _ranges(bands: Sequence[str], values: Floats, scatter: float) -> dict[str, tuple[float, float]]:
    """Return, per band, the central 99.8 % of the training values, widened by the augmentation's scatter."""
    if np.isnan(values).all():
        return {}
    low, high = np.nanquantile(values, RANGE_QUANTILES, axis=0)
    widen = np.exp(2 * scatter)
    return {
        band: (float(f"{lo / widen:.4g}"), float(f"{hi * widen:.4g}"))
        for band, lo, hi in zip(bands, low, high, strict=True)
    }


def _prior(scored: Scored) -> dict[str, str]:
    """Describe the training prior of each parameter by its quantiles."""
    words = {}
    for name in PARAMETERS:
        values = np.asarray(scored.truth[name], np.float64)[scored.is_lens]
        low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
        words[name] = f"5, 50, 95 % of the training lenses: {low:.3f}, {middle:.3f}, {high:.3f}"
    return words


def evaluate(card: Card, scored: Scored) -> dict[str, Any]:
    """Return the card's short evaluation on mocks of the training recipe.

    Parameters
    ----------
    card : Card
        Calibrated; its posterior scale and tail must already be in `scored` (scores of a model with this card).
    scored : Scored

    Returns
    -------
    dict
        JSON values; detection, calibration, parameters, coverage, false positives by class.
    """
    lens, clear = scored.is_lens, scored.clear
    result: dict[str, Any] = {"n_lens": int(lens.sum()), "n_other": int((~clear.is_lens).sum())}
    if vague := len(lens) - len(clear.is_lens):
        result["n_undetectable"] = vague
    if scored.detected:
        result |= _detection(card, scored)
    else:
        result["detection"] = "none: this network only regresses, or its recipe makes lenses only"
    if scored.regressed:
        result |= _regression(scored)
    else:
        result["posterior"] = CLASSIFIES
    return _rounded(result)


def headline(evaluation: Mapping[str, Any]) -> str:
    """Return a card's evaluation in a few words."""
    if "auroc" in evaluation:
        return f"AUROC {evaluation['auroc']:.4f}"
    return f"theta_E to {evaluation['parameters']['theta_E']['half_width_68']:.4f} arcsec (half of the central 68 %)"


def _detection(card: Card, scored: Scored) -> dict[str, Any]:
    """Return the ranking of what is clear, calibration among nature's lenses; false positives of all classes."""
    clear = scored.clear
    logit, rows = card.calibration(clear.logit), np.arange(len(clear.logit))
    result = _rates(logit, clear.is_lens, galaxies(clear.truth, rows)) | _calibration(card, clear)
    known = result.get("tpr_at_fpr_0.01")
    every = card.calibration(scored.logit)
    result["false_positives"] = _by_class(scored, every, known["threshold"]) if known else {}
    return result


def _rates(logit: Floats, lens: NDArray[np.bool_], galaxy: NDArray[np.int64]) -> dict[str, Any]:
    """Return AUROC and true positive rates; their intervals have the noise of the threshold, found in each resample."""
    ranking, others = Ranking(logit, lens), len(np.unique(galaxy[~lens]))
    fprs = [fpr for fpr in FPRS if supported(fpr, others)]

    def rates(counts: Counts | None) -> dict[str, float]:
        selection = ranking.select(counts)
        return {f"{fpr:g}": selection.tpr_at(fpr) for fpr in fprs}

    found: dict[str, Any] = {"auroc": ranking.select().auroc()}
    for name, rate in resample(rates, Bootstrap(galaxy, RESAMPLES)).items():
        threshold = ranking.select().threshold_at(float(name))
        interval = (rate.low, rate.high)
        found[f"tpr_at_fpr_{name}"] = {"tpr": rate.value, "threshold": threshold, "interval_95": interval}
    return found


def _calibration(card: Card, clear: Scored) -> dict[str, Any]:
    natural = clear.natural(card.theta_E_prior)
    lens, logit = natural.is_lens, card.calibration(natural.logit)
    prior = float(lens.mean())
    worth = card.calibration.capped(logit) + np.log(prior) - np.log1p(-prior)
    return {
        "ece": calibration.expected_calibration_error(card.calibration.p_lens(logit, prior), lens),
        "log_loss": calibration.log_loss(worth, lens),
    }


def _by_class(scored: Scored, logit: Floats, threshold: float) -> dict[str, Any]:
    klass = np.asarray(scored.truth["klass"])
    rates = {}
    for number, name in enumerate(CLASSES):
        chosen = (klass == number) & ~scored.is_lens
        if chosen.sum() >= 20:
            rates[name] = {"n": int(chosen.sum()), "above": float((logit[chosen] >= threshold).mean())}
    return rates


def _regression(scored: Scored) -> dict[str, Any]:
    """Bias and widths in physical units, and coverage in latent space, of the lenses."""
    lens, truth, found = scored.is_lens, latent_truth(scored), scored.posterior[scored.is_lens]
    columns = found.columns()
    parameters = {}
    for name in PARAMETERS:
        error = residuals(columns[name], np.asarray(scored.truth[name])[lens])
        parameters[name] = dataclasses.asdict(error)
    theta_E = np.asarray(scored.truth["theta_E"])[lens]
    outlier = np.abs(columns["theta_E"] - theta_E) > 0.15 * theta_E
    parameters["theta_E"]["outliers_15_percent"] = float(outlier.mean())
    mean, cov, weight, tail = found.mean.astype(np.float64), found.matrices, found.weight, found.tail
    sigma = np.sqrt(np.diagonal(cov, axis1=2, axis2=3))
    content = credibility(truth, mean, cov, weight, tail)
    coverage = {}
    for level in (0.68, 0.95):
        marginal = marginal_coverage(truth, mean, sigma, level, tail, weight)
        coverage[str(level)] = {
            "marginal": dict(zip(PARAMETERS, marginal.tolist(), strict=True)),
            "joint": float((content <= level).mean()),
        }
    return {"parameters": parameters, "coverage": coverage}


def _rounded(value: Any) -> Any:
    """Round all numbers to five significant digits."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
