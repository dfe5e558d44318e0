"""The realism gate: what simple fits, and the model, see in mocks that is not in the sky.

Three questions.  Do probes tell lenses from the other mocks by more than arcs?  Do they tell mocks from real stamps?
Does the model treat real stamps, with and without painted arcs, as it treats mocks?
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.errors import ConfigError
from lensscan.evaluate.probes import LIGHT, LIMITS, LINEAR, MIXED, Probe, plain_features, run_probe
from lensscan.evaluate.recall import Found, Recall, compare_recall
from lensscan.evaluate.samples import (
    LIKE_REAL,
    Sample,
    appearance,
    draw_sample,
    galaxy_light,
    match_brightness,
    real_sample,
)
from lensscan.metrics.bootstrap import Bootstrap, Counts, Estimate, resample
from lensscan.metrics.detection import wilson
from lensscan.metrics.ranking import FEWEST_FALSE, Ranking
from lensscan.mocks.labels import UNDETECTABLE
from lensscan.mocks.realsky import real_sky
from lensscan.mocks.recipes import Recipe
from lensscan.mocks.seeds import REALISM
from lensscan.nets.embedding import embed
from lensscan.nets.model import Model
from lensscan.survey.stamps import check_scale

__all__ = ["FPR", "RECALL_LIMIT", "ModelCheck", "Realism", "RealismSettings", "allowed_above", "measure_realism"]

FPR = 1e-2
SURPRISE = 0.99
"""Real stamps above the threshold may be as many as this quantile of what chance gives: 2 of 36."""
RECALL_LIMIT = 0.10
PER_STAMP = 20
FEWEST_GALAXIES = 30
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class RealismSettings:
    """What to gate.

    Attributes
    ----------
    recipe : Recipe
        Its ``canvas`` names the real stamps; without one only the mocks among themselves are probed.
    model : Model or None
    n : int
        Mocks of the recipe; half as many massive galaxies, and half as many painted lenses, are drawn besides.
    seed : int
    device : str
    batch : int
    replicates : int
        Resamples of galaxies behind the intervals.
    """

    recipe: Recipe
    model: Model | None = None
    n: int = 4000
    seed: int = REALISM
    device: str = "cpu"
    batch: int = 64
    replicates: int = 1000


@dataclass(frozen=True, slots=True, eq=False)
class ModelCheck:
    """What the model makes of real stamps.

    Attributes
    ----------
    threshold : Estimate
        Calibrated logit at a false positive rate of `FPR` among the recipe's non-lenses.
    above, n, allowed : int
        Real stamps at or above it, all of them, and how many chance allows.
    rate : (float, float)
        Wilson interval of the share above.
    recall : Recall or None
        None if no mock is like a painted lens.
    logits : dict of arrays
        Calibrated, by sample.
    """

    threshold: Estimate
    above: int
    n: int
    allowed: int
    rate: tuple[float, float]
    recall: Recall | None
    logits: dict[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True, eq=False)
class Realism:
    """What the gate found.

    Attributes
    ----------
    settings : RealismSettings
    n_stamps : int
        Real stamps used; 0 without a canvas.
    left_out : dict of int
        Real stamps that could not be used, by reason.
    lens_or_not, mock_or_real : list of Probe
    matched : int
        Mocks set against the real stamps.
    mismatch : float
        Median difference in magnitude between a real stamp and its mocks.
    shifts : dict of (float, float, float)
        By name (see `samples.appearance`), the largest first: median of the real stamps, median of the mocks as
        bright, and the difference in units of half the mocks' 68 % range.
    model : ModelCheck or None
    """

    settings: RealismSettings
    n_stamps: int
    left_out: dict[str, int]
    lens_or_not: list[Probe]
    mock_or_real: list[Probe]
    matched: int
    mismatch: float
    shifts: dict[str, tuple[float, float, float]]
    model: ModelCheck | None


def measure_realism(settings: RealismSettings, progress: Progress = lambda what, done, total: None) -> Realism:
    """Run the gate.

    Parameters
    ----------
    settings : RealismSettings
    progress : callable
        Told (what, done, total).

    Raises
    ------
    ConfigError, CatalogError
        If the recipe has one class only or does not fit the model, or the real stamps cannot be used.
    """
    recipe, model = settings.recipe, settings.model
    _check(settings)
    sky = real_sky(recipe) if _has_canvas(recipe) else None
    n_stamps = 0 if sky is None else len(sky)

    def draw(what: str, number: int, n: int, **classes: float) -> Sample:
        chosen = dataclasses.replace(recipe, classes=classes) if classes else recipe
        return draw_sample(
            chosen, n, settings.seed + number, settings.device, functools.partial(progress, what), first=n_stamps
        )

    mocks = draw("mocks", 0, settings.n)
    mocks = mocks.rows(np.flatnonzero(mocks.truth["klass"] != UNDETECTABLE))
    is_lens = mocks.truth["is_lens"].astype(bool)
    if is_lens.all() or not is_lens.any():
        raise ConfigError(f"recipe {recipe.name}: its {settings.n} mocks are of one kind; it needs lenses and others")
    lens_or_not = _probe_all(settings, mocks, is_lens, LIMITS, None, progress)
    light, lenses = galaxy_light(recipe, settings.seed, settings.n)
    if min(lenses.sum(), (~lenses).sum()) >= FEWEST_GALAXIES:
        own = np.arange(len(lenses))
        lens_or_not.append(run_probe(LIGHT, light, lenses, own, LIMITS[LIGHT], settings.replicates))
    if sky is None:
        return Realism(settings, 0, {}, lens_or_not, [], 0, float("nan"), {}, None)
    real = real_sample(sky)
    pool = draw("massive galaxies", 1, settings.n // 2, **{LIKE_REAL: 1.0})
    band = recipe.bands.index(recipe.reference) if recipe.reference in recipe.bands else 0
    shown = real.rows(np.arange(n_stamps))
    rows, mismatch = match_brightness(
        shown.magnitude(band, recipe.pixel_scale), pool.magnitude(band, recipe.pixel_scale), PER_STAMP
    )
    both = _join(pool.rows(rows), real)
    mock_or_real = _probe_all(settings, both, np.arange(len(both)) >= len(rows), LIMITS, MIXED, progress)
    check = None
    if model is not None:
        painted = draw("painted lenses", 2, settings.n // 2, painted=1.0)
        painted = painted.rows(np.flatnonzero(painted.truth["is_lens"]))
        check = _check_model(settings, mocks, shown, painted, progress)
    shifts = _shifts(appearance(shown, recipe), appearance(pool.rows(rows), recipe))
    return Realism(
        settings, n_stamps, dict(sky.left_out), lens_or_not, mock_or_real, len(rows), mismatch, shifts, check
    )


def _shifts(
    real: dict[str, NDArray[np.float64]], mock: dict[str, NDArray[np.float64]]
) -> dict[str, tuple[float, float, float]]:
    """Return medians and their scaled difference by name, the largest first; what is nowhere known is left out."""
    found = {}
    for name, values in real.items():
        ours, theirs = (each[np.isfinite(each)] for each in (values, mock[name]))
        if len(ours) and len(theirs):
            low, middle, high = np.quantile(theirs, [0.16, 0.5, 0.84])
            median = float(np.median(ours))
            found[name] = (median, float(middle), (median - float(middle)) / max(0.5 * float(high - low), 1e-9))
    return dict(sorted(found.items(), key=lambda item: -abs(item[1][2])))


def _has_canvas(recipe: Recipe) -> bool:
    return bool(recipe.canvas.catalog and recipe.canvas.survey and recipe.canvas.stamps)


def _check(settings: RealismSettings) -> None:
    """Refuse what cannot work, in one line."""
    recipe, model = settings.recipe, settings.model
    if not _has_canvas(recipe) and (recipe.canvas.catalog or recipe.canvas.stamps or recipe.canvas.survey):
        raise ConfigError("real stamps need all of --catalog, --survey and --stamps, as for lensscan scan")
    if settings.n < 2 * FEWEST_FALSE / FPR and model is not None and _has_canvas(recipe):
        raise ConfigError(f"{settings.n} mocks do not show a false positive rate of {FPR:g}; give -n 2000 or more")
    if model is None:
        return
    card = model.card
    if _has_canvas(recipe) and not model.scores:
        raise ConfigError(f"model {card.name} gives no scores; the gate needs a model that detects, or none")
    if tuple(card.bands) != tuple(recipe.bands) or card.size != recipe.size:
        raise ConfigError(
            f"recipe {recipe.name} has {recipe.size} pixels of {''.join(recipe.bands)}, model {card.name} wants "
            f"{card.size} of {''.join(card.bands)}; choose the model's recipe, or --set size={card.size}"
        )
    check_scale(recipe.pixel_scale, model.frame(), False, f"recipe {recipe.name}", "choose the model's recipe")


def _join(first: Sample, second: Sample) -> Sample:
    """Put samples one behind the other, without truth."""
    missing = None
    if first.missing is not None or second.missing is not None:
        missing = np.concatenate(
            [np.zeros(part.images.shape, bool) if part.missing is None else part.missing for part in (first, second)]
        )
    images, present, fwhm, galaxy = (
        np.concatenate([getattr(part, name) for part in (first, second)])
        for name in ("images", "present", "fwhm", "galaxy")
    )
    return Sample(images, missing, present, fwhm, {}, galaxy)


def _probe_all(
    settings: RealismSettings,
    sample: Sample,
    labels: NDArray[np.bool_],
    limits: Any,
    other: float | None,
    progress: Progress,
) -> list[Probe]:
    """Let every probe tell rows labelled True from the others; `other` is the limit of those that have none."""
    features = plain_features(sample.holed())
    if settings.model is not None:
        own = embed(settings.model, sample.images, sample.missing, sample.present, settings.batch, settings.device)
        if own is not None:
            features[LINEAR] = own
    found = []
    for number, (name, table) in enumerate(features.items()):
        if len(settings.recipe.bands) > 1 or name != "central-colour":
            found.append(run_probe(name, table, labels, sample.galaxy, limits.get(name, other), settings.replicates))
        progress("probes", number + 1, len(features))
    return found


def _check_model(
    settings: RealismSettings, mocks: Sample, real: Sample, painted: Sample, progress: Progress
) -> ModelCheck:
    """Score mocks, real stamps and painted lenses; compare at the mocks' threshold."""
    model = settings.model
    assert model is not None
    logits = []
    for number, sample in enumerate((mocks, real, painted)):
        table = model.score(
            sample.images, sample.missing, sample.fwhm, present=sample.present,
            batch=settings.batch, device=settings.device,
        )  # fmt: skip
        logits.append(np.asarray(table["logit"], np.float64))
        progress("samples scored", number + 1, 3)
    is_lens = mocks.truth["is_lens"].astype(bool)
    if not all(np.isfinite(each).all() for each in logits):
        raise ConfigError(f"model {model.card.name} gives some stamps no logit; the gate needs a model that detects")
    ranking = Ranking(logits[0], is_lens)

    def statistic(counts: Counts | None) -> dict[str, float]:
        return {"threshold": ranking.select(counts).threshold_at(FPR)}

    threshold = resample(statistic, Bootstrap(mocks.galaxy, settings.replicates))["threshold"]
    above = int((logits[1] >= threshold.value).sum())
    like = mocks.rows(np.flatnonzero(is_lens & (mocks.truth["stamp"] < 0)))
    passed = (logits[0][is_lens & (mocks.truth["stamp"] < 0)] >= threshold.value, logits[2] >= threshold.value)
    found = [
        Found(hits, sample.truth["theta_E"], sample.truth["snr_arc"], sample.galaxy)
        for hits, sample in zip(passed, (like, painted), strict=True)
    ]
    recall = compare_recall(found[1], found[0], settings.replicates) if len(painted) and len(like) else None
    return ModelCheck(
        threshold,
        above,
        len(real),
        allowed_above(len(real)),
        wilson(above, len(real)),
        recall,
        {
            "mock non-lens": logits[0][~is_lens],
            "real non-lens": logits[1],
            "mock lens": logits[0][is_lens],
            "painted lens": logits[2],
        },
    )


def allowed_above(n: int) -> int:
    """Return how many of n stamps that pass with probability `FPR` each stay within the quantile `SURPRISE`."""
    from scipy.stats import binom

    return int(binom.ppf(SURPRISE, n, FPR))
