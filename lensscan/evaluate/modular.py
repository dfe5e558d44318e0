"""Modules against end to end: a modular network and its yardstick on the same new mocks (Madireddy+2019).

Accuracy and its paired difference, the PSNR of each module, the ratio of the regressors' errors, and whether the
bottleneck's uncertainty knows which stamps are misclassified.  A third model, the yardstick trained on half of the
mocks, tells whether the yardstick has converged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from lensscan.errors import ConfigError
from lensscan.evaluate.anchors import Anchor, load_anchors
from lensscan.metrics.bootstrap import Bootstrap, Counts, Estimate, resample
from lensscan.metrics.detection import wilson
from lensscan.metrics.deviations import Deviations
from lensscan.metrics.images import psnr
from lensscan.metrics.paired import McNemar, mcnemar
from lensscan.metrics.selective import Misclassified, ambiguity
from lensscan.mocks.batches import fill_batch
from lensscan.mocks.labels import UNDETECTABLE
from lensscan.mocks.recipes import Recipe
from lensscan.mocks.seeds import REALISM
from lensscan.mocks.simulate import Mocks, simulate
from lensscan.nets.intermediate import Inspector, Intermediate
from lensscan.nets.latent import PARAMETERS, from_latent
from lensscan.nets.model import Model
from lensscan.nets.scorer import Scorer
from lensscan.survey.stamps import Batch, allocate

__all__ = [
    "REJECTED",
    "SEED",
    "Comparison",
    "ModularSettings",
    "Rows",
    "anchor_of",
    "compare",
    "convergence",
    "measure_modular",
    "verdict",
]

SEED = REALISM
REJECTED = (0.0, 0.05, 0.1, 0.2)
"""Shares of the most uncertain stamps that are rejected."""
FEWEST_LENSES = 20
CHUNK = 256
ACCURACY, GAIN = "detection:accuracy", "modular:regression_gain"
REGRESSED = ("theta_E", "e1", "e2")
"""Parameters of the paper's regressor, over which `GAIN` is a mean."""
CONVERGED = 0.02
"""How far half of the mocks may move the accuracy of a network that has converged."""
Floats = NDArray[np.float64]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class ModularSettings:
    """What to compare.

    Attributes
    ----------
    recipe : Recipe
    models : sequence of Model
        The modular one, the one trained end to end, and perhaps the latter trained on half of the mocks.
    n : int
        New mocks, of a seed that no training has; lensed systems below the label rule are left out.
    device : str
        Where stamps are made and scored.
    batch : int
        Rows scored at once.
    replicates : int
        Resamples behind the intervals.
    """

    recipe: Recipe
    models: Sequence[Model]
    n: int = 12_000
    device: str = "cpu"
    batch: int = 64
    replicates: int = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What is known of every mock.

    Attributes
    ----------
    index : (n,) array
        Number of the mock under the recipe and `SEED`.
    is_lens : (n,) bool array
    truth : (n, 7) array
        See `lensscan.nets.latent.PARAMETERS`; NaN of non-lenses.
    logit : (m, n) array
        Calibrated, of each model.
    estimate : (m, n, 7) array
        Posterior mean of each model, from latent space.
    psnr : dict of (n,) arrays
        dB, by image and truth, see `image_psnr`.
    mean : (n, d) array
        Of the bottleneck.
    uncertainty : dict of (n,) arrays
        ``spread`` (standard deviation of the probability over the bottleneck's points), ``logit_spread``, ``few_nats``
        (minus the nats through the bottleneck) and ``ambiguity`` (1 - |2 p - 1|) of the modular model.
    """

    index: NDArray[np.int64]
    is_lens: NDArray[np.bool_]
    truth: Floats
    logit: Floats
    estimate: Floats
    psnr: dict[str, Floats]
    mean: Floats
    uncertainty: dict[str, Floats]

    def right(self, model: int) -> NDArray[np.bool_]:
        """Return which rows (n,) a model has on the right side of logit 0."""
        return np.asarray((self.logit[model] > 0) == self.is_lens)

    def take(self, chosen: slice | NDArray[np.bool_]) -> Rows:
        """Return some of the rows."""
        return Rows(
            index=self.index[chosen],
            is_lens=self.is_lens[chosen],
            truth=self.truth[chosen],
            logit=self.logit[:, chosen],
            estimate=self.estimate[:, chosen],
            psnr={name: values[chosen] for name, values in self.psnr.items()},
            mean=self.mean[chosen],
            uncertainty={name: values[chosen] for name, values in self.uncertainty.items()},
        )

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """Return the rows of all parts."""
        return cls(
            index=np.concatenate([part.index for part in parts]),
            is_lens=np.concatenate([part.is_lens for part in parts]),
            truth=np.concatenate([part.truth for part in parts]),
            logit=np.concatenate([part.logit for part in parts], axis=1),
            estimate=np.concatenate([part.estimate for part in parts], axis=1),
            psnr=_joined([part.psnr for part in parts]),
            mean=np.concatenate([part.mean for part in parts]),
            uncertainty=_joined([part.uncertainty for part in parts]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What was measured.

    Attributes
    ----------
    settings : ModularSettings
    rows : Rows
    accuracy : list of (value, low, high)
        Of each model, Wilson's interval.
    paired : McNemar
        The modular model against the one trained end to end.
    psnr : dict of Estimate
        Mean dB, by image and truth.
    regression : dict of Estimate
        ``<parameter>.<model>.rms`` and ``.abs_68`` of models 0 and 1, ``<parameter>.ratio.<figure>``, and ``gain``,
        1 minus the mean ratio of the rms of `REGRESSED`; empty without posteriors.
    uncertainty : dict of dict of Estimate
        By measure: ``auroc`` as a predictor of misclassification, ``accuracy.<rejected share>``.
    anchor : Anchor or None
        The published figures.
    """

    settings: ModularSettings
    rows: Rows
    accuracy: list[tuple[float, float, float]]
    paired: McNemar
    psnr: dict[str, Estimate]
    regression: dict[str, Estimate]
    uncertainty: dict[str, dict[str, Estimate]]
    anchor: Anchor | None


def measure_modular(settings: ModularSettings, progress: Progress = lambda what, done, total: None) -> Comparison:
    """Simulate, score, compare.

    Raises
    ------
    ConfigError
        If there are not two or three models, they do not fit the recipe, or its mocks are of one kind.
    ModelError
        If the first model is not modular.
    """
    models, recipe = settings.models, settings.recipe
    if len(models) not in (2, 3):
        raise ConfigError("--modular compares MODULAR with END_TO_END (and its training on half the mocks); give both")
    for model in models:
        card = model.card
        if not model.scores:
            raise ConfigError(f"model {card.name} gives no scores; compare models that classify")
        if (tuple(card.bands), card.size) != (tuple(recipe.bands), recipe.size):
            raise ConfigError(
                f"model {card.name} has other bands or another size than recipe {recipe.name}; give one of its own"
            )
    return compare(settings, _score(settings, progress))


def compare(settings: ModularSettings, rows: Rows) -> Comparison:
    """Return every figure that scored mocks give."""
    if rows.is_lens.all() or not rows.is_lens.any():
        raise ConfigError(f"recipe {settings.recipe.name}: its mocks are of one kind; it needs lenses and others")
    bootstrap = Bootstrap(np.arange(len(rows.index)), settings.replicates)
    accuracy = []
    for model in range(len(rows.logit)):
        hits, n = int(rows.right(model).sum()), len(rows.index)
        accuracy.append((hits / n, *wilson(hits, n)))

    def means(counts: Counts | None) -> dict[str, float]:
        return {name: _mean(values, counts) for name, values in rows.psnr.items()}

    wrong = ~rows.right(0)
    uncertainty = {}
    for name, values in rows.uncertainty.items():
        judge = Misclassified(values, wrong)
        uncertainty[name] = resample(partial(judge.figures, REJECTED), bootstrap)
    return Comparison(
        settings, rows, accuracy, mcnemar(rows.right(0), rows.right(1)), resample(means, bootstrap),
        _regression(rows, settings.replicates), uncertainty, anchor_of(settings.recipe.name),
    )  # fmt: skip


def _mean(values: Floats, counts: Counts | None) -> float:
    """Return the mean of what is finite: nothing is infinitely near to a source that is not there."""
    weight = np.isfinite(values) * (1 if counts is None else counts)
    return float((np.where(weight > 0, values, 0.0) * weight).sum() / (weight.sum() or np.nan))


def _regression(rows: Rows, replicates: int) -> dict[str, Estimate]:
    """Return the errors of both regressors on the lenses, and their ratios, modular over end to end."""
    lens = rows.is_lens & np.isfinite(rows.estimate[:2]).all(axis=(0, 2))
    if lens.sum() < FEWEST_LENSES:
        return {}
    errors = [
        [Deviations(rows.estimate[model][lens, k], rows.truth[lens, k]) for k in range(len(PARAMETERS))]
        for model in (0, 1)
    ]

    def statistic(counts: Counts | None) -> dict[str, float]:
        found: dict[str, float] = {}
        for k, name in enumerate(PARAMETERS):
            both = [errors[model][k].figures(counts) for model in (0, 1)]
            for figure in ("rms", "abs_68"):
                found |= {f"{name}.{model}.{figure}": each[figure] for model, each in enumerate(both)}
                found[f"{name}.ratio.{figure}"] = both[0][figure] / both[1][figure]
        return found | {"gain": 1 - sum(found[f"{name}.ratio.rms"] for name in REGRESSED) / len(REGRESSED)}

    return resample(statistic, Bootstrap(np.arange(int(lens.sum())), replicates))


def _score(settings: ModularSettings, progress: Progress) -> Rows:
    """Simulate mocks with their layers and score them with every model.

    The modular model is run twice on every batch.  The scorer says what a scan would: on its device, averaged over
    the card's views, padded to a constant batch.  The inspector keeps what lies on the way of one view, which the
    scorer drops, and none of which has a meaning averaged over views.
    """
    recipe, models = settings.recipe, settings.models
    scorers = [Scorer([model], settings.device, settings.batch) for model in models]
    slot = allocate(settings.batch, models[0].frame())
    inspector = Inspector(models[0])
    parts: list[Rows] = []
    start = done = 0
    progress("stamps", 0, settings.n)
    while done < settings.n:
        if start >= 4 * settings.n + CHUNK:
            raise ConfigError(f"recipe {recipe.name}: most of its mocks lie below its label rule; change it")
        mocks = simulate(recipe, seed=SEED, start=start, n=CHUNK, device=settings.device, layers=True)
        clear = mocks.truth["klass"].numpy() != UNDETECTABLE
        for low in range(0, CHUNK, settings.batch):
            rows = slice(low, min(low + settings.batch, CHUNK))
            fill_batch(slot, models[0].frame(), recipe, [mocks], rows)
            logit, estimate = _of_models(models, scorers, slot, rows.stop - low)
            parts.append(_of_batch(inspector, mocks, rows, logit, estimate).take(clear[rows]))
        start += CHUNK
        done += int(clear.sum())
        progress("stamps", min(done, settings.n), settings.n)
    return Rows.joined(parts).take(slice(settings.n))


def _joined(columns: Sequence[dict[str, Floats]]) -> dict[str, Floats]:
    return {name: np.concatenate([each[name] for each in columns]) for name in columns[0]}


def _of_models(models: Sequence[Model], scorers: Sequence[Scorer], slot: Batch, n: int) -> tuple[Floats, Floats]:
    """Return calibrated logits (m, n) and posterior means (m, n, 7) of a batch."""
    logits, estimates = [], []
    for model, scorer in zip(models, scorers, strict=True):
        found = scorer.submit(slot).result()
        logits.append(model.card.calibration(found["logit"][:n, 0]))
        mean = found["post_mean"][:n].astype(np.float64)
        weight = found.get("post_weight", np.ones(mean.shape[:2]) / mean.shape[1])[:n]
        centre = (weight[..., None] * mean).sum(axis=1)
        estimates.append(from_latent(centre))
    return np.stack(logits), np.stack(estimates)


def _of_batch(inspector: Inspector, mocks: Mocks, rows: slice, logit: Floats, estimate: Floats) -> Rows:
    """Return what is known of a batch: its truth, what the models say, and what the modular one makes on its way."""
    found = inspector(*stamps_of(mocks, rows))
    points = inspector.card.calibration(found.logits)
    truth = {name: mocks.truth[name][rows] for name in ("index", "is_lens", *PARAMETERS)}
    return Rows(
        index=truth["index"].numpy(),
        is_lens=truth["is_lens"].numpy().astype(bool),
        truth=np.stack([truth[name].double().numpy() for name in PARAMETERS], axis=1),
        logit=logit,
        estimate=estimate,
        psnr=image_psnr(found, *layers_of(mocks, rows)),
        mean=found.mean.astype(np.float64),
        uncertainty={
            "spread": expit(points).std(axis=1),
            "logit_spread": points.std(axis=1),
            "few_nats": -found.rate.astype(np.float64),
            "ambiguity": ambiguity(logit[0]),
        },
    )


def stamps_of(mocks: Mocks, rows: slice) -> tuple[Any, ...]:
    """Return images, mask, seeing and present bands of some mocks, as `Inspector` takes them."""
    fwhm = mocks.fwhm[rows].cpu().numpy()
    missing = None if mocks.missing is None else mocks.missing[rows].cpu().numpy()
    images, present = mocks.images[rows].cpu().numpy(), mocks.present[rows].cpu().numpy()
    return images, missing, np.where(fwhm > 0, fwhm, np.nan), present


def layers_of(mocks: Mocks, rows: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the noiseless blend and the source's light of some mocks, nJy."""
    assert mocks.blend is not None
    assert mocks.arcs is not None
    return mocks.blend[rows].cpu().numpy(), mocks.arcs[rows].cpu().numpy()


def image_psnr(found: Intermediate, blend: NDArray[np.float32], arcs: NDArray[np.float32]) -> dict[str, Floats]:
    """Return the PSNR (n,) of every image of the chain, in dB: ``<space>.<image> of <truth>``.

    In space ``asinh`` images are normalised, as the modules see them; in ``flux`` they are in nJy.  The peak is that of
    the noiseless blend, of all of a stamp's bands, for both truths.
    """
    spaces = {
        "asinh": (found.shown, found.denoised, found.deblended, found.normalised(blend), found.normalised(arcs)),
        "flux": (*(found.flux(image) for image in (found.shown, found.denoised, found.deblended)), blend, arcs),
    }
    result: dict[str, Floats] = {}
    for space, (shown, denoised, deblended, whole, source) in spaces.items():
        peak = whole.max(axis=(1, 2, 3))
        result |= {
            f"{space}.input of blend": psnr(shown, whole, peak),
            f"{space}.denoised of blend": psnr(denoised, whole, peak),
            f"{space}.nothing of source": psnr(np.zeros_like(source), source, peak),
            f"{space}.denoised of source": psnr(denoised, source, peak),
            f"{space}.deblended of source": psnr(deblended, source, peak),
        }
    return result


def anchor_of(recipe: str) -> Anchor | None:
    """Return the published figures of a recipe that has some of modules, None if there are none."""
    return next((anchor for anchor in load_anchors() if recipe in anchor.recipes and GAIN in anchor.values), None)


def convergence(found: Comparison) -> str:
    """Return whether the network trained end to end has converged: half of its mocks must do nearly as well."""
    if len(found.accuracy) < 3:
        return "whether end to end has converged is not known: give its training on half of the mocks too"
    (whole, *_), (half, *_) = found.accuracy[1:]
    state = "has converged" if abs(whole - half) <= CONVERGED else "has not converged"
    return f"end to end {state}: {half:.3f} with half of the mocks, {whole:.3f} with all"


def verdict(found: Comparison) -> str:
    """Return what may be said against the published accuracy: nothing, for the paper's own baseline is not here."""
    anchor, recipe = found.anchor, found.settings.recipe.name
    if anchor is None or anchor.baseline is None:
        return "no claim: nothing is published of this recipe"
    return (
        f"no claim against the published {anchor.values[ACCURACY]:.2f}: that needs {anchor.baseline.model} at "
        f"{anchor.baseline.values[ACCURACY]:.2f}, run again; lensscan evaluate MODEL --testset {recipe}:full "
        "--baseline ITS_REPORT.json judges by it"
    )
