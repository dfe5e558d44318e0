"""Calibrating several networks together: a deep ensemble, or a committee of networks of different trainings.

Members calibrated one by one are uncalibrated when combined: the mean logit gets a map of its own, and the pooled
posterior, in which each member counts alike, factors and a tail of its own (`lensscan.train.finish`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lensscan.candidates.ensemble import Ensemble
from lensscan.config import toml_text
from lensscan.errors import ConfigError, ModelError
from lensscan.files import replacing
from lensscan.mocks.recipes import Recipe, held_out, load_recipe, without_lenses
from lensscan.mocks.seeds import ENSEMBLE, RESERVED
from lensscan.nets.card import Card, ThetaPrior
from lensscan.nets.mixture import Mixture
from lensscan.nets.model import Model
from lensscan.train.finish import Scored, calibrate_logit, recalibrate, score_mocks

__all__ = ["SEED", "calibrate_together", "fit_ensemble", "recipes_of", "write_ensemble"]

SEED = ENSEMBLE


def recipes_of(cards: Sequence[Card]) -> list[Recipe]:
    """Return the recipes that the members were trained on, each once.

    Raises
    ------
    ModelError
        If a card names none, one that is not shipped, or one that makes other mocks here than it did then.
    """
    found: dict[str, Recipe] = {}
    for card in cards:
        name = str(card.training.get("recipe", ""))
        if not name:
            raise ModelError(f"model {card.name} does not state its recipe; give one with --recipe")
        try:
            recipe = load_recipe(name)
        except ConfigError:
            what = f"model {card.name} was trained on recipe {name}, which is not shipped"
            raise ModelError(f"{what}; give its file with --recipe") from None
        if recipe.digest != card.training.get("recipe_digest"):
            raise ModelError(f"model {card.name}: recipe {name} makes other mocks now; give one with --recipe")
        found[recipe.digest] = recipe
    return list(found.values())


def calibrate_together(scored: Scored, kind: str, prior: ThetaPrior, others: Scored | None = None) -> Ensemble:
    """Return the card that mocks scored by all members together ask for.

    Parameters
    ----------
    scored : Scored
        Mean logit and pooled posterior, without tails.
    kind : str
        Calibration of the logit, a kind of `lensscan.metrics.calibration.Calibration`.
    prior : ThetaPrior
        Of the mocks, see `Scored.natural`.
    others : Scored, optional
        Non-lenses besides, for the logit.
    """
    found = Ensemble(*calibrate_logit(scored, kind, prior, others))
    if not scored.posterior.finite.any():
        return found
    scale, tail = recalibrate(scored, prior)
    return Ensemble(found.calibration, found.f_lens, posterior_scale=scale, posterior_tail=tail)


def fit_ensemble(
    models: Sequence[Model],
    recipes: Sequence[Recipe],
    n: int,
    seed: int = SEED,
    kind: str = "bent",
    views: int | None = None,
    report: Callable[[str], None] = lambda line: None,
    others: int = 0,
) -> Ensemble:
    """Fit the card of several models on mocks of their recipes, in equal numbers; real galaxies held out, if any are.

    Probabilities and posteriors are for nature's lenses where all members have one recipe; two populations have no one
    nature.

    Parameters
    ----------
    models : sequence of Model
        Two or more, of the same bands, size and pixel scale.
    recipes : sequence of Recipe
    n : int
        Mocks of all recipes together.
    seed, kind, views, report
        Of the mocks; of the logit's calibration; dihedral views (default: each card's own); takes progress lines.
    others : int
        Non-lenses besides, of all recipes together, for the logit: the top of a list is made of the rarest of them.

    Raises
    ------
    ModelError
        If there are fewer than two models, one is given twice, two have the same name, they do not fit together, or
        none of the mocks got a score (a posterior, if not all models score).
    ConfigError
        If the mocks of this seed are those that a member learnt from, or kept for something else; if non-lenses are
        asked for of a recipe that has none.
    """
    if len(models) < 2:
        raise ModelError("an ensemble needs at least two models; one alone has a calibration of its own")
    _require_fresh([model.card for model in models], recipes, seed)
    known = [model.card.hash for model in models if model.card.hash]
    if len(set(known)) < len(known):
        raise ModelError("one model is given twice; an ensemble needs different networks")
    _require_names([model.card for model in models])
    each, more = n // len(recipes), others // len(recipes)
    fresh = [held_out(recipe) for recipe in recipes]
    alone = [without_lenses(recipe) for recipe in fresh] if more else []
    parts = [score_mocks(models, recipe, seed, each, report, views) for recipe in fresh]
    card, digests = models[0].card, [recipe.digest for recipe in recipes]
    prior = card.theta_E_prior if digests == [card.training.get("recipe_digest")] else ThetaPrior()
    scored = join(parts)
    scoring = all(model.scores for model in models)
    if not (np.isfinite(scored.logit) if scoring else scored.posterior.finite).any():
        names, what = ", ".join(recipe.name for recipe in recipes), "score" if scoring else "posterior"
        raise ModelError(f"no mock of {names} got a {what} from all models; look at each with lensscan evaluate")
    besides = join([score_mocks(models, recipe, seed, more, report, views) for recipe in alone]) if alone else None
    found = calibrate_together(scored, kind, prior, besides)
    return Ensemble(
        found.calibration,
        found.f_lens,
        hashes=tuple(model.card.hash for model in models),
        views=tuple(views or model.card.views for model in models),
        posterior_scale=found.posterior_scale,
        posterior_tail=found.posterior_tail,
        recipes=tuple(recipe.name for recipe in recipes),
        seed=seed,
        n=each * len(recipes),
        others=more * len(recipes),
    )


def _require_names(cards: Sequence[Card]) -> None:
    """Raise a `ModelError` for two models of one name: no scan and no report could tell them apart."""
    names = [card.name for card in cards]
    for name in names:
        if names.count(name) > 1:
            raise ModelError(
                f"two models are called {name} in their cards, by which scans and reports tell them apart; "
                "train one anew with --set name=NAME (the name of its file does not matter)"
            )


def _require_fresh(cards: Sequence[Card], recipes: Sequence[Recipe], seed: int) -> None:
    """Raise a `ConfigError` for mocks that say nothing of others."""
    if seed != SEED and seed in RESERVED:
        raise ConfigError(f"--seed {seed} is kept for {RESERVED[seed]}; give another, or none")
    for card in cards:
        for recipe in recipes:
            if purpose := card.learnt_from(recipe.digest, seed):
                raise ConfigError(
                    f"--seed {seed}: these mocks of {recipe.name} are the {purpose} of {card.name}, on which it looks "
                    "better than on others; give another, or none"
                )


def join(parts: Sequence[Scored]) -> Scored:
    """Return the mocks of several recipes as one set; of their truth, what all have."""
    keys = set.intersection(*(set(part.truth) for part in parts))
    posteriors = [part.posterior for part in parts]
    return Scored(
        np.concatenate([part.logit for part in parts]),
        Mixture(
            np.concatenate([each.mean for each in posteriors]),
            np.concatenate([each.cov for each in posteriors]),
            np.concatenate([each.weight for each in posteriors]),
            posteriors[0].tail,
        ),
        np.concatenate([part.sigma for part in parts]),
        np.concatenate([part.fwhm for part in parts]),
        {key: np.concatenate([part.truth[key] for part in parts]) for key in sorted(keys)},
    )


def write_ensemble(ensemble: Ensemble, path: Path) -> None:
    """Write the card as TOML, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(toml_text(ensemble.stored()), encoding="utf-8")
